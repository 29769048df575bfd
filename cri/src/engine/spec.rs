//! From a CRI request to an OCI configuration, without touching the machine.
//!
//! [`plan_spec`] reads what the kubelet asked for (`ContainerConfig`,
//! `PodSandboxConfig`), what the image says about itself, and what was observed
//! on this machine ([`SpecInputs`]), and returns the `config.json` that the OCI
//! runtime gets. Everything that needs the file system (names of users, device
//! numbers, the seccomp profile's file) was observed before and is among the
//! inputs, so every decision here can be tested as a value.
//!
//! Read on: the CRI's `api.proto`, OCI runtime-spec `config.md` and
//! `config-linux.md`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{Linux, LinuxBuilder, Root, RootBuilder, Spec, SpecBuilder};

use super::error::Error;
use super::records::RunAs;
use crate::v1;

/// Which capabilities a program keeps.
pub mod capabilities;
/// What a container gets that states nothing.
pub mod defaults;
/// Device nodes, and who may open them.
pub mod devices;
/// What this machine has and allows, observed once.
pub mod host;
/// What is mounted where.
pub mod mounts;
/// Which namespaces are shared and with whom.
pub mod namespaces;
/// The program: arguments, environment, directory, signal.
pub mod process;
/// Limits, in the OCI's words.
pub mod resources;
/// The seccomp and AppArmor profiles.
pub mod security;
/// Numbers for the user's name and groups.
pub mod user;
/// The ids of a pod's user namespace.
pub mod user_namespace;

/// Everything that decides how a container is made.
#[derive(Debug)]
pub struct SpecInputs<'a> {
    /// What the caller asked for.
    pub container: &'a v1::ContainerConfig,
    /// What the sandbox was asked to be.
    pub sandbox: &'a v1::PodSandboxConfig,
    /// The image's configuration.
    pub image: &'a ImageConfiguration,
    /// The user, as numbers.
    pub run_as: &'a RunAs,
    /// The user's home directory.
    pub home: &'a str,
    /// The filter of system calls.
    pub seccomp: security::Seccomp,
    /// The namespaces that the pod's monitor has pinned.
    pub namespaces: &'a namespaces::PodNamespaces,
    /// The process whose pid namespace is joined (`NamespaceMode::Target`).
    pub target_pid: Option<i32>,
    /// Files that all containers of the pod share.
    pub files: &'a mounts::PodFiles,
    /// Device nodes asked for, with their numbers.
    pub devices: &'a [devices::ObservedDevice],
    /// What this machine has and allows.
    pub host: &'a host::HostFacts,
    /// The container's group, in the OCI's words.
    pub cgroups_path: &'a Path,
    /// What the operator wants for who states nothing.
    pub defaults: &'a defaults::ContainerDefaults,
    /// The container's root directory on the host.
    pub rootfs: &'a Path,
    /// The sandbox's id, for the annotations.
    pub pod_id: &'a str,
}

/// Whether the program may do what root on the host may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// A container as it should be.
    Confined,
    /// All capabilities and devices, nothing masked.
    Privileged,
}

/// The OCI configuration of a container.
///
/// # Errors
///
/// `Invalid` with the field's name, `Unsupported` for what this machine or this
/// version lacks. Nothing was done then.
pub fn plan_spec(inputs: &SpecInputs<'_>) -> Result<Spec, Error> {
    let privilege = privilege_of(inputs)?;
    let mut spec = SpecBuilder::default()
        .version("1.2.0")
        .root(root(inputs)?)
        .process(process::plan_process(inputs, privilege)?)
        .mounts(mounts::plan_mounts(inputs, privilege)?)
        .annotations(annotations(inputs))
        .linux(linux(inputs, privilege)?)
        .build()?;
    // The pod's monitor has set the name; the builder would put its own here.
    spec.set_hostname(None);
    Ok(spec)
}

/// The container's security context, or the default one.
pub fn security_context(container: &v1::ContainerConfig) -> v1::LinuxContainerSecurityContext {
    container
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.clone())
        .unwrap_or_default()
}

/// A container is privileged only in a sandbox that was made for it.
///
/// # Errors
///
/// `Invalid` when the sandbox was not.
fn privilege_of(inputs: &SpecInputs<'_>) -> Result<Privilege, Error> {
    if !security_context(inputs.container).privileged {
        return Ok(Privilege::Confined);
    }
    let sandbox_allows = inputs
        .sandbox
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
        .is_some_and(|context| context.privileged);
    if sandbox_allows {
        Ok(Privilege::Privileged)
    } else {
        Err(Error::invalid(
            "linux.security_context.privileged: the sandbox was not made privileged",
        ))
    }
}

fn root(inputs: &SpecInputs<'_>) -> Result<Root, Error> {
    Ok(RootBuilder::default()
        .path(inputs.rootfs)
        .readonly(security_context(inputs.container).readonly_rootfs)
        .build()?)
}

fn linux(inputs: &SpecInputs<'_>, privilege: Privilege) -> Result<Linux, Error> {
    let mut linux = LinuxBuilder::default()
        .cgroups_path(inputs.cgroups_path)
        .namespaces(namespaces::plan_namespaces(inputs, privilege)?)
        .resources(resources::plan_resources(inputs, privilege)?)
        .devices(devices::plan_nodes(inputs.devices, inputs.host, privilege)?)
        .masked_paths(security::masked_paths(inputs.container, privilege))
        .readonly_paths(security::readonly_paths(inputs.container, privilege))
        .build()?;
    if let Some(ids) = inputs.namespaces.users().mappings() {
        // The namespace that is joined has them already; runc wants them all the same.
        linux.set_uid_mappings(Some(user_namespace::oci_ranges(&ids.uids)?));
        linux.set_gid_mappings(Some(user_namespace::oci_ranges(&ids.gids)?));
    }
    linux.set_rootfs_propagation(mounts::rootfs_propagation(inputs.container)?);
    linux.set_seccomp(security::plan_seccomp(inputs, privilege)?);
    Ok(linux)
}

/// The annotations by which sandboxed runtimes (Kata, gVisor) know a pod.
fn annotations(inputs: &SpecInputs<'_>) -> HashMap<String, String> {
    let pod = inputs.sandbox.metadata.clone().unwrap_or_default();
    let name = inputs
        .container
        .metadata
        .as_ref()
        .map(|metadata| metadata.name.clone())
        .unwrap_or_default();
    let image = inputs
        .container
        .image
        .as_ref()
        .map(|image| image.image.clone())
        .unwrap_or_default();
    [
        ("container-type", "container".to_owned()),
        ("container-name", name),
        ("image-name", image),
        ("sandbox-id", inputs.pod_id.to_owned()),
        ("sandbox-name", pod.name),
        ("sandbox-namespace", pod.namespace),
        ("sandbox-uid", pod.uid),
    ]
    .into_iter()
    .map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value))
    .collect()
}

/// An absolute path without `.` and `..`, for comparing destinations.
///
/// # Errors
///
/// `Invalid`, naming `field`, for a relative path or one that climbs.
pub(crate) fn clean_absolute(field: &str, path: &str) -> Result<PathBuf, Error> {
    use std::path::Component;
    let invalid = |problem: &str| Error::invalid(format!("{field}: {path:?} {problem}"));
    if !path.starts_with('/') {
        return Err(invalid("is not an absolute path"));
    }
    if path.contains('\0') {
        return Err(invalid("holds a NUL"));
    }
    let mut clean = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => clean.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(invalid("holds \"..\""));
            }
        }
    }
    Ok(clean)
}

#[cfg(test)]
pub(crate) mod tests;
