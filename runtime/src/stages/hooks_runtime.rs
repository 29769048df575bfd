//! Stage `hooks-runtime`: programs of the caller see the container from outside.
//!
//! Network plugins and GPU toolkits work here: the namespaces and the mounts
//! exist, and the host's tree is still there to take files from.

use oci_spec::runtime::{Hook, Hooks};

use crate::creation::Creation;
use crate::hooks::{HookState, run_hooks};
use crate::init::Message;
use crate::stage::{Run, Stage, StageError};
use crate::state::Status;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "hooks-runtime",
    effect: "hooks prestart and createRuntime have run, in the runtime's namespaces",
    after: &["clone-init", "mount-rest"],
    see: &["OCI config.md#posix-platform-hooks"],
    run: Run::Runtime(hooks_runtime),
};

fn hooks_runtime(creation: &mut Creation) -> Result<(), StageError> {
    if !has_runtime_hooks(&creation.plan.hooks) {
        return Ok(());
    }
    creation.await_message(Message::Mounted)?;
    let state = HookState {
        oci_version: &creation.record.oci_version,
        id: &creation.plan.id,
        status: Status::Creating,
        pid: creation.init.as_ref().map(|(pid, _)| *pid),
        bundle: creation.plan.bundle.as_path(),
        annotations: &creation.plan.annotations,
    };
    run_hooks("prestart", prestart(&creation.plan.hooks), &state)?;
    let hooks = creation.plan.hooks.create_runtime().as_deref();
    run_hooks("createRuntime", hooks.unwrap_or(&[]), &state)?;
    creation.tell(Message::HooksDone)?;
    Ok(())
}

/// Whether init has to wait for the runtime in the middle.
pub fn has_runtime_hooks(hooks: &Hooks) -> bool {
    let filled = |list: &[Hook]| !list.is_empty();
    filled(prestart(hooks)) || filled(hooks.create_runtime().as_deref().unwrap_or(&[]))
}

/// Deprecated since 1.0.2, and still what many callers use.
pub fn prestart(hooks: &Hooks) -> &[Hook] {
    hooks.prestart().as_deref().unwrap_or(&[])
}
