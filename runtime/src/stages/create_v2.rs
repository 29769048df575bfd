//! Stage `create-v2`: the group in a version 2 tree exists, so that init can be born in it.
//!
//! Limits are set before a process is in the group: what it allocates in
//! between would count against nobody. Machines without a version 2 tree have
//! nothing to do here; those of version 1 are made while init is at work
//! already (`create-v1`), and so are all where systemd makes them.

use crate::cgroup::tree::CgroupVersion;
use crate::creation::{Creation, Undo};
use crate::stage::{Run, Stage, StageError};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "create-v2",
    effect: "the version 2 cgroup exists and holds its limits",
    after: &["reserve-id"],
    see: &[
        "cgroups(7)",
        "OCI config-linux.md#control-groups",
        "docs/cgroups.md",
    ],
    run: Run::Runtime(create_v2),
};

fn create_v2(creation: &mut Creation) -> Result<(), StageError> {
    if let Some(cgroup) = &creation.cgroup {
        if cgroup.scope.is_some() {
            // systemd makes no scope without a process: `create-v1`.
            return Ok(());
        }
        // On failure it takes back what it made itself.
        cgroup.create_in(CgroupVersion::V2)?;
        creation.undo.push(Undo::RemoveCgroup);
        if creation.plan.mappings.is_some() {
            // From a user namespace init could not open a group's files any more.
            // Whoever has one open may use it, so it gets them opened.
            cgroup.create_in(CgroupVersion::V1)?;
            creation.handed.entrances = cgroup.v1_entrances()?;
        }
    }
    Ok(())
}
