//! Directories that a layer only implied, put where the lower layers want them.
//!
//! ```text
//! below    lib ─▶ usr/lib         archive    lib/x      (no entry for lib)
//!
//! unpacked alone   lib/x          a directory that would cover the link
//! settled          usr/lib/x      as if unpacked on top of what is below
//! ```
//!
//! An archive names a file by a path and relies on what that path means in the
//! image so far. A directory that had to be made for it is a guess: only the
//! lower layers know whether there is a directory (whose owner and mode it takes
//! over) or a link (then what is in it moves to where the link leads).
//!
//! Nothing is done by a path that a link could divert: each step of the way is a
//! lookup of one layer without links, and what moves is renamed from one
//! descriptor to another.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::read_metadata;
use super::union::{Covers, Union, Walk, is_opaque, join, look_in, read_link};
use crate::images::unpack::entry::{EntryPath, split};
use crate::images::unpack::lookup::{MOST_LINKS, names_in};
use crate::images::unpack::metadata::{Follows, set_attribute, set_metadata, set_modified};
use crate::images::unpack::whiteout::{OPAQUE, is_whiteout, make_opaque_directory};

/// A layer while its implied directories are settled.
pub(super) struct Settling<'a> {
    pub(super) layer: BorrowedFd<'a>,
    pub(super) covers: Covers,
    pub(super) below: Union<'a>,
    /// Directories of this layer that are settled, by paths without links.
    pub(super) settled: HashSet<EntryPath>,
    /// A directory of the same file system, for what is on its way and for what
    /// lost its place. Whoever made it deletes it.
    pub(super) aside: BorrowedFd<'a>,
    /// Inode numbers of the implied directories that are not settled yet.
    pub(super) implied: HashSet<u64>,
    /// When an entry came: of two that end at one place the later stays.
    pub(super) order: &'a HashMap<EntryPath, u64>,
    /// How many names `aside` has had.
    pub(super) moved: usize,
    /// Whether the lower layers show nothing at all.
    pub(super) hides_all_below: bool,
}

impl Settling<'_> {
    /// Settles a directory and all above it, making those that are absent, and
    /// says where it is now: no part of that path is a link.
    ///
    /// # Errors
    ///
    /// `ENOTDIR`, `ELOOP`: the path leads through something that is no
    /// directory, in this layer or below.
    pub(super) fn settle(&mut self, path: &[u8]) -> Result<EntryPath, Errno> {
        self.settle_within(path, MOST_LINKS)
    }

    fn settle_within(&mut self, path: &[u8], links_left: u32) -> Result<EntryPath, Errno> {
        let (above, name) = split(path);
        let mut walk = match self.settled.contains(above) {
            true => Walk::from(above, name, links_left),
            false => Walk::new(path, links_left),
        };
        while let Some(name) = walk.next() {
            let here = walk.child(&name);
            let (found, stat) = match look_in(self.layer, &here) {
                Ok(found) => found,
                Err(Errno::NOENT) => {
                    match self.imply(&here)? {
                        Some(link) => walk.follow(&link)?,
                        None => walk.descend(name),
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => walk.follow(&read_link(&found)?)?,
                FileType::Directory if self.implied.remove(&stat.st_ino) => {
                    match self.adopt(&here, &found)? {
                        Some(link) => {
                            walk.links_left = walk.links_left.checked_sub(1).ok_or(Errno::LOOP)?;
                            self.move_behind(&here, &link, walk.links_left)?;
                            walk.follow(&link)?;
                        }
                        None => walk.descend(name),
                    }
                }
                FileType::Directory => walk.descend(name),
                // This layer hides what was here and uses the place anew.
                _ if is_whiteout(&stat) => {
                    let parent = self.open(split(&here).0)?;
                    keeping_time(&parent, || make_opaque_directory(parent.as_fd(), &name))?;
                    self.covers.forget();
                    walk.descend(name);
                }
                _ => return Err(Errno::NOTDIR),
            }
        }
        let settled = walk.path();
        self.settled.insert(settled.clone());
        Ok(settled)
    }

    /// What the lower layers show at a place, unless this one hides it.
    fn look_below(&self, path: &[u8]) -> Result<Option<super::union::Seen>, Errno> {
        match self.hides_all_below || self.covers.at(self.layer, path)? {
            true => Ok(None),
            false => self.below.look(path),
        }
    }

    /// Gives a directory the owner and mode of the one it stands for, or says
    /// that it covers a link, and where that leads.
    fn adopt(&self, path: &[u8], made: &OwnedFd) -> Result<Option<Vec<u8>>, Errno> {
        let Some(seen) = self.look_below(path)? else {
            return Ok(None);
        };
        match seen.kind() {
            FileType::Symlink => read_link(&seen.file).map(Some),
            FileType::Directory => {
                let metadata = read_metadata(&seen.file, &seen.stat)?;
                set_metadata(made.as_fd(), b".", &metadata, Follows::Nothing)?;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Makes a directory that a link leads to, or says that there is a further
    /// link in the layers below.
    fn imply(&self, path: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        let below = self.look_below(path)?;
        match below.as_ref().map(super::union::Seen::kind) {
            Some(FileType::Symlink | FileType::Directory) | None => {}
            Some(_) => return Err(Errno::NOTDIR),
        }
        if let Some(link) = below.filter(|seen| seen.kind() == FileType::Symlink) {
            return read_link(&link.file).map(Some);
        }
        let (above, name) = split(path);
        let parent = self.open(above)?;
        keeping_time(&parent, || {
            rustix::fs::mkdirat(&parent, name, Mode::RWXU)?;
            rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(0o755), AtFlags::empty())
        })?;
        self.adopt(path, &self.open(path)?)
    }

    /// Moves what is in a directory to where a link in its place leads.
    fn move_behind(&mut self, path: &[u8], link: &[u8], links_left: u32) -> Result<(), Errno> {
        let (above, name) = split(path);
        let parent = self.open(above)?;
        let on_its_way = self.next_aside();
        self.forget();
        keeping_time(&parent, || {
            rustix::fs::renameat(&parent, name, self.aside, &on_its_way)
        })?;
        let led = match link.starts_with(b"/") {
            true => link.to_vec(),
            false => join(above, link),
        };
        let target = self.settle_within(&led, links_left)?;
        let source = open_list(self.aside, on_its_way.as_bytes())?;
        self.merge((&source, path), (&self.open(&target)?, &target))?;
        self.forget();
        rustix::fs::unlinkat(self.aside, &on_its_way, AtFlags::REMOVEDIR)
    }

    /// Empties a directory into another. The paths are those of the archive and
    /// of the layer.
    fn merge(
        &mut self,
        (source, from): (&OwnedFd, &[u8]),
        (target, to): (&OwnedFd, &[u8]),
    ) -> Result<(), Errno> {
        let before = rustix::fs::fstat(target)?;
        if is_opaque(source) {
            match to.is_empty() {
                // The root of an overlay has no such mark.
                true => self.hides_all_below = true,
                false => set_attribute(target.as_fd(), b".", OPAQUE.as_bytes(), b"y")?,
            }
        }
        for name in names_in(source)? {
            let free = RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(source, name.as_slice(), target, name.as_slice(), free)
            {
                Err(Errno::EXIST) => {
                    let (from, to) = (join(from, &name), join(to, &name));
                    self.unite(&name, (source, &from), (target, &to))?;
                }
                renamed => renamed?,
            }
        }
        restore_time(target, &before)
    }

    /// Makes one of two things that have one name now.
    fn unite(
        &mut self,
        name: &[u8],
        (source, from): (&OwnedFd, &[u8]),
        (target, to): (&OwnedFd, &[u8]),
    ) -> Result<(), Errno> {
        let stat = |directory| rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
        let (moved, stays) = (stat(source)?, stat(target)?);
        let is_directory =
            |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let is_later = self.order.get(from) > self.order.get(to);
        if is_directory(&moved) && is_directory(&stays) {
            let inner_source = open_list(source.as_fd(), name)?;
            let inner_target = open_list(target.as_fd(), name)?;
            if !self.implied.remove(&moved.st_ino)
                && (self.implied.remove(&stays.st_ino) || is_later)
            {
                let metadata = read_metadata(&inner_source, &moved)?;
                set_metadata(target.as_fd(), name, &metadata, Follows::Nothing)?;
            }
            self.merge((&inner_source, from), (&inner_target, to))?;
            return rustix::fs::unlinkat(source, name, AtFlags::REMOVEDIR);
        }
        // A whiteout speaks of the layers below: it yields to what this layer
        // has, and leaves on a directory the mark that nothing shines through.
        if is_whiteout(&moved) {
            rustix::fs::unlinkat(source, name, AtFlags::empty())?;
            return match is_directory(&stays) {
                true => set_attribute(target.as_fd(), name, OPAQUE.as_bytes(), b"y"),
                false => Ok(()),
            };
        }
        if is_whiteout(&stays) {
            rustix::fs::unlinkat(target, name, AtFlags::empty())?;
            rustix::fs::renameat(source, name, target, name)?;
            return match is_directory(&moved) {
                true => set_attribute(target.as_fd(), name, OPAQUE.as_bytes(), b"y"),
                false => Ok(()),
            };
        }
        // Not deleted yet: a new directory must not get the inode number of one
        // that is still in the list of the implied.
        let loser = self.next_aside();
        if is_later {
            rustix::fs::renameat(target, name, self.aside, &loser)?;
            rustix::fs::renameat(source, name, target, name)
        } else {
            rustix::fs::renameat(source, name, self.aside, &loser)
        }
    }

    /// What was known of this layer's directories before some of them moved.
    fn forget(&mut self) {
        self.settled.clear();
        self.covers.forget();
    }

    fn next_aside(&mut self) -> String {
        self.moved += 1;
        self.moved.to_string()
    }

    /// Opens a directory of this layer by a path without links.
    pub(super) fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        look_in(self.layer, path).map(|(directory, _)| directory)
    }
}

fn open_list(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Changes a directory without changing when it was changed.
pub(super) fn keeping_time<T, E: From<Errno>>(
    directory: &OwnedFd,
    change: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let before = rustix::fs::fstat(directory)?;
    let changed = change()?;
    restore_time(directory, &before)?;
    Ok(changed)
}

fn restore_time(directory: &OwnedFd, before: &Stat) -> Result<(), Errno> {
    let nanoseconds = i64::try_from(before.st_mtime_nsec).unwrap_or(0);
    set_modified(directory, (before.st_mtime, nanoseconds))
}
