//! Putting processes into the groups, and why the fast way is the child's own.
//!
//! Moving *another* process by its pid takes the kernel's lock over all thread
//! groups. That lock is nearly free to read and very dear to write: the first
//! move after a pause waits for an RCU grace period, up to ten milliseconds
//! and more than everything else in a container's start together. Two ways
//! need no such wait:
//!
//! - version 1: a process with one thread writes `0`, which names itself, to
//!   `tasks`. It cannot fork or exec while it writes, so the kernel skips the
//!   lock (`kernel/cgroup/cgroup.c::cgroup_procs_write_start`). Nine
//!   hierarchies then take about 50 microseconds.
//! - version 2: the child is born in its group by `clone3(2)` with
//!   `CLONE_INTO_CGROUP`; see `CgroupPlan::open_directory`.
//!
//! [`Entrance`] is the first: opened by the parent, used by the child. It stays
//! valid whatever the child did to its mounts, user or capabilities meanwhile,
//! because the kernel checks the rights of who opened the file.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use super::error::CgroupError;
use super::files;
use super::plan::{CgroupPlan, HierarchyPlan};
use super::tree::CgroupVersion;
use crate::sys::call::{SyscallError, finish};

/// An open door into one group: whoever writes to it is in.
#[derive(Debug)]
pub struct Entrance {
    file: File,
    path: PathBuf,
}

impl Entrance {
    /// Moves the calling process into the group.
    ///
    /// The caller has one thread; of a process with several, version 1 would
    /// move only the calling one.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the group was removed. `ENOSPC`: a cpuset without processors.
    pub fn enter(&self) -> Result<(), SyscallError> {
        finish((&self.file).write_all(b"0"), || {
            format!("write({:?}, \"0\")", self.path)
        })
    }
}

impl HierarchyPlan {
    /// Opens the group for a process that will move itself.
    ///
    /// # Errors
    ///
    /// `ENOENT` before the group is made.
    pub fn entrance(&self) -> Result<Entrance, CgroupError> {
        let path = self.directory().join(match self.version {
            // Threads move one by one here, which is what makes it cheap.
            CgroupVersion::V1 => "tasks",
            // Version 2 moves whole processes only, lock and all.
            CgroupVersion::V2 => "cgroup.procs",
        });
        let opened = OpenOptions::new().write(true).open(&path);
        let file = finish(opened, || format!("open({path:?}, O_WRONLY)"))?;
        Ok(Entrance { file, path })
    }

    /// Moves a process with all its threads into the group of this hierarchy.
    ///
    /// # Errors
    ///
    /// `ESRCH`: no such process. `EBUSY`: a version 2 group that hands
    /// controllers to groups inside it takes no processes.
    pub fn attach(&self, pid: i32) -> Result<(), CgroupError> {
        files::write(&self.directory().join("cgroup.procs"), &pid.to_string())?;
        Ok(())
    }
}

impl CgroupPlan {
    /// Moves a process with all its threads into every group: the slow way, for
    /// a process that is not ours to instruct.
    ///
    /// # Errors
    ///
    /// As [`HierarchyPlan::attach`]. The hierarchies before the failing one are joined.
    pub fn attach(&self, pid: i32) -> Result<(), CgroupError> {
        self.hierarchies
            .iter()
            .try_for_each(|hierarchy| hierarchy.attach(pid))
    }

    /// The same in the hierarchies of one version.
    ///
    /// # Errors
    ///
    /// As [`HierarchyPlan::attach`].
    pub fn attach_in(&self, version: CgroupVersion, pid: i32) -> Result<(), CgroupError> {
        let mut hierarchies = self
            .hierarchies
            .iter()
            .filter(|plan| plan.version == version);
        hierarchies.try_for_each(|hierarchy| hierarchy.attach(pid))
    }

    /// Opens every version 1 group for a process that will move itself. With
    /// [`Self::open_directory`] for version 2 that is the whole membership.
    ///
    /// # Errors
    ///
    /// `ENOENT` before [`Self::create`].
    pub fn v1_entrances(&self) -> Result<Vec<Entrance>, CgroupError> {
        self.hierarchies
            .iter()
            .filter(|hierarchy| hierarchy.version == CgroupVersion::V1)
            .map(HierarchyPlan::entrance)
            .collect()
    }
}
