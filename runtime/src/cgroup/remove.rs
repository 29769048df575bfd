//! Taking the groups away.
//!
//! `rmdir(2)` answers `EBUSY` as long as a process or a group is inside. Dead
//! processes linger for a moment, so the answer is asked for again. Groups
//! that the container made inside its own go first. Nothing is ever moved to
//! the root to make room: a process that still lives would escape its limits.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::error::CgroupError;
use super::files;
use super::plan::CgroupPlan;
use super::systemd::ScopePlan;
use super::tree::CgroupTree;

/// How long dying processes may take to leave.
const PATIENCE: Duration = Duration::from_secs(2);

impl CgroupPlan {
    /// Removes the container's groups. What is gone already is fine; ancestors stay.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Removal`] with every directory that stayed; the others are removed.
    pub fn remove(&self) -> Result<(), CgroupError> {
        // systemd first: it would make the group of a unit that lives again.
        let stopped = self.scope.as_ref().map(ScopePlan::stop);
        let deadline = Instant::now() + PATIENCE;
        let removed = self.hierarchies.iter();
        let mut failures: Vec<CgroupError> = removed
            .filter_map(|plan| remove_group(&plan.directory(), deadline).err())
            .collect();
        // A systemd that does not answer any more, as after its restart, finds
        // out by itself that a unit has no group left.
        if !failures.is_empty() {
            failures.extend(stopped.and_then(Result::err));
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(CgroupError::Removal(failures))
        }
    }
}

/// Removes one empty group, as a pod's, in every hierarchy. One that is not
/// there is fine.
///
/// # Errors
///
/// [`CgroupError::Removal`]: it holds processes or groups.
pub fn remove_empty(tree: &CgroupTree, group: &Path) -> Result<(), CgroupError> {
    // Joining an absolute path would forget the mount point.
    let below = group.strip_prefix("/").unwrap_or(group);
    if below.as_os_str().is_empty() || below.components().any(|part| part.as_os_str() == "..") {
        return Err(CgroupError::invalid(
            "cgroup",
            format!("expected a group below the root and without \"..\", found {group:?}"),
        ));
    }
    let failures: Vec<CgroupError> = tree
        .hierarchies
        .iter()
        .filter_map(|hierarchy| files::remove_directory(&hierarchy.mount_point.join(below)).err())
        .map(CgroupError::from)
        .collect();
    if failures.is_empty() {
        Ok(())
    } else {
        Err(CgroupError::Removal(failures))
    }
}

fn remove_group(directory: &Path, deadline: Instant) -> Result<(), CgroupError> {
    let mut pause = Duration::from_micros(100);
    loop {
        let error = match files::remove_directory(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.errno() != Errno::EBUSY => return Err(error.into()),
            Err(error) => error,
        };
        // Deepest first; what is busy stays for the next round.
        for inner in files::descendants(directory).iter().skip(1).rev() {
            let _ = files::remove_directory(inner);
        }
        if Instant::now() > deadline {
            return Err(error.into());
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
