//! What can go wrong with a filter.

use crate::sys::call::SyscallError;

/// A profile that cannot be kept, or a compiler that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeccompError {
    /// A field of the profile has a value with no meaning.
    #[error("{field}: {reason}; no filter was made")]
    Invalid {
        /// The field by its path in `config.json`, as `linux.seccomp.syscalls[3].args[0].index`.
        field: String,
        /// What is expected, and what is there.
        reason: String,
    },
    /// libseccomp refused a step.
    #[error("{field}: libseccomp could not {step}")]
    Library {
        /// The field that it was about.
        field: String,
        /// What it was asked to do.
        step: String,
        /// Its answer.
        #[source]
        source: libseccomp::error::SeccompError,
    },
    /// A call around the compiler failed.
    #[error(transparent)]
    Call(#[from] SyscallError),
    /// A program longer than the kernel takes.
    #[error(
        "linux.seccomp: the compiled filter has {0} instructions, and the kernel takes at most 4096; list fewer architectures or calls"
    )]
    TooLong(usize),
}

impl SeccompError {
    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            reason: reason.into(),
        }
    }
}
