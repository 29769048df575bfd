//! A container's own view of its image: an overlay.
//!
//! ```text
//! target = overlay ┬ upper  snapshots/CONTAINER/upper   what the container writes
//!                  ├ lower  layers/HEX3/diff            shared, never written
//!                  ├ lower  layers/HEX2/diff
//!                  └ lower  layers/HEX1/diff
//! ```
//!
//! The classic `mount(2)` takes all lower directories in one string of at most
//! a page, colons between them, which an image of sixty layers outgrows. The
//! calls of the new mount interface (`fsopen(2)`, `fsconfig(2)`, Linux 5.2) take
//! one directory at a time by the key `lowerdir+` (Linux 6.5). Older kernels get
//! the one string, with each directory written as `/proc/self/fd/N`.
//!
//! A pod with a user namespace gets its layers with the owners moved
//! (`id_map.rs`).
//!
//! The overlay is mounted `volatile` (Linux 5.10): what a container writes is given up
//! with the container, at the latest after a loss of power, so nothing in it is worth
//! bringing to the disk. Without the word each `umount(2)` brings the whole file system
//! of the snapshots to the disk first, and with it the image that is pulled beside it.
//!
//! The record `snapshot.json` stands before the mount does: a layer that a
//! record names is not deleted, whatever happens to the image's name.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use berth_runtime::whole_file;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string,
};

use crate::images::Usage;
use crate::images::digest::Digest;
use crate::images::disk;
use crate::images::error::{Context, Error, ErrorKind};
use crate::images::id_map::{IdMap, in_own_mounts};
use crate::images::store::{SnapshotRecord, Store, read_json, remove_tree};

/// The overlay's word for "nothing of this has to reach the disk".
const VOLATILE: &str = "volatile";

/// The directories of one snapshot.
#[derive(Debug)]
struct Snapshot {
    directory: PathBuf,
}

impl Snapshot {
    fn of(store: &Store, container_id: &str) -> Result<Snapshot, Error> {
        let is_name = !container_id.is_empty()
            && !container_id.starts_with('.')
            && container_id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if !is_name {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("the container's id {container_id:?} cannot name a directory"),
            ));
        }
        Ok(Snapshot {
            directory: store.snapshots().join(container_id),
        })
    }

    fn upper(&self) -> PathBuf {
        self.directory.join("upper")
    }

    fn work(&self) -> PathBuf {
        self.directory.join("work")
    }

    fn record(&self) -> PathBuf {
        self.directory.join(SNAPSHOT_FILE)
    }

    /// Whether it was made whole.
    fn exists(&self) -> bool {
        is_recorded(&self.record())
    }
}

/// The record's name in a snapshot's directory.
pub(super) const SNAPSHOT_FILE: &str = "snapshot.json";

/// Whether a snapshot has a record that tells something. It is brought to the disk when the
/// kernel has time: after a loss of power nothing is mounted, and an empty one names nothing.
pub(super) fn is_recorded(record: &Path) -> bool {
    fs::metadata(record).is_ok_and(|file| file.len() > 0)
}

/// Where a snapshot is mounted, and with whose owners.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    /// The directory.
    pub path: &'a Path,
    /// The user namespace that looks at it; none is the host's.
    pub ids: Option<&'a IdMap>,
}

/// Mounts a container's root file system onto a directory. A snapshot that is
/// there from before keeps what the container wrote.
pub(crate) fn mount(
    store: &Store,
    container_id: &str,
    image: &Digest,
    target: &Target<'_>,
) -> Result<(), Error> {
    let snapshot = Snapshot::of(store, container_id)?;
    let existed = snapshot.exists();
    let record = ensure_snapshot(store, &snapshot, image, target.ids)?;
    let path = target.path;
    let mounted = lower_directories(store, &snapshot, &record.layers).and_then(|lower| {
        fs::create_dir_all(path)
            .context(|| format!("the directory {} cannot be made", path.display()))?;
        let told = || format!("the image cannot be mounted on {}", path.display());
        match target.ids {
            None => mount_overlay(&lower, &snapshot, path).context(told),
            Some(ids) => mount_mapped(&lower, &snapshot, path, ids)?.context(told),
        }
    });
    if mounted.is_err() && !existed {
        // The failure above is the one to report.
        let _ = remove_tree(&snapshot.directory);
    }
    mounted
}

/// Unmounts it and removes what the container wrote. Succeeds if all is gone.
pub(crate) fn unmount(store: &Store, container_id: &str, target: &Path) -> Result<(), Error> {
    let snapshot = Snapshot::of(store, container_id)?;
    loop {
        match rustix::mount::unmount(target, UnmountFlags::DETACH) {
            // There may be one on top of another.
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(error) => {
                return Err(error).context(|| format!("{} stays mounted", target.display()));
            }
        }
    }
    store.remove_snapshot(&snapshot.directory)
}

/// What a container wrote.
pub(crate) fn usage(store: &Store, container_id: &str) -> Result<Usage, Error> {
    let snapshot = Snapshot::of(store, container_id)?;
    let upper = snapshot.upper();
    if !upper.exists() {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("the container {container_id} has no snapshot"),
        ));
    }
    tree_usage(&upper)
}

/// What a tree takes on disk. Each inode counts once, however many names it
/// has; files that go away meanwhile do not count.
pub(crate) fn tree_usage(root: &Path) -> Result<Usage, Error> {
    let mut usage = Usage::default();
    let mut seen = BTreeSet::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if seen.insert((metadata.dev(), metadata.ino())) {
            usage.bytes += metadata.blocks() * 512;
            usage.inodes += 1;
        }
        if metadata.is_dir() {
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(error).context(|| format!("{} cannot be listed", path.display()));
                }
            };
            left.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    Ok(usage)
}

fn ensure_snapshot(
    store: &Store,
    snapshot: &Snapshot,
    image: &Digest,
    ids: Option<&IdMap>,
) -> Result<SnapshotRecord, Error> {
    if snapshot.exists() {
        forget_volatile(snapshot)?;
        return read_json(&snapshot.record());
    }
    // Under the lock, so that a removal of the image sees either no snapshot
    // and we find no image, or the snapshot and leaves the layers.
    let locked = store.lock_index()?;
    let found = locked
        .index
        .images
        .iter()
        .find(|record| record.id == *image);
    let Some(found) = found else {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("the image {image} is not in the store"),
        ));
    };
    let record = SnapshotRecord {
        image: image.clone(),
        layers: found.layers.clone(),
    };
    let made = create_directories(store, snapshot, &record, ids).and_then(|()| {
        let text = serde_json::to_vec(&record)
            .map_err(|error| Error::caused(ErrorKind::Os, "snapshot.json is not written", error))?;
        let path = snapshot.record();
        whole_file::replace(&path, &text, 0o600)
            .context(|| format!("{} is not written", path.display()))
    });
    if let Err(error) = made {
        // The failure above is the one to report.
        let _ = remove_tree(&snapshot.directory);
        return Err(error);
    }
    Ok(record)
}

/// Lets a snapshot be mounted again: the kernel refuses a work directory that was
/// mounted `volatile`, since after a loss of power the upper one may hold half of what was
/// written. Only a maker that was killed since the boot comes back to a snapshot.
fn forget_volatile(snapshot: &Snapshot) -> Result<(), Error> {
    remove_tree(&snapshot.work().join("work/incompat"))
}

fn create_directories(
    store: &Store,
    snapshot: &Snapshot,
    record: &SnapshotRecord,
    ids: Option<&IdMap>,
) -> Result<(), Error> {
    disk::ensure_private_directory(&snapshot.upper())?;
    disk::ensure_private_directory(&snapshot.work())?;
    // The upper directory's owner and mode are those of the container's `/`.
    let upper = snapshot.upper();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&upper, mode).context(|| format!("{}", upper.display()))?;
    let mut described = None;
    for chain in record.layers.iter().rev() {
        if store.read_layer(chain)?.describes_root {
            described = Some(store.layer_diff(chain));
            break;
        }
    }
    describe_root(described.as_deref(), &upper, ids)
        .context(|| format!("{} cannot be prepared", upper.display()))
}

/// Gives the upper directory the owner and mode of a layer's `/`, else root's.
fn describe_root(from: Option<&Path>, upper: &Path, ids: Option<&IdMap>) -> std::io::Result<()> {
    let metadata = from.map(fs::metadata).transpose()?;
    let owner = metadata
        .as_ref()
        .map_or((0, 0), |metadata| (metadata.uid(), metadata.gid()));
    let (uid, gid) = ids.map_or(owner, |ids| ids.owner(owner.0, owner.1));
    std::os::unix::fs::chown(upper, Some(uid), Some(gid))?;
    match metadata {
        Some(metadata) => fs::set_permissions(upper, metadata.permissions()),
        None => Ok(()),
    }
}

/// The directories below, the nearest first, as overlayfs wants them.
fn lower_directories(
    store: &Store,
    snapshot: &Snapshot,
    layers: &[Digest],
) -> Result<Vec<PathBuf>, Error> {
    // Overlayfs wants at least one, and an image may have no layer at all.
    if layers.is_empty() {
        let empty = snapshot.directory.join("empty");
        disk::ensure_private_directory(&empty)?;
        return Ok(vec![empty]);
    }
    store.visible_layers(layers)
}

fn mount_overlay(lower: &[PathBuf], snapshot: &Snapshot, target: &Path) -> Result<(), Errno> {
    match mount_step_by_step(lower, snapshot, target) {
        // The kernel knows the calls but not the key (before 6.5), or not even
        // the calls.
        Err(Errno::INVAL | Errno::NOSYS) => mount_by_string(lower, snapshot, target),
        mounted => mounted,
    }
}

fn mount_step_by_step(lower: &[PathBuf], snapshot: &Snapshot, target: &Path) -> Result<(), Errno> {
    let overlay = open_overlay()?;
    for directory in lower {
        fsconfig_set_string(&overlay, "lowerdir+", directory)?;
    }
    attach(&build(&overlay, snapshot)?, target)
}

/// The same with each lower directory as a mount whose owners are moved.
fn mount_mapped(
    lower: &[PathBuf],
    snapshot: &Snapshot,
    target: &Path,
    ids: &IdMap,
) -> Result<Result<(), Errno>, Error> {
    let trees: Vec<OwnedFd> = lower
        .iter()
        .map(|directory| ids.mount(directory))
        .collect::<Result<_, _>>()?;
    let built = match build_on_trees(&trees, snapshot) {
        // The kernel wants to find the mounts in the mount namespace (before 6.15).
        Err(Errno::INVAL | Errno::OPNOTSUPP) => {
            build_in_own_mounts(lower, &trees, snapshot, target)
        }
        built => built,
    };
    Ok(built.and_then(|overlay| attach(&overlay, target)))
}

/// An overlay on mounts that are attached nowhere, which overlayfs takes by their
/// descriptors (Linux 6.15); it has copies of them once it is made.
fn build_on_trees(trees: &[OwnedFd], snapshot: &Snapshot) -> Result<OwnedFd, Errno> {
    let overlay = open_overlay()?;
    for tree in trees {
        fsconfig_set_fd(&overlay, "lowerdir+", tree)?;
    }
    build(&overlay, snapshot)
}

/// An overlay on the same mounts, each attached over its directory for that moment, in
/// a mount namespace that nobody else sees.
fn build_in_own_mounts(
    lower: &[PathBuf],
    trees: &[OwnedFd],
    snapshot: &Snapshot,
    target: &Path,
) -> Result<OwnedFd, Errno> {
    in_own_mounts(|| {
        for (directory, tree) in lower.iter().zip(trees) {
            attach(tree, directory)?;
        }
        mount_overlay(lower, snapshot, target)?;
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        rustix::mount::open_tree(rustix::fs::CWD, target, clone)
    })
}

fn open_overlay() -> Result<OwnedFd, Errno> {
    let overlay = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&overlay, "source", "overlay")?;
    Ok(overlay)
}

/// The overlay's mount, attached nowhere.
fn build(overlay: &OwnedFd, snapshot: &Snapshot) -> Result<OwnedFd, Errno> {
    fsconfig_set_string(overlay, "upperdir", snapshot.upper())?;
    fsconfig_set_string(overlay, "workdir", snapshot.work())?;
    match fsconfig_set_flag(overlay, VOLATILE) {
        // The kernel does not know the word (before 5.10).
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error),
    }
    fsconfig_create(overlay)?;
    rustix::mount::fsmount(
        overlay,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
}

fn attach(mount: &OwnedFd, target: &Path) -> Result<(), Errno> {
    rustix::mount::move_mount(
        mount,
        "",
        rustix::fs::CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

fn mount_by_string(lower: &[PathBuf], snapshot: &Snapshot, target: &Path) -> Result<(), Errno> {
    let open = |path: &Path| -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
    };
    let name = |descriptor: &OwnedFd| format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    let lower: Vec<OwnedFd> = lower
        .iter()
        .map(|path| open(path))
        .collect::<Result<_, _>>()?;
    let (upper, work) = (open(&snapshot.upper())?, open(&snapshot.work())?);
    let names: Vec<String> = lower.iter().map(name).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        names.join(":"),
        name(&upper),
        name(&work)
    );
    let mount = |options: String| {
        let options = CString::new(options).map_err(|_| Errno::INVAL)?;
        let flags = MountFlags::empty();
        rustix::mount::mount("overlay", target, "overlay", flags, options.as_c_str())
    };
    match mount(format!("{options},{VOLATILE}")) {
        Err(Errno::INVAL) => mount(options),
        mounted => mounted,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use berth_runtime::sys::mount::{Depth, open_tree_clone};
    use berth_runtime::sys::path::open_host;

    use super::*;

    /// As on a kernel that takes no mounts which are attached nowhere.
    #[test]
    fn an_overlay_is_built_on_mounts_that_nobody_sees() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let snapshot = Snapshot {
            directory: make("snapshot"),
        };
        for place in [snapshot.upper(), snapshot.work()] {
            fs::create_dir_all(place).unwrap();
        }
        // What is attached over each has another file than what is below.
        let lower = ["one", "two"].map(make);
        let trees = ["one", "two"].map(|name| {
            let shown = make(&format!("shown-{name}"));
            fs::write(shown.join(name), "").unwrap();
            let opened = open_host(&shown).unwrap();
            open_tree_clone(opened.as_fd(), Depth::One).unwrap()
        });
        let target = make("target");
        let overlay = build_in_own_mounts(&lower, &trees, &snapshot, &target).unwrap();
        assert!(!lower[0].join("one").exists() && !target.join("one").exists());
        attach(&overlay, &target).unwrap();
        assert!(target.join("one").exists() && target.join("two").exists());
        fs::write(target.join("new"), "").unwrap();
        assert!(snapshot.upper().join("new").exists());
        rustix::mount::unmount(&target, UnmountFlags::DETACH).unwrap();
    }
}
