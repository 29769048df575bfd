//! Lookups that take a layer's directory for `/`.
//!
//! An archive can hold `a -> /etc` and then `a/passwd`. Resolved by ordinary
//! lookups, the second entry is the host's file (CVE-2019-14271 and its many
//! kin). `openat2(2)` with `RESOLVE_IN_ROOT` (Linux 5.6) makes the kernel
//! itself take the layer's directory for `/` during the lookup: absolute links
//! and `..` stay inside, and `RESOLVE_NO_MAGICLINKS` shuts the side door of
//! `/proc/PID/root`. A path check done beforehand could be out of date by the
//! time of the call; this one *is* the call.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Links in a path that lead to links: the kernel's own limit.
pub(crate) const MOST_LINKS: u32 = 40;

/// Opens something below a directory that the lookup takes for `/`.
pub(crate) fn open_below(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    open_resolving(root, path, flags, ResolveFlags::NO_MAGICLINKS)
}

/// As [`open_below`], with a further word on what the lookup may follow.
pub(crate) fn open_resolving(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    follows: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let path: &[u8] = if path.is_empty() { b"." } else { path };
    let (flags, resolve) = (flags | OFlags::CLOEXEC, ResolveFlags::IN_ROOT | follows);
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // The kernel could not rule out a rename during the lookup of "..".
            Err(Errno::AGAIN) => {}
            opened => return opened,
        }
    }
}

/// The names in a directory that was opened for reading.
pub(crate) fn names_in(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
