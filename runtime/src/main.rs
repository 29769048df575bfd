//! The program `berth-oci`: parse, call, print the error chain, exit code.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let outcome = match arguments.as_slice() {
        [verb, pod_dir] if verb == "monitor" => berth_runtime::monitor::run(Path::new(pod_dir)),
        _ => {
            eprintln!("usage: berth-oci monitor POD_DIR");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "berth-oci: {}",
                berth_runtime::monitor::failure::chain_text(&error)
            );
            ExitCode::FAILURE
        }
    }
}
