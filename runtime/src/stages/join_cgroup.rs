//! Stage `join-cgroup`: whatever init does from here on is counted and limited.
//!
//! Init moves itself. Moving *another* process takes a lock of the kernel that
//! can wait for ten milliseconds, longer than all else together; a process of
//! one thread that names itself needs none (`cgroup/attach.rs`). In a version 2
//! tree init was born in its group already (`clone-init`).

use nix::sched::CloneFlags;

use crate::init::Init;
use crate::stage::{Run, Stage, StageError};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "join-cgroup",
    effect: "init is in its cgroups",
    after: &["clone-init", "await-cgroup"],
    see: &["cgroups(7)", "docs/cgroups.md"],
    run: Run::Init(join_cgroup),
};

/// Comes before `enter-root`, for the groups are found by the host's paths.
fn join_cgroup(init: &mut Init) -> Result<(), StageError> {
    let Some(cgroup) = &init.cgroup else {
        return Ok(());
    };
    if init.plan.namespaces.joins(CloneFlags::CLONE_NEWNS) {
        // The runtime has done it.
        return Ok(());
    }
    // From a user namespace they could not be opened here any more.
    let handed = std::mem::take(&mut init.handed.entrances);
    let entrances = match init.is_isolated() && !init.joins_container() {
        true => handed,
        false => cgroup.v1_entrances()?,
    };
    for entrance in entrances {
        entrance.enter()?;
    }
    Ok(())
}
