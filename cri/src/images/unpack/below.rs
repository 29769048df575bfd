//! What a layer needs from the layers below it.
//!
//! Layers are unpacked side by side, each into a directory of its own. Three
//! things cannot be known that way and are put right once the lower layers are
//! complete:
//!
//! - An archive may hold `tmp/file` and no entry for `tmp`. The directory made
//!   for it would cover the lower `tmp` with a wrong owner and mode, so it takes
//!   over what the nearest layer below says of it.
//! - It may hold `lib/file` where a lower layer has the link `lib -> usr/lib`.
//!   The directory would cover the link and all that is behind it, so the file
//!   moves there (`settle.rs`).
//! - A hard link may name a file of a lower layer. Overlayfs would copy that
//!   file up before linking it; so does this.
//!
//! None of it touches another layer: this one's directory is named by its chain
//! id, so it belongs to these lower layers and no others.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::images::error::{Context, Error, ErrorKind};
use crate::images::unpack::entry::{Attribute, EntryPath, Metadata, show, split};
use crate::images::unpack::lookup::open_below;
use crate::images::unpack::metadata::{Follows, set_file_metadata, set_metadata};
use crate::images::unpack::tree::Written;

/// Where an implied directory belongs.
mod settle;
/// Lookups across layers.
mod union;

use settle::{Settling, keeping_time};
use union::{Covers, Seen, Union, proc_path};

/// Completes a layer from the directories below it, the nearest first. Next to
/// the layer's directory a second one is made and deleted again.
pub(crate) fn complete(
    directory: &Path,
    written: &mut Written,
    below: &[PathBuf],
) -> Result<(), Error> {
    let aside = directory.with_file_name("aside");
    fs::create_dir(&aside).context(|| format!("{} cannot be made", aside.display()))?;
    let completed = complete_with(directory, &aside, written, below);
    fs::remove_dir_all(&aside).context(|| format!("{} stays", aside.display()))?;
    completed
}

fn complete_with(
    directory: &Path,
    aside: &Path,
    written: &mut Written,
    below: &[PathBuf],
) -> Result<(), Error> {
    let layer = open_root(directory)?;
    let aside = open_root(aside)?;
    let below: Vec<OwnedFd> = below
        .iter()
        .map(|path| open_root(path))
        .collect::<Result<_, _>>()?;
    let layers = || below.iter().map(AsFd::as_fd);
    let mut settling = Settling {
        layer: layer.as_fd(),
        covers: Covers::default(),
        below: Union::of(layers()),
        settled: HashSet::new(),
        aside: aside.as_fd(),
        implied: implied_inodes(&layer, &written.implied)?,
        order: &written.order,
        moved: 0,
        hides_all_below: written.hides_all_below,
    };
    for path in &written.implied {
        let failed = || format!("the directory {} has no place", show(path));
        settling.settle(path).or_else(unless_no_directory(failed))?;
    }
    for (path, target) in &written.borrowed {
        let failed = || format!("{} is a hard link to {}", show(path), show(target));
        let parent = settling.settle(split(path).0);
        let parent = parent.or_else(unless_no_directory(failed))?;
        let parent = settling.open(&parent).context(failed)?;
        // Anew each time: the links before it are part of what it can name.
        let shown = layers().filter(|_| !settling.hides_all_below);
        let union = Union::of([layer.as_fd()].into_iter().chain(shown));
        let Some(source) = union.resolve(target).context(failed)? else {
            let failed = failed() + ", which no layer has";
            return Err(Error::new(ErrorKind::Corrupt, failed));
        };
        keeping_time(&parent, || {
            link_or_copy(&layer, &parent, split(path).1, &source)
        })
        .context(failed)?;
    }
    written.hides_all_below = settling.hides_all_below;
    Ok(())
}

/// That a path leads through a file or in a circle is the image's fault.
fn unless_no_directory<T>(what: impl Fn() -> String) -> impl Fn(Errno) -> Result<T, Error> {
    move |error| match error {
        Errno::NOTDIR | Errno::LOOP => Err(Error::caused(
            ErrorKind::Corrupt,
            what(),
            io::Error::from(error),
        )),
        error => Err(error).context(&what),
    }
}

/// The inode numbers of the implied directories. One that another entry has
/// replaced since has none.
fn implied_inodes(layer: &OwnedFd, implied: &[EntryPath]) -> Result<HashSet<u64>, Error> {
    let mut inodes = HashSet::with_capacity(implied.len());
    for path in implied {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        match open_below(layer.as_fd(), path, flags).and_then(|found| rustix::fs::fstat(&found)) {
            Ok(stat) => {
                inodes.insert(stat.st_ino);
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err(error).context(|| show(path)),
        }
    }
    Ok(inodes)
}

fn open_root(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .context(|| format!("{} cannot be opened", path.display()))
}

/// Gives a file of this layer a second name, or copies one of a lower layer.
fn link_or_copy(layer: &OwnedFd, parent: &OwnedFd, name: &[u8], source: &Seen) -> io::Result<()> {
    if source.layer > 0 {
        return copy_up(parent, name, source);
    }
    let (directory, source_name) = split(&source.path);
    let (directory, _) = union::look_in(layer.as_fd(), directory)?;
    let linked = rustix::fs::linkat(&directory, source_name, parent, name, AtFlags::empty());
    Ok(linked?)
}

fn copy_up(parent: &OwnedFd, name: &[u8], source: &Seen) -> io::Result<()> {
    let metadata = read_metadata(&source.file, &source.stat)?;
    match source.kind() {
        FileType::RegularFile => {
            let mut from = File::open(proc_path(&source.file))?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let to = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?;
            let mut to = File::from(to);
            io::copy(&mut from, &mut to)?;
            set_file_metadata(&to, &metadata)?;
        }
        FileType::Symlink => {
            let target = union::read_link(&source.file)?;
            rustix::fs::symlinkat(target.as_slice(), parent, name)?;
            set_metadata(parent.as_fd(), name, &metadata, Follows::Link)?;
        }
        FileType::Directory => return Err(Errno::ISDIR.into()),
        kind => {
            let device = source.stat.st_rdev;
            rustix::fs::mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device)?;
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
