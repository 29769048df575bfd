//! The mounts below a directory, found in the kernel's own list.
//!
//! A directory is removed with all it holds only after nothing is mounted in
//! it: removing through a mount would delete the image's layers, or the host's
//! files behind a volume. So the kernel is asked (proc_pid_mountinfo(5)) rather
//! than our own records, which a killed process may not have written.

use std::path::{Path, PathBuf};

use berth_runtime::mountinfo;
use rustix::mount::UnmountFlags;

use super::error::{Error, ErrorKind, Failures};
use super::records::files::remove_tree;

/// Takes everything off that is mounted below a directory or on it, last first.
///
/// # Errors
///
/// `Storage` with every mount that stayed.
pub fn unmount_below(directory: &Path) -> Result<(), Error> {
    unmount_all(directory, observe_below(directory)?)
}

fn unmount_all(directory: &Path, mounts: Vec<PathBuf>) -> Result<(), Error> {
    let mut failures = Failures::default();
    for mount in mounts.into_iter().rev() {
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
    // On a machine of a thousand containers the list is long: one look where one is enough.
    let mounts = observe_below(directory)?;
    if mounts.is_empty() {
        return remove_tree(directory);
    }
    unmount_all(directory, mounts)?;
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
    Ok(mountinfo::mount_points(&table)
        .filter(|mount| mount.starts_with(&directory))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

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
