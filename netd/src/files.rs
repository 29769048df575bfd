//! Files of this crate's state: what the ledger and the attachments both do.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::error::{Error, ErrorKind};

/// Makes a directory that is root's alone, and its parents; one that exists is fine.
pub(crate) fn ensure_private_directory(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| storage("create", path, error))
}

/// Removes a file; one that is gone is fine.
pub(crate) fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(storage("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// An error of a file, with the file's name.
pub(crate) fn storage(verb: &str, path: &Path, error: io::Error) -> Error {
    Error::caused(
        ErrorKind::Storage,
        format!("{verb} {}", path.display()),
        error,
    )
}
