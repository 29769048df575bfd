//! Ctrl-C as an answer: a signal that only interrupts what waits for input.
//!
//! A program that has half of a container in its hands must not end at once
//! when somebody presses Ctrl-C. With a handler that does nothing, and without
//! `SA_RESTART`, a read(2) that waits returns `EINTR`, and the program can take
//! back what it made. A handler, unlike a blocked signal, is forgotten by
//! `execve(2)`: the container's program does not inherit it (signal(7)).

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::call::{SyscallError, finish};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: libc::c_int) {
    // A store is all that is safe to do here (signal-safety(7)).
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// `int sigaction(int, const struct sigaction *, struct sigaction *)` for the
/// signals by which people end programs: from here on they only interrupt.
///
/// # Errors
///
/// None that the kernel documents for these signals.
pub fn catch() -> Result<(), SyscallError> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: `note` does nothing but an atomic store, so that it may run
        // between any two instructions of this process.
        let set = unsafe { sigaction(signal, &action) };
        finish(set.map(drop), || format!("sigaction({signal})"))?;
    }
    Ok(())
}

/// Whether one of them has come.
pub fn has_come() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}
