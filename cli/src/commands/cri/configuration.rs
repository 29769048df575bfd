//! `berth cri config`: the file's keys, and whether a file is sound.

use std::path::PathBuf;

use berth_cri::configuration::{Configuration, default_text};
use clap::{Args, Subcommand};

use crate::error::{Context, Error, Result};

/// `berth cri config default|check [FILE]`.
#[derive(Debug, Clone, Args)]
pub struct ConfigArguments {
    /// What to do
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What can be asked of the server's file.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigCommand {
    /// Print every key with its default and what it is for
    Default,
    /// Name every mistake of a file, and change nothing
    Check(CheckArguments),
}

/// `berth cri config check [FILE]`.
#[derive(Debug, Clone, Args)]
pub struct CheckArguments {
    /// The file [default: /etc/berth/cri.toml]
    #[arg(env = "BERTH_CRI_CONFIG", value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Prints, or checks.
///
/// # Errors
///
/// The file cannot be read or holds mistakes; each is named with its line.
pub fn run(arguments: &ConfigArguments) -> Result<u8> {
    match &arguments.command {
        ConfigCommand::Default => print!("{}", default_text()),
        ConfigCommand::Check(arguments) => check(arguments)?,
    }
    Ok(0)
}

fn check(arguments: &CheckArguments) -> Result<()> {
    let configuration = Configuration::load(arguments.file.as_deref())
        .map_err(|error| Error::new(berth_runtime::causes::chain(&error)))?;
    // What the text alone cannot show: the files that it names.
    configuration
        .check_named()
        .context("the words are sound, what they name is not")
}
