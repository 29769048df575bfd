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

use nix::errno::Errno;
use nix::sched::CloneFlags;

use super::new_session::set_oom_score;
use crate::creation::{Creation, Gate, Handed, Undo};
use crate::init::Init;
use crate::stage::{Run, Stage, StageError};
use crate::state::START_SOCKET;
use crate::sys::process::{self, Cloned};
use crate::sys::procfs::Procfs;
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
    let two_steps = creation.plan.namespaces.takes_two_steps();
    let (late, back) = plan_pid_namespace(creation, two_steps)?;
    let comes_from_outside =
        |(_, kinds): &(OwnedFd, CloneFlags)| kinds.contains(CloneFlags::CLONE_NEWPID);
    creation.moves = late.is_some() || creation.target.as_ref().is_some_and(comes_from_outside);
    let old_score = lend_oom_score(creation)?;
    // Other users' processes must not look into init while host descriptors are
    // still open in it (CVE-2016-9962). The exec makes it dumpable again.
    if !maps_itself(creation) {
        process::set_undumpable()?;
    }
    // The cgroup namespace shows where init was when it was made, so it is made
    // later, when init is in its groups.
    let namespaces = match two_steps {
        true => CloneFlags::empty(),
        false => creation.plan.namespaces.new - CloneFlags::CLONE_NEWCGROUP,
    };
    let cloned = clone_into_group(creation, namespaces);
    match cloned.map_err(|error| explain(creation, error))? {
        Cloned::Child => {
            drop(ours);
            // The lock says that the runtime lives; a copy of it would lie.
            creation.folder = None;
            let mut init = Init::new(creation, theirs);
            init.console = console;
            init.gate = gate;
            init.pid_namespace = late;
            init.run()
        }
        Cloned::Parent(pid, pidfd) => {
            creation.init = Some((pid, pidfd));
            creation.channel = Some(ours);
            creation.undo.push(Undo::EndInit);
            // Init has copies, and what is open here would keep mounts alive.
            creation.handed = Handed::default();
        }
    }
    if let Some(score) = old_score {
        set_oom_score(&Procfs::open()?, score)?;
    }
    if let Some(back) = back {
        process::setns(back.as_fd(), CloneFlags::CLONE_NEWPID)?;
    }
    if two_steps {
        creation.await_move()?;
    }
    Ok(())
}

/// Clones, into the version 2 group if there is one already.
fn clone_into_group(creation: &mut Creation, namespaces: CloneFlags) -> Result<Cloned, StageError> {
    let cloned = match birth_group(creation)? {
        None => return Ok(process::clone3(namespaces, None)?),
        Some(group) => process::clone3(namespaces, Some(group.as_fd())),
    };
    match cloned {
        // The group hands controllers to groups inside it and takes nobody.
        Err(error) if error.errno() == Errno::EBUSY && creation.target.is_some() => {
            match creation.open_group_of_container_init()? {
                Some(group) => Ok(process::clone3(namespaces, Some(group.as_fd()))?),
                None => Err(error.into()),
            }
        }
        other => Ok(other?),
    }
}

/// The version 2 group that init is born in.
fn birth_group(creation: &mut Creation) -> Result<Option<OwnedFd>, StageError> {
    let Some(cgroup) = &creation.cgroup else {
        return Ok(None);
    };
    if creation.target.is_none() && cgroup.scope.is_some() {
        // systemd makes its groups around a process that is there.
        return Ok(None);
    }
    match cgroup.open_directory() {
        // The container's init was moved, and its group removed.
        Err(error) if error.errno() == Some(Errno::ENOENT) && creation.target.is_some() => {
            match creation.open_group_of_container_init()? {
                Some(group) => Ok(Some(group)),
                None => Err(error.into()),
            }
        }
        opened => Ok(opened?),
    }
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

/// A pid namespace that is joined: held until init enters it late, or with the way
/// back after children were pointed at it. Neither where a new user namespace
/// takes the right to join it: `join-spaces` does so before that.
fn plan_pid_namespace(
    creation: &Creation,
    two_steps: bool,
) -> Result<(Option<OwnedFd>, Option<OwnedFd>), StageError> {
    let user = CloneFlags::CLONE_NEWUSER;
    if two_steps && creation.plan.namespaces.new.contains(user) {
        return Ok((None, None));
    }
    match open_pid_namespace(creation)? {
        Some(namespace) if knows_pid_option(namespace.as_fd())? => Ok((Some(namespace), None)),
        Some(_) if two_steps => Ok((None, None)),
        Some(namespace) => Ok((None, Some(point_children_at(namespace.as_fd())?))),
        None => Ok((None, None)),
    }
}

/// Whether an ordinary user maps ids of their own into the new user namespace. The
/// kernel lets nobody but root write to the files of a process that is not
/// dumpable, so init becomes so after that, in `own-ids`. In between there is
/// nothing in its namespaces that could look.
fn maps_itself(creation: &Creation) -> bool {
    let user = CloneFlags::CLONE_NEWUSER;
    creation.plan.namespaces.new.contains(user) && !nix::unistd::geteuid().is_root()
}

/// Takes the program's OOM score for the moment in which init is made, for init
/// gets it by that: from a user namespace it could not lower it itself. Returns
/// what was there before.
fn lend_oom_score(creation: &Creation) -> Result<Option<i32>, StageError> {
    let wanted = creation.plan.process.oom_score_adj;
    let (Some(score), true) = (wanted, creation.plan.mappings.is_some()) else {
        return Ok(None);
    };
    let procfs = Procfs::open()?;
    let before = procfs.read("self/oom_score_adj")?;
    set_oom_score(&procfs, score)?;
    Ok(before.trim().parse().ok())
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

/// An ordinary user has the right to all other namespaces only in a user namespace.
fn explain(creation: &Creation, error: StageError) -> StageError {
    let isolated = creation.plan.mappings.is_some() || creation.target.is_some();
    match error {
        StageError::Call(call)
            if call.errno() == Errno::EPERM && !isolated && !nix::unistd::geteuid().is_root() =>
        {
            StageError::Refused(format!(
                "{call} (an ordinary user needs a namespace of type user in linux.namespaces; \
                 `berth-oci spec --rootless` writes one)"
            ))
        }
        other => other,
    }
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
