//! Stage `bind-root`: the rootfs is a mount of its own.
//!
//! `pivot_root(2)` takes only a mount, and a rootfs is often a plain directory.
//! A copy of the mount that it lies on, rooted at it, makes it one. The copy is
//! made private first, for a shared mount cannot become a root.
//!
//! A container without a mount namespace is in the host's, and nothing may be
//! attached there: it would be seen by all, and be left behind by an init that is
//! killed. So the copy is attached nowhere. Since Linux 6.15 a tree that hangs by
//! a descriptor can be mounted into like any other; `enter-root` makes it `/`.
//! When the descriptor is closed the kernel takes the tree out of its namespace but
//! leaves it connected for those whose root it is, and frees it, with all mounts,
//! when the last of them ends. The host's table of mounts never shows any of it, and
//! `delete` has nothing to take away. (runc and crun mount into the host's tree
//! and leave the mounts there.) Try `ls /proc/PID/root` beside `findmnt`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use crate::init::Init;
use crate::mountinfo;
use crate::stage::{Run, Stage, StageError};
use crate::sys::call::SyscallError;
use crate::sys::mount::{AttributeChange, Depth};
use crate::sys::{mount, path};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "bind-root",
    effect: "the rootfs is a mount of its own, held by a descriptor",
    after: &["quiet-mounts"],
    see: &["open_tree(2)", "move_mount(2)", "OCI config.md#root"],
    run: Run::Init(bind_root),
};

fn bind_root(init: &mut Init) -> Result<(), StageError> {
    if let Some(tree) = init.handed.root.take() {
        return bind_handed(init, tree);
    }
    let rootfs = init.plan.rootfs.as_path();
    if init.plan.namespaces.shares_mounts() {
        let directory = path::open_host(rootfs)?;
        refuse_attached(directory.as_fd())?;
        init.root = Some(copy_tree(init, directory.as_fd(), Depth::Recursive)?);
        return Ok(());
    }
    if init.plan.root_propagation & libc::MS_SHARED != 0 {
        // The tree is still a peer of the host's where the configuration wants
        // it so; then at least the mount under the rootfs must not tell.
        quiet_mount_of(rootfs)?;
    }
    let directory = path::open_host(rootfs)?;
    let tree = mount::open_tree_clone(directory.as_fd(), Depth::Recursive)?;
    let private = AttributeChange {
        propagation: libc::MS_PRIVATE,
        ..AttributeChange::default()
    };
    mount::mount_setattr(tree.as_fd(), Depth::One, private)?;
    mount::move_mount(tree.as_fd(), directory.as_fd())?;
    // The descriptor of the copy goes on to stand for it now that it is attached.
    init.root = Some(tree);
    Ok(())
}

/// Whoever has no mount namespace has its mounts on a tree that is attached nowhere, so
/// that the host sees none of them. Linux before 6.15 attaches nothing to such a tree.
fn refuse_attached(directory: BorrowedFd<'_>) -> Result<(), StageError> {
    let (tree, other) = (
        mount::open_tree_clone(directory, Depth::One)?,
        mount::open_tree_clone(directory, Depth::One)?,
    );
    match mount::move_mount(other.as_fd(), tree.as_fd()) {
        Err(error) if error.errno() == Errno::EINVAL => Err(StageError::Refused(
            "linux.namespaces: expected one of type mount: only from Linux 6.15 on can a \
             container without it have mounts that the host does not see"
                .to_owned(),
        )),
        outcome => Ok(outcome?),
    }
}

/// A copy of some of the host's mounts, attached nowhere yet. Where the container
/// has no mount namespace, and `quiet-mounts` therefore nothing to quieten, the copy
/// stops here to tell the host: a mount below a peer would show up there.
///
/// # Errors
///
/// As `open_tree(2)` and `mount_setattr(2)`.
pub fn copy_tree(
    init: &Init,
    source: BorrowedFd<'_>,
    depth: Depth,
) -> Result<OwnedFd, SyscallError> {
    let tree = mount::open_tree_clone(source, depth)?;
    quieten(init, tree.as_fd())?;
    Ok(tree)
}

/// The same for a copy that somebody else has made.
///
/// # Errors
///
/// As `mount_setattr(2)`.
pub fn quieten(init: &Init, tree: BorrowedFd<'_>) -> Result<(), SyscallError> {
    if !init.plan.namespaces.shares_mounts() {
        return Ok(());
    }
    let quiet = AttributeChange {
        propagation: init.plan.root_propagation & !libc::MS_REC,
        ..AttributeChange::default()
    };
    mount::mount_setattr(tree, Depth::Recursive, quiet)
}

/// The runtime has opened the rootfs, which init may have no way to: its root of a
/// user namespace may not pass through the folders above. Any place will do to
/// attach it, for `pivot_root(2)` asks only that it is attached; `/` is the one
/// that is always there, and what lies on it is out of the way of all paths.
fn bind_handed(init: &mut Init, tree: OwnedFd) -> Result<(), StageError> {
    let private = AttributeChange {
        propagation: libc::MS_PRIVATE,
        ..AttributeChange::default()
    };
    let top = path::open_host(Path::new("/"))?;
    mount::mount_setattr(top.as_fd(), Depth::One, private)?;
    mount::mount_setattr(tree.as_fd(), Depth::One, private)?;
    mount::move_mount(tree.as_fd(), top.as_fd())?;
    init.root = Some(tree);
    Ok(())
}

/// Makes the mount private that a path lies on: the longest mount point of
/// `/proc/self/mountinfo` that the path begins with.
fn quiet_mount_of(rootfs: &Path) -> Result<(), StageError> {
    let file = "/proc/self/mountinfo";
    let table = std::fs::read(file).map_err(|source| StageError::File {
        path: file.to_owned(),
        source,
    })?;
    let resolved = std::fs::canonicalize(rootfs).map_err(|source| StageError::File {
        path: rootfs.display().to_string(),
        source,
    })?;
    let holder = mountinfo::mount_points(&table)
        .filter(|point| resolved.starts_with(point))
        .max_by_key(|point| point.as_os_str().len());
    let Some(holder) = holder else { return Ok(()) };
    let opened = path::open_host(&holder)?;
    let private = AttributeChange {
        propagation: libc::MS_PRIVATE,
        ..AttributeChange::default()
    };
    Ok(mount::mount_setattr(opened.as_fd(), Depth::One, private)?)
}
