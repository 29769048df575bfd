//! Files that are root's alone, and that are there wholly or not at all.
//!
//! A key that is written in place is for a moment half a key, and a machine that
//! loses power in that moment has none. So each file is written beside its place,
//! synced, renamed over it (`rename(2)` is atomic), and the directory is synced.
//! It has mode 0600 from its first byte: a key that is narrowed afterwards was
//! readable for a moment.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::TrustError;

/// Makes a directory that is root's alone, and its parents; one that exists is fine.
///
/// # Errors
///
/// [`TrustError::File`].
pub fn ensure_private_directory(path: &Path) -> Result<(), TrustError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| TrustError::file("create", path, error))
}

/// Writes a file whole, mode 0600, over what was there; its directory is made
/// where it is missing.
///
/// # Errors
///
/// [`TrustError::File`]; the old file is as it was.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), TrustError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    ensure_private_directory(directory)?;
    // The process's number keeps two writers apart; the last rename wins.
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = directory.join(name);
    let written = write_synced(&beside, bytes)
        .and_then(|()| fs::rename(&beside, path))
        .and_then(|()| File::open(directory)?.sync_all());
    written.map_err(|error| {
        let _ = fs::remove_file(&beside);
        TrustError::file("write", path, error)
    })
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // What an interrupted writer of the same number left may have another mode.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Reads a text file; `None` where there is none.
///
/// # Errors
///
/// [`TrustError::File`].
pub fn read(path: &Path) -> Result<Option<String>, TrustError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TrustError::file("read", path, error)),
    }
}

/// Removes a file or a directory with all below it; what is gone is fine.
///
/// # Errors
///
/// [`TrustError::File`].
pub fn remove(path: &Path) -> Result<(), TrustError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(TrustError::file("remove", path, error))
        }
        _ => Ok(()),
    }
}
