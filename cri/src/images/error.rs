//! What went wrong with an image, and of what kind it is.
//!
//! Callers decide by [`Error::kind`]: the command line turns it into an exit
//! code, the CRI server into a gRPC code. The text is for people.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// A failure of the image store. Nothing half-made is left behind.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    what: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The kinds of failure that a caller may want to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A name, digest, platform or source that cannot be read.
    InvalidInput,
    /// registries.toml or Docker's config.json is wrong.
    InvalidConfiguration,
    /// Neither the store nor a registry has it.
    NotFound,
    /// The registry wants other credentials.
    Unauthorized,
    /// No registry answered, or each answered with a failure of its own.
    Unreachable,
    /// The content is not what its digest or its format promises.
    Corrupt,
    /// Valid, but of a kind that this store does not read.
    Unsupported,
    /// Something still uses it.
    InUse,
    /// The file system has no room or no inodes left.
    DiskFull,
    /// Another failure of the operating system.
    Os,
}

impl Error {
    /// An error without a cause below it.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Error {
        Error {
            kind,
            what: what.into(),
            source: None,
        }
    }

    /// An error that another one brought about.
    pub fn caused(
        kind: ErrorKind,
        what: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Error {
        Error {
            kind,
            what: what.into(),
            source: Some(source.into()),
        }
    }

    /// What a caller decides by.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Says what was not reached because of this error. The kind stays.
    #[must_use]
    pub fn within(self, what: impl Into<String>) -> Error {
        Error {
            kind: self.kind,
            what: what.into(),
            source: Some(Box::new(self)),
        }
    }

    /// The error and everything below it on one line, for logs and replies.
    pub fn chain(&self) -> String {
        berth_runtime::causes::chain(self)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.what)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|error| error as &(dyn StdError + 'static))
    }
}

/// Names what a failed call of the operating system was for.
pub(crate) trait Context<T> {
    /// The text is made only when there is a failure.
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T, Error> {
        self.map_err(|error| from_io(error.into(), what().into()))
    }
}

/// An I/O error may carry one of ours, for readers pass them through
/// [`io::Read`]: its kind is kept.
fn from_io(error: io::Error, what: String) -> Error {
    let carried = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
        .map(Error::kind);
    let kind = carried.unwrap_or(match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::DiskFull,
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Os,
    });
    Error::caused(kind, what, error)
}
