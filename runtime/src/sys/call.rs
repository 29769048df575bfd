//! How a call that failed is told, and how one that succeeded is narrated.

use std::fmt;
use std::io::Write;
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
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
///
/// The line goes out in one `write(2)`: two processes tell at once, and their
/// words must not mix within a line.
pub fn tell(line: fmt::Arguments<'_>) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// What a call gave back, as a reader of the narration wants to see it.
pub trait Answer {
    /// In words: a number where the kernel gave one, `ok` where success is all.
    fn in_words(&self) -> String {
        "ok".to_owned()
    }
}

impl Answer for () {}
impl Answer for std::convert::Infallible {}
impl Answer for rustix::fs::StatVfs {}
impl Answer for caps::CapsHashSet {}
impl Answer for rustix::fs::Dir {}
impl Answer for rustix::fs::DirEntry {}

impl Answer for std::ffi::CString {
    fn in_words(&self) -> String {
        format!("{self:?}")
    }
}

impl Answer for nix::sys::eventfd::EventFd {
    fn in_words(&self) -> String {
        self.as_fd().as_raw_fd().to_string()
    }
}

impl Answer for nix::sys::signalfd::SignalFd {
    fn in_words(&self) -> String {
        self.as_fd().as_raw_fd().to_string()
    }
}

impl Answer for std::os::unix::net::UnixDatagram {
    fn in_words(&self) -> String {
        self.as_raw_fd().to_string()
    }
}

impl Answer for rustix::fs::Stat {
    fn in_words(&self) -> String {
        let kind = rustix::fs::FileType::from_raw_mode(self.st_mode);
        format!("ok ({kind:?}, {:#o})", self.st_mode & 0o7777)
    }
}

impl Answer for OwnedFd {
    fn in_words(&self) -> String {
        self.as_raw_fd().to_string()
    }
}

impl Answer for std::fs::File {
    fn in_words(&self) -> String {
        self.as_raw_fd().to_string()
    }
}

impl Answer for (OwnedFd, OwnedFd) {
    fn in_words(&self) -> String {
        format!("[{}, {}]", self.0.as_raw_fd(), self.1.as_raw_fd())
    }
}

impl Answer for Vec<u8> {
    fn in_words(&self) -> String {
        format!("{} bytes", self.len())
    }
}

/// What files of procfs and cgroupfs say is mostly short enough to be shown.
impl Answer for String {
    fn in_words(&self) -> String {
        match self.trim_end() {
            short if short.len() <= 60 && !short.contains('\n') => format!("{short:?}"),
            _ => format!("{} bytes", self.len()),
        }
    }
}

/// What the kernel answered over netlink: a type and a body each.
impl Answer for Vec<(u16, Vec<u8>)> {
    fn in_words(&self) -> String {
        format!("{} messages", self.len())
    }
}

impl<T: Answer> Answer for Option<T> {
    fn in_words(&self) -> String {
        self.as_ref().map_or("none".to_owned(), T::in_words)
    }
}

impl Answer for usize {
    fn in_words(&self) -> String {
        self.to_string()
    }
}

impl Answer for bool {
    fn in_words(&self) -> String {
        self.to_string()
    }
}

impl Answer for i32 {
    fn in_words(&self) -> String {
        self.to_string()
    }
}

impl Answer for u64 {
    fn in_words(&self) -> String {
        self.to_string()
    }
}

/// Numbers of 64 bits are processes, and magics of filesystems (`EXT4_SUPER_MAGIC`).
impl Answer for i64 {
    fn in_words(&self) -> String {
        self.to_string()
    }
}

/// Turns a library's answer into ours; `describe` is asked only when its words
/// are needed.
pub fn finish<T: Answer, E: HasErrno>(
    result: Result<T, E>,
    describe: impl FnOnce() -> String,
) -> Result<T, SyscallError> {
    match result {
        Ok(value) => {
            if narrating() {
                tell(format_args!("    {} = {}", describe(), value.in_words()));
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

/// Tells, when asked to, what a call of the standard library came to, and hands it on.
pub fn narrated<T: Answer>(
    result: std::io::Result<T>,
    describe: impl FnOnce() -> String,
) -> std::io::Result<T> {
    if narrating() {
        match &result {
            Ok(value) => tell(format_args!("    {} = {}", describe(), value.in_words())),
            Err(error) => tell(format_args!("    {} = {:?}", describe(), error.errno())),
        }
    }
    result
}

/// Tells, when asked to, of something that is no call with a result.
pub fn remark(describe: impl FnOnce() -> String) {
    if narrating() {
        tell(format_args!("    {}", describe()));
    }
}

/// Flags in the words of the manual pages: `CLONE_NEWNS|CLONE_NEWPID`, or `0` for none.
pub fn flag_words<'a>(prefix: &str, names: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<String> = names.map(|name| format!("{prefix}{name}")).collect();
    match words.is_empty() {
        true => "0".to_owned(),
        false => words.join("|"),
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
