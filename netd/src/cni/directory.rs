//! The directory of networks: which of its files counts.
//!
//! The first in lexical order that is valid is the network of the pods, as in
//! every container engine, so that an operator can put one before another by
//! its name. A file that is wrong is passed over and told of.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind as Io, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::config::{self, MorePlugins, NetworkList};
use crate::error::{Error, ErrorKind};

/// No configuration is longer than a fraction of this.
const FILE_LIMIT_BYTES: u64 = 1 << 20;

/// What a directory holds at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// The network that counts.
    pub network: Option<Arc<NetworkList>>,
    /// Files that were passed over: which, and why.
    pub problems: Vec<String>,
    /// What an operator should know of files that were taken.
    pub notes: Vec<String>,
}

/// Reads a directory; what is wrong with it is among the problems.
pub fn read_directory(directory: &Path) -> Reading {
    let mut reading = Reading::default();
    let files = match files_in(directory, &["conflist", "conf", "json"]) {
        Ok(files) => files,
        Err(error) => {
            reading.problems.push(sentence(&error));
            return reading;
        }
    };
    reading.notes.extend(note_of_rights(directory));
    for file in files {
        match read_file(&file, &mut reading.notes) {
            Ok(network) => {
                reading.network = Some(Arc::new(network));
                break;
            }
            Err(error) => reading.problems.push(sentence(&error)),
        }
    }
    reading
}

/// The network of one file, with the plugins of its folder.
fn read_file(path: &Path, notes: &mut Vec<String>) -> Result<NetworkList, Error> {
    let named = |error: Error| Error::caused(error.kind(), path.display().to_string(), error);
    let bytes = read_bytes(path, notes)?;
    if path.extension() != Some(OsStr::new("conflist")) {
        return config::read_single(&bytes, path).map_err(named);
    }
    let list = config::read_list(&bytes, path).map_err(named)?;
    let mut network = list.network;
    if list.more == MorePlugins::InFolder {
        let folder = path.with_file_name(&network.name);
        for file in files_in_optional(&folder)? {
            let bytes = read_bytes(&file, notes)?;
            let plugin = config::read_plugin(&bytes)
                .map_err(|error| Error::caused(error.kind(), file.display().to_string(), error))?;
            network.plugins.push(plugin);
        }
    }
    config::check_not_empty(&network).map_err(named)?;
    Ok(network)
}

fn files_in_optional(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => files_in(folder, &["conf"]),
        _ => Ok(Vec::new()),
    }
}

/// The files with one of these extensions, in lexical order.
fn files_in(directory: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let unreadable = |error| {
        let text = format!("{}: cannot be read", directory.display());
        Error::caused(ErrorKind::Storage, text, error)
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let fits = |extension: &OsStr| extensions.iter().any(|wanted| extension == *wanted);
        if path.extension().is_some_and(fits) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_bytes(path: &Path, notes: &mut Vec<String>) -> Result<Vec<u8>, Error> {
    let unreadable = |error| {
        let text = format!("{}: cannot be read", path.display());
        Error::caused(ErrorKind::Storage, text, error)
    };
    let refuse = |why: &str| {
        let text = format!("{}: {why}", path.display());
        Err(Error::new(ErrorKind::Invalid, text))
    };
    // A pipe of that name would be waited for without end.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return refuse("expected a file");
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE_LIMIT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_LIMIT_BYTES {
        return refuse("is longer than 1 MiB");
    }
    notes.extend(note_of_rights(path));
    Ok(bytes)
}

/// Whoever may write a network's file, or a plugin, decides what runs as root
/// at the next pod.
pub(super) fn note_of_rights(path: &Path) -> Option<String> {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == Io::NotFound => return None,
        Err(error) => return Some(format!("{}: {error}", path.display())),
    };
    let mut reasons = Vec::new();
    if found.uid() != 0 {
        reasons.push(format!("belongs to user {}", found.uid()));
    }
    // A directory with the sticky bit lets nobody replace another's file.
    let sticky = found.is_dir() && found.mode() & 0o1000 != 0;
    if found.mode() & 0o022 != 0 && !sticky {
        reasons.push(format!("has mode {:04o}", found.mode() & 0o7777));
    }
    match reasons.is_empty() {
        true => None,
        false => Some(format!(
            "{} {}: others than root can have it run programs as root",
            path.display(),
            reasons.join(" and ")
        )),
    }
}

/// An error with its causes, in one line.
pub(super) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests;
