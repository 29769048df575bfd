//! Stage `new-session`: init leads a session, and the host's keys and OOM score are not its own.
//!
//! Without a session of its own init would share the caller's terminal, and a
//! program in the container could type into it (`TIOCSTI`).
//!
//! The score is written through the procfs that `join-spaces` opened: in `exec`
//! this process is in the container's mount namespace already, and what lies at
//! `/proc` there is the container's choice.

use std::ffi::CString;

use nix::errno::Errno;
use nix::sched::CloneFlags;

use crate::init::Init;
use crate::labels;
use crate::stage::{Run, Stage, StageError};
use crate::sys::process;
use crate::sys::procfs::Procfs;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "new-session",
    effect: "init leads a session with a keyring of its own and has its OOM score",
    after: &["clone-init", "join-spaces"],
    see: &[
        "setsid(2)",
        "session-keyring(7)",
        "proc_pid_oom_score_adj(5)",
    ],
    run: Run::Init(new_session),
};

fn new_session(init: &mut Init) -> Result<(), StageError> {
    process::setsid()?;
    if let Some(score) = init.plan.process.oom_score_adj
        && init.plan.mappings.is_none()
    {
        let procfs = init.procfs.as_ref().expect("join-spaces opened it");
        set_oom_score(procfs, score)?;
    }
    if !init.wishes.no_new_keyring {
        let name = CString::new(format!("_ses.{}", init.plan.id)).unwrap_or_default();
        let label = init.plan.process.selinux_label.as_deref();
        if let (Some(label), Some(procfs)) = (label, &init.procfs) {
            labels::set_key_label(procfs, Some(label))?;
        }
        match process::join_session_keyring(&name) {
            Ok(keyring) => share_keyring(init, keyring)?,
            // A kernel without keys has none to protect, and a full quota of keys
            // is no reason against a container: the old session is left either way
            // by setsid only for terminals, so say nothing and go on as runc does.
            Err(error) if !matches!(error.errno(), Errno::ENOSYS | Errno::EDQUOT) => {
                return Err(error.into());
            }
            Err(_) => {}
        }
        if let (Some(_), Some(procfs)) = (label, &init.procfs) {
            labels::set_key_label(procfs, None)?;
        }
    }
    Ok(())
}

/// Lets the container's user search the keyring. The kernel gives a new session
/// keyring to its possessor and lets its user see it, but not search: a program
/// that `exec` adds would join a keyring in which it finds nothing.
fn share_keyring(init: &Init, keyring: i32) -> Result<(), StageError> {
    // What the kernel gives (join_session_keyring in security/keys): the
    // possessor all, the user to view, read and link.
    const GIVEN: u32 = 0x3f13_0000;
    const USER_SEARCHES: u32 = 0x0008_0000;
    const OTHERS_SEARCH: u32 = 0x0000_0008;
    // `exec` joins the container's keyring, or makes what a program of its own
    // would: its permissions are not exec's to change.
    if !init.joins_container() {
        let own_users = init.plan.namespaces.has_own(CloneFlags::CLONE_NEWUSER);
        let search = if own_users {
            OTHERS_SEARCH
        } else {
            USER_SEARCHES
        };
        process::set_key_permissions(keyring, GIVEN | search)?;
    }
    Ok(())
}

/// Sets this process's own score, and that of its future children.
///
/// # Errors
///
/// `EACCES`: a score below that which some ancestor with `CAP_SYS_RESOURCE` has set.
pub fn set_oom_score(procfs: &Procfs, score: i32) -> Result<(), StageError> {
    procfs
        .write("self/oom_score_adj", &score.to_string())
        .map_err(|error| StageError::Refused(format!("process.oomScoreAdj: {score}: {error}")))
}
