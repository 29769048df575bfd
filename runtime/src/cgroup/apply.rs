//! Carrying a plan out: directories first, then limits, in the plan's order.
//!
//! Speed matters here, because it is part of every container's start: a new
//! group costs one mkdir, each limit one write, and nothing is read back.
//! Version 1's `cpuset` is the exception, see [`fill_cpuset`].

use std::borrow::Cow;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::devices::DeviceRule;
use super::error::CgroupError;
use super::files::{self, Writer};
use super::plan::{CgroupPlan, FileWrite, HierarchyPlan, Refused};
use super::systemd::scope::is_the_machines_root;
use super::tree::CgroupVersion;
use super::{device_program, processes};
use crate::sys::bpf;
use crate::sys::call::{SyscallError, finish};

impl CgroupPlan {
    /// The container's group in each hierarchy.
    pub fn hierarchies(&self) -> &[HierarchyPlan] {
        &self.hierarchies
    }

    /// Makes the groups and sets the limits and device rules.
    ///
    /// On failure the groups that this call made are removed again.
    ///
    /// # Errors
    ///
    /// [`CgroupError::InUse`] for a group in which a process lives already,
    /// [`CgroupError::Limit`] when the kernel refuses a value, with the field.
    pub fn create(&self) -> Result<(), CgroupError> {
        let mut made = Vec::new();
        let both = [CgroupVersion::V2, CgroupVersion::V1];
        let done = both
            .iter()
            .try_for_each(|version| self.create_each(*version, &mut made));
        take_back_on_failure(done, &made)
    }

    /// The same in the hierarchies of one version: a process can be born in the
    /// group of version 2, so that one must exist earlier than the others.
    ///
    /// # Errors
    ///
    /// As [`Self::create`].
    pub fn create_in(&self, version: CgroupVersion) -> Result<(), CgroupError> {
        let mut made = Vec::new();
        let done = self.create_each(version, &mut made);
        take_back_on_failure(done, &made)
    }

    fn create_each(
        &self,
        version: CgroupVersion,
        made: &mut Vec<PathBuf>,
    ) -> Result<(), CgroupError> {
        // systemd has made some of a scope's groups, and put init into them.
        let found = if self.scope.is_some() {
            Found::IsOurs
        } else {
            Found::MustBeEmpty
        };
        let hierarchies = self.hierarchies.iter();
        hierarchies
            .filter(|hierarchy| hierarchy.version == version)
            .try_for_each(|hierarchy| create_group(hierarchy, found, made))?;
        match version {
            CgroupVersion::V1 => Ok(()),
            CgroupVersion::V2 => self.attach_device_program(),
        }
    }

    /// The version 2 directory, for `clone3(2)` with `CLONE_INTO_CGROUP`: the
    /// child is then born in the group, and no attach is needed there.
    ///
    /// None where version 2 is not mounted. On a hybrid machine the version 1
    /// hierarchies still have to be joined.
    ///
    /// # Errors
    ///
    /// `ENOENT` before [`Self::create`].
    pub fn open_directory(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let Some(unified) = self.unified() else {
            return Ok(None);
        };
        let directory = unified.directory();
        let opened = finish(File::open(&directory), || {
            format!("open({directory:?}, O_RDONLY)")
        })?;
        Ok(Some(opened.into()))
    }

    /// The version 2 hierarchy, if there is one.
    pub(crate) fn unified(&self) -> Option<&HierarchyPlan> {
        self.hierarchies
            .iter()
            .find(|plan| plan.version == CgroupVersion::V2)
    }

    /// The hierarchy of a controller, by its version 1 and version 2 names.
    pub(crate) fn home(&self, v1: &str, v2: &str) -> Option<&HierarchyPlan> {
        self.hierarchies.iter().find(|plan| match plan.version {
            CgroupVersion::V1 => plan.has(v1),
            CgroupVersion::V2 => plan.has(v2),
        })
    }

    /// Puts the device program on the version 2 group, unless version 1 holds the rules.
    pub(crate) fn attach_device_program(&self) -> Result<(), CgroupError> {
        let v1 = self
            .hierarchies
            .iter()
            .any(|plan| plan.version == CgroupVersion::V1 && plan.has("devices"));
        let (false, Some(unified)) = (v1, self.unified()) else {
            return Ok(());
        };
        let directory = unified.directory();
        let group = finish(File::open(&directory), || {
            format!("open({directory:?}, O_RDONLY)")
        })?;
        match replace_device_program(group.as_fd(), &self.device_rules) {
            // The kernel takes programs from the machine's root alone. Nobody else
            // can make a device either, and those there are have their own rights.
            Err(error) if error.errno() == Errno::EPERM && !is_the_machines_root() => Ok(()),
            replaced => replaced.map_err(|source| CgroupError::Limit {
                field: "linux.resources.devices".to_owned(),
                source,
            }),
        }
    }
}

fn replace_device_program(group: BorrowedFd<'_>, rules: &[DeviceRule]) -> Result<(), SyscallError> {
    let program = bpf::load_device_program(&device_program::assemble(rules))?;
    // Several programs on one group must all say yes. So the new one takes our
    // old one's place in one step: beside it, nothing could be allowed that was
    // denied before; after removing it, all would be open. Those of others, such
    // as systemd's, stay.
    let mut old = None;
    for id in bpf::query_device_programs(group)? {
        let program = bpf::open_program(id)?;
        if bpf::is_device_program_of_ours(program.as_fd())? {
            old = Some(program);
        }
    }
    bpf::attach_device_program(group, program.as_fd(), old.as_ref().map(AsFd::as_fd))
}

/// Removes what was made, children before parents. What cannot be removed is left
/// to the error that tells why creation failed.
fn take_back_on_failure(
    done: Result<(), CgroupError>,
    made: &[PathBuf],
) -> Result<(), CgroupError> {
    if done.is_err() {
        for directory in made.iter().rev() {
            let _ = files::remove_directory(directory);
        }
    }
    done
}

/// What a group may be that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// A remainder in which nobody lives.
    MustBeEmpty,
    /// Made for this container by somebody else.
    IsOurs,
}

/// Makes one hierarchy's group, with its ancestors, and sets its limits.
/// `made` gets each directory as it comes to be.
fn create_group(
    plan: &HierarchyPlan,
    found: Found,
    made: &mut Vec<PathBuf>,
) -> Result<(), CgroupError> {
    let directory = plan.directory();
    // Nearly always the parent is there, and one call does it.
    match files::make_directory(&directory) {
        Ok(()) => made.push(directory.clone()),
        Err(error) if error.errno() == Errno::ENOENT => {
            ensure_ancestors(plan, made)?;
            files::make_directory(&directory)?;
            made.push(directory.clone());
        }
        // A leftover of a crash is as good as new, but never a living group:
        // two containers in one group would be frozen and killed together.
        Err(error) if error.errno() == Errno::EEXIST => {
            if found == Found::MustBeEmpty
                && let Some(pid) = processes::pids_below(&directory)?.first()
            {
                return Err(CgroupError::InUse {
                    path: directory,
                    pid: *pid,
                });
            }
        }
        Err(error) => return Err(error.into()),
    }
    if plan.version == CgroupVersion::V1 && plan.has("cpuset") {
        fill_cpuset(&directory)?;
    }
    enable_controllers(plan)?;
    write_limits(plan)
}

fn ensure_ancestors(plan: &HierarchyPlan, made: &mut Vec<PathBuf>) -> Result<(), CgroupError> {
    for ancestor in ancestors(plan).iter().skip(1) {
        match files::make_directory(ancestor) {
            Ok(()) => made.push(ancestor.clone()),
            Err(error) if error.errno() == Errno::EEXIST => continue,
            Err(error) => return Err(error.into()),
        }
        if plan.version == CgroupVersion::V1 && plan.has("cpuset") {
            fill_cpuset(ancestor)?;
            // From here on the kernel copies the sets into new children itself.
            files::write(&ancestor.join("cgroup.clone_children"), "1")?;
        }
    }
    Ok(())
}

/// The directories above the group, from the mount point down.
fn ancestors(plan: &HierarchyPlan) -> Vec<PathBuf> {
    let mut path = plan.mount_point.clone();
    let mut all = vec![path.clone()];
    let parent = plan.group.parent().unwrap_or(Path::new(""));
    for part in parent.components() {
        path.push(part);
        all.push(path.clone());
    }
    all
}

/// Version 1 starts a new cpuset with no processors and no memory nodes, and
/// refuses every process until it has both: `ENOSPC` from the attach. So the
/// parent's sets are copied, unless `cgroup.clone_children` did it already.
fn fill_cpuset(directory: &Path) -> Result<(), SyscallError> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        fill_set(directory, name)?;
    }
    Ok(())
}

/// The set that a group has now. An empty one is its parent's, whose maker may not have
/// come to fill it yet: another container of the same parent is made at the same time.
/// The root's is never empty.
fn fill_set(directory: &Path, name: &str) -> Result<String, SyscallError> {
    let file = directory.join(name);
    let own = files::read_text(&file)?.trim().to_owned();
    if !own.is_empty() {
        return Ok(own);
    }
    let inherited = fill_set(directory.parent().unwrap_or(Path::new("/")), name)?;
    files::write(&file, &inherited)?;
    Ok(inherited)
}

/// Version 2 gives a group only the controllers that its parent hands down, so
/// every ancestor from the root on has to be told.
pub(crate) fn enable_controllers(plan: &HierarchyPlan) -> Result<(), CgroupError> {
    if plan.enable.is_empty() {
        return Ok(());
    }
    let line = |names: &[String]| {
        let signed: Vec<String> = names.iter().map(|name| format!("+{name}")).collect();
        signed.join(" ")
    };
    let all = line(&plan.enable);
    for ancestor in ancestors(plan) {
        let file = ancestor.join("cgroup.subtree_control");
        if files::write(&file, &all).is_ok() {
            continue;
        }
        // One that is unavailable (realtime processes keep `cpu` off) must not
        // take the others with it, and matters only if a limit needs it.
        for controller in &plan.enable {
            let enabled = files::write(&file, &format!("+{controller}"));
            if let Err(source) = enabled
                && plan.wanted.contains(controller)
            {
                return Err(CgroupError::Enable {
                    controller: controller.clone(),
                    source,
                });
            }
        }
    }
    Ok(())
}

/// Writes a group's limits, in their order.
pub(crate) fn write_limits(plan: &HierarchyPlan) -> Result<(), CgroupError> {
    let directory = plan.directory();
    // Device rules are many writes to one file: it is opened once.
    let mut open: Option<(&Cow<'static, str>, Writer)> = None;
    for limit in &plan.writes {
        let path = directory.join(&*limit.file);
        let written = match &mut open {
            Some((file, writer)) if **file == limit.file => writer.write(&limit.value, &path),
            _ => Writer::open(&path).and_then(|mut writer| {
                let written = writer.write(&limit.value, &path);
                open = Some((&limit.file, writer));
                written
            }),
        };
        if let Err(error) = written {
            settle_refusal(limit, &directory, error)?;
        }
    }
    Ok(())
}

fn settle_refusal(
    limit: &FileWrite,
    directory: &Path,
    error: SyscallError,
) -> Result<(), CgroupError> {
    let source = match &limit.refused {
        Refused::Ignore => return Ok(()),
        Refused::IfThere if error.errno() == Errno::ENOENT => return Ok(()),
        Refused::Instead(other) if error.errno() == Errno::ENOENT => {
            match files::write(&directory.join(&*other.file), &other.value) {
                Ok(()) => return Ok(()),
                Err(source) => source,
            }
        }
        Refused::Fail | Refused::IfThere | Refused::Instead(_) => error,
    };
    Err(CgroupError::Limit {
        field: limit.field.clone().into_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::fill_cpuset;

    /// On a plain directory: the parent was made a moment ago, by somebody who has not filled it.
    #[test]
    fn a_group_whose_parent_is_empty_still_has_the_sets_of_the_one_above() {
        let root = tempfile::tempdir().expect("a directory");
        let (parent, group) = (root.path().join("parent"), root.path().join("parent/group"));
        fs::create_dir_all(&group).expect("directories");
        for (directory, cpus, mems) in [
            (root.path(), "0-1\n", "0\n"),
            (parent.as_path(), "\n", ""),
            (group.as_path(), "", "\n"),
        ] {
            fs::write(directory.join("cpuset.cpus"), cpus).expect("a file");
            fs::write(directory.join("cpuset.mems"), mems).expect("a file");
        }
        fill_cpuset(&group).expect("it is filled");
        for directory in [&parent, &group] {
            let read = |name| fs::read_to_string(directory.join(name)).expect(name);
            assert!(read("cpuset.cpus").starts_with("0-1"), "{directory:?}");
            assert!(read("cpuset.mems").starts_with('0'), "{directory:?}");
        }
    }
}
