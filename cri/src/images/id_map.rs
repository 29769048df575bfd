//! An image's files, with the owners that a user namespace sees.
//!
//! On disk a layer's files belong to 0 and to the other ids that the image's
//! builder had. In a pod with a user namespace 0 is, say, 131072 on the host, and
//! what belongs to the host's 0 is foreign there. To change the owner of each
//! file would copy the layer for each pod. Instead the layer is mounted once more
//! with its owners moved (`MOUNT_ATTR_IDMAP`), and overlayfs builds on that mount:
//!
//! ```text
//! layers/HEX/diff ──open_tree(CLONE)──▶ a mount attached nowhere
//!                 ──mount_setattr(IDMAP, the pod's user namespace)
//!                 ──fsconfig(SET_FD, "lowerdir+")──▶ overlay of this container
//! ```
//!
//! The layer itself is not written and stays shared by pods with other maps.
//!
//! Why not the other way round, a map on the overlay's own mount? Overlayfs
//! cannot be mapped (it lacks `FS_ALLOW_IDMAP`, also in Linux 6.18), but takes
//! mapped mounts as its layers since 5.19, and by descriptor, without a place in
//! the tree, since 6.15. Before that each is attached over its own layer for the
//! moment in which the overlay is made, in a mount namespace of a thread's own
//! ([`in_own_mounts`]): nobody else sees them there, and they go with the thread.
//! Why is `upper` not mapped as well? It could be; but then
//! a file that root of a container wrote would be root's on the host's disk,
//! set-user-id bit and all. As it is, nothing that a pod writes ever belongs to
//! an id of the host's.
//!
//! Read more: mount_setattr(2), "ID-mapped mounts"; the kernel's
//! `Documentation/filesystems/idmappings.rst` and `overlayfs.rst`.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use berth_runtime::plan::mappings::{Mappings, outside_of};
use berth_runtime::sys::mount::{Depth, open_tree_clone, set_idmap, set_root_propagation};
use berth_runtime::sys::path::{open_host, open_readable};
use berth_runtime::sys::process::unshare;
use nix::{libc, sched::CloneFlags};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_string, fsopen};

use super::error::{Error, ErrorKind};

/// The ids of a pod.
#[derive(Debug)]
pub struct IdMap {
    namespace: OwnedFd,
    mappings: Mappings,
}

impl IdMap {
    /// The map of the user namespace that a file stands for.
    ///
    /// # Errors
    ///
    /// `Os` when the namespace is gone.
    pub fn open(namespace: &Path, mappings: Mappings) -> Result<IdMap, Error> {
        let opened = open_readable(namespace);
        let namespace = opened.map_err(|error| {
            Error::caused(ErrorKind::Os, "the pod's user namespace is gone", error)
        })?;
        Ok(IdMap {
            namespace,
            mappings,
        })
    }

    /// The ids on the host of an owner in the image.
    ///
    /// What is not mapped has no owner inside; on disk it keeps the one it has.
    pub(crate) fn owner(&self, uid: u32, gid: u32) -> (u32, u32) {
        (
            outside_of(&self.mappings.uids, uid).unwrap_or(uid),
            outside_of(&self.mappings.gids, gid).unwrap_or(gid),
        )
    }

    /// A directory with its owners moved, as a mount that is attached nowhere.
    pub(crate) fn mount(&self, directory: &Path) -> Result<OwnedFd, Error> {
        let mapped = open_host(directory)
            .and_then(|opened| open_tree_clone(opened.as_fd(), Depth::One))
            .and_then(|tree| {
                set_idmap(tree.as_fd(), Depth::One, self.namespace.as_fd())?;
                Ok(tree)
            });
        mapped.map_err(|error| {
            let what = format!(
                "{} cannot be mounted with the ids of a user namespace (its file system has to \
                 know id-mapped mounts: ext4, xfs, btrfs, tmpfs, …)",
                directory.display()
            );
            Error::caused(ErrorKind::Os, what, error)
        })
    }
}

/// Does something in a copy of the mount namespace that ends with it.
pub(crate) fn in_own_mounts<T: Send>(
    work: impl FnOnce() -> Result<T, Errno> + Send,
) -> Result<T, Errno> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS)
                .and_then(|()| set_root_propagation(libc::MS_PRIVATE | libc::MS_REC))
                .map_err(|error| Errno::from_raw_os_error(error.errno() as i32))?;
            work()
        });
        thread.join().unwrap_or(Err(Errno::IO))
    })
}

/// Whether the kernel builds an overlay on id-mapped mounts. Nothing is mounted.
pub(crate) fn probe(first: &Path, second: &Path) -> Result<(), Error> {
    match probe_detached(first, second) {
        // They have to be attached for it.
        Err(Errno::INVAL | Errno::OPNOTSUPP) if knows_mapped_layers() => Ok(()),
        found => found.map_err(|errno| {
            let what = "the kernel builds no overlay on id-mapped mounts (Linux 5.19)";
            Error::caused(ErrorKind::Unsupported, what, errno)
        }),
    }
}

/// Whether overlayfs takes id-mapped mounts at all: since Linux 5.19. To try it takes a
/// user namespace, and this process has too many threads to make one.
fn knows_mapped_layers() -> bool {
    let found = rustix::system::uname();
    let release = found.release().to_string_lossy();
    let mut numbers = release
        .split(|character: char| !character.is_ascii_digit())
        .map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(5), Some(19))
}

/// Whether it takes mounts that are attached nowhere: two directories of the store are
/// tried.
fn probe_detached(first: &Path, second: &Path) -> Result<(), Errno> {
    let clone = |path| -> Result<OwnedFd, Errno> {
        let opened = open_host(path).map_err(|_| Errno::NOENT)?;
        open_tree_clone(opened.as_fd(), Depth::One).map_err(|_| Errno::PERM)
    };
    let (first, second) = (clone(first)?, clone(second)?);
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&overlay, "source", "overlay")?;
    fsconfig_set_fd(&overlay, "lowerdir+", &first)?;
    fsconfig_set_fd(&overlay, "lowerdir+", &second)?;
    fsconfig_create(&overlay)
}
