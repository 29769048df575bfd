//! `completion`: a script that makes a shell complete commands and options.

use std::io::Write;

use clap::CommandFactory;

use crate::arguments::{Arguments, CompletionArguments};
use crate::error::{Error, ErrorKind};

/// Prints the script, made from the description of the command line.
///
/// # Errors
///
/// Standard output is closed.
pub fn completion(arguments: &CompletionArguments) -> Result<i32, Error> {
    let mut script = Vec::new();
    let mut program = Arguments::command();
    clap_complete::generate(arguments.shell, &mut program, "berth-oci", &mut script);
    std::io::stdout().write_all(&script).map_err(|error| {
        let text = format!("writing to standard output: {error}");
        Error::new(ErrorKind::Failed, text)
    })?;
    Ok(0)
}
