//! Files that are whole or absent, and locks that die with their holder.
//!
//! `flock(2)` belongs to an open file: the kernel lets it go when the last
//! descriptor is closed, by whatever death, so a lock that can be taken has no
//! living holder.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_runtime::whole_file;

use crate::images::error::{Context, Error};

/// Replaces a file by these bytes, or leaves it as it was. A path has one
/// writer at a time, by the index's lock or because nobody else knows its name.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    whole_file::replace_synced(path, bytes).context(|| format!("{} is not written", path.display()))
}

/// Makes a directory that only root reads, with those above it.
pub(crate) fn ensure_private_directory(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .context(|| format!("the directory {} cannot be made", path.display()))
}

/// A name that this machine has not used for anything that is still alive.
pub(crate) fn unique_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let nanoseconds = std::time::UNIX_EPOCH
        .elapsed()
        .map_or(0, |elapsed| elapsed.as_nanos());
    format!("{}-{nanoseconds:x}-{count}", std::process::id())
}

/// Takes the lock that a file stands for, waiting for its holder.
pub(crate) fn lock(path: &Path) -> Result<File, Error> {
    let file = open_lock(path)?;
    file.lock()
        .context(|| format!("{} cannot be locked", path.display()))?;
    Ok(file)
}

/// Takes the lock if nobody alive holds it.
pub(crate) fn try_lock(path: &Path) -> Result<Option<File>, Error> {
    let file = open_lock(path)?;
    match file.try_lock() {
        // Between the open and the lock the holder may have deleted the file:
        // then this is the lock of a name that means nothing any more.
        Ok(()) if is_named(&file, path) => Ok(Some(file)),
        Ok(()) | Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).context(|| format!("{} cannot be locked", path.display()))
        }
    }
}

fn open_lock(path: &Path) -> Result<File, Error> {
    File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .context(|| format!("{} cannot be opened", path.display()))
}

fn is_named(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(named)) => held.ino() == named.ino() && held.dev() == named.dev(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index.json");
        write_whole(&path, b"one").unwrap();
        write_whole(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        write_whole(&directory.path().join("absent/file"), b"").unwrap_err();
    }

    #[test]
    fn a_lock_has_one_holder_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = try_lock(&path).unwrap().unwrap();
        assert!(try_lock(&path).unwrap().is_none());
        fs::remove_file(&path).unwrap();
        // The name is free again: a new file, a new lock.
        assert!(try_lock(&path).unwrap().is_some());
        drop(held);
    }
}
