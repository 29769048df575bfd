//! Stage `join-cache`: init is in its class of cache and memory bandwidth.
//!
//! The class is made by the runtime, in whose mount namespace the specification
//! looks for the filesystem; a process that `exec` adds is put into the class that
//! the container has. Children of init are born into it.

use crate::creation::{Creation, Undo};
use crate::resctrl::{ensure_group, find_root};
use crate::stage::{Run, Stage, StageError};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "join-cache",
    effect: "init is in its class of cache and memory bandwidth",
    after: &["clone-init"],
    see: &[
        "Documentation/filesystems/resctrl.rst",
        "OCI config-linux.md#intelrdt",
    ],
    run: Run::RuntimeIf(is_asked, join_cache),
};

fn is_asked(creation: &Creation) -> bool {
    creation.plan.cache_group.is_some()
}

fn join_cache(creation: &mut Creation) -> Result<(), StageError> {
    let Some(plan) = &creation.plan.cache_group else {
        return Ok(());
    };
    let root = find_root()?;
    if creation.record.cache_group.is_none() {
        creation.record.cache_group = Some(ensure_group(&root, plan)?);
        creation.undo.push(Undo::LeaveCacheGroup);
    }
    let (pid, _) = creation.init.as_ref().expect("clone-init made it");
    let group = creation.record.cache_group.as_ref();
    Ok(group.expect("it was set above").add(&root, *pid)?)
}
