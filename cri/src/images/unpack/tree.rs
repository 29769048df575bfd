//! A directory that an archive's entries fill and never leave.
//!
//! An archive can hold `a -> /etc` and then `a/passwd`. Resolved by ordinary
//! lookups, the second entry is the host's file (CVE-2019-14271 and its many
//! kin). `openat2(2)` with `RESOLVE_IN_ROOT` (Linux 5.6) makes the kernel
//! itself take the layer's directory for `/` during the lookup: absolute links
//! and `..` stay inside, and `RESOLVE_NO_MAGICLINKS` shuts the side door of
//! `/proc/PID/root`. A path check done beforehand could be out of date by the
//! time of the call; this one *is* the call.
//!
//! So the directory of each entry is opened that way, and the entry itself is
//! made by one name below that descriptor, never following what is there.
//! Archives list a directory's files one after the other, so the last
//! directory's descriptor is kept and most entries need no lookup at all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::images::error::{Context, Error, ErrorKind};
use crate::images::unpack::damaged;
use crate::images::unpack::entry::{Change, EntryPath, Metadata, Node, show, split};

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

/// Links in a path that lead to links: the kernel's own limit.
pub(crate) const MOST_LINKS: u32 = 40;
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";
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

/// Opens something below a directory that the lookup takes for `/`.
pub(crate) fn open_below(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    open_resolving(root, path, flags, ResolveFlags::NO_MAGICLINKS)
}

/// As [`open_below`], with a further word on what the lookup may follow.
pub(crate) fn open_resolving(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    follows: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let path: &[u8] = if path.is_empty() { b"." } else { path };
    let (flags, resolve) = (flags | OFlags::CLOEXEC, ResolveFlags::IN_ROOT | follows);
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // The kernel could not rule out a rename during the lookup of "..".
            Err(Errno::AGAIN) => {}
            opened => return opened,
        }
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

/// Makes a directory in place of a whiteout: what is below stays hidden.
pub(crate) fn make_opaque_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    rustix::fs::chmodat(parent, name, Mode::from_raw_mode(0o755), AtFlags::empty())?;
    set_attribute(parent, name, OPAQUE.as_bytes(), b"y")
}

/// Makes a whiteout under a name that is free.
fn make_whiteout_at(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::mknodat(
        parent,
        name,
        FileType::CharacterDevice,
        Mode::empty(),
        rustix::fs::makedev(0, 0),
    )
}

pub(crate) fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
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

/// The names in a directory that was opened for reading.
pub(crate) fn names_in(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// What is done to a link itself: it has an owner and a time, but no mode.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follows {
    /// The name is a symbolic link.
    Link,
    /// The name is something else.
    Nothing,
}

/// Owner first, for a change of owner takes set-id bits and capabilities away;
/// then the mode and the attributes; the time last.
pub(crate) fn set_metadata(
    parent: BorrowedFd<'_>,
    name: &[u8],
    metadata: &Metadata,
    follows: Follows,
) -> Result<(), Errno> {
    let (uid, gid) = owner(metadata);
    if let Some(uid) = uid {
        rustix::fs::chownat(parent, name, Some(uid), gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if follows == Follows::Nothing {
        let mode = Mode::from_raw_mode(metadata.mode);
        rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
    }
    for (attribute, value) in &metadata.attributes {
        set_attribute(parent, name, attribute, value).or_else(unless_foreign)?;
    }
    let times = timestamps(metadata.modified);
    rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// As [`set_metadata`], for a file that is open.
pub(crate) fn set_file_metadata(file: &File, metadata: &Metadata) -> Result<(), Errno> {
    let (uid, gid) = owner(metadata);
    if let Some(uid) = uid {
        rustix::fs::fchown(file, Some(uid), gid)?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(metadata.mode))?;
    for (name, value) in &metadata.attributes {
        rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty())
            .or_else(unless_foreign)?;
    }
    rustix::fs::futimens(file, &timestamps(metadata.modified))
}

/// Nobody, if it is root: what we make is root's already.
fn owner(metadata: &Metadata) -> (Option<Uid>, Option<Gid>) {
    match (metadata.uid, metadata.gid) {
        (0, 0) => (None, None),
        (uid, gid) => (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))),
    }
}

/// A file system without an attribute's kind, or a security module that is not
/// loaded here, is no reason to refuse the image.
fn unless_foreign(error: Errno) -> Result<(), Errno> {
    match error {
        Errno::OPNOTSUPP => Ok(()),
        error => Err(error),
    }
}

/// There is no call that sets an attribute below a descriptor without opening
/// the file, which for a device or a fifo has effects. `/proc/self/fd/N/NAME`
/// names it all the same, and `lsetxattr(2)` does not follow the last part.
pub(crate) fn set_attribute(
    parent: BorrowedFd<'_>,
    name: &[u8],
    attribute: &[u8],
    value: &[u8],
) -> Result<(), Errno> {
    let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    rustix::fs::lsetxattr(path, attribute, value, XattrFlags::empty())
}

/// Sets when a directory was changed.
pub(crate) fn set_modified(directory: &OwnedFd, modified: (i64, i64)) -> Result<(), Errno> {
    let times = timestamps(modified);
    rustix::fs::utimensat(directory, "", &times, AtFlags::EMPTY_PATH)
        // Before Linux 5.8 the call wants a name.
        .or_else(|_| rustix::fs::utimensat(directory, ".", &times, AtFlags::empty()))
}

fn timestamps((seconds, nanoseconds): (i64, i64)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
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
