//! `berth`: pods on this machine. Parses, calls, prints what failed.

use std::process::ExitCode;

use berth_cli::arguments::Program;
use clap::Parser;

fn main() -> ExitCode {
    let program = Program::parse();
    match program.run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if !error.is_silent() {
                eprintln!("berth: {}", error.chain());
            }
            ExitCode::from(error.exit_code())
        }
    }
}
