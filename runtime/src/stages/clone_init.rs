//! Stage `clone-init`: a second process, in namespaces of its own.
//!
//! One `clone3(2)` makes the process and its namespaces. It is a copy of this
//! one, so it needs no program, no arguments and no second reading of the
//! configuration; runc starts itself anew twice here, because Go's threads
//! forbid a copy.
//!
//! A pid namespace cannot be entered by a process that exists, only by its
//! children (pid_namespaces(7)): to join one, the runtime points its *future*
//! children there, clones, and points back; or, better, init enters it only when
//! nothing of the host is left in it. `enter-pids` tells why.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;

use crate::cgroup::plan::CgroupPlan;
use crate::creation::{Creation, Gate, Undo};
use crate::stage::{Run, Stage, StageError};
use crate::state::START_SOCKET;
use crate::sys::process::{self, Cloned};
use crate::sys::{channel, mount, path};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "clone-init",
    effect: "init exists, in new pid, mount, network, IPC and UTS namespaces as asked for",
    after: &["reserve-id", "create-v2"],
    see: &["clone(2)", "namespaces(7)", "pid_namespaces(7)"],
    run: Run::Runtime(clone_init),
};

fn clone_init(creation: &mut Creation) -> Result<(), StageError> {
    let (ours, theirs) = channel::pair()?;
    let console = match (creation.console.take(), &creation.wishes.console_socket) {
        (Some(own), _) => Some(own),
        (None, Some(socket)) => Some(channel::connect_host(socket)?),
        (None, None) => None,
    };
    let gate = open_gate(creation)?;
    let pid_namespace = open_pid_namespace(creation)?;
    let (late, back) = match pid_namespace {
        Some(namespace) if knows_pid_option(namespace.as_fd())? => (Some(namespace), None),
        Some(namespace) => (None, Some(point_children_at(namespace.as_fd())?)),
        None => (None, None),
    };
    let comes_from_outside =
        |(_, kinds): &(OwnedFd, CloneFlags)| kinds.contains(CloneFlags::CLONE_NEWPID);
    creation.moves = late.is_some() || creation.target.as_ref().is_some_and(comes_from_outside);
    // Other users' processes must not look into init while host descriptors are
    // still open in it (CVE-2016-9962). The exec makes it dumpable again.
    process::set_undumpable()?;
    // The cgroup namespace shows where init was when it was made, so it is made
    // later, when init is in its groups.
    let namespaces = creation.plan.namespaces.new - CloneFlags::CLONE_NEWCGROUP;
    let group = creation
        .cgroup
        .as_ref()
        .map(CgroupPlan::open_directory)
        .transpose()?
        .flatten();
    match process::clone3(namespaces, group.as_ref().map(AsFd::as_fd))? {
        Cloned::Child => {
            drop(ours);
            // The lock says that the runtime lives; a copy of it would lie.
            creation.folder = None;
            let mut init = creation.init_side(theirs);
            init.console = console;
            init.gate = gate;
            init.target = creation.target.take();
            init.pid_namespace = late;
            init.run()
        }
        Cloned::Parent(pid, pidfd) => {
            creation.init = Some((pid, pidfd));
            creation.channel = Some(ours);
            creation.undo.push(Undo::EndInit);
        }
    }
    if let Some(back) = back {
        process::setns(back.as_fd(), CloneFlags::CLONE_NEWPID)?;
    }
    Ok(())
}

/// The socket on which `start` will call. It is made here because the runtime
/// still knows the folder by its path.
fn open_gate(creation: &Creation) -> Result<Option<OwnedFd>, StageError> {
    match (&creation.folder, creation.wishes.gate) {
        (Some(folder), Gate::Start) => {
            Ok(Some(channel::listen_in(folder.directory(), START_SOCKET)?))
        }
        _ => Ok(None),
    }
}

/// The pid namespace that the configuration names by a path.
fn open_pid_namespace(creation: &Creation) -> Result<Option<OwnedFd>, StageError> {
    let kind = CloneFlags::CLONE_NEWPID;
    let mut joined = creation.plan.namespaces.joined.iter();
    let by_path = joined.find(|joined| joined.kind == kind);
    by_path
        .map(|namespace| open_namespace(namespace.path.as_path()))
        .transpose()
}

/// Whether a procfs of that namespace can be made from outside of it (Linux 6.17).
fn knows_pid_option(namespace: BorrowedFd<'_>) -> Result<bool, StageError> {
    let context = mount::fsopen("proc")?;
    Ok(mount::fsconfig_descriptor(context.as_fd(), "pidns", namespace).is_ok())
}

/// Points future children at another pid namespace; returns the way back.
fn point_children_at(namespace: BorrowedFd<'_>) -> Result<OwnedFd, StageError> {
    let own = open_namespace(Path::new("/proc/self/ns/pid"))?;
    process::setns(namespace, CloneFlags::CLONE_NEWPID)?;
    Ok(own)
}

/// Opens a namespace's file. `setns(2)` refuses a descriptor of `O_PATH`.
///
/// # Errors
///
/// `ENOENT`: the namespace is gone.
pub fn open_namespace(file: &Path) -> Result<OwnedFd, StageError> {
    Ok(path::open_readable(file)?)
}
