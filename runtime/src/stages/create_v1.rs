//! Stage `create-v1`: the groups in the version 1 trees exist with their limits.
//!
//! Ten hierarchies mean ten directories and their files. The runtime makes them
//! while init makes its mounts, so they cost no time of their own; init waits
//! for them in `await-cgroup` and moves itself in.
//!
//! Where systemd makes the groups it does so now, around init (`cgroup/systemd.rs`).

use nix::sched::CloneFlags;

use super::map_ids::give_cgroup;
use crate::cgroup::tree::CgroupVersion;
use crate::creation::{Creation, Undo};
use crate::init::Message;
use crate::stage::{Run, Stage, StageError};
use crate::user_namespace::read_maps;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "create-v1",
    effect: "the version 1 cgroups exist and hold their limits",
    after: &["create-v2", "clone-init"],
    see: &[
        "cgroups(7)",
        "OCI config-linux.md#control-groups",
        "docs/cgroups.md",
    ],
    run: Run::Runtime(create_v1),
};

fn create_v1(creation: &mut Creation) -> Result<(), StageError> {
    if let (Some(cgroup), Some((pid, _))) = (&creation.cgroup, &creation.init) {
        if cgroup.scope.is_some() {
            // A unit of this name that is somebody else's must not be stopped, so
            // there is something to undo only now.
            cgroup.start_scope(pid.0)?;
            creation.undo.push(Undo::RemoveCgroup);
            cgroup.create_in(CgroupVersion::V2)?;
            // systemd has moved init in the trees that it keeps. One that it
            // does not is version 2 beside version 1.
            if cgroup.with_group_of(*pid)?.is_some() {
                cgroup.attach_in(CgroupVersion::V2, pid.0)?;
            }
        }
        if creation.plan.mappings.is_none() {
            cgroup.create_in(CgroupVersion::V1)?;
        } else if cgroup.scope.is_some() {
            // A unit needs a process, so `create-v2` could not open the groups for
            // an init that cannot open them itself.
            cgroup.create_in(CgroupVersion::V1)?;
            cgroup.attach_in(CgroupVersion::V1, pid.0)?;
            give_cgroup(creation, &read_maps(*pid)?)?;
        }
        // An init that enters a mount namespace by its path may not find its
        // groups there, so it is moved from outside, the slow way.
        if creation.plan.namespaces.joins(CloneFlags::CLONE_NEWNS) {
            cgroup.attach(pid.0)?;
        }
    }
    // An init that has failed in the meantime is heard by await-init.
    let _ = creation.tell(Message::CgroupMade);
    Ok(())
}
