//! What ends a command: one line that says what was not reached and why.
//!
//! `berth: pull nginx: registry-1.docker.io: connection refused` is built from
//! three errors, each of which knows only its own part. The chain is put
//! together once, in `main`.

use std::error::Error as StdError;
use std::fmt;

/// berth itself failed, as `docker run` says it.
pub const ENGINE_FAILED: u8 = 125;
/// The container's program cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// The container's program is not there.
pub const NOT_FOUND: u8 = 127;

/// A failure with the exit code of the program.
#[derive(Debug)]
pub struct Error {
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
    exit_code: u8,
}

/// What a command ends with.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure that is its own cause.
    pub fn new(message: impl Into<String>) -> Error {
        Error {
            message: message.into(),
            source: None,
            exit_code: 1,
        }
    }

    /// The same failure with another exit code.
    pub fn with_exit_code(self, exit_code: u8) -> Error {
        Error { exit_code, ..self }
    }

    /// A failure that has been told already, or needs no words.
    pub fn silent(exit_code: u8) -> Error {
        Error {
            message: String::new(),
            source: None,
            exit_code,
        }
    }

    /// Nothing is to be printed.
    pub fn is_silent(&self) -> bool {
        self.message.is_empty()
    }

    /// For `std::process::exit`.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// The messages of the whole chain, joined by colons, on one line unless a
    /// message has several, as a manifest with several mistakes does.
    pub fn chain(&self) -> String {
        berth_runtime::causes::chain(self)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

/// Says what was tried when something failed.
pub trait Context<T> {
    /// Adds what was tried.
    ///
    /// # Errors
    ///
    /// The same failure, with that said.
    fn context(self, attempt: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Cause>> Context<T> for std::result::Result<T, E> {
    fn context(self, attempt: impl Into<String>) -> Result<T> {
        self.map_err(|error| {
            let cause = error.into();
            let message = attempt.into();
            Error {
                message,
                source: Some(cause.error),
                exit_code: cause.exit_code,
            }
        })
    }
}

/// An error of any library, boxed, with the exit code it asks for.
pub struct Cause {
    error: Box<dyn StdError + Send + Sync>,
    exit_code: u8,
}

impl From<Error> for Cause {
    fn from(error: Error) -> Cause {
        Cause {
            exit_code: error.exit_code,
            error: Box::new(error),
        }
    }
}

/// An answer of the CRI prints its code and fields; only its words are for people.
impl From<tonic::Status> for Cause {
    fn from(status: tonic::Status) -> Cause {
        Cause {
            error: status.message().to_owned().into(),
            exit_code: 1,
        }
    }
}

macro_rules! causes {
    ($($library:ty),+ $(,)?) => {
        $(impl From<$library> for Cause {
            fn from(error: $library) -> Cause {
                Cause { error: Box::new(error), exit_code: 1 }
            }
        })+
    };
}

causes!(
    rustls::Error,
    kube::Error,
    http::Error,
    tonic::transport::Error,
    berth_scheduler::trust::TrustError,
    berth_scheduler::trust::token::TokenError,
    berth_scheduler::server::ServerError,
    berth_scheduler::agent::AgentError,
    berth_scheduler::placement::explain::ExplainError,
    berth_netd::error::Error,
    std::io::Error,
    std::str::Utf8Error,
    serde_json::Error,
    reqwest::Error,
    rustix::io::Errno,
    tokio::task::JoinError,
    berth_scheduler::pod::volumes::VolumeError,
    berth_scheduler::pod::worker::WorkerError,
    nix::errno::Errno,
    tracing_subscriber::filter::ParseError,
    tracing_subscriber::reload::Error,
    tracing_subscriber::util::TryInitError,
    berth_cri::configuration::Unusable,
    berth_cri::engine::error::Error,
    berth_cri::images::error::Error,
    berth_runtime::monitor::client::ClientError,
    berth_runtime::monitor::frames::FrameError,
);
