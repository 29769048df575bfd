//! Stage `pin-runtime`: the runtime runs on the processors that `exec` begins on.
//!
//! A container that keeps processors free of disturbance does not want `exec` to
//! disturb them: until init is in the container's cgroups it runs elsewhere. Init
//! is a copy of the runtime and begins where the runtime is; on version 2 it is
//! born in its cgroup, so there is no later moment to choose.

use crate::creation::Creation;
use crate::stage::{Run, Stage, StageError};
use crate::sys::schedule;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "pin-runtime",
    effect: "the runtime, and init after it, runs on the processors to begin on",
    after: &[],
    see: &[
        "sched_setaffinity(2)",
        "cpuset(7)",
        "OCI config.md#posix-process",
    ],
    run: Run::RuntimeIf(is_asked, pin_runtime),
};

fn is_asked(creation: &Creation) -> bool {
    creation.plan.process.schedule.initial_processors.is_some()
}

fn pin_runtime(creation: &mut Creation) -> Result<(), StageError> {
    match &creation.plan.process.schedule.initial_processors {
        Some(processors) => schedule::set_affinity(processors).map_err(|error| {
            StageError::Refused(format!("process.execCPUAffinity.initial: {error}"))
        }),
        None => Ok(()),
    }
}
