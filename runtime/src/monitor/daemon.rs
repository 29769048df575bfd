//! Leaving the starter behind: `berth-oci monitor` returns, the monitor stays.
//!
//! ```text
//! starter ── fork ─▶ middle ── setsid, fork ─▶ monitor
//!    │                  │ exits                   │ makes namespaces, listens
//!    │ ◀── pipe: "ready", or why not ─────────────┘
//!    ▼ exits 0 or 1
//! ```
//!
//! The new session has no terminal, so that nobody's hang-up reaches the
//! monitor; the second fork makes it no session leader, so that it cannot gain
//! one by opening a terminal. The middle process has gone before the starter
//! answers, so the monitor is a child of the nearest reaper. See `daemon(7)`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, setsid, umask, waitpid};

use super::failure::{Context as _, MonitorError};
use crate::causes::chain;
use crate::sys::process::exit_now;
use crate::sys::process_copy::{Side, close_inherited, fork};

/// The monitor's own words, such as a panic's, inside the pod's directory.
pub const OWN_LOG_NAME: &str = "monitor.log";

const READY: &[u8] = b"ready";

/// The detached process's way to tell its starter how the setup went.
pub struct Starter {
    pipe: OwnedFd,
}

impl Starter {
    /// The setup is done: the starter exits 0.
    pub fn tell_ready(self) -> io::Result<()> {
        File::from(self.pipe).write_all(READY)
    }

    fn tell_failure(self, error: &MonitorError) {
        // A starter that was killed meanwhile reads nothing, and nobody else
        // is there to be told.
        let _ = File::from(self.pipe).write_all(chain(error).as_bytes());
    }
}

/// Runs `setup`, then `serve` with what it made, in a process of their own.
///
/// Returns in the caller once `setup` succeeded or failed. A failure of
/// `serve` comes after that and goes to the monitor's own log.
///
/// # Errors
///
/// What `setup` reported, or that no process could be made.
pub fn detach<T>(
    pod_dir: &Path,
    setup: impl FnOnce() -> Result<T, MonitorError>,
    serve: impl FnOnce(T) -> Result<(), MonitorError>,
) -> Result<(), MonitorError> {
    let (reader, writer) =
        pipe_with(PipeFlags::CLOEXEC).during(|| "make the pipe to the monitor".into())?;
    match fork().during(|| "fork".into())? {
        Side::Parent { child } => {
            drop(writer);
            reap(child);
            read_outcome(reader)
        }
        Side::Child => {
            drop(reader);
            exit_now(match leave_session() {
                Ok(Side::Parent { .. }) => 0,
                Ok(Side::Child) => run_detached(pod_dir, Starter { pipe: writer }, setup, serve),
                Err(error) => {
                    Starter { pipe: writer }.tell_failure(&error);
                    1
                }
            })
        }
    }
}

fn leave_session() -> Result<Side, MonitorError> {
    setsid().during(|| "make a session".into())?;
    fork().during(|| "fork".into())
}

fn run_detached<T>(
    pod_dir: &Path,
    starter: Starter,
    setup: impl FnOnce() -> Result<T, MonitorError>,
    serve: impl FnOnce(T) -> Result<(), MonitorError>,
) -> i32 {
    let made = quit_surroundings(&starter, pod_dir).and_then(|()| setup());
    let made = match made {
        Ok(made) => made,
        Err(error) => {
            // The setup has undone its own steps; the log is this file's.
            remove_empty_log(pod_dir);
            starter.tell_failure(&error);
            return 1;
        }
    };
    // A starter that went away before its answer wants the pod no less.
    let _ = starter.tell_ready();
    match serve(made) {
        Ok(()) => {
            remove_empty_log(pod_dir);
            0
        }
        Err(error) => {
            eprintln!("{}", chain(&error));
            1
        }
    }
}

/// Lets go of all that ties the process to where it was started: descriptors,
/// working directory, file mode mask, standard streams.
fn quit_surroundings(starter: &Starter, pod_dir: &Path) -> Result<(), MonitorError> {
    close_inherited(&[starter.pipe.as_fd()]).during(|| "close what was inherited".into())?;
    // A working directory would keep its mount busy.
    std::env::set_current_dir("/").during(|| "go to /".into())?;
    umask(rustix::fs::Mode::from_raw_mode(0o022));
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .during(|| "open /dev/null".into())?;
    rustix::stdio::dup2_stdin(&null).during(|| "replace standard input".into())?;
    rustix::stdio::dup2_stdout(&null).during(|| "replace standard output".into())?;
    let log = pod_dir.join(OWN_LOG_NAME);
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&log)
        .during(|| super::failure::named("open", &log))?;
    rustix::stdio::dup2_stderr(&log).during(|| "replace standard error".into())
}

/// Removes the monitor's own log when it holds nothing.
pub fn remove_empty_log(pod_dir: &Path) {
    let path = pod_dir.join(OWN_LOG_NAME);
    if std::fs::metadata(&path).is_ok_and(|found| found.len() == 0) {
        // It is empty: whoever finds it left learns nothing and loses nothing.
        let _ = std::fs::remove_file(&path);
    }
}

fn read_outcome(reader: OwnedFd) -> Result<(), MonitorError> {
    let mut outcome = Vec::new();
    File::from(reader)
        .read_to_end(&mut outcome)
        .during(|| "hear from the monitor".into())?;
    match outcome.as_slice() {
        READY => Ok(()),
        [] => Err(MonitorError::Reported(
            "the monitor ended before it was ready".into(),
        )),
        reason => Err(MonitorError::Reported(
            String::from_utf8_lossy(reason).into_owned(),
        )),
    }
}

/// Collects a child that is about to end.
pub fn reap(child: i32) {
    // The only failure is that it is no child of ours, which then needs no
    // collecting.
    let _ = rustix::io::retry_on_intr(|| waitpid(Pid::from_raw(child), WaitOptions::empty()));
}
