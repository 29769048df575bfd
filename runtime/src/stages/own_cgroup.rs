//! Stage `own-cgroup`: init sees its cgroups as the top of the tree.
//!
//! A cgroup namespace takes the groups that its maker is in at that moment for
//! its roots (cgroup_namespaces(7)). Made together with the others it would show
//! the caller's groups, and their names would tell about the host.

use nix::sched::CloneFlags;

use crate::init::Init;
use crate::stage::{Run, Stage, StageError};
use crate::sys::process;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "own-cgroup",
    effect: "the cgroup namespace begins at the container's cgroups",
    after: &["join-cgroup"],
    see: &["cgroup_namespaces(7)"],
    run: Run::Init(own_cgroup),
};

fn own_cgroup(init: &mut Init) -> Result<(), StageError> {
    if init
        .plan
        .namespaces
        .new
        .contains(CloneFlags::CLONE_NEWCGROUP)
    {
        process::unshare(CloneFlags::CLONE_NEWCGROUP)?;
    }
    Ok(())
}
