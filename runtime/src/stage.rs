//! Stages: an operation is a table of named steps, and the table is run,
//! printed, tested and documented, never written down twice.
//!
//! Two processes make a container. The *runtime* is the program that was
//! called; *init* is its child, which builds its own surroundings from within
//! and in the end becomes the container's program. Each runs the stages that
//! name it as their actor, in the order of the table; where one must wait for
//! the other the stage says so.
//!
//! Before each stage the runner sets the thread's name to `b:<stage>`, so that
//! `strace -f`, `ps` and `/proc/PID/comm` show where a container is being made.

use std::ffi::CString;

use serde::{Deserialize, Serialize};

use crate::causes::chain;
use crate::creation::Creation;
use crate::init::Init;
use crate::sys;

/// The longest name: the kernel keeps 15 bytes and `b:` takes two.
pub const NAME_LIMIT_BYTES: usize = 13;

/// One step.
pub struct Stage {
    /// Its name, at most [`NAME_LIMIT_BYTES`].
    pub name: &'static str,
    /// What holds once it is done.
    pub effect: &'static str,
    /// Stages that must be done before, by either process.
    pub after: &'static [&'static str],
    /// Where to read more.
    pub see: &'static [&'static str],
    /// What it does, and which process does it.
    pub run: Run,
}

/// The function of a stage, which tells its actor.
#[derive(Clone, Copy)]
pub enum Run {
    /// The program that was called.
    Runtime(fn(&mut Creation) -> Result<(), StageError>),
    /// Its child.
    Init(fn(&mut Init) -> Result<(), StageError>),
    /// The program that was called, where something asks for it: the first
    /// function says whether, and a stage that nobody asked for costs nothing.
    RuntimeIf(
        fn(&Creation) -> bool,
        fn(&mut Creation) -> Result<(), StageError>,
    ),
    /// Its child, where something asks for it.
    InitIf(fn(&Init) -> bool, fn(&mut Init) -> Result<(), StageError>),
}

impl Run {
    /// The actor's name.
    pub fn actor(self) -> &'static str {
        match self {
            Run::Runtime(_) | Run::RuntimeIf(..) => "runtime",
            Run::Init(_) | Run::InitIf(..) => "init",
        }
    }
}

/// What a stage may fail by.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The kernel refused.
    #[error(transparent)]
    Call(#[from] sys::call::SyscallError),
    /// Limits could not be set.
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::error::CgroupError),
    /// The filter could not be made.
    #[error(transparent)]
    Seccomp(#[from] crate::seccomp::error::SeccompError),
    /// The share of caches could not be had.
    #[error(transparent)]
    Cache(#[from] crate::resctrl::ResctrlError),
    /// The state could not be kept.
    #[error(transparent)]
    State(#[from] crate::state::StateError),
    /// A program of the caller failed.
    #[error(transparent)]
    Hook(#[from] crate::hooks::HookError),
    /// A file of the host.
    #[error("{path}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Something is not as it must be.
    #[error("{0}")]
    Refused(String),
    /// Init failed; it has told where.
    #[error(transparent)]
    Init(#[from] StageFailure),
}

/// A stage that failed, as it is told to people and between the two processes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{}{reason}", in_stage(.stage))]
pub struct StageFailure {
    /// The stage; empty where it says nothing to a reader.
    pub stage: String,
    /// What went wrong, all of it.
    pub reason: String,
}

impl StageFailure {
    /// Tells an error with its causes.
    pub fn new(stage: &str, error: &StageError) -> StageFailure {
        if let StageError::Init(failure) = error {
            return failure.clone();
        }
        StageFailure {
            stage: stage.to_owned(),
            reason: chain(error),
        }
    }
}

fn in_stage(stage: &str) -> String {
    if stage.is_empty() {
        String::new()
    } else {
        format!("stage {stage}: ")
    }
}

/// Sets the thread's name and, when asked to, tells what begins.
pub fn announce(stage: &Stage) {
    if let Ok(name) = CString::new(format!("b:{}", stage.name)) {
        sys::process::set_name(&name);
    }
    if sys::call::narrating() {
        let (name, actor) = (stage.name, stage.run.actor());
        sys::call::tell(format_args!("{name} ({actor}): {}", stage.effect));
        sys::call::tell(format_args!("    see {}", stage.see.join(", ")));
    }
}
