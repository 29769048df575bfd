//! Stage `join-pids`: the next child of init will be in the pid namespace that is joined.
//!
//! `setns(2)` of a pid namespace moves nobody: it decides where children are
//! born (pid_namespaces(7)). It needs `CAP_SYS_ADMIN`, so it comes before
//! `become-user`; and a program that init starts would already be born there, so
//! it comes after the hooks, which still see the host. `enter-pids` makes the child.

use std::os::fd::AsFd;

use nix::sched::CloneFlags;

use crate::init::Init;
use crate::stage::{Run, Stage, StageError};
use crate::sys::process;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "join-pids",
    effect: "a child of init will be in the pid namespace that is joined",
    after: &["hooks-inside", "mount-rest"],
    see: &["setns(2)", "pid_namespaces(7)"],
    run: Run::InitIf(|init| init.pid_namespace.is_some(), join_pids),
};

fn join_pids(init: &mut Init) -> Result<(), StageError> {
    if let Some(namespace) = init.pid_namespace.take() {
        process::setns(namespace.as_fd(), CloneFlags::CLONE_NEWPID)?;
    }
    Ok(())
}
