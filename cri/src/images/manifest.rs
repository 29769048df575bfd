//! Manifests and indices, of the OCI and of Docker.
//!
//! The two families differ in their media types and agree in their fields, so
//! one structure reads both. Whether something is an index is told by its
//! fields: some registries send no `mediaType`.

use serde::Deserialize;

use crate::images::digest::Digest;
use crate::images::error::{Error, ErrorKind};
use crate::images::platform::Platform;

/// What a registry is told that we read.
pub(crate) const MEDIA_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Points at a blob: its digest is its name and its proof.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// In an index only.
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: std::collections::BTreeMap<String, String>,
}

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    /// Lowest first.
    pub(crate) layers: Vec<Descriptor>,
}

/// A list of manifests, one for each platform.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Index {
    pub(crate) manifests: Vec<Descriptor>,
}

/// One or the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

impl Document {
    /// Reads what a registry or a layout answered.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Document, Error> {
        let malformed = |error: serde_json::Error| {
            Error::caused(ErrorKind::Corrupt, "the manifest cannot be read", error)
        };
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(malformed)?;
        if value.get("manifests").is_some() {
            let index = Index::deserialize(&value).map_err(malformed)?;
            return Ok(Document::Index(index));
        }
        if value.get("fsLayers").is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the manifest has Docker's schema 1, which registries gave up: push the image again",
            ));
        }
        let manifest = Manifest::deserialize(&value).map_err(malformed)?;
        for descriptor in manifest.layers.iter().chain([&manifest.config]) {
            check_kind(descriptor)?;
        }
        Ok(Document::Manifest(manifest))
    }
}

/// Encrypted layers, charts and other artefacts have media types of their own.
fn check_kind(descriptor: &Descriptor) -> Result<(), Error> {
    let media_type = &*descriptor.media_type;
    let known = media_type.is_empty()
        || media_type.starts_with("application/vnd.oci.image.")
        || media_type.starts_with("application/vnd.docker.");
    if known && !media_type.ends_with("+encrypted") {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        format!(
            "{} has the media type {media_type:?}: not part of a container image",
            descriptor.digest
        ),
    ))
}

impl Index {
    /// The manifest that suits a platform best.
    pub(crate) fn choose(&self, platform: &Platform) -> Result<&Descriptor, Error> {
        let suiting = self.manifests.iter().filter_map(|descriptor| {
            let offered = descriptor.platform.as_ref()?;
            Some((platform.suitability(offered)?, descriptor))
        });
        // Of equals the first, as the index's author ordered them.
        let best = suiting.reduce(|best, next| if next.0 > best.0 { next } else { best });
        if let Some((_, descriptor)) = best {
            return Ok(descriptor);
        }
        // An index of one manifest need not say for what it is.
        if let [only] = &self.manifests[..]
            && only.platform.is_none()
        {
            return Ok(only);
        }
        let offered: Vec<String> = self
            .manifests
            .iter()
            .filter_map(|descriptor| descriptor.platform.as_ref())
            .filter(|platform| platform.os != "unknown")
            .map(Platform::to_string)
            .collect();
        Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "there is no image for {platform}, only for {}",
                offered.join(", ")
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(platform: &str) -> String {
        format!("{{\"digest\": \"sha256:{HEX}\", \"size\": 1{platform}}}")
    }

    fn index(platforms: &[&str]) -> Index {
        let manifests: Vec<String> = platforms
            .iter()
            .map(|text| {
                let platform: Platform = text.parse().unwrap();
                let platform = serde_json::to_string(&platform).unwrap();
                descriptor(&format!(", \"platform\": {platform}"))
            })
            .collect();
        let text = format!("{{\"manifests\": [{}]}}", manifests.join(","));
        match Document::parse(text.as_bytes()).unwrap() {
            Document::Index(index) => index,
            Document::Manifest(_) => panic!("an index was read as a manifest"),
        }
    }

    #[test]
    fn an_index_gives_the_best_platform_or_names_those_it_has() {
        let index = index(&[
            "linux/amd64",
            "linux/arm/v6",
            "linux/arm/v7",
            "unknown/unknown",
        ]);
        let chosen = index.choose(&"linux/arm/v7".parse().unwrap()).unwrap();
        assert_eq!(chosen.platform, Some("linux/arm/v7".parse().unwrap()));
        let error = index.choose(&"linux/riscv64".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let text = error.to_string();
        assert!(text.contains("linux/riscv64") && text.contains("linux/arm/v6"));
        assert!(!text.contains("unknown"));
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let config = descriptor("");
        let chart = descriptor(", \"mediaType\": \"application/vnd.cncf.helm.chart\"");
        for (text, kind) in [
            ("{}".to_owned(), ErrorKind::Corrupt),
            ("[".to_owned(), ErrorKind::Corrupt),
            ("{\"fsLayers\": []}".to_owned(), ErrorKind::Unsupported),
            (
                format!("{{\"config\": {config}, \"layers\": [{chart}]}}"),
                ErrorKind::Unsupported,
            ),
        ] {
            let error = Document::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), kind, "{text}");
        }
        let text = format!("{{\"config\": {config}, \"layers\": []}}");
        assert!(Document::parse(text.as_bytes()).is_ok());
    }
}
