//! Files that are whole or absent, and locks that die with their holder.
//!
//! `rename(2)` replaces a name in one step: a reader sees the old file or the
//! new one. The data must be on disk before the name is, or a power cut leaves
//! a name with nothing behind it, hence the `fsync(2)` before. `flock(2)`
//! belongs to an open file: the kernel lets it go when the last descriptor is
//! closed, by whatever death, so a lock that can be taken has no living holder.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::images::error::{Context, Error};

/// Ends the name of a file that is still being written. Whoever holds the
/// index's lock may delete these: they are written under that lock only.
pub(crate) const UNFINISHED: &str = ".unfinished";

/// Replaces a file by these bytes, or leaves it as it was.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    let unfinished = Path::new(&name);
    let written = File::create(unfinished).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(unfinished, path)?;
        sync_directory(path)
    });
    written
        .inspect_err(|_| {
            // The failure above is the one to report.
            let _ = fs::remove_file(unfinished);
        })
        .context(|| format!("{} is not written", path.display()))
}

/// Makes the name of `path` survive a power cut.
fn sync_directory(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
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
