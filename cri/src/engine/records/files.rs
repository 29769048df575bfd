//! Files on disk: reading a directory, replacing a file at once.

use std::fs;
use std::io::{self, ErrorKind as Io};
use std::path::Path;

use berth_runtime::whole_file;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::error::{Error, ErrorKind};
use crate::engine::id::is_id_prefix;

/// Makes a directory and its parents; one that exists is fine.
pub(crate) fn ensure_directory(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|error| storage("make directory", path, error))
}

/// The ids in a directory: entries that are an id followed by `suffix`, sorted.
///
/// A directory that does not exist holds none.
pub(crate) fn names_in(directory: &Path, suffix: &str) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == Io::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(storage("list directory", directory, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| storage("list directory", directory, error))?;
        let name = entry.file_name();
        // Temporary files and whatever a person left here are not records.
        let id = name.to_str().and_then(|name| name.strip_suffix(suffix));
        if let Some(id) = id.filter(|id| is_id_prefix(id)) {
            names.push(id.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Reads a record; none when there is no such file.
pub(super) fn read_json<R: DeserializeOwned>(path: &Path, format: u32) -> Result<Option<R>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), Io::NotFound | Io::NotADirectory) => return Ok(None),
        Err(error) => return Err(storage("read", path, error)),
    };
    let damaged = |error: serde_json::Error| {
        Error::caused(
            ErrorKind::Storage,
            format!("record {} is damaged", path.display()),
            error,
        )
    };
    // The version comes first: a later one may have fields that this program cannot read.
    let head: Head = serde_json::from_slice(&bytes).map_err(damaged)?;
    if head.format != format {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "record {} has format {}, this program reads format {format}",
                path.display(),
                head.format
            ),
        ));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// Reads a file that another program writes; none when there is no such file.
pub(crate) fn read_plain_json<R: DeserializeOwned>(path: &Path) -> Result<Option<R>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), Io::NotFound | Io::NotADirectory) => return Ok(None),
        Err(error) => return Err(storage("read", path, error)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        Error::caused(
            ErrorKind::Storage,
            format!("{} is damaged", path.display()),
            error,
        )
    })
}

#[derive(serde::Deserialize)]
struct Head {
    format: u32,
}

/// Replaces a file so that a reader, or a crash, sees the old or the new one.
///
/// After a loss of power nothing of what a record tells is left but a snapshot, which is
/// made after its record: that the record is on disk at once is not worth the wait.
///
/// The caller holds the pod's lock, so one temporary name suffices, and the
/// next write overwrites what a killed process left under it.
pub(crate) fn replace_json<R: Serialize>(path: &Path, record: &R) -> Result<(), Error> {
    let bytes = encode(path, record)?;
    whole_file::replace_ordered(path, &bytes).map_err(|error| storage("write", path, error))
}

/// The same for what nobody needs after a loss of power: that may leave an empty file.
pub(crate) fn replace_json_of_this_boot<R: Serialize>(
    path: &Path,
    record: &R,
) -> Result<(), Error> {
    let bytes = encode(path, record)?;
    whole_file::replace(path, &bytes, 0o644).map_err(|error| storage("write", path, error))
}

fn encode<R: Serialize>(path: &Path, record: &R) -> Result<Vec<u8>, Error> {
    let mut bytes = serde_json::to_vec_pretty(record).map_err(|error| {
        Error::caused(
            ErrorKind::Storage,
            format!("encode {}", path.display()),
            error,
        )
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Removes a file; one that is gone is fine.
pub(crate) fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != Io::NotFound => Err(storage("remove", path, error)),
        _ => Ok(()),
    }
}

/// Removes a directory with all it holds; one that is gone is fine.
pub(crate) fn remove_tree(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != Io::NotFound => Err(storage("remove", path, error)),
        _ => Ok(()),
    }
}

/// An error of a file, with the file's name.
pub(crate) fn storage(what: &str, path: &Path, error: io::Error) -> Error {
    Error::caused(
        ErrorKind::Storage,
        format!("{what} {}", path.display()),
        error,
    )
}
