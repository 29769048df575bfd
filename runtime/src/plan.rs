//! What is to be done, decided before anything is: `config.json` becomes a plan.
//!
//! Everything here is pure: no call of the kernel, no look at the host. A
//! mistake in the configuration is therefore found while there is nothing to
//! undo, and a test or a student can look at the plan as a value.
//!
//! What the runtime spec knows and this runtime does not yet do is an error
//! that names the field (`unsupported`), never silence.

/// Annotations that change what is done.
pub mod annotations;
/// Classes of cache and memory bandwidth.
pub mod cache_group;
/// Clocks of a time namespace.
pub mod clocks;
/// Device nodes and links in `/dev`.
pub mod devices;
/// What of /proc and /sys is hidden by default.
pub mod hiding;
/// Mounts that show other owners than the disk has.
pub mod idmap;
/// The label of a container's own filesystems.
pub mod labels;
/// Network devices that the container takes over.
pub mod links;
/// Ids inside a user namespace and outside of it.
pub mod mappings;
/// Mounts: what, where, with which attributes.
pub mod mounts;
/// Which namespaces are made and which are joined.
pub mod namespaces;
/// The words of mount options.
pub mod options;
/// User, capabilities, limits, arguments.
pub mod process;
/// From bytes to the specification's types.
pub mod reading;
/// Scheduling, I/O priority, processors, memory nodes, personality.
pub mod schedule;
/// Kernel parameters that belong to a namespace.
pub mod sysctls;
/// Fields that are refused by name.
pub mod unsupported;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hooks, LinuxResources, LinuxSeccomp, Process, Spec};

use crate::ids::{ContainerId, ContainerPath, HostPath};
use annotations::AnnotationPlan;
use devices::DevicePlan;
use labels::MountLabel;
use links::LinkPlan;
use mappings::Mappings;
use mounts::MountPlan;
use namespaces::NamespacePlan;
use process::ProcessPlan;

/// A field of `config.json` that cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("config.json: {field}: {reason}")]
pub struct SpecError {
    field: String,
    reason: String,
}

impl SpecError {
    /// Names the field, as a path through the JSON, and what is wrong with it.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> SpecError {
        SpecError {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// The field, as a path through the JSON.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong with it.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// All that `create` does, as data.
#[derive(Debug, Clone)]
pub struct CreatePlan {
    /// The container.
    pub id: ContainerId,
    /// Where `config.json` is; hooks and relative sources begin here.
    pub bundle: HostPath,
    /// What becomes `/`.
    pub rootfs: HostPath,
    /// Nothing can be written to the root mount.
    pub root_readonly: bool,
    /// `MS_*` that all mounts are set to before the first is made.
    pub root_propagation: u64,
    /// Made and joined.
    pub namespaces: NamespacePlan,
    /// The ids of the user namespace, where there is one; none of a joined one need be known.
    pub mappings: Option<Mappings>,
    /// Lines for `/proc/PID/timens_offsets`.
    pub clock_offsets: Vec<String>,
    /// For the UTS namespace.
    pub hostname: Option<String>,
    /// For the UTS namespace.
    pub domainname: Option<String>,
    /// In their order.
    pub mounts: Vec<MountPlan>,
    /// What the mounts that the runtime adds are labelled with; it stands in the others.
    pub mount_label: Option<MountLabel>,
    /// In `/dev`; `None` where `/dev` is the host's own.
    pub devices: Option<DevicePlan>,
    /// Name (dots) and value.
    pub sysctls: Vec<(String, String)>,
    /// Hidden.
    pub masked_paths: Vec<ContainerPath>,
    /// Turned read-only.
    pub readonly_paths: Vec<ContainerPath>,
    /// The program and what it may do.
    pub process: ProcessPlan,
    /// Network devices that it takes over.
    pub links: Vec<LinkPlan>,
    /// Which share of caches and memory bandwidth it has.
    pub cache_group: Option<cache_group::CacheGroupPlan>,
    /// As personality(2) takes it.
    pub personality: Option<u64>,
    /// Which memory nodes it uses.
    pub memory_policy: Option<schedule::MemoryPolicyPlan>,
    /// Programs of the caller.
    pub hooks: Hooks,
    /// The filter of system calls.
    pub seccomp: Option<LinuxSeccomp>,
    /// Where the container is accounted; `None`: by its id.
    pub cgroups_path: Option<PathBuf>,
    /// Limits.
    pub resources: Option<LinuxResources>,
    /// What annotations ask for.
    pub wishes: AnnotationPlan,
    /// Words for others.
    pub annotations: HashMap<String, String>,
}

/// Turns a configuration into a plan.
///
/// # Errors
///
/// [`SpecError`] for a field that is missing, wrong, or not yet honoured.
pub fn plan_create(id: &ContainerId, bundle: &Path, spec: &Spec) -> Result<CreatePlan, SpecError> {
    check_version(spec.version())?;
    unsupported::refuse_unsupported(spec)?;
    let linux = spec
        .linux()
        .as_ref()
        .ok_or_else(|| SpecError::new("linux", "expected an object, for this is Linux"))?;
    let process = spec.process().as_ref();
    let process =
        process.ok_or_else(|| SpecError::new("process", "expected an object, for it is run"))?;
    let namespaces = namespaces::plan_namespaces(linux.namespaces().as_deref().unwrap_or(&[]))?;
    let (rootfs, root_readonly) = plan_root(bundle, spec)?;
    let mappings = mappings::plan_mappings(linux, &namespaces)?;
    let list = spec.mounts().as_deref().unwrap_or(&[]);
    let mut mounts = mounts::plan_mounts(bundle, list, mappings.as_ref())?;
    let annotations = spec.annotations().clone().unwrap_or_default();
    let mount_label = labels::plan_mount_label(linux.mount_label().as_deref(), &annotations)?;
    if let Some(label) = &mount_label {
        labels::label_mounts(&mut mounts, label);
    }
    let owned = |paths: &Option<Vec<String>>| {
        let paths = paths.iter().flatten();
        paths
            .map(|path| ContainerPath::new(path.as_str()))
            .collect()
    };
    let root_propagation = mounts::plan_root_propagation(linux.rootfs_propagation().as_deref())?;
    if namespaces.shares_mounts() {
        mounts::refuse_in_hosts_namespace(&mounts, root_propagation)?;
    }
    Ok(CreatePlan {
        id: id.clone(),
        bundle: HostPath::new(bundle),
        rootfs,
        root_readonly,
        root_propagation,
        clock_offsets: clocks::plan_offsets(linux, &namespaces)?,
        hostname: namespaces::for_uts(&namespaces, "hostname", spec.hostname())?,
        domainname: namespaces::for_uts(&namespaces, "domainname", spec.domainname())?,
        devices: devices::plan_devices(&mounts, linux.devices().as_deref().unwrap_or(&[]))?,
        sysctls: sysctls::plan_sysctls(linux.sysctl().as_ref(), &namespaces)?,
        masked_paths: owned(linux.masked_paths()),
        readonly_paths: owned(linux.readonly_paths()),
        process: plan_init(process)?,
        links: links::plan_links(linux.net_devices().as_ref(), &namespaces)?,
        cache_group: given(linux.intel_rdt(), |asked| {
            cache_group::plan_cache_group(id, asked)
        })?,
        personality: given(linux.personality(), schedule::plan_personality)?,
        memory_policy: given(linux.memory_policy(), schedule::plan_memory_policy)?,
        hooks: spec.hooks().clone().unwrap_or_default(),
        seccomp: plan_profile(spec),
        wishes: annotations::plan_annotations(&annotations)?,
        cgroups_path: linux.cgroups_path().clone(),
        resources: linux.resources().clone(),
        annotations,
        namespaces,
        mappings,
        mounts,
        mount_label,
    })
}

/// The profile, with the agent that crun's annotation names in place of its own.
pub fn plan_profile(spec: &Spec) -> Option<LinuxSeccomp> {
    let mut profile = spec.linux().as_ref()?.seccomp().clone()?;
    let receiver = spec.annotations().as_ref();
    if let Some(path) = receiver.and_then(|all| all.get(annotations::SECCOMP_RECEIVER)) {
        profile.set_listener_path(Some(PathBuf::from(path)));
    }
    Some(profile)
}

/// Init's process: execCPUAffinity is for the programs that `exec` adds.
fn plan_init(process: &Process) -> Result<ProcessPlan, SpecError> {
    let mut plan = process::plan_process(process)?;
    plan.schedule.initial_processors = None;
    plan.schedule.final_processors = None;
    Ok(plan)
}

/// Plans a field where it is there.
fn given<Field, Plan>(
    field: &Option<Field>,
    plan: impl FnOnce(&Field) -> Result<Plan, SpecError>,
) -> Result<Option<Plan>, SpecError> {
    field.as_ref().map(plan).transpose()
}

/// All of 1.x: what a newer minor version adds is refused by field.
fn check_version(version: &str) -> Result<(), SpecError> {
    if version.starts_with("1.") {
        return Ok(());
    }
    Err(SpecError::new(
        "ociVersion",
        format!("expected 1.0.0 to 1.3, found {version:?}"),
    ))
}

fn plan_root(bundle: &Path, spec: &Spec) -> Result<(HostPath, bool), SpecError> {
    let root = spec.root().as_ref();
    let root = root.ok_or_else(|| SpecError::new("root", "expected an object with a path"))?;
    if root.path().as_os_str().is_empty() {
        return Err(SpecError::new(
            "root.path",
            "expected a path, found an empty text",
        ));
    }
    // An absolute path replaces the bundle's.
    let path = bundle.join(root.path());
    Ok((HostPath::new(path), root.readonly().unwrap_or(false)))
}

#[cfg(test)]
mod tests;
