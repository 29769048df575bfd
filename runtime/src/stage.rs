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

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::causes::chain;
use crate::cgroup::error::CgroupError;
use crate::creation::Creation;
use crate::init::Init;
use crate::state::StateError;
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
    /// The kernel refused, told in words of our own.
    #[error("{text}")]
    Worded {
        /// All of it, with the field of the configuration.
        text: String,
        /// What was called.
        call: sys::call::SyscallError,
        /// What a look at the cause says, where somebody had one.
        advice: Option<String>,
    },
    /// Init failed; it has told where.
    #[error(transparent)]
    Init(#[from] StageFailure),
}

impl StageError {
    /// A refusal of the kernel in words that end with the kernel's own.
    pub fn worded(words: impl std::fmt::Display, call: sys::call::SyscallError) -> StageError {
        StageError::Worded {
            text: format!("{words}: {call}"),
            call,
            advice: None,
        }
    }

    /// The call behind the failure, and what it returned.
    fn cause(&self) -> Option<(String, Errno)> {
        use std::error::Error;
        let of_call = |call: &sys::call::SyscallError| (call.call().to_owned(), call.errno());
        if let StageError::Worded { call, .. } = self {
            return Some(of_call(call));
        }
        if let StageError::State(StateError::File { what, source, .. }) = self {
            let errno = Errno::from_raw(source.raw_os_error()?);
            return Some(((*what).to_owned(), errno));
        }
        if let StageError::File { path, source } = self {
            return Some((path.clone(), Errno::from_raw(source.raw_os_error()?)));
        }
        // Transparent errors are their source; the others have one.
        let mut error: &(dyn Error + 'static) = match self {
            StageError::Call(error) => error,
            StageError::Cgroup(error) => error,
            StageError::Seccomp(error) => error,
            StageError::State(error) => error,
            _ => return None,
        };
        loop {
            if let Some(call) = error.downcast_ref() {
                return Some(of_call(call));
            }
            if let Some(CgroupError::Call(call)) = error.downcast_ref() {
                return Some(of_call(call));
            }
            if let Some(StateError::Call(call)) = error.downcast_ref() {
                return Some(of_call(call));
            }
            error = error.source()?;
        }
    }

    /// What can be done about it.
    fn advice(&self, stage: &str) -> Option<String> {
        if let StageError::Worded {
            advice: Some(advice),
            ..
        } = self
        {
            return Some(advice.clone());
        }
        let (call, errno) = self.cause()?;
        crate::advice::find(stage, &call, errno).map(str::to_owned)
    }
}

/// A stage that failed, as it is told to people and between the two processes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{}{reason}{}", in_stage(.stage), behind(.advice))]
pub struct StageFailure {
    /// The stage; empty where it says nothing to a reader.
    pub stage: String,
    /// What went wrong, all of it.
    pub reason: String,
    /// What to do about it, where that is known.
    #[serde(default)]
    pub advice: Option<String>,
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
            advice: error.advice(stage),
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

/// Advice behind an error.
pub fn behind(advice: &Option<impl std::fmt::Display>) -> String {
    match advice {
        Some(advice) => format!("; {advice}"),
        None => String::new(),
    }
}

/// Tells, when asked to, that a stage has nothing to do.
pub fn pass_over(stage: &Stage) {
    if sys::call::narrating() {
        let (name, actor) = (stage.name, stage.run.actor());
        sys::call::tell(format_args!("{name} ({actor}): nothing asks for it"));
    }
}

/// Sets the thread's name and, when asked to, tells what begins.
pub fn announce(stage: &Stage) {
    if let Ok(name) = CString::new(format!("b:{}", stage.name)) {
        sys::process::set_name(&name);
    }
    if sys::call::narrating() {
        let (name, actor) = (stage.name, stage.run.actor());
        // One text, so that the other process' words do not come between.
        let mut text = format!("{name} ({actor}): {}", stage.effect);
        if !stage.after.is_empty() {
            text += &format!("\n    after {}", stage.after.join(", "));
        }
        text += &format!("\n    see {}", stage.see.join(", "));
        sys::call::tell(format_args!("{text}"));
    }
}
