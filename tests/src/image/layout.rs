//! OCI layouts and archives on disk: what `oci:`, `oci-archive:` and
//! `docker-archive:` name.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::layer::{Entry, archive};
use super::{Blob, INDEX, Image};

/// Writes an OCI image layout (image-spec, image-layout.md) into a directory.
///
/// # Errors
///
/// The directory cannot be written.
pub fn write_layout(image: &Image, directory: &Path, tag: &str) -> Result<()> {
    for (path, bytes) in layout_files(image, tag)? {
        let target = directory.join(&path);
        fs::create_dir_all(target.parent().context("a layout's file has a parent")?)?;
        fs::write(&target, bytes).with_context(|| format!("write {}", target.display()))?;
    }
    Ok(())
}

/// Writes an OCI image layout as one tar archive.
///
/// # Errors
///
/// The file cannot be written.
pub fn write_oci_archive(image: &Image, file: &Path, tag: &str) -> Result<()> {
    let files = layout_files(image, tag)?;
    write_archive(files, file)
}

/// Writes the archive that `docker save` writes: plain layers, `manifest.json`.
///
/// `plain_layers` are the layers' archives before compression, lowest first.
///
/// # Errors
///
/// The file cannot be written.
pub fn write_docker_archive(
    image: &Image,
    plain_layers: &[Vec<u8>],
    file: &Path,
    name: &str,
) -> Result<()> {
    let config_name = format!("{}.json", hexadecimal(&image.config));
    let mut files = vec![(config_name.clone(), image.config.bytes.clone())];
    let mut layer_names = Vec::new();
    for layer in plain_layers {
        let digest = super::digest(layer);
        let path = format!("{}/layer.tar", digest.trim_start_matches("sha256:"));
        layer_names.push(path.clone());
        files.push((path, layer.clone()));
    }
    let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": layer_names}]);
    files.push(("manifest.json".to_owned(), serde_json::to_vec(&manifest)?));
    write_archive(files, file)
}

fn layout_files(image: &Image, tag: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let mut entry = image.manifest.descriptor();
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
    let mut files = vec![
        (
            "oci-layout".to_owned(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        ),
        ("index.json".to_owned(), serde_json::to_vec(&index)?),
    ];
    for blob in image.layers.iter().chain([&image.config, &image.manifest]) {
        files.push((
            format!("blobs/sha256/{}", hexadecimal(blob)),
            blob.bytes.clone(),
        ));
    }
    Ok(files)
}

fn write_archive(files: Vec<(String, Vec<u8>)>, file: &Path) -> Result<()> {
    let entries: Vec<Entry> = files
        .into_iter()
        .map(|(path, bytes)| Entry::file(&path, 0o644, bytes))
        .collect();
    fs::write(file, archive(&entries)?).with_context(|| format!("write {}", file.display()))
}

fn hexadecimal(blob: &Blob) -> &str {
    blob.digest.trim_start_matches("sha256:")
}
