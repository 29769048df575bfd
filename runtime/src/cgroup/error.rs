//! What can go wrong with cgroups, in words that name the field or the file.

use std::path::PathBuf;

use nix::errno::Errno;

use crate::dbus::DbusError;
use crate::sys::call::SyscallError;

/// A request that cannot be met, or a kernel that refused.
///
/// The text never holds the text of its source: print the chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// A field of the configuration has a value that no kernel could take.
    #[error("{field}: {reason}; no cgroup was changed")]
    Invalid {
        /// The field by its path in `config.json`, as `linux.resources.pids.limit`.
        field: String,
        /// What is expected, and what is there.
        reason: String,
    },
    /// A limit was asked for that no mounted hierarchy can keep.
    #[error(
        "{field}: no mounted cgroup hierarchy offers the controller {controller:?}; no cgroup was changed"
    )]
    NoController {
        /// The field that asks for it.
        field: String,
        /// The controller's name.
        controller: String,
    },
    /// There is no cgroup filesystem in this mount namespace.
    #[error(
        "no cgroup filesystem is mounted, so the container would have no limits and no device rules; mount one or choose the cgroup manager \"disabled\""
    )]
    NotMounted,
    /// systemd is to make the groups, and nobody looked for it.
    #[error(
        "systemd not running on this host, cannot use systemd cgroups manager; no cgroup was changed"
    )]
    NoSystemd,
    /// systemd does not do as it is asked.
    #[error("{what}")]
    Systemd {
        /// What was not reached.
        what: String,
        /// Why not.
        #[source]
        source: DbusError,
    },
    /// The group exists and somebody lives in it.
    #[error("cgroup {} already holds the process {pid}: another container uses it; nothing was changed", .path.display())]
    InUse {
        /// The group's directory.
        path: PathBuf,
        /// One of its processes.
        pid: i32,
    },
    /// The kernel did not take a limit.
    #[error("{field}: the kernel did not take the value")]
    Limit {
        /// The field of the configuration.
        field: String,
        /// The write that failed.
        #[source]
        source: SyscallError,
    },
    /// A controller that a limit needs could not be switched on for the group.
    #[error("the cgroup controller {controller:?}, which a limit needs, could not be switched on")]
    Enable {
        /// The controller.
        controller: String,
        /// The write that failed.
        #[source]
        source: SyscallError,
    },
    /// A call on a cgroup file or directory failed.
    #[error(transparent)]
    Call(#[from] SyscallError),
    /// The kernel did not reach a state in time.
    #[error("cgroup {} did not become {state} within {waited_ms} ms", .path.display())]
    Timeout {
        /// The group's directory.
        path: PathBuf,
        /// What was waited for.
        state: &'static str,
        /// How long, in milliseconds.
        waited_ms: u64,
    },
    /// A statistics file did not hold what the kernel documents.
    #[error("{} holds {found:?}, expected {expected}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What it held.
        found: String,
        /// What was looked for.
        expected: &'static str,
    },
    /// A removal went on after failures; these are all of them.
    #[error("{} cgroup directories could not be removed: {}", .0.len(), list(.0))]
    Removal(Vec<CgroupError>),
}

impl CgroupError {
    /// A field with a value out of its range.
    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// The kernel's error number, where a call failed.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Call(source) | Self::Limit { source, .. } | Self::Enable { source, .. } => {
                Some(source.errno())
            }
            _ => None,
        }
    }
}

/// Several errors on one line, each with its cause: here the sources are told
/// because a list has no chain that a caller could walk.
fn list(errors: &[CgroupError]) -> String {
    let one = |error: &CgroupError| match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    errors.iter().map(one).collect::<Vec<_>>().join("; ")
}
