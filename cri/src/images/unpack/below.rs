//! What a layer needs from the layers below it.
//!
//! Layers are unpacked side by side, each into a directory of its own. Two
//! things cannot be known that way and are put right once the lower layers are
//! complete:
//!
//! - An archive may hold `tmp/file` and no entry for `tmp`. The directory made
//!   for it would cover the lower `tmp` with a wrong owner and mode, so it takes
//!   over what the nearest layer below says of it.
//! - A hard link may name a file of a lower layer. Overlayfs would copy that
//!   file up before linking it; so does this.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::images::error::{Context, Error, ErrorKind};
use crate::images::unpack::entry::{Attribute, Metadata, show, split};
use crate::images::unpack::tree::{
    Follows, Written, is_whiteout, open_below, set_file_metadata, set_metadata,
};

/// Completes a layer from the directories below it, the nearest first.
pub(crate) fn complete(
    directory: &Path,
    written: &Written,
    below: &[PathBuf],
) -> Result<(), Error> {
    let layer = open_root(directory)?;
    let below: Vec<OwnedFd> = below
        .iter()
        .map(|path| open_root(path))
        .collect::<Result<_, _>>()?;
    for (path, target) in &written.borrowed {
        // Its first name may itself be a link that was borrowed before it.
        let own = find(std::slice::from_ref(&layer), target);
        let lower = || find(&below, target);
        let source = match own.context(|| show(target))? {
            Some(source) => Some(source),
            None => lower().context(|| show(target))?,
        };
        let failed = || {
            format!(
                "{} is a hard link to {}, which no layer has",
                show(path),
                show(target)
            )
        };
        let Some((source, stat)) = source else {
            return Err(Error::new(ErrorKind::Corrupt, failed()));
        };
        copy_up(&layer, path, &source, &stat).context(failed)?;
    }
    // Upper directories come first in the list, but a change of a directory's
    // owner does not touch the one above it, so any order would do.
    for path in &written.implied {
        let failed = || format!("the owner and mode of {} are not set", show(path));
        let found = find(&below, path).context(failed)?;
        if let Some((source, stat)) = found
            && FileType::from_raw_mode(stat.st_mode) == FileType::Directory
        {
            let metadata = read_metadata(&source, &stat).context(failed)?;
            let made = open_below(
                layer.as_fd(),
                path,
                OFlags::PATH | OFlags::DIRECTORY,
                Mode::empty(),
            );
            let made = made.context(failed)?;
            set_metadata(made.as_fd(), b".", &metadata, Follows::Nothing).context(failed)?;
        }
    }
    Ok(())
}

fn open_root(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .context(|| format!("{} cannot be opened", path.display()))
}

/// Looks a path up as the overlay of these layers would.
fn find(layers: &[OwnedFd], path: &[u8]) -> Result<Option<(OwnedFd, Stat)>, Errno> {
    for layer in layers {
        match open_below(
            layer.as_fd(),
            path,
            OFlags::PATH | OFlags::NOFOLLOW,
            Mode::empty(),
        ) {
            Ok(found) => {
                let stat = rustix::fs::fstat(&found)?;
                return Ok((!is_whiteout(&stat)).then_some((found, stat)));
            }
            Err(Errno::NOENT) if !covers(layer, path)? => {}
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Whether a layer hides what those below have at a path, by a directory above
/// it that is opaque or gone.
fn covers(layer: &OwnedFd, path: &[u8]) -> Result<bool, Errno> {
    let mut above = split(path).0;
    while !above.is_empty() {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        match open_below(layer.as_fd(), above, flags, Mode::empty()) {
            Ok(found) => {
                let stat = rustix::fs::fstat(&found)?;
                return Ok(is_whiteout(&stat) || is_opaque(&found));
            }
            Err(Errno::NOENT) => above = split(above).0,
            Err(Errno::NOTDIR) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0; 1];
    let path = proc_path(directory);
    rustix::fs::getxattr(path, "trusted.overlay.opaque", &mut value[..]).is_ok() && value == *b"y"
}

fn copy_up(layer: &OwnedFd, path: &[u8], source: &OwnedFd, stat: &Stat) -> io::Result<()> {
    let (directory, name) = split(path);
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let parent = open_below(layer.as_fd(), directory, flags, Mode::empty())?;
    let metadata = read_metadata(source, stat)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let mut from = File::open(proc_path(source))?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let to = rustix::fs::openat(&parent, name, flags, Mode::RUSR | Mode::WUSR)?;
            let mut to = File::from(to);
            io::copy(&mut from, &mut to)?;
            set_file_metadata(&to, &metadata)?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(source, "", Vec::new())?;
            rustix::fs::symlinkat(target, &parent, name)?;
            set_metadata(parent.as_fd(), name, &metadata, Follows::Link)?;
        }
        FileType::Directory => return Err(Errno::ISDIR.into()),
        kind => {
            rustix::fs::mknodat(&parent, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)?;
            set_metadata(parent.as_fd(), name, &metadata, Follows::Nothing)?;
        }
    }
    Ok(())
}

fn read_metadata(source: &OwnedFd, stat: &Stat) -> Result<Metadata, Errno> {
    Ok(Metadata {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: (
            stat.st_mtime,
            i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
        ),
        attributes: read_attributes(source, stat)?,
    })
}

fn read_attributes(source: &OwnedFd, stat: &Stat) -> Result<Vec<Attribute>, Errno> {
    // A descriptor's path in /proc leads to what is behind a link, and links
    // carry no attributes that an image could mean.
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        return Ok(Vec::new());
    }
    let path = proc_path(source);
    let mut names = vec![0; 64 * 1024];
    let count = match rustix::fs::listxattr(&path, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        count => count?,
    };
    let mut attributes = Vec::new();
    for name in names[..count].split(|&byte| byte == 0) {
        if name.is_empty() || name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let mut value = vec![0; 64 * 1024];
        let count = rustix::fs::getxattr(&path, name, &mut value[..])?;
        attributes.push((name.to_vec(), value[..count].to_vec()));
    }
    Ok(attributes)
}

fn proc_path(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}
