//! Stage `lock-root`: the root mount has its final attributes.
//!
//! It comes after everything that still makes files and mount points in the
//! root. Read-only is a flag of the mount, not of the filesystem, so volumes
//! below it stay writable.

use std::os::fd::AsFd;

use crate::init::Init;
use crate::stage::{Run, Stage, StageError};
use crate::sys::mount::{self, AttributeChange, Depth};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "lock-root",
    effect: "the root mount is read-only and has its propagation, as asked for",
    after: &["mask-paths", "open-console"],
    see: &["mount_setattr(2)", "OCI config.md#root"],
    run: Run::Init(lock_root),
};

fn lock_root(init: &mut Init) -> Result<(), StageError> {
    let root = init.root.take().expect("enter-root opened it");
    let shared = init.plan.root_propagation & libc::MS_SHARED;
    let change = AttributeChange {
        set: if init.plan.root_readonly {
            libc::MOUNT_ATTR_RDONLY
        } else {
            0
        },
        clear: 0,
        propagation: shared,
    };
    if change != AttributeChange::default() {
        mount::mount_setattr(root.as_fd(), Depth::One, change)?;
    }
    Ok(())
}
