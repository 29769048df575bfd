//! What keeps a monitor from starting or from going on.

use std::io;
use std::path::{Path, PathBuf};

use crate::cgroup::error::CgroupError;

/// Why a monitor did not start, or ended early.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// A step on the machine failed.
    #[error("cannot {step}")]
    Step {
        /// What was to be done, with its object.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The configuration is not JSON of the expected shape.
    #[error("cannot read {path}, so that no monitor was started")]
    Syntax {
        /// The configuration's file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// A field of the configuration asks for what cannot be.
    #[error("{field}: expected {expected}, found {found}; no monitor was started")]
    Field {
        /// The field's name, with the entry inside it.
        field: String,
        /// What it may hold.
        expected: &'static str,
        /// What it holds.
        found: String,
    },
    /// The monitor cannot be counted where it should be.
    #[error("cannot enter cgroup {path}; no monitor was started")]
    Cgroup {
        /// The group below each hierarchy's root.
        path: String,
        /// What could not be done.
        source: CgroupError,
    },
    /// Another monitor answers on the pod's socket.
    #[error("{path}: a monitor of this pod already runs; no second one was started")]
    AlreadyRuns {
        /// The socket.
        path: PathBuf,
    },
    /// The detached process, or the one that makes the namespaces, failed. It
    /// cannot hand over an error value, only its text.
    #[error("{0}")]
    Reported(String),
}

/// Says which step a system call belonged to.
pub(super) trait Context<T> {
    fn during(self, step: impl FnOnce() -> String) -> Result<T, MonitorError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn during(self, step: impl FnOnce() -> String) -> Result<T, MonitorError> {
        self.map_err(|source| MonitorError::Step {
            step: step(),
            source: source.into(),
        })
    }
}

/// The name of a path in an error's step.
pub(super) fn named(verb: &str, path: &Path) -> String {
    format!("{verb} {}", path.display())
}
