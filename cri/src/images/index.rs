//! `index.json`: which names mean which image.
//!
//! An image is its configuration: the id is the configuration's digest, as
//! `docker` and the CRI have it. One configuration can be packed in several
//! manifests (gzip, zstd), and names come and go; so an image stays one record
//! with many names. A tag names one image at a time.

use serde::{Deserialize, Serialize};

use crate::images::digest::Digest;
use crate::images::error::{Error, ErrorKind};
use crate::images::reference::Reference;

/// All images of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Index {
    pub(crate) images: Vec<Record>,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The configuration, a blob of the store.
    pub(crate) id: Digest,
    /// `docker.io/library/nginx:latest`.
    pub(crate) references: Vec<String>,
    /// `docker.io/library/nginx@sha256:…`.
    pub(crate) digests: Vec<String>,
    /// Chain ids, lowest first.
    pub(crate) layers: Vec<Digest>,
    /// What the layers and the blobs take on disk, shared ones included.
    pub(crate) size_bytes: u64,
    /// When it was last pulled or imported.
    pub(crate) stored_at: jiff::Timestamp,
}

impl Index {
    /// Adds an image, or its new names if it is known. Its tags leave the
    /// images that had them.
    pub(crate) fn put(&mut self, record: Record) {
        for other in &mut self.images {
            if other.id != record.id {
                other
                    .references
                    .retain(|name| !record.references.contains(name));
            }
        }
        match self.images.iter_mut().find(|other| other.id == record.id) {
            Some(known) => {
                add_missing(&mut known.references, record.references);
                add_missing(&mut known.digests, record.digests);
                known.stored_at = record.stored_at;
            }
            None => self.images.push(record),
        }
    }

    /// The image of a name, a digest, an id or the beginning of an id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`]: several ids begin so, or it is no name.
    pub(crate) fn find(&self, name: &str) -> Result<Option<&Record>, Error> {
        if let Some(record) = self.find_by_id(name)? {
            return Ok(Some(record));
        }
        let reference: Reference = match name.parse() {
            Ok(reference) => reference,
            // A beginning of an id that nothing has is no mistake in the name.
            Err(_) if id_digits(name).is_some() => return Ok(None),
            Err(error) => return Err(error),
        };
        let wanted = match &reference.digest {
            Some(digest) => format!("{}@{digest}", reference.name()),
            None => reference.to_string(),
        };
        Ok(self
            .images
            .iter()
            .find(|record| record.references.contains(&wanted) || record.digests.contains(&wanted)))
    }

    fn find_by_id(&self, name: &str) -> Result<Option<&Record>, Error> {
        let Some(digits) = id_digits(name) else {
            return Ok(None);
        };
        let begins = |digest: &str| {
            digest
                .strip_prefix("sha256:")
                .is_some_and(|hex| hex.starts_with(digits))
        };
        let is_manifest = |record: &Record| {
            record
                .digests
                .iter()
                .any(|name| name.rsplit('@').next().is_some_and(begins))
        };
        let mut found = self
            .images
            .iter()
            .filter(|record| begins(record.id.as_str()) || is_manifest(record));
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(Error::new(
                ErrorKind::InvalidInput,
                format!("the ids of several images begin with {digits:?}: write more digits"),
            )),
            (first, _) => Ok(first),
        }
    }

    /// Takes a name from the image that has it, or the whole image from the
    /// index if it is named by id or if that was its last name.
    pub(crate) fn remove(&mut self, name: &str) -> Result<Option<Removal>, Error> {
        let Some(record) = self.find(name)? else {
            return Ok(None);
        };
        let id = record.id.clone();
        let names: Vec<String> = record
            .references
            .iter()
            .chain(&record.digests)
            .cloned()
            .collect();
        let wanted: Option<String> = match name.parse::<Reference>() {
            Ok(reference) if names.contains(&reference.to_string()) => Some(reference.to_string()),
            _ => None,
        };
        let Some(record) = self.images.iter_mut().find(|record| record.id == id) else {
            return Ok(None);
        };
        if let Some(wanted) = wanted {
            record.references.retain(|name| *name != wanted);
            record.digests.retain(|name| *name != wanted);
            if !record.references.is_empty() {
                return Ok(Some(Removal {
                    names: vec![wanted],
                    image: None,
                }));
            }
        }
        self.images.retain(|record| record.id != id);
        Ok(Some(Removal {
            names,
            image: Some(id),
        }))
    }
}

/// What left the index.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Removal {
    pub(crate) names: Vec<String>,
    /// Set when the image itself went, not only a name of it.
    pub(crate) image: Option<Digest>,
}

/// The digits of something that may be an id: at least four, or fewer could
/// too easily be a repository's name.
fn id_digits(name: &str) -> Option<&str> {
    let digits = name.strip_prefix("sha256:").unwrap_or(name);
    let is_hex = digits
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_hex && (4..=64).contains(&digits.len())).then_some(digits)
}

fn add_missing(names: &mut Vec<String>, more: Vec<String>) {
    for name in more {
        if !names.contains(&name) {
            names.push(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(content: &str, names: &[&str]) -> Record {
        let digest = Digest::of(content.as_bytes());
        Record {
            id: digest.clone(),
            references: names.iter().map(|&name| name.to_owned()).collect(),
            digests: vec![format!("docker.io/library/web@{digest}")],
            layers: Vec::new(),
            size_bytes: 1,
            stored_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    const LATEST: &str = "docker.io/library/web:latest";

    #[test]
    fn a_tag_moves_to_the_image_that_was_put_last() {
        let mut index = Index::default();
        let (old, new) = (record("old", &[LATEST]), record("new", &[LATEST]));
        index.put(old.clone());
        index.put(new.clone());
        assert_eq!(index.find("web").unwrap().unwrap().id, new.id);
        let left = index.find(old.id.as_str()).unwrap().unwrap();
        assert!(left.references.is_empty());
    }

    #[test]
    fn an_image_is_found_by_each_of_its_names() {
        let mut index = Index::default();
        let image = record("image", &[LATEST]);
        index.put(image.clone());
        let by_digest = format!("web@{}", image.id);
        let both = format!("web:latest@{}", image.id);
        for name in [
            "web",
            "web:latest",
            LATEST,
            image.id.as_str(),
            image.id.hex(),
            &image.id.hex()[..12],
            &by_digest,
            &both,
        ] {
            let found = index.find(name).unwrap();
            assert_eq!(found.map(|found| &found.id), Some(&image.id), "{name}");
        }
        assert!(index.find("other").unwrap().is_none());
        assert!(index.find("0000").unwrap().is_none());
        assert!(index.find("No Name").is_err());
    }

    #[test]
    fn the_image_goes_with_its_last_name() {
        let mut index = Index::default();
        let image = record("image", &[LATEST, "docker.io/library/web:1"]);
        index.put(image.clone());
        let removal = index.remove("web:1").unwrap().unwrap();
        assert_eq!((removal.names.len(), removal.image), (1, None));
        let removal = index.remove("web").unwrap().unwrap();
        assert_eq!(removal.image, Some(image.id.clone()));
        assert!(index.images.is_empty() && index.remove("web").unwrap().is_none());
        index.put(image.clone());
        let removal = index.remove(&image.id.hex()[..8]).unwrap().unwrap();
        assert_eq!(removal.names.len(), 3);
        assert!(index.images.is_empty());
    }
}
