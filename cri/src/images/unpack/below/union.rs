//! Looking a path up in several layers at once, as the overlay of them would.
//!
//! The kernel could follow links inside one layer, but a link of one layer leads
//! to what another one has. So every step is one lookup without links
//! (`RESOLVE_NO_SYMLINKS` of `openat2(2)`), and where it finds a link, [`Walk`]
//! continues at the link's target: from the layers' root, which `..` does not
//! leave.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::images::unpack::entry::{EntryPath, split};
use crate::images::unpack::lookup::{MOST_LINKS, open_resolving};
use crate::images::unpack::whiteout::{OPAQUE, is_whiteout};

/// Layers' directories, the nearest first. They must not change meanwhile.
pub(super) struct Union<'a> {
    layers: Vec<(BorrowedFd<'a>, Covers)>,
}

/// Which directories of a layer hide what the layers below have in them. Asked
/// again and again for the same ones: an archive lists neighbours together.
#[derive(Default)]
pub(super) struct Covers(RefCell<HashMap<EntryPath, bool>>);

impl Covers {
    /// Whether a layer hides what those below have at a path, by something above
    /// it that is opaque, gone, or no directory.
    pub(super) fn at(&self, root: BorrowedFd<'_>, path: &[u8]) -> Result<bool, Errno> {
        let above = split(path).0;
        if above.is_empty() {
            return Ok(false);
        }
        if let Some(known) = self.0.borrow().get(above) {
            return Ok(*known);
        }
        let covers = self.at(root, above)? || is_cover(root, above)?;
        self.0.borrow_mut().insert(above.to_vec(), covers);
        Ok(covers)
    }

    /// After the layer's directories moved.
    pub(super) fn forget(&self) {
        self.0.borrow_mut().clear();
    }
}

fn is_cover(root: BorrowedFd<'_>, directory: &[u8]) -> Result<bool, Errno> {
    match look_in(root, directory) {
        Ok((found, stat)) => {
            let kind = FileType::from_raw_mode(stat.st_mode);
            Ok(kind != FileType::Directory || is_opaque(&found))
        }
        Err(Errno::NOENT) => Ok(false),
        Err(Errno::NOTDIR | Errno::LOOP) => Ok(true),
        Err(error) => Err(error),
    }
}

/// What a path means.
pub(super) struct Seen {
    /// Which of the layers has it.
    pub(super) layer: usize,
    /// Where: no part of this path is a link.
    pub(super) path: EntryPath,
    pub(super) file: OwnedFd,
    pub(super) stat: Stat,
}

impl Seen {
    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

impl<'a> Union<'a> {
    pub(super) fn of(layers: impl IntoIterator<Item = BorrowedFd<'a>>) -> Union<'a> {
        let layers = layers.into_iter();
        Union {
            layers: layers.map(|layer| (layer, Covers::default())).collect(),
        }
    }

    /// Looks up a path no part of which may be a link, except the last.
    pub(super) fn look(&self, path: &[u8]) -> Result<Option<Seen>, Errno> {
        for (layer, (root, covers)) in self.layers.iter().enumerate() {
            match look_in(*root, path) {
                Ok((file, stat)) => {
                    return Ok((!is_whiteout(&stat)).then(|| Seen {
                        layer,
                        path: path.to_vec(),
                        file,
                        stat,
                    }));
                }
                Err(Errno::NOENT) if !covers.at(*root, path)? => {}
                // Above the path is something that is no directory: whatever
                // the layers below have there, it hides.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Looks up a path, following the links on the way but not the last.
    pub(super) fn resolve(&self, path: &[u8]) -> Result<Option<Seen>, Errno> {
        let mut walk = Walk::new(path, MOST_LINKS);
        while let Some(name) = walk.next() {
            let Some(seen) = self.look(&walk.child(&name))? else {
                return Ok(None);
            };
            if walk.is_at_end() {
                return Ok(Some(seen));
            }
            match seen.kind() {
                FileType::Directory => walk.descend(name),
                FileType::Symlink => walk.follow(&read_link(&seen.file)?)?,
                _ => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// Looks one layer's path up without following any link.
pub(super) fn look_in(root: BorrowedFd<'_>, path: &[u8]) -> Result<(OwnedFd, Stat), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let file = open_resolving(root, path, flags, ResolveFlags::NO_SYMLINKS)?;
    let stat = rustix::fs::fstat(&file)?;
    Ok((file, stat))
}

pub(super) fn is_opaque(directory: &impl AsFd) -> bool {
    let mut value = [0; 1];
    let path = proc_path(directory);
    rustix::fs::getxattr(path, OPAQUE, &mut value[..]).is_ok() && value == *b"y"
}

pub(super) fn read_link(link: &OwnedFd) -> Result<Vec<u8>, Errno> {
    Ok(rustix::fs::readlinkat(link, "", Vec::new())?.into_bytes())
}

/// A descriptor as a path, for calls that take no descriptor opened `O_PATH`.
pub(super) fn proc_path(descriptor: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd())
}

/// A lookup on its way: the directories behind, which are no links, and the
/// names ahead.
pub(super) struct Walk {
    at: Vec<Vec<u8>>,
    /// The next one last.
    ahead: Vec<Vec<u8>>,
    pub(super) links_left: u32,
}

impl Walk {
    pub(super) fn new(path: &[u8], links_left: u32) -> Walk {
        let mut walk = Walk {
            at: Vec::new(),
            ahead: Vec::new(),
            links_left,
        };
        walk.put_ahead(path);
        walk
    }

    /// A walk that has come as far as a directory whose path has no links.
    pub(super) fn from(directory: &[u8], name: &[u8], links_left: u32) -> Walk {
        let mut walk = Walk::new(name, links_left);
        let names = directory.split(|&byte| byte == b'/');
        let names = names.filter(|name| !name.is_empty());
        walk.at.extend(names.map(<[u8]>::to_vec));
        walk
    }

    /// The next name to look up in the directory that the walk has reached.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let name = self.ahead.pop()?;
            if name != b".." {
                return Some(name);
            }
            // Above the root is the root.
            self.at.pop();
        }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.ahead.is_empty()
    }

    /// Where the walk is.
    pub(super) fn path(&self) -> EntryPath {
        self.at.join(&b'/')
    }

    pub(super) fn child(&self, name: &[u8]) -> EntryPath {
        join(&self.path(), name)
    }

    pub(super) fn descend(&mut self, name: Vec<u8>) {
        self.at.push(name);
    }

    /// Continues at a link's target.
    pub(super) fn follow(&mut self, target: &[u8]) -> Result<(), Errno> {
        self.links_left = self.links_left.checked_sub(1).ok_or(Errno::LOOP)?;
        if target.starts_with(b"/") {
            self.at.clear();
        }
        self.put_ahead(target);
        Ok(())
    }

    fn put_ahead(&mut self, path: &[u8]) {
        let names = path.split(|&byte| byte == b'/').rev();
        let names = names.filter(|name| !name.is_empty() && name != b".");
        self.ahead.extend(names.map(<[u8]>::to_vec));
    }
}

pub(super) fn join(directory: &[u8], name: &[u8]) -> EntryPath {
    match directory.is_empty() {
        true => name.to_vec(),
        false => [directory, b"/", name].concat(),
    }
}
