//! `berth-oci`: an OCI runtime. See the library for how it works.

use std::process::ExitCode;

use berth_runtime::arguments::{Arguments, GLOBAL_WITH_VALUE};
use berth_runtime::monitor::pod_init;
use berth_runtime::{report, sealing, verbs};

fn main() -> ExitCode {
    let first = std::env::args().nth(1);
    // Before clap: who asks for the version names no verb.
    if asks_for_version(std::env::args().skip(1)) {
        print!("{}", verbs::features::version_lines());
        return ExitCode::SUCCESS;
    }
    // Run by the monitor only, as process 1 of a pod's pid namespace.
    if first.as_deref() == Some(pod_init::VERB) {
        return ExitCode::from(u8::from(pod_init::serve().is_err()));
    }
    // Before all else: what follows is done by a program that containers may see.
    if sealing::concerns(std::env::args_os().skip(1))
        && let Err(error) = sealing::ensure_sealed()
    {
        report::report(&Arguments::read().global, &error.to_string());
        return ExitCode::FAILURE;
    }
    let arguments = Arguments::read();
    match verbs::run(&arguments) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            report::report(&arguments.global, &error.to_string());
            verbs::failure_code(&arguments.verb)
        }
    }
}

/// Whether `--version` stands before any verb.
fn asks_for_version(words: impl Iterator<Item = String>) -> bool {
    let mut is_value = false;
    for word in words {
        if is_value {
            is_value = false;
        } else if ["--version", "-version", "-v", "-V"].contains(&&*word) {
            return true;
        } else if word.starts_with('-') {
            is_value = GLOBAL_WITH_VALUE.contains(&&*word);
        } else {
            return false;
        }
    }
    false
}
