//! Owner, mode, attributes and times of what an archive's entry made.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::images::unpack::entry::Metadata;

/// What is done to a link itself: it has an owner and a time, but no mode.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follows {
    /// The name is a symbolic link.
    Link,
    /// The name is something else.
    Nothing,
}

/// Owner first, for a change of owner takes set-id bits and capabilities away;
/// then the mode and the attributes; the time last.
pub(crate) fn set_metadata(
    parent: BorrowedFd<'_>,
    name: &[u8],
    metadata: &Metadata,
    follows: Follows,
) -> Result<(), Errno> {
    let (uid, gid) = owner(metadata);
    if let Some(uid) = uid {
        rustix::fs::chownat(parent, name, Some(uid), gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if follows == Follows::Nothing {
        let mode = Mode::from_raw_mode(metadata.mode);
        rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
    }
    for (attribute, value) in &metadata.attributes {
        set_attribute(parent, name, attribute, value).or_else(unless_foreign)?;
    }
    let times = timestamps(metadata.modified);
    rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// As [`set_metadata`], for a file that is open.
pub(crate) fn set_file_metadata(file: &File, metadata: &Metadata) -> Result<(), Errno> {
    let (uid, gid) = owner(metadata);
    if let Some(uid) = uid {
        rustix::fs::fchown(file, Some(uid), gid)?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(metadata.mode))?;
    for (name, value) in &metadata.attributes {
        rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty())
            .or_else(unless_foreign)?;
    }
    rustix::fs::futimens(file, &timestamps(metadata.modified))
}

/// Nobody, if it is root: what we make is root's already.
fn owner(metadata: &Metadata) -> (Option<Uid>, Option<Gid>) {
    match (metadata.uid, metadata.gid) {
        (0, 0) => (None, None),
        (uid, gid) => (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))),
    }
}

/// A file system without an attribute's kind, or a security module that is not
/// loaded here, is no reason to refuse the image.
fn unless_foreign(error: Errno) -> Result<(), Errno> {
    match error {
        Errno::OPNOTSUPP => Ok(()),
        error => Err(error),
    }
}

/// There is no call that sets an attribute below a descriptor without opening
/// the file, which for a device or a fifo has effects. `/proc/self/fd/N/NAME`
/// names it all the same, and `lsetxattr(2)` does not follow the last part.
pub(crate) fn set_attribute(
    parent: BorrowedFd<'_>,
    name: &[u8],
    attribute: &[u8],
    value: &[u8],
) -> Result<(), Errno> {
    let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    rustix::fs::lsetxattr(path, attribute, value, XattrFlags::empty())
}

/// Sets when a directory was changed.
pub(crate) fn set_modified(directory: &OwnedFd, modified: (i64, i64)) -> Result<(), Errno> {
    let times = timestamps(modified);
    rustix::fs::utimensat(directory, "", &times, AtFlags::EMPTY_PATH)
        // Before Linux 5.8 the call wants a name.
        .or_else(|_| rustix::fs::utimensat(directory, ".", &times, AtFlags::empty()))
}

fn timestamps((seconds, nanoseconds): (i64, i64)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
