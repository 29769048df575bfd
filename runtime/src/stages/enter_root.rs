//! Stage `enter-root`: the container's rootfs becomes the only tree init can reach.
//!
//! `chroot(2)` moves the place where path lookups start but leaves the host's
//! mounts in the namespace, and a root process can walk back to them.
//! `pivot_root(2)` swaps the root *mount* itself. Once the old root is detached
//! no path leads to the host any more, whatever the process does.
//!
//! In the host's own mount namespace nobody may pivot. A container that has no
//! other is in a tree of its own that is attached nowhere (`bind-root`), so
//! `chroot(2)` is as good for it: above that tree's root there is nothing to walk
//! back to. What is left is `setns(2)` to the mount namespace that it is in
//! anyhow, which takes a process to the host's root and needs `CAP_SYS_ADMIN`.

use std::os::fd::AsFd;
use std::path::Path;

use super::mount_tree::reopen_root;
use crate::init::Init;
use crate::stage::{Run, Stage, StageError};
use crate::sys::mount::{self, AttributeChange, Depth};
use crate::sys::path;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "enter-root",
    effect: "the rootfs is / and no host mount is left",
    after: &["bind-root", "mount-rest", "hooks-inside"],
    see: &["pivot_root(2)", "umount(2)", "OCI config.md#root"],
    run: Run::Init(enter_root),
};

/// Swaps the root mount. Nothing needs undoing: the namespace dies with init.
///
/// # Errors
///
/// - `EINVAL` from `pivot_root`: the host's root is a ramfs, or a mount above
///   the rootfs is shared.
/// - `EPERM`: no `CAP_SYS_ADMIN` in the user namespace that owns the mounts.
fn enter_root(init: &mut Init) -> Result<(), StageError> {
    let root = init.root.as_ref().expect("bind-root made it");
    if init.plan.namespaces.shares_mounts() {
        // The descriptor is kept: the tree can be mounted into as long as it is open.
        return Ok(path::change_root_to(root.as_fd())?);
    }
    let old_root = path::open_host(Path::new("/"))?;
    path::change_directory_to(root.as_fd())?;
    if init.wishes.no_pivot {
        mount::move_onto_root()?;
    } else {
        // With "." twice the old root is stacked on the new one, so the image
        // needs no spare directory to hold it (pivot_root(2), NOTES).
        mount::pivot_root_onto_itself()?;
        if init.plan.root_propagation & libc::MS_SHARED != 0 {
            // The old root may still be a peer of the host's, and detaching it
            // must not detach the host's mounts. By its descriptor: "." is
            // still the new root for every call but umount(2), which alone
            // steps onto what is stacked there.
            let slave = AttributeChange {
                propagation: libc::MS_SLAVE,
                ..AttributeChange::default()
            };
            mount::mount_setattr(old_root.as_fd(), Depth::Recursive, slave)?;
        }
        // "." now names the top of that stack: the host's old root. Detach it
        // lazily, because this process still has host files open.
        mount::detach(Path::new("."))?;
    }
    path::change_directory(Path::new("/"))?;
    reopen_root(init)?;
    Ok(())
}
