//! What was read of the store before, as long as its files are the same.
//!
//! A kubelet asks for an image before each container that it makes, and for all of them
//! every few minutes: the index and the configurations are not read, hashed and decoded
//! for each of these calls.

use std::collections::HashMap;
use std::fs;
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
    index: Mutex<Option<(Identity, Arc<Index>)>>,
    configurations: Mutex<HashMap<Digest, (Identity, Arc<ImageConfiguration>)>>,
}

impl Known {
    /// The index of a file, which `read` reads.
    pub(super) fn index(
        &self,
        path: &Path,
        read: impl FnOnce() -> Result<Index, Error>,
    ) -> Result<Arc<Index>, Error> {
        let Some(identity) = look(path) else {
            return read().map(Arc::new);
        };
        if let Some((then, index)) = &*lock(&self.index)
            && *then == identity
        {
            return Ok(index.clone());
        }
        let index = Arc::new(read()?);
        if identity.is_settled(SystemTime::now()) {
            // Of images that are gone nothing is kept.
            lock(&self.configurations)
                .retain(|id, _| index.images.iter().any(|record| record.id == *id));
            *lock(&self.index) = Some((identity, index.clone()));
        }
        Ok(index)
    }

    /// The configuration of that digest in a file, which `read` reads and checks. A file
    /// that was damaged since has another time of change, so it is checked again.
    pub(super) fn configuration(
        &self,
        digest: &Digest,
        path: &Path,
        read: impl FnOnce() -> Result<ImageConfiguration, Error>,
    ) -> Result<Arc<ImageConfiguration>, Error> {
        let Some(identity) = look(path) else {
            return read().map(Arc::new);
        };
        if let Some((then, configuration)) = lock(&self.configurations).get(digest)
            && *then == identity
        {
            return Ok(configuration.clone());
        }
        let configuration = Arc::new(read()?);
        if identity.is_settled(SystemTime::now()) {
            let kept = (identity, configuration.clone());
            lock(&self.configurations).insert(digest.clone(), kept);
        }
        Ok(configuration)
    }
}

/// Nothing where there is no such file, or it cannot be asked for.
fn look(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().as_ref().map(Identity::of)
}

fn lock<T>(known: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked has left a whole value behind: it is set in one step.
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::file_identity::SETTLED;

    /// How often something was read.
    fn count(reads: &Cell<u32>) -> u32 {
        reads.set(reads.get() + 1);
        reads.get()
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
        // None, and one that is still young, are not kept.
        ask();
        fs::write(&path, "{}").unwrap();
        ask();
        ask();
        assert_eq!(reads.get(), 3);
        for expected in [4, 5] {
            std::thread::sleep(SETTLED * 2);
            ask();
            ask();
            assert_eq!(reads.get(), expected);
            let draft = folder.path().join("draft");
            fs::write(&draft, "{}").unwrap();
            fs::rename(&draft, &path).unwrap();
        }
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
        fs::write(&blob, "config").unwrap();
        fs::write(&index, "{}").unwrap();
        std::thread::sleep(SETTLED * 2);
        ask();
        ask();
        assert_eq!(reads.get(), 1);
        fs::write(&blob, "Config").unwrap();
        std::thread::sleep(SETTLED * 2);
        ask();
        assert_eq!(reads.get(), 2);
        known.index(&index, || Ok(Index::default())).unwrap();
        assert!(lock(&known.configurations).is_empty());
    }
}
