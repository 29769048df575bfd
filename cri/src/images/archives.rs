//! Images from files: `docker-archive:PATH`, `oci-archive:PATH`, `oci:PATH[:TAG]`.
//!
//! ```text
//! oci-layout             the OCI's layout, as a directory or in one archive
//! index.json             names manifests, each with its tag as an annotation
//! blobs/sha256/HEX       manifests, configurations, layers
//!
//! manifest.json          `docker save`: which configuration, names and layers
//! HEX.json, HEX/layer.tar
//! ```
//!
//! An archive is read in place: one pass notes where each file begins, and a
//! layer is then unpacked straight from that part of it. What is inside is
//! believed as little as what a registry says.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use crate::images::digest::{Digest, HashingReader};
use crate::images::error::{Context, Error, ErrorKind};
use crate::images::index::Record;
use crate::images::layers::{self, Begin, Fill};
use crate::images::manifest::{Descriptor, Document, Index, Manifest};
use crate::images::platform::Platform;
use crate::images::pull::{self, PullPlan};
use crate::images::reference::Reference;
use crate::images::store::Store;
use crate::images::unpack::Expected;

/// What to import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    DockerArchive(PathBuf),
    OciArchive { path: PathBuf, tag: Option<String> },
    OciLayout { path: PathBuf, tag: Option<String> },
}

impl Source {
    /// Reads `docker-archive:PATH` and its kin.
    pub(crate) fn parse(text: &str) -> Result<Source, Error> {
        let invalid = || {
            Error::new(
                ErrorKind::InvalidInput,
                format!(
                    "{text:?} must read docker-archive:PATH, oci-archive:PATH[:TAG] \
                     or oci:PATH[:TAG]; nothing was imported"
                ),
            )
        };
        let (kind, rest) = text.split_once(':').ok_or_else(invalid)?;
        if rest.is_empty() {
            return Err(invalid());
        }
        // A path may hold colons itself: the whole is tried first.
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !Path::new(rest).exists() && !tag.contains('/') => {
                (PathBuf::from(path), Some(tag.to_owned()))
            }
            _ => (PathBuf::from(rest), None),
        };
        match kind {
            "docker-archive" => Ok(Source::DockerArchive(PathBuf::from(rest))),
            "oci-archive" => Ok(Source::OciArchive { path, tag }),
            "oci" => Ok(Source::OciLayout { path, tag }),
            _ => Err(invalid()),
        }
    }
}

/// Imports every image of a source that has a name, or the only one.
pub(crate) fn import(store: &Store, source: &Source) -> Result<Vec<Record>, Error> {
    let (files, found) = match source {
        Source::DockerArchive(path) => {
            let files = Files::of_archive(path)?;
            let found = docker_images(&files)?;
            (files, found)
        }
        Source::OciArchive { path, tag } => {
            let files = Files::of_archive(path)?;
            let found = layout_images(&files, tag.as_deref())?;
            (files, found)
        }
        Source::OciLayout { path, tag } => {
            let files = Files::Directory(path.clone());
            let found = layout_images(&files, tag.as_deref())?;
            (files, found)
        }
    };
    let mut records = Vec::new();
    for image in found {
        let chains: Vec<Digest> = image
            .plan
            .layers
            .iter()
            .map(|layer| layer.chain.clone())
            .collect();
        let lease = store.lease(&chains)?;
        for at in 0..chains.len() {
            import_layer(store, &files, &image, at, &chains)?;
        }
        let references = image.names.iter().map(Reference::to_string).collect();
        records.push(pull::put_image(store, &image.plan, references, None)?);
        drop(lease);
    }
    Ok(records)
}

/// An image that a source holds.
#[derive(Debug)]
struct Found {
    names: Vec<Reference>,
    plan: PullPlan,
    /// Where each layer's blob is, lowest first.
    layer_paths: Vec<String>,
}

fn import_layer(
    store: &Store,
    files: &Files,
    image: &Found,
    at: usize,
    chains: &[Digest],
) -> Result<(), Error> {
    let layer = &image.plan.layers[at];
    let ingest = loop {
        match layers::begin(store, &layer.chain)? {
            Begin::Exists => return Ok(()),
            Begin::Begun(ingest) => break ingest,
            Begin::Busy => std::thread::sleep(pull::BUSY_PAUSE),
        }
    };
    let expected = Expected {
        digest: layer.blob.digest.clone(),
        diff_id: layer.diff_id.clone(),
    };
    let path = &image.layer_paths[at];
    match ingest.fill(files.open(path)?, &expected) {
        Fill::Filled(filled) => filled.commit(&chains[..at]),
        Fill::Failed(_, error) => Err(error.within(format!("the layer {path} was not stored"))),
    }
}

/// The images of an OCI layout, all or those of one tag.
fn layout_images(files: &Files, tag: Option<&str>) -> Result<Vec<Found>, Error> {
    let layout = files.read("oci-layout").map_err(|error| {
        error.within("there is no OCI layout here: the file oci-layout is missing")
    })?;
    let version: serde_json::Value = parse_json(&layout, "oci-layout")?;
    if version["imageLayoutVersion"] != "1.0.0" {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the layout's version {} is not 1.0.0",
                version["imageLayoutVersion"]
            ),
        ));
    }
    let index: Index = parse_json(&files.read("index.json")?, "index.json")?;
    let mut found: Vec<Found> = Vec::new();
    let mut tags = Vec::new();
    for descriptor in &index.manifests {
        let names = descriptor_names(descriptor)?;
        let its_tag = descriptor.annotations.get(REFERENCE_NAME);
        tags.extend(its_tag.cloned());
        let wanted = match tag {
            Some(tag) => its_tag.is_some_and(|name| name == tag),
            None => true,
        };
        if wanted {
            found.push(layout_image(files, descriptor, names)?);
        }
    }
    if found.is_empty() {
        let what = match tag {
            Some(tag) => format!("the layout has no tag {tag:?}, only {tags:?}"),
            None => "the layout holds no image".to_owned(),
        };
        return Err(Error::new(ErrorKind::NotFound, what));
    }
    Ok(found)
}

fn layout_image(
    files: &Files,
    descriptor: &Descriptor,
    names: Vec<Reference>,
) -> Result<Found, Error> {
    let mut manifests = vec![files.read_blob(descriptor)?];
    let manifest = match Document::parse(&manifests[0])? {
        Document::Manifest(manifest) => manifest,
        Document::Index(index) => {
            let chosen = index.choose(&Platform::of_this_machine())?;
            let bytes = files.read_blob(chosen)?;
            let document = Document::parse(&bytes)?;
            manifests.push(bytes);
            match document {
                Document::Manifest(manifest) => manifest,
                Document::Index(_) => {
                    let what = "the layout's index leads to an index that leads to an index";
                    return Err(Error::new(ErrorKind::Unsupported, what));
                }
            }
        }
    };
    let config = files.read_blob(&manifest.config)?;
    Ok(Found {
        names,
        layer_paths: manifest.layers.iter().map(blob_path).collect(),
        plan: pull::plan_layers(&manifest, config, manifests, None)?,
    })
}

/// The annotation that carries a tag, or a whole name.
const REFERENCE_NAME: &str = "org.opencontainers.image.ref.name";
/// The one by which containerd carries the whole name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// A tag alone names no image: only a whole name is taken over.
fn descriptor_names(descriptor: &Descriptor) -> Result<Vec<Reference>, Error> {
    let name = |key: &str| descriptor.annotations.get(key);
    match (name(CONTAINERD_NAME), name(REFERENCE_NAME)) {
        (Some(name), _) => Ok(vec![name.parse()?]),
        (None, Some(name)) if name.contains(['/', ':']) => Ok(vec![name.parse()?]),
        _ => Ok(Vec::new()),
    }
}

/// `manifest.json` of `docker save`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn docker_images(files: &Files) -> Result<Vec<Found>, Error> {
    let text = files.read("manifest.json").map_err(|error| {
        error.within("this is no archive of `docker save`: the file manifest.json is missing")
    })?;
    let images: Vec<DockerImage> = parse_json(&text, "manifest.json")?;
    images
        .into_iter()
        .map(|image| docker_image(files, image))
        .collect()
}

/// Such an archive names no blob by its digest, so the digests are made here
/// and a manifest with them; the configuration's diff ids still prove the layers.
fn docker_image(files: &Files, image: DockerImage) -> Result<Found, Error> {
    let names = image
        .repo_tags
        .unwrap_or_default()
        .iter()
        .map(|name| name.parse())
        .collect::<Result<_, _>>()?;
    let config = files.read(&image.config)?;
    let describe = |bytes: u64, digest: Digest, kind: &str| Descriptor {
        media_type: format!("application/vnd.docker.{kind}"),
        digest,
        size: bytes,
        platform: None,
        annotations: BTreeMap::new(),
    };
    let mut layers = Vec::new();
    for path in &image.layers {
        let hashed = HashingReader::new(files.open(path)?).finish();
        let (digest, bytes, _) = hashed.context(|| format!("the layer {path} cannot be read"))?;
        layers.push(describe(bytes, digest, "image.rootfs.diff.tar"));
    }
    let manifest = Manifest {
        config: describe(
            config.len() as u64,
            Digest::of(&config),
            "container.image.v1+json",
        ),
        layers,
    };
    Ok(Found {
        names,
        plan: pull::plan_layers(&manifest, config, Vec::new(), None)?,
        layer_paths: image.layers,
    })
}

/// The files of a source, wherever they lie.
#[derive(Debug)]
enum Files {
    Directory(PathBuf),
    /// An archive and where in it each file lies.
    Archive {
        file: Arc<File>,
        parts: BTreeMap<String, Part>,
    },
}

#[derive(Debug, Clone)]
enum Part {
    Bytes {
        start: u64,
        length: u64,
    },
    /// `docker save` writes a layer that two images share once, and a link.
    Link(String),
}

/// No file that is read whole is larger.
const MOST_BYTES: u64 = 16 << 20;

impl Files {
    fn of_archive(path: &Path) -> Result<Files, Error> {
        let failed = || format!("the archive {} cannot be read", path.display());
        let file = File::open(path).context(failed)?;
        let mut archive = tar::Archive::new(&file);
        let mut parts = BTreeMap::new();
        let entries = archive.entries_with_seek().context(failed)?;
        for entry in entries {
            let entry =
                entry.map_err(|error| Error::caused(ErrorKind::Corrupt, failed(), error))?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let name = name.trim_start_matches("./").to_owned();
            let kind = entry.header().entry_type();
            let part = match (kind, entry.link_name_bytes()) {
                (tar::EntryType::Regular, _) => Part::Bytes {
                    start: entry.raw_file_position(),
                    length: entry.size(),
                },
                (tar::EntryType::Symlink | tar::EntryType::Link, Some(target)) => {
                    let target = String::from_utf8_lossy(&target).into_owned();
                    Part::Link(link_target(&name, &target, kind))
                }
                _ => continue,
            };
            parts.insert(name, part);
        }
        Ok(Files::Archive {
            file: Arc::new(file),
            parts,
        })
    }

    fn open(&self, path: &str) -> Result<Box<dyn Read + Send>, Error> {
        let missing = || {
            Error::new(
                ErrorKind::NotFound,
                format!("the file {path} is not in the archive or layout"),
            )
        };
        match self {
            Files::Directory(directory) => {
                // Names come from the layout's own files; none needs to climb.
                if path.split('/').any(|part| part == "..") || path.starts_with('/') {
                    return Err(missing());
                }
                let path = directory.join(path);
                let file =
                    File::open(&path).context(|| format!("{} cannot be read", path.display()))?;
                Ok(Box::new(io::BufReader::with_capacity(256 * 1024, file)))
            }
            Files::Archive { file, parts } => {
                let mut part = parts.get(path).ok_or_else(missing)?;
                // A link that leads to a link is nothing that an archiver writes.
                if let Part::Link(target) = part {
                    part = parts.get(target).ok_or_else(missing)?;
                }
                let Part::Bytes { start, length } = *part else {
                    return Err(missing());
                };
                Ok(Box::new(ArchivePart {
                    file: Arc::clone(file),
                    position: start,
                    left: length,
                }))
            }
        }
    }

    fn read(&self, path: &str) -> Result<Bytes, Error> {
        let mut bytes = Vec::new();
        self.open(path)?
            .take(MOST_BYTES + 1)
            .read_to_end(&mut bytes)
            .context(|| format!("{path} cannot be read"))?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{path} is larger than {MOST_BYTES} bytes"),
            ));
        }
        Ok(bytes.into())
    }

    fn read_blob(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let path = blob_path(descriptor);
        let bytes = self.read(&path)?;
        descriptor.digest.verify(&Digest::of(&bytes), &path)?;
        Ok(bytes)
    }
}

fn blob_path(descriptor: &Descriptor) -> String {
    format!("blobs/sha256/{}", descriptor.digest.hex())
}

/// A symbolic link counts from its own directory, a hard link from the top.
fn link_target(name: &str, target: &str, kind: tar::EntryType) -> String {
    let mut parts: Vec<&str> = match kind {
        tar::EntryType::Symlink => name.split('/').rev().skip(1).collect(),
        _ => Vec::new(),
    };
    parts.reverse();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// One file inside an archive. Reads by position, so that several threads can
/// read from one descriptor.
struct ArchivePart {
    file: Arc<File>,
    position: u64,
    left: u64,
}

impl Read for ArchivePart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.file.read_at(&mut buffer[..most], self.position)?;
        self.position += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

fn parse_json<T: for<'de> Deserialize<'de>>(bytes: &[u8], what: &str) -> Result<T, Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::caused(ErrorKind::Corrupt, format!("{what} cannot be read"), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_by_their_prefix() {
        let path = || PathBuf::from("/no/such");
        assert_eq!(
            Source::parse("oci:/no/such:1.2").unwrap(),
            Source::OciLayout {
                path: path(),
                tag: Some("1.2".to_owned())
            }
        );
        assert_eq!(
            Source::parse("docker-archive:/no/such").unwrap(),
            Source::DockerArchive(path())
        );
        for text in ["/no/such", "oci:", "dir:/no/such", ""] {
            assert!(Source::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn links_inside_an_archive_are_followed_by_their_kind() {
        let soft = link_target("b/layer.tar", "../a/layer.tar", tar::EntryType::Symlink);
        assert_eq!(soft, "a/layer.tar");
        let hard = link_target("b/layer.tar", "a/layer.tar", tar::EntryType::Link);
        assert_eq!(hard, "a/layer.tar");
    }
}
