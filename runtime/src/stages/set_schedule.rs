//! Stage `set-schedule`: the program is scheduled, and has its memory, as asked for.
//!
//! Real-time policies, low nice values and the real-time I/O class need
//! `CAP_SYS_NICE`, so this comes before `become-user`; and after `join-cgroup`,
//! because a cpuset takes away processors and memory nodes that it does not hold.
//! The personality comes last of what init still does as the host's own
//! program would: from then on `uname(2)` says `i686`.

use crate::init::Init;
use crate::stage::{Run, Stage, StageError};
use crate::sys::call::SyscallError;
use crate::sys::{process, schedule};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "set-schedule",
    effect: "scheduling, I/O priority, processors, memory policy and personality are the program's",
    after: &["join-cgroup", "set-limits"],
    see: &[
        "sched(7)",
        "ioprio_set(2)",
        "set_mempolicy(2)",
        "personality(2)",
        "OCI config.md#posix-process",
    ],
    run: Run::InitIf(is_asked, set_schedule),
};

fn is_asked(init: &Init) -> bool {
    let own = &init.plan.process.schedule;
    own.scheduler.is_some()
        || own.io_priority.is_some()
        || own.final_processors.is_some()
        || init.plan.memory_policy.is_some()
        || init.plan.personality.is_some()
}

fn set_schedule(init: &mut Init) -> Result<(), StageError> {
    let own = &init.plan.process.schedule;
    if let Some(processors) = &own.final_processors {
        named(
            "process.execCPUAffinity.final",
            schedule::set_affinity(processors),
        )?;
    }
    if let Some(scheduler) = &own.scheduler {
        named("process.scheduler", schedule::set_scheduler(scheduler))?;
    }
    if let Some(priority) = own.io_priority {
        named("process.ioPriority", schedule::set_io_priority(priority))?;
    }
    if let Some(policy) = &init.plan.memory_policy {
        named("linux.memoryPolicy", schedule::set_memory_policy(policy))?;
    }
    if let Some(domain) = init.plan.personality {
        named("linux.personality", process::set_personality(domain))?;
    }
    Ok(())
}

fn named(field: &str, done: Result<(), SyscallError>) -> Result<(), StageError> {
    done.map_err(|error| StageError::Refused(format!("{field}: {error}")))
}
