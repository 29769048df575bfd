//! Stage `filter-calls`: from here on the kernel refuses what the profile refuses.
//!
//! It is the last thing before the exec, so that the profile need not allow
//! what init itself calls. With no_new_privs any process may load a filter;
//! without, it takes `CAP_SYS_ADMIN`, which `become-user` left for this and
//! which is given up right after.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use caps::CapsHashSet;

use crate::init::{Init, Message};
use crate::stage::{Run, Stage, StageError};
use crate::sys::{self, path, privilege, process};

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
            // What `become-user` could not give stays away.
            privilege::observe_inheritable()?,
        ))
    };
    sys::call::remark(|| {
        let program = init.program.as_deref().unwrap_or_default();
        let exec = process::describe_execve(program, &process_plan.arguments);
        format!("the filter may forbid to tell what comes: seccomp, capset, exec-program: {exec}")
    });
    if let Some(listener) = sys::seccomp::install(filter)? {
        hand_over(init, listener.as_fd())?;
    }
    if let Some((effective, permitted, inheritable)) = own {
        privilege::set_capabilities(&effective, &permitted, &inheritable)?;
    }
    Ok(())
}

/// Has the runtime take the listener and send it on, and waits for that: a call
/// that is asked about before somebody listens would wait for ever, and the exec
/// closes the descriptor here.
///
/// The runtime takes it out of this process by its number (pidfd_getfd(2)), so
/// that init needs only `write` and `read` here, which every profile allows, and
/// not `sendmsg`, which many refuse. A `read` may even be asked about: by then
/// the listener has been sent.
fn hand_over(init: &Init, listener: BorrowedFd<'_>) -> Result<(), StageError> {
    let runtime = init.caller.as_ref().unwrap_or(&init.channel);
    let mut message = vec![Message::Listener as u8];
    message.extend(listener.as_raw_fd().to_le_bytes());
    path::write_bytes(runtime.as_fd(), &message)?;
    if path::read_bytes(runtime.as_fd(), 1)? != [Message::GoOn as u8] {
        // It could not be sent, and who could not will say so.
        process::exit_now(1);
    }
    Ok(())
}
