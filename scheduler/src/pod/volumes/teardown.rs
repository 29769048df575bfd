//! Taking everything away again.
//!
//! Removing a directory tree descends into whatever is mounted below it, and a
//! `subPath` of a `hostPath` is the node's own data. So every mount goes first,
//! the list is read again, and a directory with a mount left in it is not
//! touched.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use berth_runtime::mountinfo;
use rustix::mount::{UnmountFlags, unmount};

use super::VolumeError;

/// Mounts may be stacked on one place; each round takes the topmost away.
const ROUNDS: usize = 8;

/// Removes the directory of a pod with all mounts below it.
///
/// # Errors
///
/// When a mount does not go, or something in the directory does not; the
/// directory is then left for another try.
pub fn remove_volumes(directory: &Path) -> Result<(), VolumeError> {
    let failed = |step: String| {
        move |source| VolumeError {
            volume: String::new(),
            step,
            source,
        }
    };
    let directory = match fs::canonicalize(directory) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(failed(format!("{} was not found", directory.display()))(
                error,
            ));
        }
    };
    let mut last = Ok(());
    for _ in 0..ROUNDS {
        let mounts = observe_mounts_below(&directory)
            .map_err(failed("the list of mounts was not read".to_owned()))?;
        if mounts.is_empty() {
            // This remove_dir_all opens each directory without following links
            // (CVE-2022-21658), so nothing outside can be reached.
            return fs::remove_dir_all(&directory)
                .map_err(failed(format!("{} was not removed", directory.display())));
        }
        // The deepest first: the list is in the order of mounting.
        for mount in mounts.iter().rev() {
            let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            if let Err(error) = unmount(mount, flags) {
                last = Err((mount.clone(), error));
            }
        }
    }
    let (mount, error) = match last {
        Err((mount, error)) => (mount, error.into()),
        Ok(()) => (
            directory,
            io::Error::new(io::ErrorKind::ResourceBusy, "mounts keep appearing"),
        ),
    };
    Err(failed(format!("{} was not unmounted", mount.display()))(
        error,
    ))
}

/// Mount points at or below a directory, in the order of mounting.
fn observe_mounts_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    // Of this thread, not of the process: a thread may be in a mount namespace
    // of its own, and it is this thread that unmounts.
    let table = fs::read("/proc/thread-self/mountinfo")?;
    Ok(mountinfo::mount_points(&table)
        .filter(|point| point.starts_with(directory))
        .collect())
}
