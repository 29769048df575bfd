//! Stage `mount-rest`: the container's own cgroups, and the mounts after them.
//!
//! What is shown at `/sys/fs/cgroup` is a bind of the container's own groups.
//! A fresh mount of each v1 hierarchy from within the namespace shows the same,
//! but costs a superblock each, which the kernel makes and frees slowly.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::bind_root::copy_tree;
use super::mount_tree::{attach, first_of_cgroups, make_filesystem, mount_all};
use crate::init::Init;
use crate::plan::labels::MountLabel;
use crate::plan::mounts::MountPlan;
use crate::plan::options::OptionPlan;
use crate::stage::{Run, Stage, StageError};
use crate::sys::call::SyscallError;
use crate::sys::mount::{self, AttributeChange, Depth};
use crate::sys::path::{self, Missing};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "mount-rest",
    effect: "the container sees its own cgroups, and all mounts are in place",
    after: &["own-cgroup", "mount-tree"],
    see: &["cgroups(7)", "OCI config-linux.md#control-groups"],
    run: Run::Init(mount_rest),
};

fn mount_rest(init: &mut Init) -> Result<(), StageError> {
    let first = first_of_cgroups(&init.plan.mounts);
    mount_all(init, first, init.plan.mounts.len())?;
    ensure_cwd(init)
}

/// Shows the container's own groups: on v2 the one directory, on v1 a tmpfs with
/// a directory for each hierarchy.
///
/// # Errors
///
/// Those of the mounts.
pub fn mount_cgroups(
    init: &Init,
    root: BorrowedFd<'_>,
    plan: &MountPlan,
) -> Result<(), SyscallError> {
    let place = plan.destination.as_path();
    let mut change = plan.options.attributes;
    if init.plan.mappings.is_some() {
        // Binds in a user namespace keep the access times of the host's mount, which
        // are locked and mean nothing here.
        change.set &= !libc::MOUNT_ATTR__ATIME;
        change.clear &= !libc::MOUNT_ATTR__ATIME;
    }
    if let [(_, directory)] = init.cgroups.as_slice() {
        return bind_group(init, (root, place), directory, change);
    }
    let mode = ("mode".to_owned(), Some("755".to_owned()));
    let label = init.plan.mount_label.iter().map(MountLabel::as_option);
    let options = OptionPlan {
        attributes: AttributeChange {
            set: change.set & !libc::MOUNT_ATTR_RDONLY,
            ..change
        },
        filesystem: std::iter::once(mode).chain(label).collect(),
        ..OptionPlan::default()
    };
    let top = make_filesystem("tmpfs", "tmpfs", &options)?;
    // A tree that no namespace holds can be mounted into, but what is mounted there
    // cannot be changed any more; elsewhere it is the other way round before Linux 6.15.
    let attach_last = init.plan.namespaces.shares_mounts();
    if !attach_last {
        attach(root, place, top.as_fd())?;
    }
    for (name, directory) in &init.cgroups {
        bind_group(init, (top.as_fd(), name), directory, change)?;
        link_names(&top, name)?;
    }
    mount::mount_setattr(top.as_fd(), Depth::One, change)?;
    if attach_last {
        attach(root, place, top.as_fd())?;
    }
    Ok(())
}

fn bind_group(
    init: &Init,
    (root, place): (BorrowedFd<'_>, &Path),
    directory: &Path,
    change: AttributeChange,
) -> Result<(), SyscallError> {
    let source = path::open_host(directory)?;
    let tree = copy_tree(init, source.as_fd(), Depth::One)?;
    mount::mount_setattr(tree.as_fd(), Depth::One, change)?;
    attach(root, place, tree.as_fd()).map(drop)
}

/// `cpu,cpuacct` is also found as `cpu` and as `cpuacct`.
fn link_names(top: &std::os::fd::OwnedFd, name: &Path) -> Result<(), SyscallError> {
    let text = name.to_string_lossy();
    if !text.contains(',') {
        return Ok(());
    }
    for part in text.split(',') {
        path::create_link(name, top.as_fd(), Path::new(part))?;
    }
    Ok(())
}

/// The working directory is made where an image lacks it, as callers expect;
/// here, because the root may be read-only later.
fn ensure_cwd(init: &Init) -> Result<(), StageError> {
    let root = init.root.as_ref().expect("bind-root made it");
    let cwd = init.plan.process.cwd.as_path();
    // What cannot be made is told by enter-cwd, in the words of chdir(2).
    let _ = path::ensure_in_root(root.as_fd(), cwd, Missing::Directory);
    Ok(())
}
