//! What was read of the store before, as long as its files are the same.
//!
//! A kubelet asks for an image before each container that it makes, and for all of them
//! every few minutes: the index and the configurations are not read, hashed and decoded
//! for each of these calls.

use std::collections::HashMap;
use std::fs;
use std::hash::Hash;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use oci_spec::image::ImageConfiguration;

use crate::file_identity::Identity;
use crate::images::digest::Digest;
use crate::images::error::Error;
use crate::images::index::Index;

/// The index, and the configurations by their digests.
#[derive(Debug, Default)]
pub(super) struct Known {
    index: ReadOnce<(), Index>,
    configurations: ReadOnce<Digest, ImageConfiguration>,
}

impl Known {
    /// The index of a file, which `read` reads.
    pub(super) fn index(
        &self,
        path: &Path,
        read: impl FnOnce() -> Result<Index, Error>,
    ) -> Result<Arc<Index>, Error> {
        self.index.get(&(), path, || {
            let index = read()?;
            self.keep_configurations_of(&index);
            Ok(index)
        })
    }

    /// The index that was just written to a file, by one who keeps others from doing so.
    pub(super) fn note_index(&self, path: &Path, index: &Index) {
        self.index.put(&(), path, || index.clone());
        self.keep_configurations_of(index);
    }

    /// Of images that are gone nothing is kept.
    fn keep_configurations_of(&self, index: &Index) {
        let is_there = |id: &Digest| index.images.iter().any(|record| record.id == *id);
        self.configurations.lock().retain(|id, _| is_there(id));
    }

    /// The configuration of that digest in a file, which `read` reads and checks. A file
    /// that was damaged since has another time of change, so it is checked again.
    pub(super) fn configuration(
        &self,
        digest: &Digest,
        path: &Path,
        read: impl FnOnce() -> Result<ImageConfiguration, Error>,
    ) -> Result<Arc<ImageConfiguration>, Error> {
        self.configurations.get(digest, path, read)
    }
}

/// What was read of files, by what it is called.
#[derive(Debug)]
struct ReadOnce<K, T> {
    kept: Mutex<Kept<K, T>>,
}

type Kept<K, T> = HashMap<K, (Identity, Arc<T>)>;

impl<K, T> Default for ReadOnce<K, T> {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
        }
    }
}

impl<K: Clone + Eq + Hash, T> ReadOnce<K, T> {
    fn get(
        &self,
        key: &K,
        path: &Path,
        read: impl FnOnce() -> Result<T, Error>,
    ) -> Result<Arc<T>, Error> {
        let Some(identity) = look(path) else {
            return read().map(Arc::new);
        };
        if let Some((then, value)) = self.lock().get(key)
            && *then == identity
        {
            return Ok(value.clone());
        }
        let value = Arc::new(read()?);
        if identity.is_exact(SystemTime::now()) {
            self.lock().insert(key.clone(), (identity, value.clone()));
        }
        Ok(value)
    }

    /// What a file holds, from whoever has written it.
    fn put(&self, key: &K, path: &Path, value: impl FnOnce() -> T) {
        if let Some(identity) = look(path)
            && identity.is_exact(SystemTime::now())
        {
            let value = Arc::new(value());
            self.lock().insert(key.clone(), (identity, value));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept<K, T>> {
        // Whoever panicked has left a whole value behind: it is set in one step.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nothing where there is no such file, or it cannot be asked for.
fn look(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().as_ref().map(Identity::of)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::images::disk;

    /// How often something was read.
    fn count(reads: &Cell<u32>) {
        reads.set(reads.get() + 1);
    }

    #[test]
    fn an_index_is_read_again_once_it_was_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.json");
        let (known, reads) = (Known::default(), Cell::new(0));
        let ask = || {
            let read = || {
                count(&reads);
                Ok(Index::default())
            };
            known.index(&path, read).unwrap()
        };
        // None is not kept.
        ask();
        ask();
        assert_eq!(reads.get(), 2);
        for expected in [3, 4, 5] {
            disk::write_whole(&path, b"{}").unwrap();
            ask();
            ask();
            assert_eq!(reads.get(), expected);
        }
    }

    #[test]
    fn an_index_that_was_written_here_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.json");
        let known = Known::default();
        let unread = || panic!("it is known");
        disk::write_whole(&path, b"{}").unwrap();
        known.note_index(&path, &Index::default());
        assert_eq!(*known.index(&path, unread).unwrap(), Index::default());
        // Another process may write it too.
        disk::write_whole(&path, b"{}").unwrap();
        let reads = Cell::new(0);
        let read = || {
            count(&reads);
            Ok(Index::default())
        };
        known.index(&path, read).unwrap();
        assert_eq!(reads.get(), 1);
    }

    #[test]
    fn a_configuration_that_was_damaged_is_checked_again_and_of_a_gone_image_none_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (blob, index) = (folder.path().join("blob"), folder.path().join("index"));
        let digest = Digest::of(b"config");
        let (known, reads) = (Known::default(), Cell::new(0));
        let ask = || {
            let read = || {
                count(&reads);
                Ok(ImageConfiguration::default())
            };
            known.configuration(&digest, &blob, read).unwrap();
        };
        disk::write_whole(&blob, b"config").unwrap();
        disk::write_whole(&index, b"{}").unwrap();
        ask();
        ask();
        assert_eq!(reads.get(), 1);
        fs::write(&blob, "Config").unwrap();
        ask();
        assert_eq!(reads.get(), 2);
        known.index(&index, || Ok(Index::default())).unwrap();
        assert!(known.configurations.lock().is_empty());
    }
}
