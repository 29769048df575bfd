//! A service manager that waits to hear that the container's program is ready:
//! sd_notify(3).
//!
//! ```text
//!   program ──▶ /run/notify/notify.sock ──▶ `start` or `run` ──▶ NOTIFY_SOCKET of the manager
//!                                            only READY=1; with MAINPID= from us
//! ```
//!
//! systemd names a datagram socket in `NOTIFY_SOCKET`. The runtime is who it
//! started, and the container's program who it waits for. The manager's own
//! socket is not shown to the program: by it a container could name any process
//! of the host as the service's, or leave descriptors there. So the runtime
//! stands in between, as runc does, and passes on one word. What the program
//! cannot know, its number outside, the runtime adds in the same message: who
//! is not the main process any more may not be listened to.

use std::ffi::CString;
use std::io::ErrorKind::NotFound;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};

use crate::error::Error;
use crate::ids::{ContainerPath, HostPath};
use crate::plan::CreatePlan;
use crate::plan::mounts::{MountKind, MountPlan};
use crate::plan::options::OptionPlan;
use crate::sys::call::{finish, narrated};
use crate::sys::mount::{AttributeChange, Depth};
use crate::sys::privilege;
use crate::sys::process::HostPid;
use crate::sys::socket_path::ShortPath;

/// In the folder of the container's state: what the program sees.
pub const FOLDER: &str = "notify";
const SOCKET: &str = "notify.sock";
/// Where the program sees it, as under runc.
const INSIDE: &str = "/run/notify";
/// One message; what is longer is none of those that are passed on.
const MESSAGE_BYTES: usize = 4096;

/// The manager's socket. One without a path is reachable from the host's network
/// only, where nobody would be in between.
fn observe_socket() -> Option<PathBuf> {
    let socket = PathBuf::from(std::env::var_os("NOTIFY_SOCKET")?);
    socket.is_absolute().then_some(socket)
}

/// Has the container's program see a socket if a manager waits, unless its own
/// environment says something of one. Returns whether [`FOLDER`] is to be made.
pub fn pass_socket(plan: &mut CreatePlan, state: &Path) -> bool {
    let told = |text: &CString| text.as_bytes().starts_with(b"NOTIFY_SOCKET=");
    if observe_socket().is_none() || plan.process.environment.iter().any(told) {
        return false;
    }
    let variable = CString::new(format!("NOTIFY_SOCKET={INSIDE}/{SOCKET}"));
    plan.process
        .environment
        .push(variable.expect("there is no zero byte in it"));
    plan.mounts.push(MountPlan {
        destination: ContainerPath::new(INSIDE),
        kind: MountKind::Bind {
            source: HostPath::new(state.join(FOLDER)),
            depth: Depth::One,
        },
        options: OptionPlan {
            bind: Some(Depth::One),
            attributes: AttributeChange {
                set: libc::MOUNT_ATTR_RDONLY
                    | libc::MOUNT_ATTR_NOSUID
                    | libc::MOUNT_ATTR_NODEV
                    | libc::MOUNT_ATTR_NOEXEC,
                ..AttributeChange::default()
            },
            ..OptionPlan::default()
        },
        idmap: None,
    });
    true
}

/// Who stands between the program and the manager.
#[derive(Debug)]
pub struct Relay {
    program: UnixDatagram,
    manager: PathBuf,
}

impl Relay {
    /// Listens where the program will speak; none if no manager waits, or if none
    /// waited when the container was made.
    ///
    /// # Errors
    ///
    /// Those of bind(2).
    pub fn listen(state: &Path) -> Result<Option<Relay>, Error> {
        let folder = state.join(FOLDER);
        let Some(manager) = observe_socket().filter(|_| folder.is_dir()) else {
            return Ok(None);
        };
        let path = folder.join(SOCKET);
        let failed = |error: &std::io::Error| Error::of_file(&path, error);
        // That of a `start` that was killed.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != NotFound => return Err(failed(&error)),
            _ => {}
        }
        let short = ShortPath::of(&path).map_err(|error| failed(&error))?;
        // The program may be anybody; a mode given afterwards would follow what a
        // privileged container could put in the socket's place.
        let before = privilege::set_umask(0);
        let bound = UnixDatagram::bind(&short.path);
        privilege::set_umask(before);
        let bound = narrated(bound, || format!("bind({path:?})"));
        Ok(Some(Relay {
            program: bound.map_err(|error| failed(&error))?,
            manager,
        }))
    }

    /// Waits until the program is ready, and tells the manager so and which process
    /// it is; or until the program has ended.
    ///
    /// # Errors
    ///
    /// Those of poll(2).
    pub fn wait(&self, init: (HostPid, BorrowedFd<'_>)) -> Result<(), Error> {
        loop {
            let mut watched = [
                PollFd::from_borrowed_fd(self.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(init.1, PollFlags::IN),
            ];
            match poll(&mut watched, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => finish(other.map(drop), || "poll()".to_owned())?,
            }
            if !watched[0].revents().is_empty() {
                if self.hears_ready() {
                    self.tell(&format!("MAINPID={}\nREADY=1\n", init.0.0));
                    return Ok(());
                }
            } else if !watched[1].revents().is_empty() {
                return Ok(());
            }
        }
    }

    /// Passes one message on, while this process stays the service's main one.
    pub fn pass_on(&self) {
        if self.hears_ready() {
            self.tell("READY=1\n");
        }
    }

    /// Takes one message.
    fn hears_ready(&self) -> bool {
        let mut message = [0; MESSAGE_BYTES];
        let Ok(length) = self.program.recv(&mut message) else {
            return false;
        };
        let mut lines = message[..length].split(|byte| *byte == b'\n');
        lines.any(|line| line == b"READY=1")
    }

    /// A manager that does not listen is no reason against a container that runs.
    fn tell(&self, words: &str) {
        let told = UnixDatagram::unbound()
            .and_then(|socket| socket.send_to(words.as_bytes(), &self.manager));
        let _ = narrated(told, || format!("sendto({:?}, {words:?})", self.manager));
    }
}

impl AsFd for Relay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}
