//! Who is asked about system calls: `SCMP_ACT_NOTIFY`.
//!
//! A filter may leave the decision to a program outside, the *agent*. The kernel
//! gives whoever installs the filter a descriptor; who holds it reads a question
//! for each such call and answers it. The agent waits on a socket
//! (`linux.seccomp.listenerPath`) and is sent the descriptor with a description
//! of the process:
//!
//! ```text
//!     init                     runtime (run, exec or start)           agent
//!      │ seccomp(NEW_LISTENER) = 7      │                               │
//!      │ ── Listener 7 ───────────────▶ │                               │
//!      │                 pidfd_getfd(init, 7)                           │
//!      │                                │ ── state, SCM_RIGHTS ───────▶ │
//!      │ ◀──────────────────── GoOn ─── │    and the socket is closed   │
//!      │ execve(…) ─ ─ ─ ─ ─ ─ ─ question, if it is asked about ─ ─ ─ ▶ │
//! ```
//!
//! Why not init itself: it is in the container's root, where the socket's path
//! means nothing, and under the filter, which may forbid `connect` and `sendmsg`.
//! See seccomp_unotify(2) and OCI config-linux.md#containerprocessstate.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use oci_spec::runtime::LinuxSeccomp;
use serde::Serialize;

use crate::hooks::HookState;
use crate::stage::StageError;
use crate::sys::process::{self, HostPid};
use crate::sys::{call::SyscallError, channel};

/// The agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Its socket.
    pub path: PathBuf,
    /// Words for it.
    pub metadata: Option<String>,
}

/// The container process state of the specification.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a> {
    oci_version: &'a str,
    fds: [&'a str; 1],
    pid: HostPid,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    state: &'a HookState<'a>,
}

/// The agent that a profile names.
pub fn plan_agent(profile: &LinuxSeccomp) -> Option<Agent> {
    Some(Agent {
        path: profile.listener_path().clone()?,
        metadata: profile.listener_metadata().clone(),
    })
}

/// Takes the listener out of a process that waits under its filter, and sends it
/// to the agent. `told` is the descriptor's number, as the process said it.
///
/// # Errors
///
/// Nobody listens at the agent's path, or the process is gone.
pub fn hand_over(
    process: (HostPid, BorrowedFd<'_>),
    told: &[u8],
    agent: &Agent,
    state: &HookState<'_>,
) -> Result<(), StageError> {
    let number = told.try_into().map(i32::from_le_bytes);
    let number = number.map_err(|_| StageError::Refused("init named no listener".to_owned()))?;
    let (pid, pidfd) = process;
    let listener = process::pidfd_getfd(pidfd, number)?;
    let description = ProcessState {
        oci_version: state.oci_version,
        fds: ["seccompFd"],
        pid,
        metadata: agent.metadata.as_deref(),
        state,
    };
    let text = serde_json::to_vec(&description).expect("a state is plain data with text keys");
    let sent = channel::connect_host(&agent.path)
        .and_then(|socket| channel::send_descriptor(socket.as_fd(), listener.as_fd(), &text));
    sent.map_err(|error: SyscallError| {
        StageError::Refused(format!("linux.seccomp.listenerPath: {error}"))
    })
}
