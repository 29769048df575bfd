//! Pseudo terminals, without a lookup of the slave's name.
//!
//! `ptsname(3)` gives a path, and the path may be a lie of whoever owns the
//! container's `/dev/pts`. `TIOCGPTPEER` (Linux 4.13) opens the slave from the
//! master itself (ioctl_tty(2)).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::call::{SyscallError, check, finish};

/// Rows and columns of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Rows.
    pub height: u16,
    /// Columns.
    pub width: u16,
}

/// `ioctl(master, TIOCSPTLCK, 0)` and `ioctl(master, TIOCGPTPEER)`: the slave of a master.
///
/// # Errors
///
/// `ENOTTY`: the descriptor is no master.
pub fn open_slave(master: BorrowedFd<'_>) -> Result<OwnedFd, SyscallError> {
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which lives on this stack.
    let returned =
        unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) };
    finish(check(returned.into()).map(drop), || {
        format!("ioctl({}, TIOCSPTLCK)", master.as_raw_fd())
    })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes flags of open(2) by value.
    let returned = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    let slave = finish(check(returned.into()), || {
        format!("ioctl({}, TIOCGPTPEER)", master.as_raw_fd())
    })?;
    // SAFETY: the kernel made this descriptor for us a moment ago.
    Ok(unsafe { OwnedFd::from_raw_fd(slave as i32) })
}

/// `ioctl(terminal, TIOCSWINSZ)`.
///
/// # Errors
///
/// `ENOTTY`.
pub fn set_size(terminal: BorrowedFd<'_>, size: Size) -> Result<(), SyscallError> {
    let size = libc::winsize {
        ws_row: size.height,
        ws_col: size.width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize, which lives on this stack.
    let returned = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    finish(check(returned.into()).map(drop), || {
        format!("ioctl(TIOCSWINSZ, {}x{})", size.ws_col, size.ws_row)
    })
}

/// `ioctl(terminal, TIOCGWINSZ)`.
///
/// # Errors
///
/// `ENOTTY`.
pub fn observe_size(terminal: BorrowedFd<'_>) -> Result<Size, SyscallError> {
    // SAFETY: a winsize is four numbers, for which zero is a value.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: TIOCGWINSZ writes one winsize, which lives on this stack.
    let returned = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    finish(check(returned.into()), || "ioctl(TIOCGWINSZ)".to_owned())?;
    Ok(Size {
        height: size.ws_row,
        width: size.ws_col,
    })
}

/// `ioctl(terminal, TIOCSCTTY)`: the terminal becomes the session's own.
///
/// # Errors
///
/// `EPERM`: this process leads no session, or it has a terminal.
pub fn make_controlling(terminal: BorrowedFd<'_>) -> Result<(), SyscallError> {
    // SAFETY: TIOCSCTTY takes a number by value.
    let returned = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) };
    finish(check(returned.into()).map(drop), || {
        format!("ioctl({}, TIOCSCTTY)", terminal.as_raw_fd())
    })
}

/// The number of the pseudo terminal, as in `/dev/pts/N`.
///
/// # Errors
///
/// `ENOTTY`: the descriptor is no master.
pub fn number(master: BorrowedFd<'_>) -> Result<u32, SyscallError> {
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGPTN writes one unsigned int, which lives on this stack.
    let returned = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) };
    finish(check(returned.into()), || "ioctl(TIOCGPTN)".to_owned())?;
    Ok(number)
}

/// That a descriptor is the multiplexer of a devpts, so that what it gives out
/// are pseudo terminals and nothing an image put in their place (CVE-2025-52565).
///
/// # Errors
///
/// `ENOTTY` when it is anything else.
pub fn check_multiplexer(file: BorrowedFd<'_>) -> Result<(), SyscallError> {
    let found = super::path::status(file)?;
    let is_ptmx = found.st_rdev == rustix::fs::makedev(5, 2)
        && super::mount::filesystem_magic(file)? == libc::DEVPTS_SUPER_MAGIC;
    if is_ptmx {
        Ok(())
    } else {
        Err(SyscallError::new(
            "fstat(/dev/pts/ptmx): not a devpts",
            Errno::ENOTTY,
        ))
    }
}
