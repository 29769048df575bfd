//! What went wrong in the engine, and the kind that callers branch on.
//!
//! The text names the object or the field, what was expected and what was not
//! done. The kind becomes a gRPC code where an RPC answers, and an exit code
//! where `berth` ends.

use std::fmt;

use tonic::{Code, Status};

/// A cause that a lower layer reported.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// An error of the engine: a kind, a sentence, and the cause if there is one.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Cause>,
}

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request or the configuration is wrong; asking again will not help.
    Invalid,
    /// No such sandbox, container or image.
    NotFound,
    /// The name or the port is taken.
    Conflict,
    /// All that there is of something is given away; some may be free later.
    Exhausted,
    /// The object's state does not allow the call.
    WrongState,
    /// The time given was not enough.
    Timeout,
    /// The machine or this version lacks something.
    Unsupported,
    /// The pod's monitor did not answer.
    Unavailable,
    /// The OCI runtime failed; its own words are in the cause.
    Runtime,
    /// The pod's network failed.
    Network,
    /// The image store failed.
    Image,
    /// A record or directory could not be read or written.
    Storage,
    /// The caller lacks a privilege that containers need.
    Permission,
}

impl Error {
    /// An error that the engine found by itself.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// An error with the cause that a lower layer reported.
    pub fn caused(kind: ErrorKind, message: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: Some(source.into()),
        }
    }

    /// A field of a request that cannot be right.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message and every cause below it, outermost first, joined by `": "`.
    pub fn chain(&self) -> String {
        berth_runtime::causes::chain(self)
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

impl From<oci_spec::OciSpecError> for Error {
    /// A builder of the OCI's structures refused; which field is in its text.
    fn from(error: oci_spec::OciSpecError) -> Self {
        Self::caused(
            ErrorKind::Invalid,
            "the container's OCI configuration could not be put together",
            error,
        )
    }
}

impl From<Error> for Status {
    /// The code that a kubelet expects, with the whole chain as the message.
    fn from(error: Error) -> Self {
        let code = match error.kind {
            ErrorKind::Invalid => Code::InvalidArgument,
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::Conflict => Code::AlreadyExists,
            ErrorKind::Exhausted => Code::ResourceExhausted,
            ErrorKind::WrongState => Code::FailedPrecondition,
            ErrorKind::Timeout => Code::DeadlineExceeded,
            ErrorKind::Unsupported => Code::Unimplemented,
            ErrorKind::Unavailable => Code::Unavailable,
            ErrorKind::Permission => Code::PermissionDenied,
            ErrorKind::Runtime | ErrorKind::Network | ErrorKind::Image | ErrorKind::Storage => {
                Code::Unknown
            }
        };
        Status::new(code, error.chain())
    }
}

/// Collects what failed in a teardown that went on regardless.
///
/// A teardown that stopped at its first failure would leave behind everything
/// that comes later; one that forgot it would leave the caller in the dark.
#[derive(Debug, Default)]
pub struct Failures {
    all: Vec<Error>,
}

impl Failures {
    /// Takes note of a step's outcome.
    pub fn note(&mut self, outcome: Result<(), Error>) {
        if let Err(error) = outcome {
            self.all.push(error);
        }
    }

    /// `what` is done, or one error that tells of every step that failed.
    ///
    /// # Errors
    ///
    /// Of the first failure's kind, with all their texts.
    pub fn into_result(self, what: &str) -> Result<(), Error> {
        let Some(kind) = self.all.first().map(Error::kind) else {
            return Ok(());
        };
        let texts: Vec<String> = self.all.iter().map(Error::chain).collect();
        Err(Error::new(kind, format!("{what}: {}", texts.join("; "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_holds_every_cause_once() {
        let inner = std::io::Error::other("disk full");
        let middle = Error::caused(ErrorKind::Storage, "write pod.json", inner);
        let outer = Error::caused(ErrorKind::Storage, "sandbox was not made", middle);
        assert_eq!(
            outer.chain(),
            "sandbox was not made: write pod.json: disk full"
        );
        let status = Status::from(outer);
        assert_eq!(status.code(), Code::Unknown);
        assert_eq!(
            status.message(),
            "sandbox was not made: write pod.json: disk full"
        );
    }

    #[test]
    fn a_teardown_tells_of_all_its_failures() {
        let mut failures = Failures::default();
        failures.note(Ok(()));
        failures.note(Err(Error::new(ErrorKind::Network, "detach")));
        failures.note(Err(Error::new(ErrorKind::Storage, "unmount shm")));
        let error = failures.into_result("remove sandbox a").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Network);
        assert_eq!(error.to_string(), "remove sandbox a: detach; unmount shm");
        assert!(Failures::default().into_result("x").is_ok());
    }
}
