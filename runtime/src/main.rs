//! `berth-oci`: an OCI runtime. See the library for how it works.

use std::process::ExitCode;

use berth_runtime::arguments::Arguments;
use berth_runtime::monitor::pod_init;
use berth_runtime::{report, verbs};

fn main() -> ExitCode {
    // Before clap: callers ask for the version with nothing else on the line.
    let first = std::env::args().nth(1);
    if matches!(first.as_deref(), Some("--version" | "-v")) {
        print!("{}", verbs::features::version_lines());
        return ExitCode::SUCCESS;
    }
    // Run by the monitor only, as process 1 of a pod's pid namespace.
    if first.as_deref() == Some(pod_init::VERB) {
        return ExitCode::from(u8::from(pod_init::serve().is_err()));
    }
    let arguments = Arguments::read();
    match verbs::run(&arguments) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            report::report(&arguments.global, &error.to_string());
            ExitCode::FAILURE
        }
    }
}
