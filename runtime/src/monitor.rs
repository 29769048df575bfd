//! The per-pod monitor: one small process that outlives every daemon.
//!
//! A container's program needs a parent that collects its exit status, somebody
//! at the other end of its pipes, and namespaces that stay while containers
//! come and go. None of that may depend on a daemon that is upgraded or
//! crashes. So each pod has a monitor of its own: one thread, no daemon above
//! it, files below `POD_DIR` as its only memory that matters to others.
//!
//! In reading order: [`protocol`] is what is said, [`client`] says it;
//! `configuration`, `daemon`, `namespaces` and `pod_init` start the monitor;
//! `server` is its loop, `readiness` what it waits for, `requests`, `attachment`
//! and `lifecycle` what it does;
//! `container`, `oci_call`, `console`, `log_lines`, `log_file`, `oom`,
//! `accounting` and [`exits`] are its parts. `docs/monitor.md` has the picture.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Talking to a monitor.
pub mod client;
/// Records of how containers ended.
pub mod exits;
/// What keeps a monitor from starting or from going on.
pub mod failure;
/// Frames on an attached connection.
pub mod frames;
/// Process 1 of a pod's shared pid namespace.
pub mod pod_init;
/// What the engine and a monitor say to each other.
pub mod protocol;

mod accounting;
mod attachment;
mod configuration;
mod connection;
mod console;
mod container;
mod daemon;
mod lifecycle;
mod log_file;
mod log_lines;
mod namespaces;
mod oci_call;
pub(crate) mod oom;
mod readiness;
mod requests;
mod server;

use crate::sys::process::restore_default_action;
use crate::sys::socket_path;
use accounting::Accounting;
use failure::{Context as _, MonitorError, named};
use protocol::{MonitorConfig, NAMESPACES_FOLDER, SOCKET_NAME};
use server::Beginning;

/// Starts the monitor of the pod in `pod_dir` and returns once it listens.
///
/// The process must have one thread.
///
/// # Errors
///
/// Why there is no monitor; then nothing is left of it.
pub fn run(pod_dir: &Path) -> Result<(), MonitorError> {
    let pod_dir = pod_dir
        .canonicalize()
        .during(|| named("find the pod's directory", pod_dir))?;
    let config = configuration::read_configuration(&pod_dir)?;
    let socket = pod_dir.join(SOCKET_NAME);
    if socket_path::connect(&socket).is_ok() {
        return Err(MonitorError::AlreadyRuns { path: socket });
    }
    daemon::detach(&pod_dir, || set_up(pod_dir.clone(), config), server::serve)
}

/// Removes what a monitor that was killed has left: its pins and its socket.
/// Containers that it had are to be deleted with the OCI runtime before.
///
/// # Errors
///
/// - [`MonitorError::AlreadyRuns`]: the monitor is alive.
/// - The first thing that could not be removed; the others were.
pub fn remove_remains(pod_dir: &Path) -> Result<(), MonitorError> {
    let socket = pod_dir.join(SOCKET_NAME);
    if socket_path::connect(&socket).is_ok() {
        return Err(MonitorError::AlreadyRuns { path: socket });
    }
    let mut failures = namespaces::remove_pins(&pod_dir.join(NAMESPACES_FOLDER));
    if let Err(error) = remove_file(&socket) {
        failures.push(error);
    }
    failures.into_iter().next().map_or(Ok(()), Err)
}

/// In the detached process: everything that can fail, before the starter is
/// told that it went well.
fn set_up(pod_dir: PathBuf, config: MonitorConfig) -> Result<Beginning, MonitorError> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .during(|| "become a subreaper".into())?;
    // A starter that ignores SIGCHLD hands that on, and then the kernel throws
    // every exit status away.
    restore_default_action(Signal::SIGCHLD as i32)
        .map_err(|error| std::io::Error::from(error.errno()))
        .during(|| "wait for children".into())?;
    // Before anything is forked: the pod's process 1 is counted with it.
    let mut accounting = config
        .cgroup
        .as_deref()
        .map(Accounting::enter)
        .transpose()?;
    let pins = match namespaces::create_pins(&pod_dir, &config) {
        Ok(pins) => pins,
        Err(error) => {
            // The first failure is the one to tell, here and below.
            let _ = accounting.as_mut().map(Accounting::leave);
            return Err(error);
        }
    };
    // The signals are blocked after the forks above, whose children would keep
    // them blocked.
    match signals().and_then(|signals| Ok((signals, listen(&pod_dir)?))) {
        Ok((signals, listener)) => Ok(Beginning {
            config,
            pod_dir,
            pins,
            accounting,
            listener,
            signals,
        }),
        Err(error) => {
            let _ = pins.remove();
            let _ = accounting.as_mut().map(Accounting::leave);
            Err(error)
        }
    }
}

fn signals() -> Result<SignalFd, MonitorError> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        signals.add(signal);
    }
    signals
        .thread_block()
        .and_then(|()| {
            SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        })
        .during(|| "receive signals".into())
}

fn listen(pod_dir: &Path) -> Result<UnixListener, MonitorError> {
    let path = pod_dir.join(SOCKET_NAME);
    // Nobody answered on it, so it is of a monitor that was killed.
    remove_file(&path)?;
    let listener = socket_path::listen(&path).during(|| named("listen on", &path))?;
    // Whoever may connect can kill and attach.
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    let made = std::fs::set_permissions(&path, private)
        .and_then(|()| listener.set_nonblocking(true))
        .during(|| named("prepare", &path));
    if let Err(error) = made {
        let _ = remove_file(&path);
        return Err(error);
    }
    Ok(listener)
}

fn remove_file(path: &Path) -> Result<(), MonitorError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).during(|| named("remove", path))
        }
        _ => Ok(()),
    }
}
