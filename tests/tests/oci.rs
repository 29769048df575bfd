//! What an OCI runtime does, asked of runc and crun first and then of `berth-oci`.
//!
//! The elder two are the referees: a case that they do not pass asks for
//! something that callers do not rely on, and is written down in
//! `oci/differences.rs` with the reason, or is wrong. Each case runs in a
//! throw-away machine, and afterwards no process, mount, cgroup or file of it
//! may be left. Needs root, `runc`, `crun` and `busybox-static`.
//!
//! `RUNTIME_UNDER_TEST=/path/to/runtime` asks one runtime only.

#![allow(
    clippy::unwrap_used,
    reason = "a suite's own functions may panic as its tests may"
)]

use berth_tests::outcome;

/// Runs a case over the runtimes.
#[path = "oci/check.rs"]
mod check;
/// Where the runtimes are known to differ.
#[path = "oci/differences.rs"]
mod differences;
/// A machine with one runtime on it.
#[path = "oci/lab.rs"]
mod lab;

/// Who holds a container by descriptors.
#[path = "oci/agents.rs"]
mod agents;
/// Why something fails, and what to do.
#[path = "oci/causes.rs"]
mod causes;
/// Groups of processes.
#[path = "oci/cgroups.rs"]
mod cgroups;
/// Terminals.
#[path = "oci/console.rs"]
mod console;
/// Numbers and news.
#[path = "oci/events.rs"]
mod events;
/// One more program.
#[path = "oci/exec.rs"]
mod exec;
/// What is said before and while a container is made.
#[path = "oci/explain.rs"]
mod explain;
/// Groups inside the container's.
#[path = "oci/groups.rs"]
mod groups;
/// Programs of the caller.
#[path = "oci/hooks.rs"]
mod hooks;
/// Labels and keyrings.
#[path = "oci/labels.rs"]
mod labels;
/// From `run` and `create` to `delete`.
#[path = "oci/life.rs"]
mod life;
/// Limits that change.
#[path = "oci/limits.rs"]
mod limits;
/// Network devices that move.
#[path = "oci/links.rs"]
mod links;
/// What a container sees below its root.
#[path = "oci/mounts.rs"]
mod mounts;
/// Namespaces: new, shared, joined.
#[path = "oci/namespaces.rs"]
mod namespaces;
/// The program and what it is given.
#[path = "oci/process.rs"]
mod process;
/// Containers of an ordinary user.
#[path = "oci/rootless.rs"]
mod rootless;
/// When and where the program runs.
#[path = "oci/schedule.rs"]
mod schedule;
/// Filters of system calls.
#[path = "oci/seccomp.rs"]
mod seccomp;
/// Published flaws of runtimes, each tried.
#[path = "oci/security.rs"]
mod security;
/// Groups by systemd.
#[path = "oci/systemd.rs"]
mod systemd;
/// What a runtime tells.
#[path = "oci/telling.rs"]
mod telling;
/// Clocks of the container's own.
#[path = "oci/time.rs"]
mod time;
/// What goes wrong.
#[path = "oci/trouble.rs"]
mod trouble;
/// Groups by a user's own systemd.
#[path = "oci/user_systemd.rs"]
mod user_systemd;
/// Ids of the container's own.
#[path = "oci/userns.rs"]
mod userns;
