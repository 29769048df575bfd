//! A service manager that waits to hear that the container's program is ready:
//! sd_notify(3).
//!
//! systemd names a datagram socket in `NOTIFY_SOCKET`. The runtime is who it
//! started, and the container's program who it waits for; so the socket is bound
//! into the container and named there, and the program's words go to the manager
//! without anybody in between. What the program cannot know, its number outside,
//! the runtime tells: `MAINPID=`.

use std::ffi::CString;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::ids::{ContainerPath, HostPath};
use crate::plan::CreatePlan;
use crate::plan::mounts::{MountKind, MountPlan};
use crate::plan::options::OptionPlan;
use crate::sys::mount::{AttributeChange, Depth};
use crate::sys::process::HostPid;

/// Where the program finds the socket, as under runc.
const INSIDE: &str = "/run/notify/notify.sock";

/// The manager's socket. One without a path cannot be bound into a container.
pub fn observe_socket() -> Option<PathBuf> {
    let socket = PathBuf::from(std::env::var_os("NOTIFY_SOCKET")?);
    socket.is_absolute().then_some(socket)
}

/// Has the container's program see the socket, unless its own environment says
/// something of one.
pub fn pass_socket(plan: &mut CreatePlan, socket: &Path) {
    let told = |text: &CString| text.as_bytes().starts_with(b"NOTIFY_SOCKET=");
    if plan.process.environment.iter().any(told) {
        return;
    }
    let variable = CString::new(format!("NOTIFY_SOCKET={INSIDE}"));
    plan.process
        .environment
        .push(variable.expect("there is no zero byte in it"));
    plan.mounts.push(MountPlan {
        destination: ContainerPath::new(INSIDE),
        kind: MountKind::Bind {
            source: HostPath::new(socket),
            depth: Depth::One,
        },
        options: OptionPlan {
            bind: Some(Depth::One),
            attributes: AttributeChange {
                set: libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC,
                ..AttributeChange::default()
            },
            ..OptionPlan::default()
        },
        idmap: None,
    });
}

/// Tells the manager which process is the service. One that does not listen is
/// no reason against a container that runs.
pub fn tell_main_process(pid: HostPid) {
    if let Some(path) = observe_socket()
        && let Ok(socket) = UnixDatagram::unbound()
    {
        let _ = socket.send_to(format!("MAINPID={}\n", pid.0).as_bytes(), path);
    }
}
