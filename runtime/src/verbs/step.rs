//! `step`: `run`, with a question before each stage.

use super::create::prepare;
use super::run::run_planned;
use crate::arguments::{CreateArguments, Global, RunArguments, StepArguments};
use crate::creation::Gate;
use crate::creation::stops::Stop;
use crate::error::Error;
use crate::sys::interrupt;

/// Walks through the making of a container; then it runs as by `run`.
///
/// # Errors
///
/// As of `run`; also when the walk is given up. Nothing of it is left then.
pub fn step(global: &Global, arguments: &StepArguments) -> Result<i32, Error> {
    let run = RunArguments {
        create: CreateArguments {
            bundle: arguments.bundle.clone(),
            config: arguments.config.clone(),
            id: arguments.id.clone(),
            ..CreateArguments::default()
        },
        ..RunArguments::default()
    };
    let mut creation = prepare(global, &run.create, Gate::Now)?;
    creation.wishes.stop = Stop::Each;
    interrupt::catch()?;
    run_planned(creation, &run)
}
