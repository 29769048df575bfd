//! Stage `quiet-mounts`: nothing that init mounts shows up on the host.
//!
//! A new mount namespace is a copy, and its mounts stay peers of the host's:
//! on a machine whose `/` is shared (systemd's default) a mount made here would
//! appear there as well. `MS_SLAVE` cuts the way out and keeps the way in.

use crate::init::Init;
use crate::stage::{Run, Stage, StageError};
use crate::sys::mount;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "quiet-mounts",
    effect: "mounts of this namespace no longer reach the host",
    after: &["join-spaces"],
    see: &[
        "mount_namespaces(7)",
        "OCI config-linux.md#rootfs-mount-propagation",
    ],
    // Without a mount namespace these mounts are the host's, which stay as they are.
    run: Run::InitIf(|init| !init.plan.namespaces.shares_mounts(), quiet_mounts),
};

fn quiet_mounts(init: &mut Init) -> Result<(), StageError> {
    Ok(mount::set_root_propagation(init.plan.root_propagation)?)
}
