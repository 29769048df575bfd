//! Stage `join-spaces`: init is in the namespaces that it shares with others.
//!
//! All files are opened before the first is entered: once the mount namespace
//! is another one, the host's paths mean nothing. The mount namespace comes last
//! of its kind, and the user namespace after it: with it the host's rights go.
//! What those rights do not open, an ordinary user's mostly, is tried once more
//! with the rights that are had inside.
//!
//! Where there is a user namespace to be joined, or clocks to be set, init makes
//! its new namespaces here and goes on in them as another process
//! (`plan/namespaces.rs::takes_two_steps`).
//!
//! For the same reason the machine's procfs is opened here where a later stage
//! writes to it: inside, `/proc` is whatever the container put there.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;

use super::clone_init::open_namespace;
use crate::init::Init;
use crate::plan::namespaces::NamespacePlan;
use crate::stage::{Run, Stage, StageError};
use crate::sys::call::SyscallError;
use crate::sys::path;
use crate::sys::process;
use crate::sys::procfs::Procfs;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "join-spaces",
    effect: "init is in the namespaces that it joins",
    after: &["clone-init"],
    see: &["setns(2)", "namespaces(7)"],
    run: Run::Init(join_spaces),
};

fn join_spaces(init: &mut Init) -> Result<(), StageError> {
    if init.writes_to_procfs() {
        init.procfs = Some(Procfs::open()?);
    }
    let mut opened = Vec::new();
    let two_steps = init.plan.namespaces.takes_two_steps();
    for namespace in &init.plan.namespaces.joined {
        // The pid namespace was joined by being cloned into it, or will be by
        // `join-pids`; here only where a second step follows that is not late.
        let here = two_steps && init.pid_namespace.is_none();
        if here || namespace.kind != CloneFlags::CLONE_NEWPID {
            opened.push((open_namespace(namespace.path.as_path())?, namespace.kind));
        }
    }
    join_all(opened)?;
    if two_steps {
        make_rest(init)?;
    }
    if let Some((target, kinds)) = init.target.take() {
        // One call for all, by a descriptor of the process: no number can have
        // changed hands in between (setns(2), Linux 5.8). It refuses to join none.
        if !kinds.is_empty() {
            process::setns(target.as_fd(), kinds)?;
        }
        if let Some(root) = init.handed.root.take() {
            // No mount namespace was joined that would have brought the root along.
            path::change_root_to(root.as_fd())?;
        }
    }
    Ok(())
}

/// Joins the user namespace last, and after it what could not be joined before.
fn join_all(opened: Vec<(OwnedFd, CloneFlags)>) -> Result<(), SyscallError> {
    let (users, others): (Vec<_>, Vec<_>) = opened
        .into_iter()
        .partition(|(_, kind)| *kind == CloneFlags::CLONE_NEWUSER);
    let mut later = Vec::new();
    for (namespace, kind) in others {
        match process::setns(namespace.as_fd(), kind) {
            Err(error) if error.errno() == Errno::EPERM && !users.is_empty() => {
                later.push((namespace, kind));
            }
            other => other?,
        }
    }
    for (namespace, kind) in users.into_iter().chain(later) {
        process::setns(namespace.as_fd(), kind)?;
    }
    Ok(())
}

/// Makes the new namespaces from within the user namespace, so that it owns them,
/// sets the clocks, and goes on as the first process in all of them.
fn make_rest(init: &Init) -> Result<(), StageError> {
    let new = init.plan.namespaces.new;
    let mut rest = new - CloneFlags::CLONE_NEWCGROUP;
    for kind in [CloneFlags::CLONE_NEWUSER, NamespacePlan::TIME] {
        if new.contains(kind) {
            process::unshare(kind)?;
            rest -= kind;
        }
    }
    set_clocks(&init.plan.clock_offsets)?;
    init.move_to_child(rest)
}

/// A time namespace's clocks can be set until its first process is there.
fn set_clocks(lines: &[String]) -> Result<(), StageError> {
    if lines.is_empty() {
        return Ok(());
    }
    let procfs = Procfs::open()?;
    for line in lines {
        procfs.write("self/timens_offsets", line).map_err(|error| {
            let hint = match error.errno() {
                Errno::ERANGE => " (the clock would be negative, or beyond 146 years)",
                _ => "",
            };
            StageError::Refused(format!("linux.timeOffsets: {error}{hint}"))
        })?;
    }
    Ok(())
}
