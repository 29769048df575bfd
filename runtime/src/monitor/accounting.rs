//! The control group that the monitor itself is counted in.
//!
//! A monitor is no container: it has no limits of its own, and several may
//! share a group that an administrator has made. So a group that exists is
//! used as it is and stays; what was made here is removed at the end.

use std::io;
use std::path::{Path, PathBuf};

use super::failure::MonitorError;
use crate::cgroup::error::CgroupError;
use crate::cgroup::plan::{CgroupManager, CgroupRequest, HierarchyPlan, plan_cgroup};
use crate::cgroup::tree::{CgroupTree, observe_tree};
use crate::sys::call::finish;

/// The groups that the monitor is in, and where it came from.
#[derive(Debug)]
pub struct Accounting {
    origin: CgroupTree,
    hierarchies: Vec<HierarchyPlan>,
    /// Directories that were not there before, each parent before its children.
    made: Vec<PathBuf>,
}

impl Accounting {
    /// Moves this process, which has one thread, into the group `path` of every
    /// hierarchy.
    ///
    /// # Errors
    ///
    /// Which group could not be made or entered; then it is where it was.
    pub fn enter(path: &str) -> Result<Accounting, MonitorError> {
        let failed = |source| MonitorError::Cgroup {
            path: path.to_owned(),
            source,
        };
        let origin = observe_tree().map_err(failed)?;
        let request = CgroupRequest {
            id: "monitor",
            cgroups_path: Some(Path::new(path)),
            resources: None,
            manager: CgroupManager::Cgroupfs,
            annotations: None,
        };
        let plan = plan_cgroup(&request, &origin).map_err(failed)?;
        let mut accounting = Accounting {
            origin,
            made: missing_directories(&plan.hierarchies),
            hierarchies: plan.hierarchies,
        };
        match accounting.enter_all() {
            Ok(()) => Ok(accounting),
            Err(source) => {
                // The first failure is the one to tell.
                let _ = accounting.leave();
                Err(failed(source))
            }
        }
    }

    /// Goes back and removes what was made, unless others use it by now. All is
    /// tried; the failures are returned.
    pub fn leave(&mut self) -> Vec<CgroupError> {
        let mut failures = Vec::new();
        for (plan, origin) in self.hierarchies.iter().zip(&self.origin.hierarchies) {
            // The starter's group may be gone; the root is always there.
            let back = enter_group(plan, origin.own_group.clone())
                .or_else(|_| enter_group(plan, PathBuf::new()));
            failures.extend(back.err());
        }
        for directory in self.made.drain(..).rev() {
            // EBUSY: somebody has moved in, and then it is theirs.
            let _ = std::fs::remove_dir(directory);
        }
        failures
    }

    fn enter_all(&self) -> Result<(), CgroupError> {
        for directory in &self.made {
            create_group(directory)?;
        }
        for hierarchy in &self.hierarchies {
            hierarchy.entrance()?.enter()?;
        }
        Ok(())
    }
}

/// Makes one directory. The plan's own `create` would do more: it is for
/// containers, and takes the devices away.
fn create_group(directory: &Path) -> Result<(), CgroupError> {
    let made = std::fs::create_dir(directory).or_else(|error| match error.kind() {
        // Another monitor was quicker.
        io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(error),
    });
    finish(made, || format!("mkdir({directory:?})"))?;
    // A new group of cpuset version 1 has no processors and no memory nodes,
    // and takes no process until it has (cpuset(7)).
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let path = directory.join(file);
        let Some(parent) = directory.parent().filter(|_| is_empty(&path)) else {
            continue;
        };
        let copied = std::fs::read(parent.join(file)).and_then(|text| std::fs::write(&path, text));
        finish(copied, || format!("copy {file} to {path:?}"))?;
    }
    Ok(())
}

/// In version 2 an empty file means the parent's set, and its copy the same.
fn is_empty(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|text| text.trim_ascii().is_empty())
}

fn enter_group(plan: &HierarchyPlan, group: PathBuf) -> Result<(), CgroupError> {
    let place = HierarchyPlan {
        group,
        ..plan.clone()
    };
    Ok(place.entrance()?.enter()?)
}

fn missing_directories(hierarchies: &[HierarchyPlan]) -> Vec<PathBuf> {
    hierarchies
        .iter()
        .flat_map(|plan| {
            let mut missing: Vec<PathBuf> = plan
                .group
                .ancestors()
                .map(|group| plan.mount_point.join(group))
                .take_while(|directory| !directory.exists())
                .collect();
            missing.reverse();
            missing
        })
        .collect()
}
