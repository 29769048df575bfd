//! Pauses in front of stages: `--stop-before`, and `step`, which makes them all.
//!
//! Init stops by itself and says so; it goes on when it is told to. Its stages
//! run beside the runtime's, but who steps through them wants the table's
//! order. So in a walk the runtime keeps init company: before a stage of its
//! own it lets init make those that stand before it in the table.

use std::os::fd::AsFd;

use super::Creation;
use crate::init::Message;
use crate::stage::{StageError, StageFailure};
use crate::sys::channel;
use crate::sys::process::{self, HostPid};
use crate::walk::{self, Answer};

/// Where the making pauses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Nowhere.
    Never,
    /// In front of one stage, as a shell stops a job.
    Before(String),
    /// In front of each, with a question.
    Each,
}

impl Stop {
    /// Whether it pauses in front of a stage.
    pub fn is_before(&self, stage: &str) -> bool {
        match self {
            Stop::Never => false,
            Stop::Before(name) => name == stage,
            Stop::Each => true,
        }
    }
}

/// How far init has come, in a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Walked {
    /// It has not stopped yet, or is on its way to its next stop.
    #[default]
    OnTheWay,
    /// It stands before the stage of this index.
    Stands(usize),
    /// It was let into the stage of this index.
    LetInto(usize),
}

impl Creation {
    /// Pauses in front of a stage.
    ///
    /// # Errors
    ///
    /// Whoever walks wants no more.
    pub fn pause(&self, name: &str) -> Result<(), StageError> {
        let init = self.init.as_ref().map(|(pid, _)| *pid);
        let index = self.index_of(name);
        match (&self.wishes.stop, self.table.get(index)) {
            (Stop::Each, Some(stage)) => match walk::ask(stage, index + 1, init) {
                Answer::GoOn => Ok(()),
                Answer::GiveUp => Err(StageError::Refused(
                    "given up; all that was made is taken back".to_owned(),
                )),
            },
            _ => {
                stop_before(name, init);
                Ok(())
            }
        }
    }

    /// Pauses for init, which stands before a stage, and lets it go on.
    ///
    /// # Errors
    ///
    /// Whoever walks wants no more, or init is gone.
    pub fn pause_for_init(&mut self, name: &str) -> Result<(), StageError> {
        self.pause(name)?;
        self.walked = Walked::LetInto(self.index_of(name));
        Ok(self.tell(Message::GoOn)?)
    }

    /// Lets init make the stages that stand before one of the runtime's.
    ///
    /// # Errors
    ///
    /// As [`Creation::pause_for_init`], and init's own failure.
    pub fn keep_company(&mut self, index: usize) -> Result<(), StageFailure> {
        if self.wishes.stop != Stop::Each {
            return Ok(());
        }
        while let Some(channel) = &self.channel {
            let stands = match self.walked {
                Walked::Stands(at) => at,
                // It is in a stage behind ours, and waits for us there.
                Walked::LetInto(at) if at > index => return Ok(()),
                _ => {
                    let in_stage = |error| StageFailure::new(self.table[index].name, &error);
                    let received = channel::receive(channel.as_fd());
                    let received = received.map_err(|error| in_stage(error.into()))?;
                    let Some((Message::Stopped, name)) = Message::read(&received) else {
                        let error = self.understand(&received);
                        return Err(StageFailure::new(self.table[index].name, &error));
                    };
                    self.index_of(&String::from_utf8_lossy(name))
                }
            };
            if stands > index {
                self.walked = Walked::Stands(stands);
                return Ok(());
            }
            let name = self.table[stands].name;
            self.pause_for_init(name)
                .map_err(|error| StageFailure::new(name, &error))?;
        }
        Ok(())
    }

    /// In a walk: lets init into the stage that it stands before, because the
    /// runtime is about to wait for what it does there.
    ///
    /// # Errors
    ///
    /// As [`Creation::pause_for_init`].
    pub fn let_in(&mut self) -> Result<(), StageError> {
        match self.walked {
            Walked::Stands(at) => self.pause_for_init(self.table[at].name),
            _ => Ok(()),
        }
    }

    fn index_of(&self, name: &str) -> usize {
        let mut stages = self.table.iter();
        stages
            .position(|stage| stage.name == name)
            .unwrap_or(self.table.len())
    }
}

/// Leaves a half-built container to be looked at, the way a shell stops a job.
fn stop_before(stage: &str, init: Option<HostPid>) {
    eprintln!("stopped before {stage}; `fg` or SIGCONT goes on, Ctrl-C after that gives up");
    if let Some(pid) = init {
        eprintln!(
            "init is process {0}: look at /proc/{0}, or nsenter --target {0} --all",
            pid.0
        );
    }
    process::stop_here();
}
