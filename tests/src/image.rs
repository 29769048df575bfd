//! Container images, built from files and from Debian's packages.
//!
//! An image is three kinds of blob, each named by its SHA-256 (OCI image-spec):
//!
//! ```text
//! manifest ──▶ config   {architecture, config: {Cmd, Env, …}, rootfs.diff_ids}
//!          └─▶ layers   tar archives, plain, gzip or zstd; lowest first
//! ```
//!
//! [`build`] is pure: the same plan gives the same bytes, so that two tests that
//! build one image share its digest.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// `busybox`, with a link for each applet.
pub mod busybox;
/// The images that critest asks for, under their names.
pub mod critest;
/// The images that the examples name.
pub mod examples;
/// Layers: the tar archive, its compression.
pub mod layer;
/// OCI layouts and archives on disk.
pub mod layout;
/// `nginx`, with the libraries it loads.
pub mod nginx;
/// A push by the distribution protocol.
pub mod push;

use layer::{Compression, Entry};

/// What an image is to be.
#[derive(Debug, Clone, Default)]
pub struct ImagePlan {
    /// Lowest first.
    pub layers: Vec<LayerPlan>,
    /// The `config` object of the image's configuration: `Cmd`, `Env`, `User`, ….
    pub config: Value,
}

/// What a layer is to hold.
#[derive(Debug, Clone, Default)]
pub struct LayerPlan {
    /// In the archive's order: a directory stands before what is in it.
    pub entries: Vec<Entry>,
    /// How the archive is packed.
    pub compression: Compression,
}

/// A blob and what names it.
#[derive(Debug, Clone)]
pub struct Blob {
    /// For the manifest's `mediaType`.
    pub media_type: &'static str,
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// The content.
    pub bytes: Vec<u8>,
}

/// An image that is ready to be pushed or written.
#[derive(Debug, Clone)]
pub struct Image {
    /// The image's manifest.
    pub manifest: Blob,
    /// The image's configuration.
    pub config: Blob,
    /// Lowest first.
    pub layers: Vec<Blob>,
}

/// Media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an index, which names a manifest for each platform.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// All images are of one day, so that the same plan is the same image.
const CREATED: &str = "2026-01-01T00:00:00Z";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

impl Blob {
    /// Names bytes by their digest.
    pub fn new(media_type: &'static str, bytes: Vec<u8>) -> Blob {
        Blob {
            media_type,
            digest: digest(&bytes),
            bytes,
        }
    }

    /// The descriptor by which a manifest points here.
    pub fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// Builds an image for this machine's architecture.
///
/// # Errors
///
/// A compressor failed or a path is too long for a tar archive.
pub fn build(plan: &ImagePlan) -> Result<Image> {
    let mut layers = Vec::new();
    let mut diff_ids = Vec::new();
    for layer in &plan.layers {
        let archive = layer::archive(&layer.entries).context("write a layer's archive")?;
        diff_ids.push(digest(&archive));
        layers.push(layer::compress(archive, layer.compression)?);
    }
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "created": CREATED,
        "config": plan.config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        // Optional by the specification; buildah cannot build upon an image without.
        "history": plan.layers.iter().map(|_| json!({"created": CREATED})).collect::<Vec<_>>(),
    });
    let config = Blob::new(CONFIG, serde_json::to_vec(&config)?);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(),
        "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
    });
    let manifest = Blob::new(MANIFEST, serde_json::to_vec(&manifest)?);
    Ok(Image {
        manifest,
        config,
        layers,
    })
}

/// `sha256:` and the digest of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// This machine's architecture, in the words of Go that OCI uses.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        // arm, riscv64, s390x are called the same.
        other => other,
    }
}

/// A file of this machine as an entry of the same mode, at another path.
///
/// # Errors
///
/// The file cannot be read.
pub fn host_file(source: &Path, target: &str) -> Result<Entry> {
    use std::os::unix::fs::PermissionsExt;
    let bytes = std::fs::read(source).with_context(|| format!("read {}", source.display()))?;
    let mode = std::fs::metadata(source)?.permissions().mode() & 0o7777;
    Ok(Entry::file(target, mode, bytes))
}
