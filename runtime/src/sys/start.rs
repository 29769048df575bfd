//! What Rust's own runtime does before a program's `main`, as far as this one needs it.
//!
//! `main` here is the C library's. Before Rust's, the standard library also looks for the
//! stack's guard page by reading `/proc/self/maps` and lays a second stack for the message
//! of an overflow: a tenth of a millisecond, a page or two of memory, and of no use to a
//! program that lives for one.

use std::io::{Error, Result};
use std::os::fd::IntoRawFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::stdio::{stderr, stdin, stdout};

/// Opens the standard descriptors that the caller left closed, for whatever was opened
/// next would be taken for one of them; and ignores SIGPIPE, so that a reader who goes is
/// an error of a write.
///
/// # Errors
///
/// Nothing stands for a closed descriptor.
pub fn begin() -> Result<()> {
    let closed = {
        let [input, output, errors] = [stdin(), stdout(), stderr()];
        let mut standard = [
            PollFd::new(&input, PollFlags::empty()),
            PollFd::new(&output, PollFlags::empty()),
            PollFd::new(&errors, PollFlags::empty()),
        ];
        poll(&mut standard, Some(&Timespec::default()))?;
        let closed = standard.map(|one| one.revents().contains(PollFlags::NVAL));
        closed.into_iter().filter(|closed| *closed).count()
    };
    for _ in 0..closed {
        // The kernel gives the lowest number that is free.
        let null = rustix::fs::open(c"/dev/null", OFlags::RDWR, Mode::empty())?;
        let _ = null.into_raw_fd();
    }
    // SAFETY: no handler is set, and nothing else runs yet.
    match unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}
