//! Stage `hooks-inside`: programs of the caller act in the container's namespaces.
//!
//! They are the host's programs, found by the host's paths, which is why this
//! comes before `enter-root`.

use super::hooks_runtime::has_runtime_hooks;
use crate::hooks::{HookState, run_hooks};
use crate::init::{Init, Message};
use crate::stage::{Run, Stage, StageError};
use crate::state::Status;
use crate::sys::process::HostPid;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "hooks-inside",
    effect: "hooks createContainer have run, in the container's namespaces",
    after: &["hooks-runtime", "make-devices"],
    see: &["OCI config.md#posix-platform-hooks"],
    run: Run::Init(hooks_inside),
};

fn hooks_inside(init: &mut Init) -> Result<(), StageError> {
    if has_runtime_hooks(&init.plan.hooks) {
        init.tell(Message::Mounted)?;
        init.await_message(Message::HooksDone)?;
    }
    let hooks = init.plan.hooks.create_container().as_deref().unwrap_or(&[]);
    run_hooks(
        "createContainer",
        hooks,
        &hook_state(init, Status::Creating),
    )?;
    Ok(())
}

/// What a hook inside is told: numbers of processes are those of its namespace.
pub fn hook_state(init: &Init, status: Status) -> HookState<'_> {
    HookState {
        oci_version: &init.oci_version,
        id: &init.plan.id,
        status,
        pid: Some(HostPid(std::process::id() as i32)),
        bundle: init.plan.bundle.as_path(),
        annotations: &init.plan.annotations,
    }
}
