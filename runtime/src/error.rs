//! What `berth-oci` answers when it cannot do what it was asked for.

use std::fmt;

use nix::errno::Errno;

use crate::advice;
use crate::causes::chain;
use crate::cgroup::error::CgroupError;
use crate::hooks::HookError;
use crate::ids::InvalidId;
use crate::plan::SpecError;
use crate::stage::{StageFailure, behind};
use crate::state::StateError;
use crate::sys::call::SyscallError;

/// Which kind of failure, for callers that decide on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// What was asked for makes no sense, or is not honoured.
    BadInput,
    /// No container of that id.
    NotFound,
    /// The id is taken.
    Exists,
    /// The container's status does not allow it.
    WrongState,
    /// The machine refused.
    Failed,
}

/// A failure with its causes, told on one line.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    text: String,
}

impl Error {
    /// A failure in words.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Error {
        Error {
            kind,
            text: text.into(),
        }
    }

    /// Which kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// A failure to read or write a file of the caller's.
    pub fn of_file(path: &std::path::Path, error: &std::io::Error) -> Error {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let advice = behind(&advice::find("", &name, errno));
        Error::new(
            ErrorKind::BadInput,
            format!("{}: {error}{advice}", path.display()),
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

impl From<StateError> for Error {
    fn from(error: StateError) -> Error {
        let kind = match error {
            StateError::Missing(_) => ErrorKind::NotFound,
            StateError::Exists(_) => ErrorKind::Exists,
            _ => ErrorKind::Failed,
        };
        Error::new(kind, chain(&error))
    }
}

impl From<SpecError> for Error {
    fn from(error: SpecError) -> Error {
        Error::new(ErrorKind::BadInput, chain(&error))
    }
}

impl From<InvalidId> for Error {
    fn from(error: InvalidId) -> Error {
        Error::new(ErrorKind::BadInput, chain(&error))
    }
}

impl From<StageFailure> for Error {
    fn from(error: StageFailure) -> Error {
        Error::new(ErrorKind::Failed, chain(&error))
    }
}

impl From<SyscallError> for Error {
    fn from(error: SyscallError) -> Error {
        let advice = behind(&advice::find("", error.call(), error.errno()));
        Error::new(ErrorKind::Failed, format!("{}{advice}", chain(&error)))
    }
}

impl From<CgroupError> for Error {
    fn from(error: CgroupError) -> Error {
        Error::new(ErrorKind::Failed, chain(&error))
    }
}

impl From<HookError> for Error {
    fn from(error: HookError) -> Error {
        Error::new(ErrorKind::Failed, chain(&error))
    }
}

impl From<crate::stage::StageError> for Error {
    fn from(error: crate::stage::StageError) -> Error {
        Error::new(ErrorKind::Failed, chain(&error))
    }
}
