//! The words of the command line.

use clap::{Parser, Subcommand};

use crate::commands::{completion, version};
use crate::error::{Context, Result};
use crate::settings::Settings;

/// Pods on this machine: no daemon, no cluster.
#[derive(Debug, Parser)]
#[command(
    name = "berth",
    version,
    propagate_version = false,
    max_term_width = 100
)]
pub struct Program {
    /// What all commands share
    #[command(flatten)]
    pub settings: Settings,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What `berth` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print a script that completes commands in a shell
    Completion(completion::CompletionArguments),
    /// Print the version
    Version,
}

impl Program {
    /// Does what the words say; the exit code of the program.
    ///
    /// # Errors
    ///
    /// Whatever the command could not reach.
    pub fn run(self) -> Result<u8> {
        let settings = self
            .settings
            .absolute()
            .context("read the working directory")?;
        match self.command {
            Command::Completion(arguments) => completion::run(&arguments),
            Command::Version => version::run(settings.format),
        }
    }
}
