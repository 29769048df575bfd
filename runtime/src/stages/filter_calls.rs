//! Stage `filter-calls`: from here on the kernel refuses what the profile refuses.
//!
//! It is the last thing before the exec, so that the profile need not allow
//! what init itself calls. With no_new_privs any process may load a filter;
//! without, it takes `CAP_SYS_ADMIN`, which `become-user` left for this and
//! which is given up right after.

use caps::CapsHashSet;

use crate::init::Init;
use crate::stage::{Run, Stage, StageError};
use crate::sys::{self, privilege, process};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "filter-calls",
    effect: "only the profile's system calls are left, and only the program's capabilities",
    after: &["await-start", "become-user"],
    see: &[
        "seccomp(2)",
        "prctl(2) PR_SET_NO_NEW_PRIVS",
        "OCI config-linux.md#seccomp",
    ],
    run: Run::Init(filter_calls),
};

fn filter_calls(init: &mut Init) -> Result<(), StageError> {
    let process_plan = &init.plan.process;
    // An exec keeps what is ignored. Rust programs ignore SIGPIPE from their start,
    // so that in `yes | head` the container's `yes` would not end; and what a shell
    // starts in the background ignores SIGINT and SIGQUIT, so that Ctrl-C would do
    // nothing. The profile may forbid to change it later.
    process::restore_default_actions()?;
    // A caller that reads signals from a descriptor blocks them, and that too
    // passes on: the program would not hear SIGTERM.
    process::unblock_signals()?;
    // Whatever the caller had open is the host's, except what is to be kept.
    process::close_on_exec_from(3 + init.wishes.preserve_fds)?;
    if process_plan.no_new_privileges {
        privilege::set_no_new_privileges()?;
    }
    let Some(filter) = &init.filter else {
        return Ok(());
    };
    let own = if process_plan.no_new_privileges {
        None
    } else {
        let wanted = &process_plan.capabilities;
        let had = privilege::observe_permitted()?;
        let keep = |set: &CapsHashSet| set.intersection(&had).copied().collect::<CapsHashSet>();
        Some((
            keep(&wanted.effective),
            keep(&wanted.permitted),
            wanted.inheritable.clone(),
        ))
    };
    sys::seccomp::install(filter)?;
    if let Some((effective, permitted, inheritable)) = own {
        privilege::set_capabilities(&effective, &permitted, &inheritable)?;
    }
    Ok(())
}
