//! Process 1 of a pod's shared pid namespace: `berth-oci pod-init`.
//!
//! When process 1 of a pid namespace ends, the kernel kills all others in it
//! and no new one can be made (`pid_namespaces(7)`). So a namespace that
//! outlives each of its containers needs a process 1 that belongs to none. Its
//! two duties: collect the orphans that the kernel hands it, and end when the
//! monitor does. For the second its standard input is a pipe, the *lifeline*,
//! whose writing end only the monitor has; the kernel closes that however the
//! monitor dies.
//!
//! Containers see this process in their `/proc`, and a container with
//! `CAP_SYS_PTRACE` may follow `/proc/1/root` and `/proc/1/exe`. Behind the
//! first would be the host's files, behind the second the program that makes
//! all containers (the road of CVE-2019-5736). So the program is executed
//! through a read-only mount of itself, which nobody can make writable, as it
//! is attached nowhere; and its root is an empty directory in a mount namespace
//! of its own. Those without that capability are kept out altogether: the
//! process is not dumpable, and has no capabilities to be turned to use.

use std::ffi::CString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use caps::CapSet;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{
    MountAttrFlags, MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use rustix::process::{
    DumpableBehavior, WaitOptions, chdir, pivot_root, set_dumpable_behavior, wait,
};

use crate::sys::mount::{AttributeChange, Depth, mount_setattr, open_tree_clone};
use crate::sys::process::execve;
use crate::sys::residence::{ProgramText, malloc_trim};

/// What the process writes when it is ready to serve.
pub const HARMLESS: &str = "harmless";

/// The verb of `berth-oci` that runs [`serve`].
pub const VERB: &str = "pod-init";

/// Shown by `ps`; at most 15 bytes.
const NAME: &str = "berth-pod-init";

/// This program, through a read-only mount that is attached nowhere.
#[derive(Debug)]
pub struct SealedProgram(OwnedFd);

impl SealedProgram {
    /// Mounts it. This takes the host's rights over the host's mounts, so it is
    /// done before a user namespace is entered.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_SYS_ADMIN`.
    pub fn open() -> io::Result<SealedProgram> {
        let program = open(
            "/proc/self/exe",
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let program = open_tree_clone(program.as_fd(), Depth::One).map_err(io::Error::other)?;
        let read_only = AttributeChange {
            set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
            clear: 0,
            propagation: 0,
        };
        mount_setattr(program.as_fd(), Depth::One, read_only).map_err(io::Error::other)?;
        Ok(SealedProgram(program))
    }
}

/// Executes this program anew as [`VERB`], to serve until the other end of
/// `lifeline` is closed. It writes [`HARMLESS`] to `prepared`, or why not.
///
/// Returns only when it failed.
pub fn execute(program: &SealedProgram, lifeline: &OwnedFd, prepared: &OwnedFd) -> io::Error {
    match try_execute(program, lifeline, prepared) {
        Err(error) => error,
    }
}

fn try_execute(
    program: &SealedProgram,
    lifeline: &OwnedFd,
    prepared: &OwnedFd,
) -> io::Result<std::convert::Infallible> {
    rustix::stdio::dup2_stdin(lifeline)?;
    rustix::stdio::dup2_stdout(prepared)?;
    let path = CString::new(format!("/proc/self/fd/{}", program.0.as_raw_fd()))?;
    let arguments = [CString::new("berth-oci")?, CString::new(VERB)?];
    execve(&path, &arguments, &[]).map_err(io::Error::other)
}

/// Serves as process 1 until standard input is closed at its other end.
///
/// Standard output hears [`HARMLESS`] once the process is that, and reaps, or
/// else the reason why it is not.
///
/// # Errors
///
/// When it could not be made harmless, or cannot wait.
pub fn serve() -> io::Result<()> {
    let made = prepare();
    let mut prepared = io::stdout();
    match &made {
        Ok(_) => prepared.write_all(HARMLESS.as_bytes())?,
        Err(error) => prepared.write_all(error.to_string().as_bytes())?,
    }
    prepared.flush()?;
    let Prepared {
        signals,
        null,
        text,
    } = made?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    drop(null);
    // It sleeps from here on.
    malloc_trim();
    if let Some(text) = text {
        text.release();
    }
    reap_until_closed(rustix::stdio::stdin(), &signals)
}

struct Prepared {
    signals: SignalFd,
    /// Opened while there was a `/dev`.
    null: OwnedFd,
    /// Found while there was a `/proc`.
    text: Option<ProgramText>,
}

fn prepare() -> io::Result<Prepared> {
    if std::process::id() != 1 {
        let text = "this is for the monitor alone: the process must be the first of its namespace";
        return Err(io::Error::other(text));
    }
    rustix::thread::set_name(&CString::new(NAME)?)?;
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // Process 1 ignores every signal it has no handler for, from inside the
    // namespace. Blocked, SIGCHLD can be read from a descriptor.
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block()?;
    let signals = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let text = ProgramText::find();
    enter_empty_root()?;
    drop_privileges()?;
    Ok(Prepared {
        signals,
        null,
        text,
    })
}

fn reap_until_closed(lifeline: BorrowedFd<'_>, signals: &SignalFd) -> io::Result<()> {
    loop {
        let mut waits = [
            PollFd::from_borrowed_fd(lifeline, PollFlags::IN),
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
    mount("tmpfs", "/proc", "tmpfs", flags, Some(c"size=4k,mode=000"))?;
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
