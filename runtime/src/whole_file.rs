//! Files that a reader finds as they were or as they are now, never half written.
//!
//! `rename(2)` gives a name to another file in one step, so the bytes are
//! written under a second name first. What a loss of power leaves is another
//! question: a rename may reach the disk before the bytes do, and then the name
//! stands for an empty file. Whoever needs the answer "old or new" then too has
//! to `fsync(2)` the file before the rename; whoever needs the answer "new", the
//! folder after it as well. That waits for what others have begun to write too: on a
//! busy file system for milliseconds, so there are three functions.
//!
//! All of them set the file's time of modification by the exact clock. The kernel's own
//! stamps move in steps of some milliseconds, within which a file may be replaced twice and
//! get the first one's inode again; with the exact time no two files at a path look alike,
//! and who has read one knows from a `stat(2)` whether it is still the same.
//!
//! ```text
//!                     after kill -9     after a loss of power
//!   replace           old or new        old, new or empty
//!   replace_ordered   old or new        old or new
//!   replace_synced    new, once it has returned, in both
//! ```
//!
//! Read more: rename(2), fsync(2) NOTES, utimensat(2).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::sys::call::narrated;

/// Ends the name of a file that [`replace_ordered`] has not finished.
pub const UNFINISHED: &str = ".unfinished";

/// Replaces a file for readers of this boot. `mode` is subject to the umask.
///
/// Several processes may write at once: each has a second name of its own, and
/// the last one wins.
///
/// # Errors
///
/// Those of `open(2)`, `write(2)` and `rename(2)`; the file is as it was.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let written = narrated(options.open(&draft), || {
        format!("open({draft:?}, O_WRONLY|O_CREAT|O_TRUNC, 0{mode:o})")
    })
    .and_then(|mut file| {
        narrated(file.write_all(bytes), || {
            format!("write({draft:?}, {})", beginning(bytes))
        })?;
        stamp(&file)
    })
    .and_then(|()| {
        narrated(fs::rename(&draft, path), || {
            format!("rename({draft:?}, {path:?})")
        })
    });
    without_draft(written, &draft)
}

/// Replaces a file so that a loss of power, too, leaves the old one or the new one.
/// Which, is open for some seconds; but file systems keep the order of what
/// happens to names, so that what is made after this does not outlive it.
///
/// The caller holds a lock, or is the only writer: the second name is always the
/// same one, so that what a killed process left is overwritten by the next.
///
/// # Errors
///
/// Those of `open(2)`, `write(2)`, `fsync(2)` and `rename(2)`; the file is as it was.
pub fn replace_ordered(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(UNFINISHED);
    let draft = PathBuf::from(draft);
    let written = File::create(&draft).and_then(|mut file| {
        file.write_all(bytes)?;
        stamp(&file)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    });
    without_draft(written, &draft)
}

/// As [`replace_ordered`]; once it has returned, a loss of power leaves the new file.
///
/// # Errors
///
/// As there, or the folder was not synced: then the file is the new one already.
pub fn replace_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_ordered(path, bytes)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn stamp(file: &File) -> io::Result<()> {
    let now = SystemTime::now();
    narrated(file.set_modified(now), || {
        format!("utimensat({}, now)", file.as_raw_fd())
    })
}

/// The bytes if they are few, and how many they are if not.
fn beginning(bytes: &[u8]) -> String {
    match bytes.len() {
        0..=40 => format!("{:?}", String::from_utf8_lossy(bytes)),
        many => format!("{many} bytes"),
    }
}

fn without_draft(written: io::Result<()>, draft: &Path) -> io::Result<()> {
    written.inspect_err(|_| {
        // The failure is the one to report.
        let _ = fs::remove_file(draft);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Way = fn(&Path, &[u8]) -> io::Result<()>;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let plain: Way = |path, bytes| replace(path, bytes, 0o600);
        for replace in [plain, replace_ordered, replace_synced] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("record.json");
            replace(&path, b"one").unwrap();
            replace(&path, b"two").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"two");
            // A folder cannot be replaced by a file.
            let taken = folder.path().join("taken");
            fs::create_dir(&taken).unwrap();
            replace(&taken, b"three").unwrap_err();
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
            replace(&folder.path().join("absent/file"), b"").unwrap_err();
        }
    }
}
