//! Stage `limit-init`: resource limits are set from outside of a user namespace.
//!
//! Raising a hard limit takes `CAP_SYS_RESOURCE` over the host, which nobody in
//! the container has. It is done last, while init waits at its gate: a small
//! `RLIMIT_AS` would otherwise end init and not the program.

use crate::creation::Creation;
use crate::stage::{Run, Stage, StageError};
use crate::stages::set_limits::explain;
use crate::sys::privilege;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "limit-init",
    effect: "resource limits are those of the program, set with the host's rights",
    after: &["await-init"],
    see: &["prlimit(2)", "OCI config.md#posix-process"],
    run: Run::RuntimeIf(Creation::is_isolated, limit_init),
};

fn limit_init(creation: &mut Creation) -> Result<(), StageError> {
    if !creation.is_isolated() {
        // `set-limits` has done it.
        return Ok(());
    }
    let (pid, _) = creation.init.as_ref().expect("clone-init made it");
    for (index, limit) in creation.plan.process.limits.iter().enumerate() {
        let both = (limit.soft, limit.hard);
        privilege::set_limit_of(*pid, limit.resource, limit.name, both)
            .map_err(|call| explain(index, call))?;
    }
    Ok(())
}
