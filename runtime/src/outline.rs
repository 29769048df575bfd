//! A plan as it is shown: what `berth-oci plan` prints, in words and without doing it.
//!
//! The values are those of [`CreatePlan`] and [`CgroupPlan`], which `create`
//! carries out; here they only change their form, from bits to words. So what
//! is shown cannot differ from what would be done. Every structure is taken
//! apart with all its fields named: who adds a field to a plan is told by the
//! compiler that it has to be shown.
//!
//! The shape is stable and documented in `docs/oci.md`: fields may be added,
//! none changes its meaning while `version` is 1.

/// Groups and the values that are written.
pub mod cgroups;
/// Mounts and device nodes.
pub mod mounts;
/// Memory, caches, network devices, labels.
pub mod placement;
/// The program.
pub mod process;
/// Hooks, the filter, and the stages.
pub mod steps;
/// The same for people.
pub mod text;

use std::collections::BTreeMap;

use nix::sched::CloneFlags;
use serde::Serialize;

use crate::creation::Creation;
use crate::plan::CreatePlan;
use crate::plan::labels::MountLabel;
use crate::plan::namespaces::{JoinedNamespace, NamespacePlan};
use crate::seccomp::error::SeccompError;

/// All that would be done.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outline {
    /// The version of this shape.
    pub version: u32,
    /// The container.
    pub id: String,
    /// Where `config.json` is.
    pub bundle: String,
    /// What becomes `/`.
    pub root: Root,
    /// One of each kind, also those that are shared with the host.
    pub namespaces: Vec<Namespace>,
    /// Of the UTS namespace.
    pub hostname: Option<String>,
    /// Of the UTS namespace.
    pub domainname: Option<String>,
    /// In their order.
    pub mounts: Vec<mounts::Mount>,
    /// `None`: `/dev` is the host's own.
    pub devices: Option<mounts::Devices>,
    /// Name with dots, and value.
    pub sysctls: BTreeMap<String, String>,
    /// Nothing is seen there.
    pub masked_paths: Vec<String>,
    /// Nothing is written there.
    pub readonly_paths: Vec<String>,
    /// `None`: no groups are made.
    pub cgroups: Option<cgroups::Cgroups>,
    /// The program.
    pub process: process::Process,
    /// In the order in which they run.
    pub hooks: Vec<steps::Hook>,
    /// `None`: every system call is allowed.
    pub seccomp: Option<steps::Filter>,
    /// Where its memory, caches and network devices are, and other words of the machine.
    #[serde(flatten)]
    pub placement: placement::Placement,
    /// Words for others.
    pub annotations: BTreeMap<String, String>,
    /// In the order of the table.
    pub stages: Vec<steps::Step>,
}

/// The container's root.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Root {
    /// The host's directory.
    pub path: String,
    /// The mount cannot be written to.
    pub readonly: bool,
    /// What passes between the container's mounts and the host's.
    pub propagation: &'static str,
}

/// One kind of namespace.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Namespace {
    /// Its kind in the spec's words.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// How the container comes to it.
    pub how: How,
    /// What is joined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// How a container comes to a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// A new one is made.
    New,
    /// One is joined by its path.
    Joined,
    /// It has its caller's.
    Shared,
}

/// The kinds, in the order of namespaces(7).
const KINDS: &[(CloneFlags, &str)] = &[
    (CloneFlags::CLONE_NEWCGROUP, "cgroup"),
    (CloneFlags::CLONE_NEWIPC, "ipc"),
    (CloneFlags::CLONE_NEWNET, "network"),
    (CloneFlags::CLONE_NEWNS, "mount"),
    (CloneFlags::CLONE_NEWPID, "pid"),
    (CloneFlags::from_bits_retain(libc::CLONE_NEWTIME), "time"),
    (CloneFlags::CLONE_NEWUSER, "user"),
    (CloneFlags::CLONE_NEWUTS, "uts"),
];

/// Puts a planned creation into words.
///
/// # Errors
///
/// A profile that no filter can be made of.
pub fn outline(creation: &Creation) -> Result<Outline, SeccompError> {
    // Without `..`: a field that is added to the plan must be shown here.
    let CreatePlan {
        id,
        bundle,
        rootfs,
        root_readonly,
        root_propagation,
        namespaces,
        mappings,
        clock_offsets,
        hostname,
        domainname,
        mounts,
        mount_label,
        devices,
        sysctls,
        masked_paths,
        readonly_paths,
        process,
        links,
        cache_group,
        personality,
        memory_policy,
        hooks,
        seccomp,
        // Both are in the cgroups' plan.
        cgroups_path: _,
        resources: _,
        wishes,
        annotations,
    } = &*creation.plan;
    Ok(Outline {
        version: 1,
        id: id.to_string(),
        bundle: shown(bundle.as_path()),
        root: Root {
            path: shown(rootfs.as_path()),
            readonly: *root_readonly,
            propagation: mounts::propagation_word(*root_propagation),
        },
        namespaces: outline_namespaces(namespaces),
        hostname: hostname.clone(),
        domainname: domainname.clone(),
        mounts: mounts::outline_mounts(mounts),
        devices: devices.as_ref().map(mounts::outline_devices),
        sysctls: sysctls
            .iter()
            .map(|(name, value)| (name.replace('/', "."), value.clone()))
            .collect(),
        masked_paths: masked_paths
            .iter()
            .map(|path| shown(path.as_path()))
            .collect(),
        readonly_paths: readonly_paths
            .iter()
            .map(|path| shown(path.as_path()))
            .collect(),
        cgroups: creation.cgroup.as_ref().map(cgroups::outline_cgroups),
        process: process::outline_process(process),
        hooks: steps::outline_hooks(hooks),
        seccomp: seccomp
            .as_ref()
            .map(|profile| {
                steps::outline_filter(profile, wishes.unknown_calls, creation.store.root())
            })
            .transpose()?,
        placement: placement::Placement {
            id_mappings: mappings
                .as_ref()
                .map(mounts::outline_mappings)
                .unwrap_or_default(),
            clock_offsets: clock_offsets
                .iter()
                .map(|line| line.trim().to_owned())
                .collect(),
            mount_label: mount_label
                .as_ref()
                .map(|MountLabel { option, label }| format!("{option}={label}")),
            network_devices: links.iter().map(placement::outline_link).collect(),
            intel_rdt: cache_group.as_ref().map(placement::outline_cache_group),
            personality: personality.map(|flags| format!("{flags:#x}")),
            memory_policy: memory_policy.as_ref().map(placement::outline_policy),
            extensions: placement::outline_wishes(wishes),
        },
        annotations: annotations.clone().into_iter().collect(),
        stages: steps::outline_stages(creation),
    })
}

fn outline_namespaces(plan: &NamespacePlan) -> Vec<Namespace> {
    let NamespacePlan { new, joined } = plan;
    let of_kind = |(flag, kind): &(CloneFlags, &'static str)| {
        let by_path = joined.iter().find(|joined| joined.kind == *flag);
        let path = by_path.map(|JoinedNamespace { kind: _, path }| shown(path.as_path()));
        let how = match (&path, new.contains(*flag)) {
            (Some(_), _) => How::Joined,
            (None, true) => How::New,
            (None, false) => How::Shared,
        };
        Namespace { kind, how, path }
    };
    KINDS.iter().map(of_kind).collect()
}

/// A path as text.
fn shown(path: &std::path::Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests;
