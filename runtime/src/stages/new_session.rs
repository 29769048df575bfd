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

use crate::init::Init;
use crate::stage::{Run, Stage, StageError};
use crate::sys::process;

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
    if let Some(score) = init.plan.process.oom_score_adj {
        let procfs = init.procfs.as_ref().expect("join-spaces opened it");
        procfs
            .write("self/oom_score_adj", &score.to_string())
            .map_err(|error| {
                StageError::Refused(format!("process.oomScoreAdj: {score}: {error}"))
            })?;
    }
    if !init.wishes.no_new_keyring {
        let name = CString::new(format!("_ses.{}", init.plan.id)).unwrap_or_default();
        match process::join_session_keyring(&name) {
            // A kernel without keys has none to protect, and a full quota of keys
            // is no reason against a container: the old session is left either way
            // by setsid only for terminals, so say nothing and go on as runc does.
            Err(error) if !matches!(error.errno(), Errno::ENOSYS | Errno::EDQUOT) => {
                return Err(error.into());
            }
            _ => {}
        }
    }
    Ok(())
}
