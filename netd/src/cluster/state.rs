//! The state file: the model as it was last, for a start without the API.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cluster::model::Model;
use crate::error::Error;
use crate::files::{remove_file, storage};

const NAME: &str = "cluster.json";

/// Reads it. One that is missing or cannot be understood is an empty model:
/// the API will fill it, and until then there is nothing to be done.
pub(crate) fn read(directory: &Path) -> Result<Model, Error> {
    let path = path(directory);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Model::default()),
        Err(error) => return Err(storage("read", &path, error)),
    };
    Ok(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::warn!(
            path = %path.display(),
            error = &error as &dyn std::error::Error,
            "the state file is not understood; starting without"
        );
        Model::default()
    }))
}

/// Writes it: beside, then over, so that a kill leaves the old one or the new.
pub(crate) fn write(directory: &Path, model: &Model) -> Result<(), Error> {
    let path = path(directory);
    let beside = directory.join(format!("{NAME}.new"));
    let bytes = serde_json::to_vec(model)
        .map_err(io::Error::from)
        .map_err(|error| storage("write", &path, error))?;
    fs::write(&beside, bytes).map_err(|error| storage("write", &beside, error))?;
    fs::rename(&beside, &path).map_err(|error| storage("rename", &path, error))
}

/// Removes it.
pub(crate) fn remove(directory: &Path) -> Result<(), Error> {
    remove_file(&path(directory))
}

fn path(directory: &Path) -> PathBuf {
    directory.join(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::model::Node;

    #[test]
    fn what_was_written_is_read_and_rubbish_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()).unwrap(), Model::default());
        let mut model = Model::default();
        model.nodes.insert("a".to_owned(), Node::default());
        write(directory.path(), &model).unwrap();
        assert_eq!(read(directory.path()).unwrap(), model);
        fs::write(path(directory.path()), "{").unwrap();
        assert_eq!(read(directory.path()).unwrap(), Model::default());
    }
}
