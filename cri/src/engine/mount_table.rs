//! The mounts below a directory, found in the kernel's own list.
//!
//! A directory is removed with all it holds only after nothing is mounted in
//! it: removing through a mount would delete the image's layers, or the host's
//! files behind a volume. So the kernel is asked (proc_pid_mountinfo(5)) rather
//! than our own records, which a killed process may not have written.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;

use super::error::{Error, ErrorKind, Failures};
use super::records::files::remove_tree;

/// Takes everything off that is mounted below a directory or on it, last first.
///
/// # Errors
///
/// `Storage` with every mount that stayed.
pub fn unmount_below(directory: &Path) -> Result<(), Error> {
    let mut failures = Failures::default();
    for mount in observe_below(directory)?.into_iter().rev() {
        // Lazily: a process that is on its way out may still look at it. The
        // mount point is free at once either way.
        let outcome = rustix::mount::unmount(&mount, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        failures.note(match outcome {
            // Another process took it off between the look and the call.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::caused(
                ErrorKind::Storage,
                format!("unmount {}", mount.display()),
                errno,
            )),
        });
    }
    failures.into_result(&format!("free {} of mounts", directory.display()))
}

/// Removes a directory with all it holds, but never through a mount.
///
/// # Errors
///
/// `Storage`; with a mount left, nothing was removed.
pub fn remove_unmounted(directory: &Path) -> Result<(), Error> {
    unmount_below(directory)?;
    if let Some(left) = observe_below(directory)?.first() {
        return Err(Error::new(
            ErrorKind::Storage,
            format!(
                "remove {}: {} is still mounted, nothing was removed",
                directory.display(),
                left.display()
            ),
        ));
    }
    remove_tree(directory)
}

/// The mount points at or below a directory, in the order of mounting.
pub fn observe_below(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let table = std::fs::read("/proc/self/mountinfo")
        .map_err(|error| Error::caused(ErrorKind::Storage, "read /proc/self/mountinfo", error))?;
    // The table holds resolved paths.
    let directory = match std::fs::canonicalize(directory) {
        Ok(path) => path,
        Err(_) => return Ok(Vec::new()),
    };
    Ok(parse(&table)
        .into_iter()
        .filter(|mount| mount.starts_with(&directory))
        .collect())
}

/// The fifth field of each line.
fn parse(table: &[u8]) -> Vec<PathBuf> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|field| PathBuf::from(OsString::from_vec(unescape(field))))
        .collect()
}

/// Blanks, tabs, line ends and backslashes are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let code = tail
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, code) {
            (b'\\', Some(byte)) => {
                plain.push(byte);
                rest = &tail[3..];
            }
            (byte, _) => {
                plain.push(*byte);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_from_the_table() {
        let table = b"30 25 0:26 / /sys ro - tmpfs tmpfs ro\n\
                      31 30 0:27 / /a\\040b\\134c rw shared:9 - overlay overlay rw\n";
        assert_eq!(
            parse(table),
            [PathBuf::from("/sys"), PathBuf::from("/a b\\c")]
        );
    }

    #[test]
    fn a_directory_without_mounts_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        std::fs::create_dir_all(inner.join("deep")).unwrap();
        remove_unmounted(&inner).unwrap();
        assert!(!inner.exists());
        remove_unmounted(&inner).unwrap();
        assert_eq!(
            observe_below(Path::new("/proc"))
                .unwrap()
                .first()
                .map(PathBuf::as_path),
            Some(Path::new("/proc"))
        );
    }
}
