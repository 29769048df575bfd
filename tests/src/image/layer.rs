//! Layers: the tar archive, its compression.

use std::io::Write;

use anyhow::{Context, Result};

use super::Blob;

/// How a layer's archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    None,
    /// As most registries hold it.
    #[default]
    Gzip,
    /// Smaller and quicker to unpack.
    Zstd,
}

/// One entry of a layer, owned by root unless said otherwise.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Relative to the image's root, without a leading slash.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// The owner's number.
    pub uid: u64,
    /// The group's number.
    pub gid: u64,
    /// What it is.
    pub content: Content,
}

/// What an entry is.
#[derive(Debug, Clone)]
pub enum Content {
    /// A directory.
    Directory,
    /// A regular file.
    File(Vec<u8>),
    /// A symbolic link to this path.
    Symlink(String),
    /// A second name of the file at this path in the archive.
    HardLink(String),
    /// A character device.
    Device {
        /// The device's major number.
        major: u32,
        /// The device's minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

impl Entry {
    /// A directory of root.
    pub fn directory(path: &str, mode: u32) -> Entry {
        Entry {
            path: path.to_owned(),
            mode,
            uid: 0,
            gid: 0,
            content: Content::Directory,
        }
    }

    /// A regular file of root.
    pub fn file(path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Entry {
        let content = Content::File(bytes.into());
        Entry {
            path: path.to_owned(),
            mode,
            uid: 0,
            gid: 0,
            content,
        }
    }

    /// A symbolic link.
    pub fn symlink(path: &str, target: &str) -> Entry {
        let content = Content::Symlink(target.to_owned());
        Entry {
            path: path.to_owned(),
            mode: 0o777,
            uid: 0,
            gid: 0,
            content,
        }
    }

    /// A second name of a file that stands earlier in the archive.
    pub fn hard_link(path: &str, target: &str) -> Entry {
        let content = Content::HardLink(target.to_owned());
        Entry {
            path: path.to_owned(),
            mode: 0o755,
            uid: 0,
            gid: 0,
            content,
        }
    }

    /// The mark by which a layer hides a lower layer's file (image-spec, layer.md).
    pub fn whiteout(path: &str) -> Entry {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let slash = if folder.is_empty() { "" } else { "/" };
        Entry::file(&format!("{folder}{slash}.wh.{name}"), 0o644, Vec::new())
    }

    /// The same entry with another owner.
    pub fn owned_by(self, uid: u64, gid: u64) -> Entry {
        Entry { uid, gid, ..self }
    }
}

/// Writes the entries as a tar archive. Times are zero, so equal entries give equal bytes.
///
/// # Errors
///
/// A path does not fit.
pub fn archive(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for entry in entries {
        append(&mut archive, entry).with_context(|| format!("archive {}", entry.path))?;
    }
    Ok(archive.into_inner()?)
}

fn append(archive: &mut tar::Builder<Vec<u8>>, entry: &Entry) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(entry.uid);
    header.set_gid(entry.gid);
    header.set_mtime(0);
    header.set_size(0);
    match &entry.content {
        Content::Directory => header.set_entry_type(tar::EntryType::Directory),
        Content::Fifo => header.set_entry_type(tar::EntryType::Fifo),
        Content::Device { major, minor } => {
            header.set_entry_type(tar::EntryType::Char);
            header.set_device_major(*major)?;
            header.set_device_minor(*minor)?;
        }
        Content::Symlink(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            return Ok(archive.append_link(&mut header, &entry.path, target)?);
        }
        Content::HardLink(target) => {
            header.set_entry_type(tar::EntryType::Link);
            return Ok(archive.append_link(&mut header, &entry.path, target)?);
        }
        Content::File(bytes) => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(bytes.len() as u64);
            return Ok(archive.append_data(&mut header, &entry.path, bytes.as_slice())?);
        }
    }
    Ok(archive.append_data(&mut header, &entry.path, std::io::empty())?)
}

/// Packs an archive and names it.
///
/// # Errors
///
/// The compressor failed.
pub fn compress(archive: Vec<u8>, compression: Compression) -> Result<Blob> {
    Ok(match compression {
        Compression::None => Blob::new("application/vnd.oci.image.layer.v1.tar", archive),
        Compression::Gzip => {
            let level = flate2::Compression::fast();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(&archive)?;
            Blob::new(
                "application/vnd.oci.image.layer.v1.tar+gzip",
                encoder.finish()?,
            )
        }
        Compression::Zstd => {
            let packed = zstd::encode_all(archive.as_slice(), 3)?;
            Blob::new("application/vnd.oci.image.layer.v1.tar+zstd", packed)
        }
    })
}
