//! `berth-oci`: an OCI runtime. See the library for how it works.

// The C library calls `main`: what Rust's runtime would do first is in `sys/start.rs`.
#![cfg_attr(not(test), no_main)]

use std::ffi::{c_char, c_int};
use std::panic::catch_unwind;

use berth_runtime::arguments::{Arguments, GLOBAL_WITH_VALUE};
use berth_runtime::monitor::pod_init;
use berth_runtime::sys::start;
use berth_runtime::{report, sealing, verbs};

/// What a panic ends with, in every program of Rust.
const PANIC: u8 = 101;

/// What the C library calls; the words are known to `std::env` by then.
// SAFETY: the C library calls this one symbol `main`, with a count and that many words.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn main(_count: c_int, _words: *const *const c_char) -> c_int {
    if let Err(error) = start::begin() {
        eprintln!("berth-oci: opening /dev/null for a closed standard descriptor: {error}");
        std::process::exit(1);
    }
    let code = catch_unwind(live).unwrap_or(PANIC);
    // Writes what is still to be written, as a return would not.
    std::process::exit(code.into())
}

/// Does what the command line asks for; gives the exit status.
fn live() -> u8 {
    let first = std::env::args().nth(1);
    // Before clap: who asks for the version names no verb.
    if asks_for_version(std::env::args().skip(1)) {
        print!("{}", verbs::features::version_lines());
        return 0;
    }
    // Run by the monitor only, as process 1 of a pod's pid namespace.
    if first.as_deref() == Some(pod_init::VERB) {
        return pod_init::serve().is_err().into();
    }
    // Before all else: what follows is done by a program that containers may see.
    if sealing::concerns(std::env::args_os().skip(1))
        && let Err(error) = sealing::ensure_sealed()
    {
        report::report(&Arguments::read().global, &error.to_string());
        return 1;
    }
    let arguments = Arguments::read();
    match verbs::run(&arguments) {
        Ok(code) => u8::try_from(code).unwrap_or(1),
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
