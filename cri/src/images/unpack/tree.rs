//! A directory that an archive's entries fill and never leave.
//!
//! The directory of each entry is opened by a lookup that cannot leave the layer
//! ([`lookup`](super::lookup)), and the entry itself is made by one name below
//! that descriptor, never following what is there.
//! Archives list a directory's files one after the other, so the last
//! directory's descriptor is kept and most entries need no lookup at all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::images::error::{Context, Error, ErrorKind};
use crate::images::unpack::damaged;
use crate::images::unpack::entry::{Change, EntryPath, Metadata, Node, show, split};
use crate::images::unpack::lookup::{MOST_LINKS, names_in, open_below};
use crate::images::unpack::metadata::{
    Follows, set_attribute, set_file_metadata, set_metadata, set_modified,
};
use crate::images::unpack::whiteout::{
    OPAQUE, is_whiteout, make_opaque_directory, make_whiteout_at,
};

/// What came of an archive.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Content of regular files.
    pub(crate) bytes: u64,
    /// Everything that takes an inode.
    pub(crate) inodes: u64,
    /// Directories that had to be made without an entry of their own, upper
    /// ones first. Their owner and mode are those of a layer below.
    pub(crate) implied: Vec<EntryPath>,
    /// When each entry came, as far as that matters: from the first implied
    /// directory on.
    pub(crate) order: HashMap<EntryPath, u64>,
    /// Hard links to files that a layer below must have.
    pub(crate) borrowed: Vec<(EntryPath, EntryPath)>,
    /// Whether the layers below are hidden altogether.
    pub(crate) hides_all_below: bool,
    /// Whether the archive says who owns `/` and who may enter.
    pub(crate) describes_root: bool,
}

/// A layer's directory while it is filled.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    /// The directory of the last entry.
    parent: Option<(EntryPath, OwnedFd)>,
    /// Whether something was removed since, so that `parent` may be out of date.
    replaced: bool,
    implied: BTreeSet<EntryPath>,
    order: HashMap<EntryPath, u64>,
    entries: u64,
    borrowed: Vec<(EntryPath, EntryPath)>,
    /// What making a file in a directory would change, so it is set at the end.
    modified: BTreeMap<EntryPath, (i64, i64)>,
    hides_all_below: bool,
    describes_root: bool,
    bytes: u64,
    inodes: u64,
    buffer: Vec<u8>,
}

const BUFFER_BYTES: usize = 256 * 1024;

impl Tree {
    /// Takes an empty directory.
    pub(crate) fn open(directory: &Path) -> Result<Tree, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(directory, flags, Mode::empty())
            .context(|| format!("{} cannot be opened", directory.display()))?;
        Ok(Tree {
            root,
            parent: None,
            replaced: false,
            implied: BTreeSet::new(),
            order: HashMap::new(),
            entries: 0,
            borrowed: Vec::new(),
            modified: BTreeMap::new(),
            hides_all_below: false,
            describes_root: false,
            bytes: 0,
            inodes: 0,
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Makes what an entry says. `content` is read for regular files only.
    pub(crate) fn apply(&mut self, change: Change, content: &mut impl Read) -> Result<(), Error> {
        match change {
            Change::Nothing => Ok(()),
            Change::Make {
                path,
                node,
                metadata,
            } => {
                self.make(&path, node, &metadata, content)?;
                self.note_order(path);
                Ok(())
            }
            Change::HardLink { path, target } => {
                self.make_hard_link(&path, target)?;
                self.note_order(path);
                Ok(())
            }
            Change::Whiteout { path } => self.make_whiteout(&path),
            Change::Opaque { directory } => self.make_opaque(&directory),
        }
    }

    /// Sets the directories' times, now that nothing is made in them any more.
    pub(crate) fn finish(mut self) -> Result<Written, Error> {
        for (path, modified) in std::mem::take(&mut self.modified) {
            let set = self
                .open_directory(&path)
                .and_then(|directory| set_modified(&directory, modified));
            match set {
                // Something else took its place later in the archive.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(error).context(|| format!("the time of {}", show(&path))),
            }
        }
        Ok(Written {
            bytes: self.bytes,
            inodes: self.inodes,
            implied: self.implied.into_iter().collect(),
            order: self.order,
            borrowed: self.borrowed,
            hides_all_below: self.hides_all_below,
            describes_root: self.describes_root,
        })
    }

    /// Two entries can end at one place once the implied directories are where
    /// they belong; then it matters which came last.
    fn note_order(&mut self, path: EntryPath) {
        self.entries += 1;
        if !self.implied.is_empty() {
            self.order.insert(path, self.entries);
        }
    }

    fn make(
        &mut self,
        path: &[u8],
        node: Node,
        metadata: &Metadata,
        content: &mut impl Read,
    ) -> Result<(), Error> {
        if node == Node::Directory {
            return self.make_directory(path, metadata);
        }
        let (directory, name) = split(path);
        self.enter(directory)?;
        match node {
            Node::File => self.make_file(name, metadata, content),
            Node::Symlink(target) => self
                .make_anew(name, |parent| {
                    rustix::fs::symlinkat(target.as_slice(), parent, name)
                })
                .and_then(|()| set_metadata(self.parent(), name, metadata, Follows::Link))
                .map_err(Failure::from),
            Node::CharacterDevice(major, minor) => {
                let device = rustix::fs::makedev(major, minor);
                self.make_special(name, FileType::CharacterDevice, device, metadata)
            }
            Node::BlockDevice(major, minor) => {
                let device = rustix::fs::makedev(major, minor);
                self.make_special(name, FileType::BlockDevice, device, metadata)
            }
            Node::Fifo => self.make_special(name, FileType::Fifo, 0, metadata),
            Node::Directory => Ok(()),
        }
        .map_err(|failure| failure.of(path))?;
        self.inodes += 1;
        Ok(())
    }

    fn make_file(
        &mut self,
        name: &[u8],
        metadata: &Metadata,
        content: &mut impl Read,
    ) -> Result<(), Failure> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = None;
        self.make_anew(name, |parent| {
            let opened = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?;
            file = Some(File::from(opened));
            Ok(())
        })?;
        let Some(mut file) = file else {
            return Err(Failure::System(Errno::NOENT.into()));
        };
        loop {
            let count = match content.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => return Err(Failure::Archive(error)),
            };
            file.write_all(&self.buffer[..count])?;
            self.bytes += count as u64;
        }
        set_file_metadata(&file, metadata)?;
        Ok(())
    }

    fn make_special(
        &mut self,
        name: &[u8],
        kind: FileType,
        device: u64,
        metadata: &Metadata,
    ) -> Result<(), Failure> {
        self.make_anew(name, |parent| {
            rustix::fs::mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device)
        })?;
        set_metadata(self.parent(), name, metadata, Follows::Nothing)?;
        Ok(())
    }

    fn make_directory(&mut self, path: &[u8], metadata: &Metadata) -> Result<(), Error> {
        self.modified.insert(path.to_vec(), metadata.modified);
        self.implied.remove(path);
        if path.is_empty() {
            self.describes_root = true;
            return set_metadata(self.root.as_fd(), b".", metadata, Follows::Nothing)
                .context(|| "the layer's root");
        }
        let (directory, name) = split(path);
        self.enter(directory)?;
        let parent = self.parent();
        let made = match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Err(Errno::EXIST) => self.make_directory_instead(name),
            made => made.map(|()| self.inodes += 1),
        };
        made.and_then(|()| set_metadata(self.parent(), name, metadata, Follows::Nothing))
            .context(|| format!("the directory {} cannot be made", show(path)))
    }

    /// A directory stays. Anything else makes room, and if that was a whiteout
    /// the directory still hides what the layers below have there.
    fn make_directory_instead(&mut self, name: &[u8]) -> Result<(), Errno> {
        let there = rustix::fs::statat(self.parent(), name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
            return Ok(());
        }
        self.remove(name)?;
        rustix::fs::mkdirat(self.parent(), name, Mode::RWXU)?;
        if is_whiteout(&there) {
            set_attribute(self.parent(), name, OPAQUE.as_bytes(), b"y")?;
        }
        Ok(())
    }

    fn make_hard_link(&mut self, path: &[u8], target: EntryPath) -> Result<(), Error> {
        let (directory, name) = split(path);
        let (target_directory, target_name) = split(&target);
        let of = || format!("{} is a hard link to {}", show(path), show(&target));
        if path.is_empty() || target.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, of()));
        }
        if path == target {
            return Ok(());
        }
        self.enter(directory)?;
        let target_directory = match self.open_directory(target_directory) {
            Ok(directory) => Some(directory),
            Err(Errno::NOENT | Errno::NOTDIR) => None,
            Err(error) => return Err(error).context(of),
        };
        let linked = match &target_directory {
            Some(from) => self.make_anew(name, |parent| {
                rustix::fs::linkat(from, target_name, parent, name, AtFlags::empty())
            }),
            None => Err(Errno::NOENT),
        };
        match linked {
            Ok(()) => Ok(()),
            // The first name is in a layer below; it is looked up once those
            // are complete.
            Err(Errno::NOENT) => {
                self.borrowed.push((path.to_vec(), target));
                Ok(())
            }
            Err(error) => Err(error).context(of),
        }
    }

    /// Overlayfs's form of a whiteout: a character device 0:0.
    fn make_whiteout(&mut self, path: &[u8]) -> Result<(), Error> {
        let (directory, name) = split(path);
        self.enter(directory)?;
        let hidden = match make_whiteout_at(self.parent(), name) {
            // A whiteout speaks of the layers below, so what this layer has
            // itself stays; a directory shows none of what was there before.
            Err(Errno::EXIST) => {
                // Then the directory stands for no lower one.
                self.implied.remove(path);
                self.hide_below(name)
            }
            made => made.map(|()| self.inodes += 1),
        };
        hidden.context(|| format!("{} cannot be hidden", show(path)))
    }

    fn hide_below(&self, name: &[u8]) -> Result<(), Errno> {
        let there = rustix::fs::statat(self.parent(), name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(there.st_mode) {
            FileType::Directory => set_attribute(self.parent(), name, OPAQUE.as_bytes(), b"y"),
            _ => Ok(()),
        }
    }

    fn make_opaque(&mut self, directory: &[u8]) -> Result<(), Error> {
        // The root of an overlay has no such mark: the mount leaves the layers
        // below away instead.
        if directory.is_empty() {
            self.hides_all_below = true;
            return Ok(());
        }
        self.enter(directory)?;
        set_attribute(self.parent(), b".", OPAQUE.as_bytes(), b"y")
            .context(|| format!("{} cannot be made opaque", show(directory)))
    }

    /// Makes something under a name, in place of what has it.
    fn make_anew(
        &mut self,
        name: &[u8],
        mut make: impl FnMut(BorrowedFd<'_>) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        match make(self.parent()) {
            Err(Errno::EXIST) => {
                self.remove(name)?;
                make(self.parent())
            }
            made => made,
        }
    }

    /// Removes what has a name in the current directory, with all below it.
    fn remove(&mut self, name: &[u8]) -> Result<(), Errno> {
        // A descriptor outlives its directory's name: after the link `a` became
        // a directory, `a/b` must be looked up anew.
        self.replaced = true;
        remove_at(self.parent(), name, 0)
    }

    /// Makes `directory` the one that the next entry is made in.
    fn enter(&mut self, directory: &[u8]) -> Result<(), Error> {
        if let Some((path, _)) = &self.parent
            && !self.replaced
            && path == directory
        {
            return Ok(());
        }
        let opened = match self.open_directory(directory) {
            // Absent, or hidden: a whiteout is no directory.
            Err(Errno::NOENT | Errno::NOTDIR) => {
                self.imply(directory, MOST_LINKS)?;
                self.open_directory(directory)
            }
            opened => opened,
        };
        let descriptor =
            opened.context(|| format!("the directory {} cannot be entered", show(directory)))?;
        self.parent = Some((directory.to_vec(), descriptor));
        self.replaced = false;
        Ok(())
    }

    /// The directory that [`Tree::enter`] chose.
    fn parent(&self) -> BorrowedFd<'_> {
        match &self.parent {
            Some((_, descriptor)) => descriptor.as_fd(),
            None => self.root.as_fd(),
        }
    }

    fn open_directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        open_below(self.root.as_fd(), path, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Makes a directory that the archive uses without having listed it.
    fn imply(&mut self, path: &[u8], links_left: u32) -> Result<(), Error> {
        let failed = || format!("the directory {} cannot be made", show(path));
        if path.is_empty() || self.open_directory(path).is_ok() {
            return Ok(());
        }
        if links_left == 0 {
            return Err(Error::new(ErrorKind::Corrupt, failed()));
        }
        let (above, name) = split(path);
        self.imply(above, links_left)?;
        let parent = self.open_directory(above).context(failed)?;
        match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) => {}
            // A link to a directory that this layer does not have: it is made
            // where the link leads, as the container will see it.
            Err(Errno::EXIST) => {
                let there = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW);
                if is_whiteout(&there.context(failed)?) {
                    self.replaced = true;
                    return make_opaque_directory(parent.as_fd(), name).context(failed);
                }
                let link = rustix::fs::readlinkat(&parent, name, Vec::new()).context(failed)?;
                let target = link.as_bytes();
                let joined = match target.starts_with(b"/") {
                    true => target.to_vec(),
                    false => [above, b"/", target].concat(),
                };
                return self.imply(&clamp_path(&joined), links_left - 1);
            }
            Err(error) => return Err(error).context(failed),
        }
        rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(0o755), AtFlags::empty())
            .context(failed)?;
        self.implied.insert(path.to_vec());
        self.inodes += 1;
        Ok(())
    }
}

/// Resolves a link's path by its text as a lookup would: above `/` is `/`.
fn clamp_path(raw: &[u8]) -> EntryPath {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in raw.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// Removes a name and all below it without following a link. `depth` guards
/// the stack against an archive of very deep directories.
fn remove_at(parent: BorrowedFd<'_>, name: &[u8], depth: u32) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) if depth < 512 => {}
        removed => return removed,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    for name in names_in(&directory)? {
        remove_at(directory.as_fd(), &name, depth + 1)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Who is to blame decides what the caller hears.
enum Failure {
    Archive(io::Error),
    System(io::Error),
}

impl Failure {
    fn of(self, path: &[u8]) -> Error {
        let what = format!("{} cannot be made", show(path));
        match self {
            Failure::Archive(error) => damaged(error).within(what),
            Failure::System(error) => match Err::<(), _>(error).context(|| what) {
                Err(error) => error,
                Ok(()) => Error::new(ErrorKind::Os, "nothing failed"),
            },
        }
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Failure {
        Failure::System(error.into())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::System(error)
    }
}
