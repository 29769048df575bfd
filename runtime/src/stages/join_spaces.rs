//! Stage `join-spaces`: init is in the namespaces that it shares with others.
//!
//! All files are opened before the first is entered: once the mount namespace
//! is another one, the host's paths mean nothing. The order within does not
//! matter to the kernel, except that the mount namespace comes last.
//!
//! For the same reason the machine's procfs is opened here where a later stage
//! writes to it: inside, `/proc` is whatever the container put there.

use std::os::fd::AsFd;

use nix::sched::CloneFlags;

use super::clone_init::open_namespace;
use crate::init::Init;
use crate::stage::{Run, Stage, StageError};
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
    for namespace in &init.plan.namespaces.joined {
        // The pid namespace was joined by being cloned into it, or will be by
        // `join-pids`.
        if namespace.kind != CloneFlags::CLONE_NEWPID {
            opened.push((open_namespace(namespace.path.as_path())?, namespace.kind));
        }
    }
    for (namespace, kind) in opened {
        process::setns(namespace.as_fd(), kind)?;
    }
    if let Some((target, kinds)) = init.target.take() {
        // One call for all, by a descriptor of the process: no number can have
        // changed hands in between (setns(2), Linux 5.8).
        process::setns(target.as_fd(), kinds)?;
    }
    Ok(())
}
