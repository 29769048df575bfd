//! Stage `set-limits`: resource limits and the umask are the program's.
//!
//! Raising a hard limit needs `CAP_SYS_RESOURCE`, so it is done while init may
//! still have it.

use crate::init::Init;
use crate::stage::{Run, Stage, StageError};
use crate::sys::call::SyscallError;
use crate::sys::privilege;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "set-limits",
    effect: "resource limits and the umask are the program's",
    after: &["make-devices", "join-spaces"],
    see: &["getrlimit(2)", "umask(2)", "OCI config.md#posix-process"],
    run: Run::Init(set_limits),
};

fn set_limits(init: &mut Init) -> Result<(), StageError> {
    privilege::set_umask(init.plan.process.umask);
    if init.plan.mappings.is_some() {
        // The runtime does it from outside: stage `limit-init`.
        return Ok(());
    }
    for (index, limit) in init.plan.process.limits.iter().enumerate() {
        let set = privilege::set_limit(limit.resource, limit.name, limit.soft, limit.hard);
        set.map_err(|call| explain(index, call))?;
    }
    Ok(())
}

/// Names the field.
pub fn explain(index: usize, call: SyscallError) -> StageError {
    StageError::worded(format_args!("process.rlimits[{index}]"), call)
}
