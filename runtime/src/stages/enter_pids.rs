//! Stage `enter-pids`: init is in a pid namespace of others, and has nothing that they lack.
//!
//! Who is in that namespace and has `CAP_SYS_PTRACE` sees every process of it in
//! `/proc` with all that it holds: `/proc/PID/root` of an init that still has the
//! host's tree is the host's tree, and one that still has all capabilities can be
//! made to use them by `ptrace(2)` (CVE-2016-9962). Being undumpable does not
//! stop them, since that capability is what overrules it. So init does its work
//! in the host's pid namespace, where they cannot name it, and is born into
//! theirs only here: its root, its working directory, its user and its
//! capabilities are the container's.
//!
//! ```text
//! runtime           init (host's pids)           init (their pids)
//!    │  clone3 ────────▶ │
//!    │                   │ mounts, root, user
//!    │                   │ clone3(CLONE_PARENT) ───▶ │
//!    │ ◀──── Moved, pid ─│ _exit                     │ setsid
//!    │ ◀──────────────────────────────────── Ready ──│
//! ```
//!
//! A procfs that shows their processes can be made from outside since Linux 6.17
//! (`pidns`, proc(5)). On older kernels only a process inside can make one, and
//! for `create` init is born there at once, as in other runtimes; `exec` mounts
//! nothing and always comes late.

use std::os::fd::AsFd;

use nix::sched::CloneFlags;

use crate::init::Init;
use crate::stage::{Run, Stage, StageError};
use crate::sys::{process, terminal};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "enter-pids",
    effect: "init is in the pid namespace that it joins, with nothing of the host's left",
    after: &["join-spaces", "join-pids", "become-user", "open-console"],
    see: &[
        "clone(2) CLONE_PARENT",
        "pid_namespaces(7)",
        "ptrace(2)",
        "proc(5)",
    ],
    run: Run::InitIf(|init| init.moves, enter_pids),
};

fn enter_pids(init: &mut Init) -> Result<(), StageError> {
    if !init.moves {
        // A walk makes every stage, asked for or not.
        return Ok(());
    }
    init.move_to_child(CloneFlags::empty())?;
    // The session was the other process's, and so would its terminal be: when
    // the leader of a session ends, the kernel hangs up.
    process::setsid()?;
    if init.plan.process.terminal.is_some() {
        terminal::make_controlling(std::io::stdin().as_fd())?;
    }
    Ok(())
}
