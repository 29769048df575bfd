//! The flags of `berth run`: docker's names, where the thing is the same.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::source::is_manifest;
use crate::amounts::{read_seconds, read_size};

/// `berth run MANIFEST` or `berth run [FLAGS] IMAGE [COMMAND]`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  berth run examples/web.yaml               a pod from a manifest, in the foreground
  kubectl create deploy web --image=nginx --dry-run=client -o yaml | berth run -
  berth run -it --rm busybox                a shell in a new container
  berth run -d --name web -p 8080:80 nginx  a server in the background")]
pub struct RunArguments {
    /// Further manifests (file, URL, or - for standard input); may be repeated
    #[arg(short = 'f', long = "filename", value_name = "MANIFEST")]
    pub filenames: Vec<String>,
    /// Return once the pod runs
    #[arg(short, long)]
    pub detach: bool,
    /// Remove what ran when it has ended, also after -d
    #[arg(long)]
    pub rm: bool,
    /// Print the Pod that would run, and run nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Say less: no progress, no warnings
    #[arg(short, long)]
    pub quiet: bool,
    /// What the image form takes
    #[command(flatten)]
    pub image: ImageFlags,
    /// A manifest (file, URL, or -), or an image and its command
    #[arg(
        value_name = "MANIFEST|IMAGE",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub words: Vec<String>,
}

impl RunArguments {
    /// Whether words follow a manifest, which are no container's command.
    pub fn has_words_behind_a_manifest(&self) -> bool {
        self.words.len() > 1 && is_manifest(&self.words[0])
    }
}

/// What only `berth run IMAGE` takes. Each is a field of the Pod that it becomes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Flags of the image form")]
pub struct ImageFlags {
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// The pod's name
    #[arg(long)]
    pub name: Option<String>,
    /// Publish a port: [ADDRESS:]HOST:CONTAINER[/udp]
    #[arg(short, long = "publish", value_name = "PORT")]
    pub publish: Vec<String>,
    /// Mount a directory or file of this machine: SOURCE:TARGET[:ro]
    #[arg(short, long = "volume", value_name = "VOLUME")]
    pub volumes: Vec<String>,
    /// Mount, in long form: type=bind,source=…,target=…,readonly or type=tmpfs,target=…
    #[arg(long = "mount", value_name = "MOUNT")]
    pub mounts: Vec<String>,
    /// A directory in memory: TARGET[:size=64m]
    #[arg(long, value_name = "TARGET")]
    pub tmpfs: Vec<String>,
    /// Set a variable: NAME=VALUE, or NAME to pass it on
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Set variables from a file of NAME=VALUE lines
    #[arg(long = "env-file", value_name = "FILE")]
    pub env_files: Vec<std::path::PathBuf>,
    /// Memory that the container may use at most
    #[arg(short, long, value_parser = read_size, value_name = "SIZE")]
    pub memory: Option<u64>,
    /// Processors that the container may use at most, such as 1.5
    #[arg(long)]
    pub cpus: Option<f64>,
    /// Run as this user: UID[:GID]
    #[arg(short, long)]
    pub user: Option<String>,
    /// Start in this directory
    #[arg(short, long)]
    pub workdir: Option<String>,
    /// Run this program instead of the image's entrypoint
    #[arg(long)]
    pub entrypoint: Option<String>,
    /// Mount the image read-only
    #[arg(long)]
    pub read_only: bool,
    /// Add a capability
    #[arg(long = "cap-add", value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// Take a capability away
    #[arg(long = "cap-drop", value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// All capabilities and devices, no confinement
    #[arg(long)]
    pub privileged: bool,
    /// The network: the pod's own bridge port, or the machine's
    #[arg(long, value_enum, default_value_t)]
    pub network: Network,
    /// Share this machine's process ids
    #[arg(long, value_enum)]
    pub pid: Option<HostNamespace>,
    /// Share this machine's IPC
    #[arg(long, value_enum)]
    pub ipc: Option<HostNamespace>,
    /// The pod's host name
    #[arg(long)]
    pub hostname: Option<String>,
    /// Pull the image: always, when it is missing, never
    #[arg(long, value_enum, default_value_t)]
    pub pull: Pull,
    /// Restart the container: no, on-failure, always
    #[arg(long, value_enum, default_value_t)]
    pub restart: Restart,
    /// Put a label on the pod
    #[arg(short, long = "label", value_name = "NAME=VALUE")]
    pub labels: Vec<String>,
    /// Between the stop signal and the kill
    #[arg(long, value_parser = read_seconds, value_name = "TIME")]
    pub stop_timeout: Option<Duration>,
    /// no-new-privileges, seccomp=unconfined
    #[arg(long = "security-opt", value_name = "OPTION")]
    pub security: Vec<String>,
}

/// `--network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Network {
    /// A network of its own, with a port on berth's bridge.
    #[default]
    Bridge,
    /// This machine's.
    Host,
    /// A network of its own without a way out.
    None,
}

/// `--pid` and `--ipc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HostNamespace {
    /// This machine's.
    Host,
}

/// `--pull`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Pull {
    /// Ask the registry each time.
    Always,
    /// Only when no image of that name is here.
    #[default]
    Missing,
    /// Fail when no image of that name is here.
    Never,
}

/// `--restart`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// When the exit code is not 0.
    OnFailure,
    /// Whenever it ended.
    #[value(alias = "unless-stopped")]
    Always,
}

/// With a manifest, the image form's flags say nothing: refuse them, by name.
///
/// # Errors
///
/// A flag was given.
pub fn refuse_image_flags(flags: &ImageFlags) -> crate::error::Result<()> {
    let given = [
        ("--interactive", flags.interactive),
        ("--tty", flags.tty),
        ("--name", flags.name.is_some()),
        ("--publish", !flags.publish.is_empty()),
        ("--volume", !flags.volumes.is_empty()),
        ("--mount", !flags.mounts.is_empty()),
        ("--tmpfs", !flags.tmpfs.is_empty()),
        ("--env", !flags.env.is_empty()),
        ("--env-file", !flags.env_files.is_empty()),
        ("--memory", flags.memory.is_some()),
        ("--cpus", flags.cpus.is_some()),
        ("--user", flags.user.is_some()),
        ("--workdir", flags.workdir.is_some()),
        ("--entrypoint", flags.entrypoint.is_some()),
        ("--read-only", flags.read_only),
        ("--cap-add", !flags.cap_add.is_empty()),
        ("--cap-drop", !flags.cap_drop.is_empty()),
        ("--privileged", flags.privileged),
        ("--network", flags.network != Network::default()),
        ("--pid", flags.pid.is_some()),
        ("--ipc", flags.ipc.is_some()),
        ("--hostname", flags.hostname.is_some()),
        ("--pull", flags.pull != Pull::default()),
        ("--restart", flags.restart != Restart::default()),
        ("--label", !flags.labels.is_empty()),
        ("--stop-timeout", flags.stop_timeout.is_some()),
        ("--security-opt", !flags.security.is_empty()),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => Err(crate::error::Error::new(format!(
            "{flag} goes with an image; a manifest says it in its own fields"
        ))),
    }
}
