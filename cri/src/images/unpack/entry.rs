//! One entry of a layer's archive, as plain data.
//!
//! A layer is a *change*: besides files it can say that something below is gone
//! (OCI image-spec, layer.md#whiteouts):
//!
//! - `etc/.wh.motd` hides `etc/motd` of the layers below;
//! - `etc/.wh..wh..opq` hides everything that they have in `etc`.
//!
//! Names come from whoever built the image. `..` is resolved here, by the text
//! alone, and a name that would climb out is refused; symbolic links are the
//! kernel's part, see [`super::tree`].

use std::io::Read;

use crate::images::error::{Error, ErrorKind};
use crate::images::unpack::damaged;

/// A path below the layer's root: clean, without a leading slash; empty for the
/// root itself.
pub(crate) type EntryPath = Vec<u8>;

/// The name and the value of an extended attribute (xattr(7)).
pub(crate) type Attribute = (Vec<u8>, Vec<u8>);

/// What an entry does to the directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Make something, in place of what this layer had there.
    Make {
        path: EntryPath,
        node: Node,
        metadata: Metadata,
    },
    /// A second name for a file.
    HardLink { path: EntryPath, target: EntryPath },
    /// Hide what the layers below have here.
    Whiteout { path: EntryPath },
    /// Hide all that the layers below have in this directory.
    Opaque { directory: EntryPath },
    /// An entry for other readers than us.
    Nothing,
}

/// What there is to make.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Directory,
    /// Its content follows in the archive.
    File,
    Symlink(Vec<u8>),
    CharacterDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// Who owns it, who may use it, and what else is attached.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// With the set-id and sticky bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub(crate) modified: (i64, i64),
    pub(crate) attributes: Vec<Attribute>,
}

const WHITEOUT: &[u8] = b".wh.";
/// Written by aufs for itself; only the opaque mark among them means something.
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Says what an entry does. Reads the extended header, but no content.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`]: the name leads out of the layer, or a field cannot
/// be read. [`ErrorKind::Unsupported`]: an unknown kind of entry.
pub(crate) fn plan_change<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Change, Error> {
    let path = clean_path(&entry.path_bytes())?;
    if let Some(change) = plan_whiteout(&path)? {
        return Ok(change);
    }
    let kind = entry.header().entry_type();
    let node = match kind {
        tar::EntryType::Directory => Node::Directory,
        // The oldest archives have no kind for directories.
        tar::EntryType::Regular if entry.path_bytes().ends_with(b"/") => Node::Directory,
        tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
            Node::File
        }
        tar::EntryType::Symlink => Node::Symlink(link_name(entry)?),
        tar::EntryType::Link => {
            let target = clean_path(&link_name(entry)?)?;
            return Ok(Change::HardLink { path, target });
        }
        tar::EntryType::Char => {
            let (major, minor) = device_numbers(entry)?;
            Node::CharacterDevice(major, minor)
        }
        tar::EntryType::Block => {
            let (major, minor) = device_numbers(entry)?;
            Node::BlockDevice(major, minor)
        }
        tar::EntryType::Fifo => Node::Fifo,
        tar::EntryType::XGlobalHeader => return Ok(Change::Nothing),
        other => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{} is an archive entry of the kind {other:?}", show(&path)),
            ));
        }
    };
    if path.is_empty() && node != Node::Directory {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "the layer's root is not a directory in its archive",
        ));
    }
    let metadata = read_metadata(entry)?;
    Ok(Change::Make {
        path,
        node,
        metadata,
    })
}

fn plan_whiteout(path: &[u8]) -> Result<Option<Change>, Error> {
    let (directory, name) = split(path);
    if name == OPAQUE {
        let directory = directory.to_vec();
        return Ok(Some(Change::Opaque { directory }));
    }
    if name.starts_with(AUFS) {
        return Ok(Some(Change::Nothing));
    }
    let Some(hidden) = name.strip_prefix(WHITEOUT) else {
        return Ok(None);
    };
    if hidden.is_empty() || hidden == b"." || hidden == b".." {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("{} hides a name that no file has", show(path)),
        ));
    }
    let mut path = directory.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(hidden);
    Ok(Some(Change::Whiteout { path }))
}

/// Resolves `.`, `..` and doubled slashes by the text alone. An absolute name
/// is one below the layer's root.
pub(crate) fn clean_path(raw: &[u8]) -> Result<EntryPath, Error> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in raw.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.pop().is_none() => {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("the archive's name {} leads out of the layer", show(raw)),
                ));
            }
            b".." => {}
            _ if part.contains(&0) || part.len() > 255 => {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("the archive's name {} cannot be a file's", show(raw)),
                ));
            }
            _ => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

/// The directory and the last part of a clean path.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// For messages: quoted, with what is not text escaped.
pub(crate) fn show(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

fn link_name<R: Read>(entry: &tar::Entry<'_, R>) -> Result<Vec<u8>, Error> {
    match entry.link_name_bytes() {
        Some(name) if !name.is_empty() && !name.contains(&0) => Ok(name.into_owned()),
        _ => Err(Error::new(
            ErrorKind::Corrupt,
            format!("{} is a link to nothing", show(&entry.path_bytes())),
        )),
    }
}

fn device_numbers<R: Read>(entry: &tar::Entry<'_, R>) -> Result<(u32, u32), Error> {
    let header = entry.header();
    let major = header.device_major().map_err(damaged)?;
    let minor = header.device_minor().map_err(damaged)?;
    Ok((major.unwrap_or(0), minor.unwrap_or(0)))
}

fn read_metadata<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Metadata, Error> {
    let header = entry.header();
    let owner = |number: u64| {
        u32::try_from(number).map_err(|_| {
            Error::new(
                ErrorKind::Corrupt,
                format!("the owner {number} in the archive is no number of a user"),
            )
        })
    };
    let mut metadata = Metadata {
        mode: header.mode().map_err(damaged)? & 0o7777,
        uid: owner(header.uid().map_err(damaged)?)?,
        gid: owner(header.gid().map_err(damaged)?)?,
        modified: (i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0), 0),
        attributes: Vec::new(),
    };
    // POSIX.1-2001 keeps what the old header has no room for in records.
    let Some(records) = entry.pax_extensions().map_err(damaged)? else {
        return Ok(metadata);
    };
    for record in records {
        let record = record.map_err(damaged)?;
        if record.key_bytes() == b"mtime" {
            if let Some(modified) = record.value().ok().and_then(parse_time) {
                metadata.modified = modified;
            }
        } else if let Some(name) = record.key_bytes().strip_prefix(b"SCHILY.xattr.".as_slice())
            && is_allowed_attribute(name)
        {
            let value = record.value_bytes().to_vec();
            metadata.attributes.push((name.to_vec(), value));
        }
    }
    Ok(metadata)
}

/// An image must not speak overlayfs's own language: `trusted.overlay.redirect`
/// would let it show any directory of a layer in the place of another.
fn is_allowed_attribute(name: &[u8]) -> bool {
    let reserved: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
    !name.is_empty() && !name.contains(&0) && !reserved.iter().any(|start| name.starts_with(start))
}

/// `1700000000.123456789`, possibly negative.
fn parse_time(text: &str) -> Option<(i64, i64)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().ok()?;
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanoseconds: i64 = digits.parse().ok()?;
    match (text.starts_with('-'), nanoseconds) {
        (_, 0) | (false, _) => Some((whole, nanoseconds)),
        // -1.25 is three quarters of a second after -2.
        (true, _) => Some((whole.checked_sub(1)?, 1_000_000_000 - nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_and_none_climbs_out() {
        for (raw, clean) in [
            ("./", ""),
            ("/etc/passwd", "etc/passwd"),
            ("./a//b/../c/", "a/c"),
            ("a/..", ""),
        ] {
            assert_eq!(clean_path(raw.as_bytes()).unwrap(), clean.as_bytes());
        }
        for raw in ["..", "../a", "a/../../b", "/..", "a\0b"] {
            assert!(clean_path(raw.as_bytes()).is_err(), "{raw}");
        }
    }

    #[test]
    fn whiteouts_are_recognised_by_their_name() {
        let plan = |name: &str| plan_whiteout(name.as_bytes()).unwrap();
        let path = b"etc/motd".to_vec();
        assert_eq!(plan("etc/.wh.motd"), Some(Change::Whiteout { path }));
        let directory = b"etc".to_vec();
        assert_eq!(plan("etc/.wh..wh..opq"), Some(Change::Opaque { directory }));
        assert_eq!(plan(".wh..wh.plnk"), Some(Change::Nothing));
        assert_eq!(plan("etc/.whale"), None);
        for name in [".wh.", ".wh..", ".wh..."] {
            assert!(plan_whiteout(name.as_bytes()).is_err(), "{name}");
        }
    }

    #[test]
    fn times_keep_their_fraction() {
        assert_eq!(parse_time("12"), Some((12, 0)));
        assert_eq!(parse_time("12.5"), Some((12, 500_000_000)));
        assert_eq!(parse_time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(parse_time("noon"), None);
    }

    #[test]
    fn the_overlays_own_attributes_are_not_for_images() {
        assert!(is_allowed_attribute(b"security.capability"));
        assert!(is_allowed_attribute(b"user.note"));
        for name in ["trusted.overlay.redirect", "user.overlay.opaque", ""] {
            assert!(!is_allowed_attribute(name.as_bytes()));
        }
    }
}
