//! Copies of this process: `fork(2)` without a following `execve(2)`.
//!
//! After `fork` only the calling thread exists in the child, while locks that
//! other threads held stay locked for ever. So a copy that goes on running this
//! program is sound only when there is one thread, which is checked here.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::signal::SigSet;

use super::process::{assert_single_thread, close_range};

/// Which side of a [`fork`] the caller is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The caller is the copy.
    Child,
    /// The caller made a copy.
    Parent {
        /// The copy, to be waited for.
        child: i32,
    },
}

/// `pid_t fork(void);`
///
/// The child must leave by [`exit_now`](super::process::exit_now) or `execve(2)`: returning from its
/// caller's stack frames would run the parent's destructors twice.
///
/// # Errors
///
/// - `EAGAIN`: a limit on processes was reached.
/// - `ENOMEM`: no memory, or the pid namespace has lost its process 1.
///
/// # Panics
///
/// When this process has more than one thread.
pub fn fork() -> io::Result<Side> {
    assert_single_thread();
    // SAFETY: this process has exactly one thread (asserted above), so no lock
    // can be held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        child => Ok(Side::Parent { child }),
    }
}

/// `int close_range(unsigned first, unsigned last, int flags);`
///
/// Closes every descriptor above standard error but `keep`.
///
/// A copy calls this before it opens anything: what it inherited belongs to the
/// parent, whose owners in this address space the copy never drops.
///
/// # Errors
///
/// - `ENOSYS`: a kernel older than 5.9.
pub fn close_inherited(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<u32> = keep
        .iter()
        .map(|descriptor| descriptor.as_raw_fd().unsigned_abs())
        .collect();
    kept.sort_unstable();
    let mut first = 3;
    for number in kept {
        if first < number {
            close_range(first, number - 1, 0)?;
        }
        first = first.max(number + 1);
    }
    Ok(close_range(first, u32::MAX, 0)?)
}

/// `int sigprocmask(SIG_SETMASK, [], NULL)`, between `fork(2)` and `execve(2)`.
///
/// The mask of blocked signals passes through both, and so does `Command`: a
/// program started by one that reads its signals from a descriptor would not
/// hear SIGTERM, nor would any program that it starts.
pub fn unblock_signals_before_exec(command: &mut Command) {
    let unblock = || Ok(SigSet::empty().thread_set_mask()?);
    // SAFETY: the closure makes one system call that is safe in a signal
    // handler, allocates nothing and takes no lock, as a copy of a process that
    // may have had threads must not.
    unsafe {
        command.pre_exec(unblock);
    }
}

/// `close_range(3, ~0, CLOSE_RANGE_CLOEXEC)`, between `fork(2)` and `execve(2)`: the
/// program gets the three standard streams and nothing else.
pub fn close_descriptors_at_exec(command: &mut Command) {
    let close = || Ok(close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)?);
    // SAFETY: the closure makes one system call that is safe in a signal
    // handler, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(close);
    }
}
