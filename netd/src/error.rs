//! What went wrong, and the kind that callers branch on.
//!
//! The text names the field or object, what was expected, and what was not
//! done. The kind is for exit codes and gRPC codes.

use std::fmt;

/// An error of this crate: a kind, a sentence, and the cause if there is one.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request or the configuration is wrong; asking again will not help.
    Invalid,
    /// Another pod, process or route holds what was asked for.
    Conflict,
    /// The pod already has this network.
    AlreadyAttached,
    /// No address is left.
    Exhausted,
    /// The network namespace does not exist.
    NoNamespace,
    /// The machine lacks something (a kernel feature, IPv6, a privilege).
    Unsupported,
    /// The kernel refused a step.
    Kernel,
    /// A plugin of CNI is missing, refused, or did not answer as one.
    Plugin,
    /// The record on disk could not be read or written.
    Storage,
}

impl Error {
    /// An error that this crate found by itself.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// An error with the cause that a lower layer reported.
    pub fn caused(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            kind,
            message: message.into(),
            source: Some(source.into()),
        }
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}
