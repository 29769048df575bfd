//! Copies a folder's content into another, by descriptors, following no link.
//!
//! For `tmpcopyup`: a tmpfs over a folder of the image begins with what the
//! image has there. The source belongs to the image's maker, so nothing in it
//! is looked up by more than one name at a time.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timestamps, Uid};

use crate::sys::call::{SyscallError, finish};

/// Images are not deeper; a stack is not endless.
const DEPTH_LIMIT: usize = 64;

/// What becomes of the target's own owner, mode and times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// They become those of the source.
    Copied,
    /// They stay.
    Kept,
}

/// Copies what a folder holds, and the folder's own owner, mode and times if asked for.
///
/// # Errors
///
/// Those of reading and making files; `ENOSPC` where the tmpfs is too small.
pub fn copy_folder(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    own_attributes: Own,
) -> Result<(), SyscallError> {
    copy_entries(from, to, DEPTH_LIMIT)?;
    if own_attributes == Own::Kept {
        return Ok(());
    }
    let found = finish(rustix::fs::fstat(from), || "fstat()".to_owned())?;
    own(to, c".", &found)
}

fn copy_entries(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    depth: usize,
) -> Result<(), SyscallError> {
    if depth == 0 {
        return Err(SyscallError::new("copy: folders too deep", Errno::ELOOP));
    }
    // The descriptor may be one of O_PATH, which cannot be listed.
    let listed = open(from, c".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let entries = finish(Dir::new(listed), || "fdopendir()".to_owned())?;
    for entry in entries {
        let entry = finish(entry, || "readdir()".to_owned())?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from, to, name, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    depth: usize,
) -> Result<(), SyscallError> {
    let told = |call: &str| format!("{call}({name:?})");
    let found = finish(
        rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW),
        || told("fstatat"),
    )?;
    let mode = Mode::from_raw_mode(found.st_mode & 0o7777);
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => {
            finish(rustix::fs::mkdirat(to, name, Mode::RWXU), || {
                told("mkdirat")
            })?;
            let below = OFlags::RDONLY | OFlags::DIRECTORY;
            let (source, target) = (open(from, name, below)?, open(to, name, below)?);
            copy_entries(source.as_fd(), target.as_fd(), depth - 1)?;
        }
        FileType::RegularFile => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let mut source = File::from(open(from, name, OFlags::RDONLY)?);
            let mut target = File::from(open(to, name, flags)?);
            std::io::copy(&mut source, &mut target).map_err(|error| {
                let number = error.raw_os_error().unwrap_or(libc::EIO);
                SyscallError::new(told("copy"), Errno::from_raw(number))
            })?;
        }
        FileType::Symlink => {
            let target = finish(rustix::fs::readlinkat(from, name, Vec::new()), || {
                told("readlinkat")
            })?;
            finish(rustix::fs::symlinkat(&*target, to, name), || {
                told("symlinkat")
            })?;
        }
        kind => finish(
            rustix::fs::mknodat(to, name, kind, mode, found.st_rdev),
            || told("mknodat"),
        )?,
    }
    own(to, name, &found)
}

/// Owner first: a change of owner takes set-user-ID bits away.
fn own(folder: BorrowedFd<'_>, name: &CStr, like: &Stat) -> Result<(), SyscallError> {
    let told = |call: &str| format!("{call}({name:?})");
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    let (user, group) = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
    finish(
        rustix::fs::chownat(folder, name, Some(user), Some(group), nofollow),
        || told("fchownat"),
    )?;
    // Links have no mode of their own.
    if FileType::from_raw_mode(like.st_mode) != FileType::Symlink {
        let mode = Mode::from_raw_mode(like.st_mode & 0o7777);
        finish(
            rustix::fs::chmodat(folder, name, mode, AtFlags::empty()),
            || told("fchmodat"),
        )?;
    }
    let times = Timestamps {
        last_access: rustix::fs::Timespec {
            tv_sec: like.st_atime,
            tv_nsec: like.st_atime_nsec.try_into().unwrap_or(0),
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: like.st_mtime,
            tv_nsec: like.st_mtime_nsec.try_into().unwrap_or(0),
        },
    };
    finish(
        rustix::fs::utimensat(folder, name, &times, nofollow),
        || told("utimensat"),
    )
}

fn open(folder: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd, SyscallError> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    finish(
        rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR),
        || format!("openat({name:?}, {flags:?})"),
    )
}
