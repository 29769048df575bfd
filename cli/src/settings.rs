//! What all commands share: directories, the form of the output, how much is said.

use std::path::PathBuf;
use std::process::Command;

use clap::{ArgAction, Args};

use crate::error::{Context, Result};
use crate::output::Format;

/// The options that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Settings {
    /// Where running pods have their sockets, namespaces and mounts
    #[arg(
        long,
        global = true,
        env = "BERTH_RUN_DIR",
        value_name = "DIR",
        default_value = "/run/berth",
        hide_env_values = true
    )]
    pub run_dir: PathBuf,
    /// Where images, volumes, logs and records are kept
    #[arg(
        long,
        global = true,
        env = "BERTH_DATA_DIR",
        value_name = "DIR",
        default_value = "/var/lib/berth",
        hide_env_values = true
    )]
    pub data_dir: PathBuf,
    /// The cgroup above all pods
    #[arg(
        long,
        global = true,
        env = "BERTH_CGROUP_PARENT",
        value_name = "PATH",
        default_value = "/berth",
        hide_env_values = true,
        hide_short_help = true
    )]
    pub cgroup_parent: String,
    /// The form of what is printed
    #[arg(
        short = 'o',
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t,
        hide_possible_values = true
    )]
    pub format: Format,
    /// Say more (before the command; -vv for all)
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

impl Settings {
    /// Where pods' workers keep their files.
    pub fn workers_dir(&self) -> PathBuf {
        self.data_dir.join("workers")
    }

    /// Where pods' volumes are.
    pub fn volumes_dir(&self) -> PathBuf {
        self.data_dir.join("volumes")
    }

    /// Where containers' logs are.
    pub fn logs_dir(&self) -> PathBuf {
        self.data_dir.join("logs")
    }

    /// Lets the parts below speak on standard error: warnings, and with `-v` more.
    /// `BERTH_LOG` chooses finer, as `tracing_subscriber::EnvFilter` has it.
    pub fn start_tracing(&self) {
        let default = match self.verbose {
            // What fails there is told once, by the command.
            0 => "warn,kube_client=off",
            1 => "info",
            _ => "debug,hyper=info,h2=info,rustls=info",
        };
        let filter = finer_filter().unwrap_or_else(|| tracing_subscriber::EnvFilter::new(default));
        // A second subscriber in one process is refused; the first stays.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            // A log file shows colours as noise.
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .with_target(false)
            .try_init();
    }

    /// The same for those who serve: what they do is said without `-v` too.
    pub fn start_server_tracing(&self) {
        Settings {
            verbose: self.verbose.saturating_add(1),
            ..self.clone()
        }
        .start_tracing();
    }

    /// This program again, with the same settings.
    ///
    /// # Errors
    ///
    /// The program's file cannot be found.
    pub fn this_program(&self) -> Result<Command> {
        let program = std::env::current_exe().context("find this program")?;
        let mut command = Command::new(program);
        command.arg("--run-dir").arg(&self.run_dir);
        command.arg("--data-dir").arg(&self.data_dir);
        command.arg("--cgroup-parent").arg(&self.cgroup_parent);
        command.args((0..self.verbose).map(|_| "--verbose"));
        Ok(command)
    }

    /// The directories as absolute paths: what is started in the background has
    /// another working directory.
    ///
    /// # Errors
    ///
    /// The working directory is gone.
    pub fn absolute(self) -> std::io::Result<Settings> {
        Ok(Settings {
            run_dir: std::path::absolute(&self.run_dir)?,
            data_dir: std::path::absolute(&self.data_dir)?,
            ..self
        })
    }
}

/// What `BERTH_LOG` chooses. A mistake in it is told, for nothing else would show it.
pub fn finer_filter() -> Option<tracing_subscriber::EnvFilter> {
    let words = std::env::var_os("BERTH_LOG").filter(|words| !words.is_empty())?;
    let words = words.to_string_lossy();
    match tracing_subscriber::EnvFilter::try_new(&words) {
        Ok(filter) => Some(filter),
        Err(error) => {
            eprintln!("berth: BERTH_LOG={words:?} is not followed: {error}");
            None
        }
    }
}
