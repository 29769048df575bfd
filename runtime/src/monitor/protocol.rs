//! What the engine and a pod's monitor say to each other.
//!
//! The engine writes [`MonitorConfig`] to `POD_DIR/monitor.json` and runs
//! `berth-oci monitor POD_DIR`. That process makes and pins the pod's
//! namespaces under `POD_DIR/ns/`, listens on `POD_DIR/monitor.sock`, leaves a
//! detached child behind and exits 0. When it cannot, it exits 1 with the
//! reason on standard error and leaves nothing behind.
//!
//! On the socket (`AF_UNIX`, `SOCK_STREAM`) a client writes one [`Request`] as
//! a line of JSON and reads one [`Reply`] as a line of JSON; then it may ask
//! again. Two calls take the connection over:
//!
//! ```text
//! Attach     client ──▶ frames: stdin, resize, close-stdin
//!            client ◀── frames: stdout, stderr; end of file when the container ended
//! Subscribe  client ◀── one Event a line, until the client hangs up
//! ```
//!
//! Every exit is on disk (`POD_DIR/exits/ID.json`, an [`ExitRecord`]) before
//! anybody is told of it, so an engine that was not running loses none.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::plan::mappings::Mappings;

/// The socket's name inside the pod's directory.
pub const SOCKET_NAME: &str = "monitor.sock";
/// The configuration's name inside the pod's directory.
pub const CONFIG_NAME: &str = "monitor.json";
/// The folder of pinned namespaces inside the pod's directory: `ns/user`, `ns/net`, `ns/ipc`, `ns/uts`, `ns/pid`.
pub const NAMESPACES_FOLDER: &str = "ns";
/// The folder of exit records inside the pod's directory.
pub const EXITS_FOLDER: &str = "exits";

/// A namespace that all containers of a pod share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodNamespace {
    /// Users, groups and what root may do: `user_namespaces(7)`. It owns the pod's others.
    User,
    /// Interfaces, routes, sockets: `network_namespaces(7)`.
    Net,
    /// System V IPC and POSIX message queues: `ipc_namespaces(7)`.
    Ipc,
    /// Host and domain name: `uts_namespaces(7)`.
    Uts,
    /// Process ids: `pid_namespaces(7)`. The monitor keeps a process 1 in it that reaps.
    Pid,
}

/// What a monitor is told before it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorConfig {
    /// The pod sandbox's id.
    pub pod_id: String,
    /// Set in the pod's UTS namespace, when that is among `namespaces`.
    pub hostname: Option<String>,
    /// The namespaces to make and pin.
    pub namespaces: Vec<PodNamespace>,
    /// The ids of the pod's user namespace; there exactly when that is among `namespaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_mappings: Option<Mappings>,
    /// Written in the pod's namespaces, for example `net.ipv4.ip_forward` = `1`.
    pub sysctls: BTreeMap<String, String>,
    /// Where the monitor itself is accounted, as a path below each hierarchy's
    /// root; `None` leaves it where its starter is.
    pub cgroup: Option<String>,
    /// The OCI runtime that makes the containers; `berth-oci` itself or another.
    pub oci_runtime: PathBuf,
    /// The `--root` that the OCI runtime is given.
    pub oci_root: PathBuf,
    /// Passed to the OCI runtime before the verb, for example `--systemd-cgroup`.
    pub oci_arguments: Vec<String>,
}

/// One call to a monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "kebab-case")]
pub enum Request {
    /// Runs `create` of the OCI runtime. Answered with [`Reply::Created`].
    Create(CreateContainer),
    /// Runs `start` of the OCI runtime. Answered with [`Reply::Done`].
    Start {
        /// The container.
        id: String,
    },
    /// Sends a signal to the container's init, or to all its processes.
    Kill {
        /// The container.
        id: String,
        /// The signal's number.
        signal: i32,
        /// Every process of the container, not its init alone.
        all: bool,
    },
    /// Runs `delete --force` of the OCI runtime and forgets the container; its
    /// exit record stays. An unknown container is not an error.
    Delete {
        /// The container.
        id: String,
    },
    /// Answered with [`Reply::Containers`], one or all of them. One whose `create` is
    /// under way is among them as created, without an init: it may yet come to nothing.
    Status {
        /// One container, or all.
        id: Option<String>,
    },
    /// Closes and opens the log file again, after a rotation renamed it.
    ReopenLog {
        /// The container.
        id: String,
    },
    /// Sets the size of the container's terminal.
    Resize {
        /// The container.
        id: String,
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// Answered with [`Reply::Done`], then the connection carries frames.
    Attach {
        /// The container.
        id: String,
    },
    /// Answered with [`Reply::Exited`] once the container has ended.
    Wait {
        /// The container.
        id: String,
    },
    /// Answered with [`Reply::Done`] once no run of the OCI runtime is under way for the
    /// container: after its end, when no process and no cgroup of it is left. An unknown
    /// container is not an error.
    Settle {
        /// The container.
        id: String,
    },
    /// Answered with [`Reply::Done`], then the connection carries events.
    Subscribe,
    /// Kills and deletes what is left, unpins the namespaces, answers
    /// [`Reply::Done`] and exits.
    Shutdown,
}

/// What [`Request::Create`] needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateContainer {
    /// The container's id, also for the OCI runtime.
    pub id: String,
    /// The OCI bundle's directory.
    pub bundle: PathBuf,
    /// The log file in the CRI format; `None` throws the output away once
    /// nobody is attached.
    pub log_path: Option<PathBuf>,
    /// The configuration asks for a terminal.
    pub terminal: bool,
    /// Standard input stays open for those who attach; else it is `/dev/null`.
    pub stdin: bool,
    /// Standard input closes when the first who attached has gone.
    pub stdin_once: bool,
}

/// What a monitor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// The call was carried out.
    Done,
    /// The container exists and waits for `start`.
    Created {
        /// Its init, as the host sees it.
        pid: i32,
    },
    /// The containers asked for.
    Containers {
        /// In order of creation.
        containers: Vec<ContainerRecord>,
    },
    /// The container has ended.
    Exited(ExitRecord),
    /// The call was not carried out.
    Failed {
        /// Which kind of failure.
        kind: FailureKind,
        /// What could not be done and why, one line.
        message: String,
    },
}

/// Why a call failed, for a client that decides on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// No container of that id.
    NotFound,
    /// The container's state does not allow the call.
    WrongState,
    /// The request could not be read.
    BadRequest,
    /// The OCI runtime failed; the message holds its own words.
    Runtime,
    /// The monitor itself failed.
    Internal,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// Made or being made, not started.
    Created,
    /// Its program runs.
    Running,
    /// Its program has ended.
    Exited,
}

/// One container as its monitor sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// The container.
    pub id: String,
    /// Its init, as the host sees it; 0 once it has ended, and before it is made.
    pub pid: i32,
    /// Where it is in its life.
    pub state: ContainerState,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Nanoseconds since the epoch; 0 while it was not started.
    pub started_at: i64,
    /// How it ended, once it has.
    pub exit: Option<ExitRecord>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The container.
    pub id: String,
    /// The program's status, or 128 plus the signal that ended it.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel's OOM killer ended one of its processes.
    pub oom_killed: bool,
    /// Nanoseconds since the epoch; 0 when it was never started.
    pub started_at: i64,
    /// Nanoseconds since the epoch.
    pub finished_at: i64,
}

/// What a subscriber is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A container was made.
    Created {
        /// The container.
        id: String,
        /// Nanoseconds since the epoch.
        at: i64,
    },
    /// A container's program began.
    Started {
        /// The container.
        id: String,
        /// Nanoseconds since the epoch.
        at: i64,
    },
    /// The OOM killer ended a process of a container.
    OomKilled {
        /// The container.
        id: String,
        /// Nanoseconds since the epoch.
        at: i64,
    },
    /// A container has ended.
    Exited(ExitRecord),
    /// A container was deleted.
    Deleted {
        /// The container.
        id: String,
        /// Nanoseconds since the epoch.
        at: i64,
    },
}

/// The kind of a frame on an attached connection.
///
/// ```text
///  0        1                 5
/// ┌────────┬─────────────────┬──────────────────┐
/// │ kind   │ length, 32 bits │ length bytes     │
/// │        │ big endian      │ of payload       │
/// └────────┴─────────────────┴──────────────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// To the container; an empty frame closes its standard input.
    Stdin = 0,
    /// From the container.
    Stdout = 1,
    /// From the container, when it has no terminal.
    Stderr = 2,
    /// To the container: columns and rows, 16 bits each, big endian.
    Resize = 3,
}

/// The largest payload of a frame, in bytes.
pub const FRAME_LIMIT_BYTES: usize = 64 * 1024;
