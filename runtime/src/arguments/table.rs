//! The command lines of runc 1.3 and crun 1.20, verb by verb and option by option:
//! each is read, with two dashes and with one.
//!
//! What is missing, with its reason: `checkpoint` and `restore` are read and refused
//! by name, for there is no CRIU behind them; `mounts` (crun) and `info` (youki) are
//! extras that no caller of a runtime uses.

use std::ffi::OsString;

use clap::Parser;

use super::{Arguments, with_two_dashes};

/// Options before the verb.
const GLOBAL: &[&str] = &[
    "--root /r",
    "--log /l",
    "--log journald:berth",
    "--log syslog:berth",
    "--log-format text",
    "--log-format json",
    "--log-level debug",
    "--debug",
    "--systemd-cgroup",
    "--rootless auto",
    "--rootless true",
    "--rootless false",
    "--cgroup-manager cgroupfs",
    "--cgroup-manager systemd",
    "--cgroup-manager disabled",
    "--narrate",
];

/// A verb, what stands behind its options, and its options.
const VERBS: &[(&str, &str, &[&str])] = &[
    ("create", "c", MAKING),
    ("run", "c", MAKING),
    ("run", "c", &["--detach", "-d", "--keep", "--no-subreaper"]),
    ("start", "c", &[]),
    ("state", "c", &[]),
    (
        "kill",
        "c",
        &["--all", "-a", "--regex", "-r", "--all --regex"],
    ),
    ("kill", "c KILL", &["--all"]),
    ("kill", "c 9", &["--all"]),
    ("delete", "c", &["--force", "-f", "--regex", "-r"]),
    (
        "exec",
        "c true -x",
        &[
            "--process /p",
            "-p /p",
            "--detach",
            "-d",
            "--tty",
            "-t",
            "--cwd /",
            "--env A=1",
            "-e A=1",
            "--user 1:2",
            "-u 1",
            "--additional-gids 5",
            "-g 5",
            "--cap CAP_KILL",
            "-c CAP_KILL",
            "--no-new-privs",
            "--process-label l",
            "--apparmor p",
            "--cgroup /sub",
            "--cgroup memory:/sub",
            "--pid-file /p",
            "--pidfd-socket /s",
            "--console-socket /s",
            "--preserve-fds 2",
            "--ignore-paused",
        ],
    ),
    ("ps", "c", &["--format table", "--format json", "-f json"]),
    ("list", "", &["--format json", "-f json", "--quiet", "-q"]),
    ("pause", "c", &[]),
    ("resume", "c", &[]),
    (
        "update",
        "c",
        &[
            "--resources /r",
            "--resources -",
            "-r -",
            "--resources=-",
            "--blkio-weight 10",
            "--cpu-period 1",
            "--cpu-quota -1",
            "--cpu-burst 1",
            "--cpu-share 2",
            "--cpu-rt-period 1",
            "--cpu-rt-runtime 1",
            "--cpu-idle 1",
            "--cpuset-cpus 0-1",
            "--cpuset-mems 0",
            "--kernel-memory 1",
            "--kernel-memory-tcp 1",
            "--memory 64m",
            "--memory-reservation 1",
            "--memory-swap -1",
            "--pids-limit -1",
            "--l3-cache-schema L3:0=f",
            "--mem-bw-schema MB:0=50",
        ],
    ),
    ("events", "c", &["--stats", "--interval 1s"]),
    ("spec", "", &["--bundle /b", "-b /b", "--file f", "-f f"]),
    ("features", "", &[]),
    ("completion", "bash", &[]),
    ("completion", "zsh", &[]),
    (
        "checkpoint",
        "c",
        &[
            "--image-path /i",
            "--work-path /w",
            "--leave-running",
            "--tcp-established",
            "--ext-unix-sk",
            "--shell-job",
            "--file-locks",
            "--manage-cgroups-mode soft",
            "--parent-path ../p",
            "--pre-dump",
            "--lazy-pages",
            "--page-server a:1",
            "--status-fd 3",
            "--empty-ns network",
            "--auto-dedup",
        ],
    ),
    (
        "restore",
        "c",
        &[
            "--bundle /b",
            "--detach",
            "--pid-file /p",
            "--no-subreaper",
            "--no-pivot",
            "--lsm-profile selinux:l",
            "--lsm-mount-context l",
            "--tcp-close",
        ],
    ),
];

/// Options of `create` and of `run`.
const MAKING: &[&str] = &[
    "--bundle /b",
    "-b /b",
    "--config /c",
    "-f /c",
    "--console-socket /s",
    "--pidfd-socket /s",
    "--pid-file /p",
    "--no-pivot",
    "--no-new-keyring",
    "--preserve-fds 3",
];

fn read(line: &str) -> Result<Arguments, clap::Error> {
    let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    Arguments::try_parse_from(with_two_dashes(words))
}

/// Reads a line with two dashes and with one, and finds the same.
fn is_read_both_ways(line: &str) {
    let two = read(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    let single = line.replace(" --", " -");
    let one = read(&single).unwrap_or_else(|error| panic!("{single}: {error}"));
    // What is refused by name keeps the words as they were.
    if !line.contains(" checkpoint") && !line.contains(" restore") {
        assert_eq!(format!("{two:?}"), format!("{one:?}"), "{line}");
    }
}

#[test]
fn every_option_before_a_verb_is_read() {
    for option in GLOBAL {
        is_read_both_ways(&format!("berth-oci {option} state c"));
    }
}

#[test]
fn every_verb_and_option_is_read() {
    let mut seen = 0;
    for (verb, rest, options) in VERBS {
        is_read_both_ways(&format!("berth-oci {verb} {rest}"));
        for option in *options {
            is_read_both_ways(&format!("berth-oci --root /r {verb} {option} {rest}"));
            seen += 1;
        }
    }
    assert!(seen > 100, "only {seen} options were read");
}

#[test]
fn every_option_says_what_it_is() {
    use clap::CommandFactory;
    let program = Arguments::command();
    for command in program.get_subcommands() {
        for argument in command.get_arguments().filter(|one| !one.is_hide_set()) {
            assert!(
                argument.get_help().is_some(),
                "{} {}",
                command.get_name(),
                argument.get_id()
            );
        }
    }
}
