//! Stage `create-cgroup`: the limits exist, and nobody is limited by them yet.
//!
//! Limits are set before a process is in the group: what it allocates in
//! between would count against nobody.

use crate::creation::{Creation, Undo};
use crate::stage::{Run, Stage, StageError};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "create-cgroup",
    effect: "the cgroups exist and hold their limits",
    after: &["reserve-id"],
    see: &[
        "cgroups(7)",
        "OCI config-linux.md#control-groups",
        "docs/cgroups.md",
    ],
    run: Run::Runtime(create_cgroup),
};

fn create_cgroup(creation: &mut Creation) -> Result<(), StageError> {
    if let Some(cgroup) = &creation.cgroup {
        // On failure it takes back what it made itself.
        cgroup.create()?;
        creation.undo.push(Undo::RemoveCgroup);
    }
    Ok(())
}
