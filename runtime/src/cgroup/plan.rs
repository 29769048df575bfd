//! What will be made and written for one container, as plain data.
//!
//! Nothing here touches the machine. The order of the writes is the order of
//! the list, and where the kernel insists on an order (a swap limit may never
//! be below the memory limit) the planner of that controller says why.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxMemory, LinuxResources};
use serde::{Deserialize, Serialize};

use super::devices::{self, DeviceRule};
use super::error::CgroupError;
use super::systemd::{self, ScopePlan, SystemdView, annotations, properties};
use super::tree::{CgroupTree, CgroupVersion, Hierarchy};
use super::{block_io, cpu, limits, memory};

/// Who makes the groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupManager {
    /// We do, by `mkdir(2)` in the cgroup filesystem.
    #[default]
    Cgroupfs,
    /// The service manager does, asked over D-Bus.
    Systemd,
    /// Nobody: the container stays in the caller's groups.
    Disabled,
}

/// What a container asks for.
#[derive(Debug, Clone, Copy)]
pub struct CgroupRequest<'a> {
    /// The container's id: the last part of the default path.
    pub id: &'a str,
    /// `linux.cgroupsPath`: absolute from each hierarchy's root, relative from
    /// the caller's own group, none for `/berth/ID`. For systemd `slice:prefix:name`.
    pub cgroups_path: Option<&'a Path>,
    /// `linux.resources`.
    pub resources: Option<&'a LinuxResources>,
    /// Who makes the groups.
    pub manager: CgroupManager,
    /// `annotations`: properties of systemd's unit may be among them.
    pub annotations: Option<&'a HashMap<String, String>>,
}

/// The groups of one container and what is written into them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlan {
    /// One group in each hierarchy; none when cgroups are disabled.
    pub hierarchies: Vec<HierarchyPlan>,
    /// Which devices may be opened: the later rule wins.
    pub device_rules: Vec<DeviceRule>,
    /// The unit, where systemd makes the groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<ScopePlan>,
}

/// The container's group in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HierarchyPlan {
    /// The interface that it speaks.
    pub version: CgroupVersion,
    /// The hierarchy's controllers.
    pub controllers: Vec<String>,
    /// Where the hierarchy is mounted.
    pub mount_point: PathBuf,
    /// The group, below the mount point.
    pub group: PathBuf,
    /// Version 2: controllers to switch on in every ancestor, if they can be.
    pub enable: Vec<String>,
    /// Version 2: those of `enable` that a limit needs.
    pub wanted: Vec<String>,
    /// The limits, in order.
    pub writes: Vec<FileWrite>,
}

/// One limit: one write to one file of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileWrite {
    /// The file's name in the group.
    pub file: Cow<'static, str>,
    /// The text to write.
    pub value: Cow<'static, str>,
    /// The field of `config.json` behind it, for error messages.
    pub field: Cow<'static, str>,
    /// What to do when the kernel refuses.
    pub refused: Refused,
}

/// What to do when the kernel refuses a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Refused {
    /// The container cannot have what it asked for.
    Fail,
    /// A later write of the plan covers it, or the file is optional.
    Ignore,
    /// Without the file it holds already: a machine that has no swap gives none.
    IfThere,
    /// If the file does not exist, this kernel calls it by another name.
    Instead(Box<FileWrite>),
}

/// Whether the group is new or lives with limits already set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Everything is still unlimited.
    Create,
    /// Limits are there; `quota` is the version 2 quota that must be repeated
    /// when only the period changes.
    Update {
        /// The first word of `cpu.max`.
        quota: Option<String>,
        /// What was asked for before: version 2 needs memory and swap to
        /// make one out of the other.
        memory: Option<Box<LinuxMemory>>,
    },
}

/// A plan's hierarchies while the controllers' planners add to them.
pub(crate) struct Draft<'a> {
    /// The groups that get the writes.
    pub hierarchies: &'a mut [HierarchyPlan],
    /// New group or old.
    pub change: Change,
}

impl Draft<'_> {
    /// The hierarchy that has a controller, by its version 1 name.
    pub fn home(
        &mut self,
        controller: &str,
        field: &str,
    ) -> Result<&mut HierarchyPlan, CgroupError> {
        let unified = unified_name(controller);
        let home = self.hierarchies.iter_mut().find(|plan| match plan.version {
            CgroupVersion::V1 => plan.controllers.iter().any(|name| name == controller),
            CgroupVersion::V2 => plan.controllers.iter().any(|name| name == unified),
        });
        let Some(home) = home else {
            return Err(CgroupError::NoController {
                field: field.to_owned(),
                controller: controller.to_owned(),
            });
        };
        if home.version == CgroupVersion::V2 {
            home.want(unified);
        }
        Ok(home)
    }
}

impl HierarchyPlan {
    /// The group's directory.
    pub fn directory(&self) -> PathBuf {
        self.mount_point.join(&self.group)
    }

    /// Whether the hierarchy has this controller.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// Adds a write that must succeed.
    pub(crate) fn write(
        &mut self,
        file: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
        field: impl Into<Cow<'static, str>>,
    ) {
        self.writes.push(FileWrite::new(file, value, field));
    }

    /// Adds a write that may fail.
    pub(crate) fn try_write(
        &mut self,
        file: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
        field: impl Into<Cow<'static, str>>,
    ) {
        let mut write = FileWrite::new(file, value, field);
        write.refused = Refused::Ignore;
        self.writes.push(write);
    }

    /// Adds a write to a file that some machines do not have or need.
    pub(crate) fn write_if_there(
        &mut self,
        file: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
        field: impl Into<Cow<'static, str>>,
    ) {
        let mut write = FileWrite::new(file, value, field);
        write.refused = Refused::IfThere;
        self.writes.push(write);
    }

    /// Adds a write to the first of two files that exists.
    pub(crate) fn write_either(&mut self, first: FileWrite, second: FileWrite) {
        self.writes.push(FileWrite {
            refused: Refused::Instead(Box::new(second)),
            ..first
        });
    }

    /// Version 2: a limit needs this controller.
    pub(crate) fn want(&mut self, controller: &str) {
        for list in [&mut self.enable, &mut self.wanted] {
            if !list.iter().any(|name| name == controller) {
                list.push(controller.to_owned());
            }
        }
    }
}

impl FileWrite {
    /// A write that must succeed.
    pub(crate) fn new(
        file: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
        field: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            file: file.into(),
            value: value.into(),
            field: field.into(),
            refused: Refused::Fail,
        }
    }
}

/// Decides on a container's groups and limits. Touches nothing.
///
/// # Errors
///
/// [`CgroupError::Invalid`] for a value out of range or a path that climbs out,
/// [`CgroupError::NoController`] for a limit that no hierarchy can keep,
/// [`CgroupError::NotMounted`] and [`CgroupError::NoSystemd`].
pub fn plan_cgroup(request: &CgroupRequest, tree: &CgroupTree) -> Result<CgroupPlan, CgroupError> {
    if request.manager == CgroupManager::Disabled {
        return plan_nothing(request);
    }
    if tree.hierarchies.is_empty() {
        return Err(CgroupError::NotMounted);
    }
    let unit = match (request.manager, &tree.systemd) {
        (CgroupManager::Systemd, Some(view)) => Some((view, plan_unit(request, view)?)),
        (CgroupManager::Systemd, None) => return Err(CgroupError::NoSystemd),
        _ => None,
    };
    let path = match &unit {
        Some((view, name)) => GroupPath {
            below: systemd::unit_group(name, view)?,
            from_own_group: false,
        },
        None => group_path(request)?,
    };
    let mut hierarchies: Vec<HierarchyPlan> = tree
        .hierarchies
        .iter()
        .map(|hierarchy| place(hierarchy, &path, tree.is_pure_v2()))
        .collect();
    let device_rules =
        devices::plan_rules(request.resources.and_then(|all| all.devices().as_ref()))?;
    devices::plan_devices(&mut hierarchies, &device_rules)?;
    if let Some(resources) = request.resources {
        let mut draft = Draft {
            hierarchies: &mut hierarchies,
            change: Change::Create,
        };
        plan_resources(resources, &mut draft)?;
    }
    let scope = match unit {
        Some((view, name)) => {
            let version = if tree.is_pure_v2() {
                CgroupVersion::V2
            } else {
                CgroupVersion::V1
            };
            Some(plan_scope(request, view, &name, (version, &device_rules))?)
        }
        None => None,
    };
    Ok(CgroupPlan {
        hierarchies,
        device_rules,
        scope,
    })
}

fn plan_unit(
    request: &CgroupRequest,
    view: &SystemdView,
) -> Result<systemd::UnitName, CgroupError> {
    systemd::parse_unit(request.cgroups_path, request.id, view.bus)
}

/// The unit with everything that systemd is told when it makes it.
fn plan_scope(
    request: &CgroupRequest,
    view: &SystemdView,
    name: &systemd::UnitName,
    (cgroup, rules): (CgroupVersion, &[DeviceRule]),
) -> Result<ScopePlan, CgroupError> {
    let dialect = properties::Dialect {
        cgroup,
        version: view.version,
    };
    let mut all = systemd::plan_unit_properties(name);
    if let Some(resources) = request.resources {
        all.extend(properties::plan_properties(resources, dialect)?);
        all.extend(properties::plan_creation_properties(resources, dialect));
    }
    all.extend(properties::plan_device_properties(rules, &view.majors));
    // The caller has the last word: systemd takes the later of two.
    all.extend(annotations::plan_annotations(request.annotations)?);
    Ok(ScopePlan {
        unit: name.unit.clone(),
        bus: view.bus,
        version: view.version,
        properties: all,
    })
}

/// Adds the writes for everything but devices.
pub(crate) fn plan_resources(
    resources: &LinuxResources,
    draft: &mut Draft,
) -> Result<(), CgroupError> {
    if let Some(memory) = resources.memory() {
        memory::plan_memory(memory, draft)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu::plan_cpu(cpu, draft)?;
    }
    if let Some(pids) = resources.pids() {
        limits::plan_pids(pids, draft)?;
    }
    if let Some(block_io) = resources.block_io() {
        block_io::plan_block_io(block_io, draft)?;
    }
    if let Some(hugepages) = resources.hugepage_limits() {
        limits::plan_hugepages(hugepages, draft)?;
    }
    if let Some(network) = resources.network() {
        limits::plan_network(network, draft)?;
    }
    if let Some(rdma) = resources.rdma() {
        limits::plan_rdma(rdma, draft)?;
    }
    // Last, because the specification lets `unified` override what the fields
    // above were translated to.
    if let Some(unified) = resources.unified() {
        limits::plan_unified(unified, draft)?;
    }
    Ok(())
}

/// With cgroups disabled a limit would be silently lost, so it is an error.
fn plan_nothing(request: &CgroupRequest) -> Result<CgroupPlan, CgroupError> {
    let Some(resources) = request.resources else {
        return Ok(CgroupPlan::default());
    };
    // The planners find no hierarchy here and name the first field that wants
    // one. Device rules are not asked: nearly every config.json carries the
    // default list, and who disables cgroups has other means to keep devices.
    let mut draft = Draft {
        hierarchies: &mut [],
        change: Change::Create,
    };
    plan_resources(resources, &mut draft)?;
    Ok(CgroupPlan::default())
}

/// The path asked for, with its absoluteness.
struct GroupPath {
    below: PathBuf,
    from_own_group: bool,
}

fn group_path(request: &CgroupRequest) -> Result<GroupPath, CgroupError> {
    let asked = match request.cgroups_path {
        Some(path) if !path.as_os_str().is_empty() => path.to_path_buf(),
        _ => Path::new("/berth").join(request.id),
    };
    let mut below = PathBuf::new();
    for component in asked.components() {
        match component {
            Component::Normal(name) => below.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            // With ".." a container could be put into, and later remove or
            // kill, a group that belongs to somebody else.
            Component::ParentDir => {
                return Err(CgroupError::invalid(
                    "linux.cgroupsPath",
                    format!("expected a path without \"..\", found {asked:?}"),
                ));
            }
        }
    }
    if below.as_os_str().is_empty() {
        return Err(CgroupError::invalid(
            "linux.cgroupsPath",
            format!(
                "expected a group of the container's own, found {asked:?}, which names the root of every hierarchy"
            ),
        ));
    }
    Ok(GroupPath {
        below,
        from_own_group: asked.is_relative(),
    })
}

fn place(hierarchy: &Hierarchy, path: &GroupPath, pure_v2: bool) -> HierarchyPlan {
    let group = if path.from_own_group {
        let own = hierarchy.own_group.as_path();
        // In version 2 a group that holds processes cannot hand controllers to
        // its children (cgroup-v2.rst, "No Internal Process Constraint"), and
        // the caller's group holds at least the caller: its parent is the
        // nearest place that works.
        let base = if pure_v2 {
            own.parent().unwrap_or(own)
        } else {
            own
        };
        base.join(&path.below)
    } else {
        path.below.clone()
    };
    HierarchyPlan {
        version: hierarchy.version,
        controllers: hierarchy.controllers.clone(),
        mount_point: hierarchy.mount_point.clone(),
        group,
        // Where version 2 is all there is, every controller is switched on, for
        // the statistics. In a hybrid tree nobody expects us to touch the root,
        // so only a limit makes us do it.
        enable: if pure_v2 {
            hierarchy.controllers.clone()
        } else {
            Vec::new()
        },
        wanted: Vec::new(),
        writes: Vec::new(),
    }
}

/// The version 2 name of a version 1 controller.
fn unified_name(controller: &str) -> &str {
    match controller {
        "blkio" => "io",
        same => same,
    }
}

#[cfg(test)]
mod tests;
