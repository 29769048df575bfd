//! The program `berth-oci`: parse, call, print the error chain, exit code.

use std::path::Path;
use std::process::ExitCode;

use berth_runtime::monitor::pod_init;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let outcome = match arguments.as_slice() {
        [verb, pod_dir] if verb == "monitor" => berth_runtime::monitor::run(Path::new(pod_dir)),
        // Run by the monitor only, as process 1 of a pod's pid namespace.
        [verb] if verb == pod_init::VERB => {
            let served = pod_init::serve();
            return ExitCode::from(u8::from(served.is_err()));
        }
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
