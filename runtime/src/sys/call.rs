//! How a call that failed is told, and how one that succeeded is narrated.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// A call that the kernel refused, printed as strace(1) prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyscallError {
    call: String,
    errno: i32,
}

impl SyscallError {
    /// A failure that was noticed without a call of the kernel, for example an
    /// answer that is not what it must be.
    pub fn new(call: impl Into<String>, errno: Errno) -> SyscallError {
        SyscallError {
            call: call.into(),
            errno: errno as i32,
        }
    }

    /// Why the kernel refused.
    pub fn errno(&self) -> Errno {
        Errno::from_raw(self.errno)
    }

    /// The call with its arguments.
    pub fn call(&self) -> &str {
        &self.call
    }
}

impl fmt::Display for SyscallError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The kernel's own words for the cause: callers such as podman look for
        // "no such file or directory" and "permission denied" in lower case.
        let reason = self.errno().desc().to_lowercase();
        write!(out, "{}: {reason}", self.call)
    }
}

impl std::error::Error for SyscallError {}

/// Errors of the libraries that carry nothing but an errno.
pub trait HasErrno {
    /// The errno.
    fn errno(&self) -> Errno;
}

impl HasErrno for Errno {
    fn errno(&self) -> Errno {
        *self
    }
}

impl HasErrno for rustix::io::Errno {
    fn errno(&self) -> Errno {
        Errno::from_raw(self.raw_os_error())
    }
}

impl HasErrno for std::io::Error {
    fn errno(&self) -> Errno {
        Errno::from_raw(self.raw_os_error().unwrap_or(libc::EIO))
    }
}

static NARRATING: AtomicBool = AtomicBool::new(false);

/// Prints every call from here on, with its result, to standard error.
pub fn narrate() {
    NARRATING.store(true, Ordering::Relaxed);
}

/// Whether calls are printed.
pub fn narrating() -> bool {
    NARRATING.load(Ordering::Relaxed)
}

/// Prints a line to standard error. A reader who has gone, such as `head`, must
/// not end a container's making in the middle.
pub fn tell(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Turns a library's answer into ours; `describe` is asked only when its words
/// are needed.
pub fn finish<T, E: HasErrno>(
    result: Result<T, E>,
    describe: impl FnOnce() -> String,
) -> Result<T, SyscallError> {
    match result {
        Ok(value) => {
            if narrating() {
                tell(format_args!("    {} = ok", describe()));
            }
            Ok(value)
        }
        Err(error) => {
            let error = SyscallError::new(describe(), error.errno());
            if narrating() {
                tell(format_args!("    {} = {:?}", error.call, error.errno()));
            }
            Err(error)
        }
    }
}

/// A raw return value: `-1` means errno.
pub fn check(returned: libc::c_long) -> Result<libc::c_long, Errno> {
    if returned < 0 {
        Err(Errno::last())
    } else {
        Ok(returned)
    }
}

/// A path in quotes, for a description.
pub fn quoted(path: &Path) -> String {
    format!("{path:?}")
}

#[cfg(test)]
mod tests {
    use super::{SyscallError, finish};
    use nix::errno::Errno;

    #[test]
    fn failures_read_as_strace_prints_them() {
        let failed: Result<(), SyscallError> =
            finish(Err(Errno::EPERM), || "sethostname(\"web\")".to_owned());
        let error = failed.expect_err("it failed");
        assert_eq!(
            error.to_string(),
            "sethostname(\"web\"): operation not permitted"
        );
        assert_eq!(error.errno(), Errno::EPERM);
    }
}
