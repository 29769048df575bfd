//! Overlayfs's marks for what a layer takes away from those below it.
//!
//! A whiteout, the character device 0:0, hides one name. An opaque directory,
//! by an extended attribute, hides all that the directories of its name hold in
//! the layers below. See the kernel's `filesystems/overlayfs.rst`.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use crate::images::unpack::metadata::set_attribute;

/// The attribute of an opaque directory; its value is `y`.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// Makes a directory in place of a whiteout: what is below stays hidden.
pub(crate) fn make_opaque_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    rustix::fs::chmodat(parent, name, Mode::from_raw_mode(0o755), AtFlags::empty())?;
    set_attribute(parent, name, OPAQUE.as_bytes(), b"y")
}

/// Makes a whiteout under a name that is free.
pub(crate) fn make_whiteout_at(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::mknodat(
        parent,
        name,
        FileType::CharacterDevice,
        Mode::empty(),
        rustix::fs::makedev(0, 0),
    )
}

/// Whether what has a name hides what the layers below have there.
pub(crate) fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}
