//! `berth`: pods on this machine. Parses, calls, prints what failed.

use std::process::ExitCode;

use berth_cli::arguments::Program;

fn main() -> ExitCode {
    let program = Program::read(std::env::args_os());
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
