//! `pause` and `resume`: the freezer.

use super::{Found, find};
use crate::arguments::Global;
use crate::cgroup::plan::CgroupPlan;
use crate::error::{Error, ErrorKind};
use crate::state::Status;

/// Freezes all processes of a container.
///
/// # Errors
///
/// [`ErrorKind::WrongState`] when it does not run.
pub fn pause(global: &Global, id: &str) -> Result<i32, Error> {
    let found = find(global, id)?;
    match found.status {
        Status::Running | Status::Created => cgroup(&found)?.freeze()?,
        other => return Err(wrong_state("pause", other)),
    }
    Ok(0)
}

/// Thaws all processes of a container.
///
/// # Errors
///
/// [`ErrorKind::WrongState`] when it is not paused.
pub fn resume(global: &Global, id: &str) -> Result<i32, Error> {
    let found = find(global, id)?;
    match found.status {
        Status::Paused => cgroup(&found)?.thaw()?,
        // One that was frozen while it waited for `start` says so still.
        Status::Created => cgroup(&found)?.thaw()?,
        other => return Err(wrong_state("resume", other)),
    }
    Ok(0)
}

fn cgroup(found: &Found) -> Result<&CgroupPlan, Error> {
    found.record.cgroup.as_ref().ok_or_else(|| {
        Error::new(
            ErrorKind::WrongState,
            "the container has no cgroup to freeze it by",
        )
    })
}

fn wrong_state(verb: &str, status: Status) -> Error {
    let text = match (verb, status) {
        (_, Status::Stopped) => "container not running".to_owned(),
        ("resume", _) => "container not paused".to_owned(),
        (_, other) => format!("cannot {verb} a container in the {} state", other.word()),
    };
    Error::new(ErrorKind::WrongState, text)
}
