//! Process 1 of a pod's shared pid namespace.
//!
//! When process 1 of a pid namespace ends, the kernel kills all others in it
//! and no new one can be made (`pid_namespaces(7)`). So a namespace that
//! outlives each of its containers needs a process 1 that belongs to none. Its
//! two duties: collect the orphans that the kernel hands it, and end when the
//! monitor does. For the second it holds the reading end of a pipe, the
//! *lifeline*, whose writing end only the monitor has; the kernel closes that
//! however the monitor dies.
//!
//! Containers see this process in their `/proc`. It is a copy of the monitor
//! with the host's root directory, so it makes itself useless to them: no
//! capabilities, not dumpable (then `/proc/1/root`, `/proc/1/exe` and
//! `/proc/1/fd` need `CAP_SYS_PTRACE`), and an empty, read-only root of its own
//! in a mount namespace of its own, for those containers that were given that
//! capability.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use caps::CapSet;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use rustix::process::{
    DumpableBehavior, WaitOptions, chdir, pivot_root, set_dumpable_behavior, wait,
};

use crate::sys::process_copy::close_inherited;

/// What the process writes when it is ready to serve.
pub const HARMLESS: &str = "harmless";

/// Shown by `ps`; at most 15 bytes.
const NAME: &str = "berth-pod-init";

/// Serves as process 1 until the other end of `lifeline` is closed.
///
/// [`HARMLESS`] is written to `prepared` once the process is harmless and
/// reaps, or else the reason why it is not.
///
/// # Errors
///
/// When it could not be made harmless, or cannot wait.
pub fn serve_as_pod_init(lifeline: &OwnedFd, prepared: OwnedFd) -> io::Result<()> {
    let made = prepare(lifeline, &prepared);
    let mut prepared = File::from(prepared);
    match &made {
        Ok(_) => prepared.write_all(HARMLESS.as_bytes())?,
        Err(error) => prepared.write_all(error.to_string().as_bytes())?,
    }
    drop(prepared);
    reap_until_closed(lifeline, &made?)
}

fn prepare(lifeline: &OwnedFd, prepared: &OwnedFd) -> io::Result<SignalFd> {
    close_inherited(&[lifeline.as_fd(), prepared.as_fd()])?;
    rustix::thread::set_name(&CString::new(NAME)?)?;
    // Process 1 ignores every signal it has no handler for, from inside the
    // namespace. Blocked, SIGCHLD can be read from a descriptor.
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block()?;
    let signals = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    enter_empty_root()?;
    drop_privileges()?;
    Ok(signals)
}

fn reap_until_closed(lifeline: &OwnedFd, signals: &SignalFd) -> io::Result<()> {
    loop {
        let mut waits = [
            PollFd::new(lifeline, PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
        ];
        match poll(&mut waits, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !waits[0].revents().is_empty() {
            return Ok(());
        }
        while signals.read_signal()?.is_some() {}
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }
}

fn enter_empty_root() -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    // While a mount is shared, the tmpfs would show up on the host.
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    // Any directory does as mount point; nobody else sees this mount.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    mount("tmpfs", "/proc", "tmpfs", flags, Some(c"size=0,mode=000"))?;
    chdir("/proc")?;
    // With "." twice the old root is stacked on the new one (pivot_root(2),
    // NOTES) and can be let go of by the name ".".
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    Ok(())
}

fn drop_privileges() -> io::Result<()> {
    // The bounding set matters only at an execve, which never comes.
    for set in [
        CapSet::Ambient,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ] {
        caps::clear(None, set).map_err(io::Error::other)?;
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
