//! Stage `hooks-start`: the container's own programs prepare for the main one.
//!
//! Unlike the other hooks they are found by the container's paths.

use super::hooks_inside::hook_state;
use crate::hooks::run_hooks;
use crate::init::Init;
use crate::stage::{Run, Stage, StageError};
use crate::state::Status;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "hooks-start",
    effect: "hooks startContainer have run, inside",
    after: &["await-start"],
    see: &["OCI config.md#startcontainer-hooks"],
    run: Run::Init(hooks_start),
};

fn hooks_start(init: &mut Init) -> Result<(), StageError> {
    let hooks = init.plan.hooks.start_container().as_deref().unwrap_or(&[]);
    Ok(run_hooks(
        "startContainer",
        hooks,
        &hook_state(init, Status::Created),
    )?)
}
