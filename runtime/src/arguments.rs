//! The command line: runc's, as containerd's shim, conmon, podman and CRI-O write it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Command, Parser, Subcommand, ValueEnum};

use crate::cgroup::plan::CgroupManager;

/// Ordinary command lines, read without clap.
mod quick;

/// An OCI runtime: makes, starts and ends containers.
#[derive(Debug, Parser)]
#[command(
    name = "berth-oci",
    disable_version_flag = true,
    subcommand_required = true
)]
pub struct Arguments {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What holds for every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Where the containers' state is kept
    #[arg(
        long,
        global = true,
        default_value_os_t = crate::rootless::default_root(),
        value_name = "DIR"
    )]
    pub root: PathBuf,
    /// Errors are also written to this file, or to `journald:NAME` or `syslog:NAME`
    #[arg(long, global = true, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// How that file is written
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Accepted for callers of runc; errors always tell stage, call and cause
    #[arg(long, global = true)]
    pub debug: bool,
    /// Accepted for callers of crun; only errors are written
    #[arg(long, global = true, hide = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Accepted for callers of runc; there is no checkpoint that would use it
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub criu: Option<PathBuf>,
    /// Let systemd make the cgroups
    #[arg(long, global = true)]
    pub systemd_cgroup: bool,
    /// Who makes the cgroups
    #[arg(long, global = true, value_enum)]
    pub cgroup_manager: Option<Manager>,
    /// Whether an ordinary user calls; after `spec`: a configuration for one
    #[arg(long, global = true, value_enum, default_value_t = Rootless::Auto,
          num_args = 0..=1, default_missing_value = "true")]
    pub rootless: Rootless,
    /// Print every stage and every call of the kernel with its result
    #[arg(long, global = true)]
    pub narrate: bool,
}

/// Who makes the cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Manager {
    /// berth-oci itself
    Cgroupfs,
    /// systemd
    Systemd,
    /// Nobody
    Disabled,
}

/// How a log file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line of words
    Text,
    /// A line of JSON
    Json,
}

/// Whether an ordinary user calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rootless {
    /// Look and see
    Auto,
    /// Yes
    True,
    /// No
    False,
}

impl Global {
    /// Who makes the cgroups, from both ways to say it.
    pub fn cgroups(&self) -> CgroupManager {
        match (self.cgroup_manager, self.systemd_cgroup) {
            (Some(Manager::Disabled), _) => CgroupManager::Disabled,
            (Some(Manager::Systemd), _) | (None, true) => CgroupManager::Systemd,
            _ => CgroupManager::Cgroupfs,
        }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a container; its program waits for `start`
    Create(CreateArguments),
    /// Let a container's program begin
    Start(Named),
    /// Print a container's state as JSON
    State(Named),
    /// Send a signal to a container's init
    Kill(KillArguments),
    /// Take a container away
    Delete(DeleteArguments),
    /// Make a container, start it, wait for it and take it away
    Run(RunArguments),
    /// Run another program in a container
    Exec(ExecArguments),
    /// List the processes of a container
    Ps(PsArguments),
    /// List containers
    List(ListArguments),
    /// Freeze all processes of a container
    Pause(Named),
    /// Thaw all processes of a container
    Resume(Named),
    /// Change a container's limits
    Update(Box<UpdateArguments>),
    /// Print what a container uses, and when its memory ran out
    Events(EventsArguments),
    /// Write a configuration to begin with
    Spec(SpecArguments),
    /// Print what this runtime can do as JSON
    Features,
    /// Print the stages by which a container is made
    Stages(StagesArguments),
    /// Print a script that completes commands and options in a shell
    Completion(CompletionArguments),
    /// Print what `create` would do, and do nothing
    Plan(PlanArguments),
    /// Run a container, with a question before each stage
    Step(StepArguments),
    /// Print what two configurations differ in, and what that means
    Diff(DiffArguments),
    /// Save a container to disk (not there yet: always an error)
    #[command(hide = true)]
    Checkpoint(RefusedArguments),
    /// Make a container from what was saved (not there yet: always an error)
    #[command(hide = true)]
    Restore(RefusedArguments),
    /// Keep the containers of one pod (called by berth)
    #[command(hide = true)]
    Monitor(MonitorArguments),
}

/// A container.
#[derive(Debug, Args)]
pub struct Named {
    /// The container
    pub id: String,
}

/// How a container is made.
#[derive(Debug, Default, Args)]
pub struct CreateArguments {
    /// The folder that holds config.json
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    pub bundle: PathBuf,
    /// Another configuration than the bundle's config.json
    #[arg(short = 'f', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A socket that gets the master of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// A socket that gets a descriptor of init
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// A file that gets the number of init
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Do not use pivot_root(2); for a root that is a ramfs
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Accepted for callers of runc and crun; orphans never become ours
    #[arg(long)]
    pub no_subreaper: bool,
    /// How many descriptors from 3 on the program keeps
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub preserve_fds: u32,
    /// Stop in front of a stage, to look around; SIGCONT goes on
    #[arg(long, value_name = "STAGE")]
    pub stop_before: Option<String>,
    /// The container
    pub id: String,
}

/// How a container is run.
#[derive(Debug, Default, Args)]
pub struct RunArguments {
    /// How it is made
    #[command(flatten)]
    pub create: CreateArguments,
    /// Return once the program runs
    #[arg(short, long)]
    pub detach: bool,
    /// Leave the container when its program has ended
    #[arg(long)]
    pub keep: bool,
}

/// The signal where none is named.
const SIGNAL: &str = "SIGTERM";

/// A signal.
#[derive(Debug, Args)]
pub struct KillArguments {
    /// To every process of the container
    #[arg(short, long)]
    pub all: bool,
    /// The container's name is an extended regular expression (regex(7)): to each that it matches
    #[arg(short, long)]
    pub regex: bool,
    /// The container
    pub id: String,
    /// A name or a number
    #[arg(default_value = SIGNAL)]
    pub signal: String,
}

/// How a container is taken away.
#[derive(Debug, Args)]
pub struct DeleteArguments {
    /// End it first; one that does not exist is fine
    #[arg(short, long)]
    pub force: bool,
    /// The container's name is an extended regular expression (regex(7)): each that it matches
    #[arg(short, long)]
    pub regex: bool,
    /// The container
    pub id: String,
}

/// A program that is added.
#[derive(Debug, Default, Args)]
pub struct ExecArguments {
    /// A file with the `process` of a configuration
    #[arg(short, long, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// A socket that gets the master of the program's terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// A socket that gets a descriptor of the program
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// A file that gets the number of the program
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Return once the program runs
    #[arg(short, long)]
    pub detach: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Where it begins
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// A variable, KEY=value
    #[arg(short, long, value_name = "VARIABLE")]
    pub env: Vec<String>,
    /// UID or UID:GID
    #[arg(short, long)]
    pub user: Option<String>,
    /// More groups
    #[arg(short = 'g', long, value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// More capabilities
    #[arg(short, long, value_name = "CAPABILITY")]
    pub cap: Vec<String>,
    /// No exec gives it more
    #[arg(long)]
    pub no_new_privs: bool,
    /// How many descriptors from 3 on the program keeps
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub preserve_fds: u32,
    /// A label of SELinux
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// A profile of AppArmor
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// A group inside the container's: PATH, or CONTROLLER[,CONTROLLER]:PATH
    #[arg(long, value_name = "[CONTROLLER:]PATH")]
    pub cgroup: Vec<String>,
    /// Also into a container that is paused; it waits for `resume`
    #[arg(long)]
    pub ignore_paused: bool,
    /// The container
    pub id: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// How processes are listed.
#[derive(Debug, Args)]
pub struct PsArguments {
    /// A table, or the numbers as JSON
    #[arg(short, long, value_enum, default_value_t = ListFormat::Table)]
    pub format: ListFormat,
    /// The container
    pub id: String,
    /// What ps(1) is given; -ef by default
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<String>,
}

/// How containers are listed.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// A table or JSON
    #[arg(short, long, value_enum, default_value_t = ListFormat::Table)]
    pub format: ListFormat,
    /// Names only
    #[arg(short, long)]
    pub quiet: bool,
}

/// A list's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// For people
    Table,
    /// For programs
    Json,
}

/// New limits.
#[derive(Debug, Args)]
pub struct UpdateArguments {
    /// A file with the `linux.resources` of a configuration, or - for standard input; all flags are ignored then
    #[arg(short, long, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Weight of block devices against other groups', 10 to 1000
    #[arg(long, value_name = "WEIGHT", allow_hyphen_values = true)]
    pub blkio_weight: Option<u16>,
    /// Length of a period of processor time, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_period: Option<String>,
    /// Processor time in a period, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_quota: Option<String>,
    /// Processor time that may be saved up, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_burst: Option<String>,
    /// Share of processor time against other groups', 2 to 262144; 1024 is the usual
    #[arg(long, value_name = "SHARES", allow_hyphen_values = true)]
    pub cpu_share: Option<String>,
    /// Length of a period of realtime, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_rt_period: Option<String>,
    /// Realtime in a period, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_rt_runtime: Option<String>,
    /// 1: only time that nobody else wants
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    pub cpu_idle: Option<String>,
    /// Processors, as 0-2,5
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as 0-2,5
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    pub cpuset_mems: Option<String>,
    /// Memory, in bytes or as 64m, powers of 1024; -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory: Option<String>,
    /// Memory that is left when memory is short, in bytes or as 64m
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_reservation: Option<String>,
    /// Memory and swap together, in bytes or as 64m; -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Accepted and ignored: kernels have no such limit any more
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub kernel_memory: Option<String>,
    /// Accepted and ignored
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub kernel_memory_tcp: Option<String>,
    /// Processes and threads; -1 for no limit
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Part of the processors' cache, as resctrl writes it: L3:0=ff
    #[arg(long, value_name = "SCHEMA", allow_hyphen_values = true)]
    pub l3_cache_schema: Option<String>,
    /// Part of the memory's bandwidth, in percent or MB/s, as resctrl writes it: MB:0=50
    #[arg(long, value_name = "SCHEMA", allow_hyphen_values = true)]
    pub mem_bw_schema: Option<String>,
    /// The container
    pub id: String,
}

/// What is printed, and how often.
#[derive(Debug, Args)]
pub struct EventsArguments {
    /// How often what is used is printed: a number with h, m, s or ms
    #[arg(long, default_value = "5s", value_name = "DURATION")]
    pub interval: String,
    /// Only what is used now
    #[arg(long)]
    pub stats: bool,
    /// The container
    pub id: String,
}

/// Where a configuration is written.
#[derive(Debug, Args)]
pub struct SpecArguments {
    /// The folder
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    pub bundle: PathBuf,
    /// Another name than config.json, in that folder unless it begins with /
    #[arg(short, long, default_value = "config.json", value_name = "FILE")]
    pub file: PathBuf,
}

/// For whom a script is printed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(berth-oci completion bash)
  berth-oci completion zsh >/usr/local/share/zsh/site-functions/_berth-oci")]
pub struct CompletionArguments {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Which table.
#[derive(Debug, Args)]
pub struct StagesArguments {
    /// The stages of `exec`
    #[arg(long)]
    pub exec: bool,
}

/// What is planned.
#[derive(Debug, Args)]
pub struct PlanArguments {
    /// The folder that holds config.json
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    pub bundle: PathBuf,
    /// Another configuration than the bundle's config.json
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// For people, or the stable shape of docs/oci.md
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub format: PlanFormat,
    /// The container; its name is in the path of its cgroups [default: the bundle's name]
    pub id: Option<String>,
}

/// What is walked through.
#[derive(Debug, Args)]
#[command(
    after_help = "Before each stage it waits for a line: nothing goes on, `l` looks at init, `s` opens a shell in it, `q`, the end of the input and Ctrl-C give up and take everything back."
)]
pub struct StepArguments {
    /// The folder that holds config.json
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    pub bundle: PathBuf,
    /// Another configuration than the bundle's config.json
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The container
    pub id: String,
}

/// How a plan or a difference is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlanFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Two configurations.
#[derive(Debug, Args)]
#[command(
    after_help = "The exit status is 0 if they mean the same, 1 if they differ, 2 in trouble."
)]
pub struct DiffArguments {
    /// One configuration, or the bundle that holds it
    #[arg(value_name = "CONFIG-A")]
    pub a: PathBuf,
    /// The other
    #[arg(value_name = "CONFIG-B")]
    pub b: PathBuf,
    /// For people, or the stable shape of docs/oci.md
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub format: PlanFormat,
}

/// What a command that is not there is given.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct RefusedArguments {
    /// Anything
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}

/// One pod.
#[derive(Debug, Args)]
pub struct MonitorArguments {
    /// The folder that holds monitor.json
    pub pod_dir: PathBuf,
}

/// Options before a verb whose value is the next word.
pub const GLOBAL_WITH_VALUE: &[&str] = &[
    "--root",
    "--log",
    "--log-format",
    "--log-level",
    "--criu",
    "--cgroup-manager",
    "--rootless",
];

impl Arguments {
    /// Reads the command line.
    ///
    /// Describing every command to the parser takes longer than making three
    /// namespaces. So what callers write most is read by other means; everything
    /// else, mistakes and `--help` included, goes the long way.
    pub fn read() -> Arguments {
        let words: Vec<OsString> = std::env::args_os().collect();
        quick::read(&words).unwrap_or_else(|| Arguments::parse_from(with_two_dashes(words)))
    }
}

/// Go's programs take `-name` for `--name`, and callers of runc write it: go-runc
/// restores with `-no-subreaper`. Only whole names of options are changed, and
/// nothing that stands behind the id of `exec` and `ps`: that is a program's.
fn with_two_dashes(mut words: Vec<OsString>) -> Vec<OsString> {
    let is_one = |word: &OsString| {
        let bytes = word.as_encoded_bytes();
        bytes.len() > 2 && bytes[0] == b'-' && bytes[1] != b'-'
    };
    // Almost nobody does, and then nothing is asked.
    if !words.iter().skip(1).any(is_one) {
        return words;
    }
    let program = <Arguments as clap::CommandFactory>::command();
    let mut options = options_of(&program);
    let mut verb: Option<String> = None;
    let mut at = 1;
    while let Some(word) = words.get(at).and_then(|word| word.to_str()) {
        let word = word.to_owned();
        if word == "--" {
            break;
        }
        if let Some(rest) = word.strip_prefix('-') {
            let name = rest.trim_start_matches('-').split('=').next().unwrap_or("");
            let known = options.iter().find(|(known, _)| known == name);
            if let Some((_, takes_value)) = known {
                let value_is_next = *takes_value && !word.contains('=');
                if is_one(&words[at]) {
                    words[at] = OsString::from(format!("-{word}"));
                }
                at += usize::from(value_is_next);
            }
        } else if let Some(verb) = &verb {
            if matches!(&**verb, "exec" | "ps") {
                break;
            }
        } else {
            let found = program.find_subcommand(&word);
            options.extend(found.map(options_of).unwrap_or_default());
            verb = Some(word);
        }
        at += 1;
    }
    words
}

/// Names of options, one-letter ones included, and whether a value follows.
fn options_of(command: &Command) -> Vec<(String, bool)> {
    let arguments = command.get_arguments();
    arguments
        .flat_map(|argument| {
            let takes_value = argument.get_action().takes_values();
            let letter = argument.get_short().map(String::from);
            let name = argument.get_long().map(str::to_owned);
            name.into_iter()
                .chain(letter)
                .map(move |name| (name, takes_value))
        })
        .collect()
}

#[cfg(test)]
mod table;

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::with_two_dashes;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn one_dash_is_as_good_as_two() {
        for (line, wanted) in [
            (
                "berth-oci -root /r kill -all c 9",
                "berth-oci --root /r kill --all c 9",
            ),
            (
                "berth-oci create -pid-file /p -b /b c",
                "berth-oci create --pid-file /p -b /b c",
            ),
            (
                "berth-oci run -no-subreaper -bundle=/b c",
                "berth-oci run --no-subreaper --bundle=/b c",
            ),
            (
                "berth-oci exec -detach -env A=1 c ls -all -env",
                "berth-oci exec --detach --env A=1 c ls -all -env",
            ),
            (
                "berth-oci exec -eA=-b c true",
                "berth-oci exec -eA=-b c true",
            ),
            (
                "berth-oci ps -format json c -ef",
                "berth-oci ps --format json c -ef",
            ),
            ("berth-oci delete -f c", "berth-oci delete -f c"),
        ] {
            assert_eq!(with_two_dashes(words(line)), words(wanted), "{line}");
        }
    }
}
