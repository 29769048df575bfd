//! mkdir, rmdir, read and write: the whole language of the cgroup filesystem.
//!
//! Each write(2) is one command to the kernel, so a value goes out in one call,
//! and an error comes back for exactly that value.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use nix::errno::Errno;

use crate::sys::call::{SyscallError, finish};

/// A file that is kept open over several writes to it.
pub(crate) struct Writer {
    file: File,
}

impl Writer {
    /// Opens a control file.
    ///
    /// # Errors
    ///
    /// `ENOENT`: this kernel, or this group, has no such file.
    pub fn open(path: &Path) -> Result<Self, SyscallError> {
        // No O_CREAT and no O_TRUNC: a control file is there or it is not.
        let opened = OpenOptions::new().write(true).open(path);
        finish(opened, || format!("open({path:?}, O_WRONLY)")).map(|file| Self { file })
    }

    /// Writes one value.
    ///
    /// # Errors
    ///
    /// Whatever the controller says: `EINVAL` for a bad value, `EBUSY` for a
    /// limit below the use, `EPERM` for more than the parent has.
    pub fn write(&mut self, value: &str, path: &Path) -> Result<(), SyscallError> {
        // Control files take no position, so writing again is a new command.
        finish(self.file.write_all(value.as_bytes()), || {
            format!("write({path:?}, {value:?})")
        })
    }
}

/// Writes one value to one control file.
pub(crate) fn write(path: &Path, value: &str) -> Result<(), SyscallError> {
    Writer::open(path)?.write(value, path)
}

/// The whole of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, SyscallError> {
    finish(read_whole(path), || format!("read({path:?})"))
}

/// The whole of a control file, as text.
pub(crate) fn read_text(path: &Path) -> Result<String, SyscallError> {
    let text = read_whole(path).and_then(|bytes| {
        String::from_utf8(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EILSEQ))
    });
    finish(text, || format!("read({path:?})"))
}

/// These files say that they are empty and have a size only once they are
/// read, so asking for it, as `fs::read` does, would be calls for nothing.
fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(8 * 1024);
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Like [`read_text`], but a file that is not there is none.
pub(crate) fn read_text_if_there(path: &Path) -> Result<Option<String>, SyscallError> {
    match read_text(path) {
        Ok(text) => Ok(Some(text)),
        // A group that vanishes while its file is open answers ENODEV.
        Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes one group.
///
/// # Errors
///
/// `EEXIST`, or `ENOENT` when its parent is missing.
pub(crate) fn make_directory(path: &Path) -> Result<(), SyscallError> {
    finish(fs::create_dir(path), || format!("mkdir({path:?}, 0755)"))
}

/// Removes one group. One that is not there is fine.
///
/// # Errors
///
/// `EBUSY`: it has processes or groups in it.
pub(crate) fn remove_directory(path: &Path) -> Result<(), SyscallError> {
    match finish(fs::remove_dir(path), || format!("rmdir({path:?})")) {
        Err(error) if error.errno() == Errno::ENOENT => Ok(()),
        other => other,
    }
}

/// The groups inside a group, a group before those inside it.
pub(crate) fn descendants(group: &Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![group.to_path_buf()];
    let mut next = 0;
    while let Some(directory) = found.get(next) {
        // A group that is gone has nothing inside.
        let inside: Vec<_> = fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        found.extend(inside);
        next += 1;
    }
    found
}
