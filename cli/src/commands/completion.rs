//! `berth completion SHELL`: a script that makes the shell complete commands and flags.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::arguments::Program;
use crate::error::{Context, Result};

/// `berth completion`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(berth completion bash)
  berth completion zsh >/usr/local/share/zsh/site-functions/_berth")]
pub struct CompletionArguments {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Prints the script.
///
/// # Errors
///
/// Standard output is closed.
pub fn run(arguments: &CompletionArguments) -> Result<u8> {
    use std::io::Write;
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut Program::command(),
        "berth",
        &mut script,
    );
    std::io::stdout()
        .write_all(&script)
        .context("write to standard output")?;
    Ok(0)
}
