//! The ids of a pod's user namespace.
//!
//! A kubelet gives each pod that asks for it (`hostUsers: false`) a range of the
//! host's ids and states it in the sandbox and again in each container. Root in
//! the pod is then an id on the host that owns nothing (KEP-127,
//! user_namespaces(7)).
//!
//! ```text
//! uids [{container_id 0, host_id 131072, length 65536}]
//!
//! in the pod       0 ………… 65535
//! on the host 131072 ………… 196607
//! ```
//!
//! Any number of ranges will do that the kernel takes. One of them must hold 0:
//! it is the owner of an image's files, and whoever sets a container up.

use berth_runtime::plan::mappings::{IdRange, Mappings, check_ranges, outside_of};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};

use crate::engine::error::Error;
use crate::engine::records::namespace_options;
use crate::v1;

/// Where the errors begin.
const FIELD: &str = "linux.security_context.namespace_options.userns_options";

/// Whose users a pod has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodUsers {
    /// The host's.
    Host,
    /// Its own, with these ids.
    Own(Mappings),
    /// Its own; which ids is the engine's choice.
    ToChoose,
}

impl PodUsers {
    /// What a sandbox asks for. Pure.
    ///
    /// # Errors
    ///
    /// `Invalid` with the field's name: a mode that cannot be, ids that the kernel
    /// would refuse, or a namespace of the host that the pod's root has no rights in.
    pub fn plan(config: &v1::PodSandboxConfig) -> Result<PodUsers, Error> {
        let options = namespace_options(config).cloned().unwrap_or_default();
        let Some(wanted) = &options.userns_options else {
            return Ok(PodUsers::Host);
        };
        if mode_of(wanted)? == v1::NamespaceMode::Node {
            return Ok(PodUsers::Host);
        }
        refuse_hosts_own(&options)?;
        if wanted.uids.is_empty() && wanted.gids.is_empty() {
            return Ok(PodUsers::ToChoose);
        }
        let uids = plan_root_ranges("uids", &wanted.uids)?;
        let gids = plan_root_ranges("gids", &wanted.gids)?;
        Ok(PodUsers::Own(Mappings { uids, gids }))
    }

    /// The ids, where they are the pod's own and known.
    pub fn mappings(&self) -> Option<&Mappings> {
        match self {
            PodUsers::Own(mappings) => Some(mappings),
            PodUsers::Host | PodUsers::ToChoose => None,
        }
    }

    /// Whether the pod has a user namespace.
    pub fn are_own(&self) -> bool {
        *self != PodUsers::Host
    }
}

/// A container may repeat what its sandbox has, and nothing else: it joins the
/// sandbox's namespace, so other ids would not be what it gets.
///
/// # Errors
///
/// `Invalid` with the field's name.
pub fn check_container(
    sandbox: &v1::PodSandboxConfig,
    options: &v1::NamespaceOption,
) -> Result<(), Error> {
    let Some(wanted) = &options.userns_options else {
        return Ok(());
    };
    let of_pod = namespace_options(sandbox).and_then(|options| options.userns_options.as_ref());
    let pod_mode = match of_pod {
        Some(of_pod) => mode_of(of_pod)?,
        None => v1::NamespaceMode::Node,
    };
    if mode_of(wanted)? != pod_mode {
        return Err(Error::invalid(format!(
            "{FIELD}.mode: expected that of the sandbox, {}",
            pod_mode.as_str_name()
        )));
    }
    let of_pod = of_pod.cloned().unwrap_or_default();
    if wanted.uids.is_empty() && wanted.gids.is_empty() {
        return Ok(());
    }
    for (name, wanted, known) in [
        ("uids", &wanted.uids, &of_pod.uids),
        ("gids", &wanted.gids, &of_pod.gids),
    ] {
        if wanted != known {
            return Err(Error::invalid(format!(
                "{FIELD}.{name}: expected those of the sandbox, {}; found {}",
                words(known),
                words(wanted)
            )));
        }
    }
    Ok(())
}

/// The ranges of a list of the CRI's, checked.
///
/// # Errors
///
/// `Invalid`, beginning with `field` and the range's number.
pub fn plan_ranges(field: &str, list: &[v1::IdMapping]) -> Result<Vec<IdRange>, Error> {
    let ranges: Vec<IdRange> = list
        .iter()
        .map(|mapping| IdRange {
            inside: mapping.container_id,
            outside: mapping.host_id,
            count: mapping.length,
        })
        .collect();
    check_ranges(field, &ranges).map_err(|error| {
        Error::invalid(format!("{}: {}", cri_name(error.field()), error.reason()))
    })?;
    Ok(ranges)
}

/// Ranges as the CRI writes them.
pub fn cri_ranges(ranges: &[IdRange]) -> Vec<v1::IdMapping> {
    let one = |range: &IdRange| v1::IdMapping {
        host_id: range.outside,
        container_id: range.inside,
        length: range.count,
    };
    ranges.iter().map(one).collect()
}

/// Ranges as the OCI writes them.
///
/// # Errors
///
/// `Invalid` from the OCI's builder.
pub fn oci_ranges(ranges: &[IdRange]) -> Result<Vec<LinuxIdMapping>, Error> {
    let one = |range: &IdRange| {
        let built = LinuxIdMappingBuilder::default()
            .container_id(range.inside)
            .host_id(range.outside)
            .size(range.count)
            .build();
        Ok(built?)
    };
    ranges.iter().map(one).collect()
}

/// The ranges of a user namespace, which has a root.
fn plan_root_ranges(name: &str, list: &[v1::IdMapping]) -> Result<Vec<IdRange>, Error> {
    let field = format!("{FIELD}.{name}");
    let ranges = plan_ranges(&field, list)?;
    if outside_of(&ranges, 0).is_none() {
        return Err(Error::invalid(format!(
            "{field}: expected a range that holds 0, the owner of an image's files; found {}",
            words(list)
        )));
    }
    Ok(ranges)
}

fn mode_of(wanted: &v1::UserNamespace) -> Result<v1::NamespaceMode, Error> {
    let found = v1::NamespaceMode::try_from(wanted.mode).map_err(|_| {
        Error::invalid(format!(
            "{FIELD}.mode: {} is not a mode of the CRI",
            wanted.mode
        ))
    })?;
    match found {
        v1::NamespaceMode::Pod => Ok(found),
        v1::NamespaceMode::Node if wanted.uids.is_empty() && wanted.gids.is_empty() => Ok(found),
        v1::NamespaceMode::Node => Err(Error::invalid(format!(
            "{FIELD}: expected no uids and gids with the mode NODE"
        ))),
        other => Err(Error::invalid(format!(
            "{FIELD}.mode: expected POD or NODE, got {}",
            other.as_str_name()
        ))),
    }
}

/// Root of a user namespace may not mount the procfs of the host's processes nor
/// the queues of the host's IPC. The host's network it may see: `/sys` is then the
/// host's own, read-only.
fn refuse_hosts_own(options: &v1::NamespaceOption) -> Result<(), Error> {
    let node = v1::NamespaceMode::Node as i32;
    for (name, mode) in [("pid", options.pid), ("ipc", options.ipc)] {
        if mode == node {
            return Err(Error::invalid(format!(
                "linux.security_context.namespace_options.{name}: NODE cannot be had with a user \
                 namespace of the pod's own, whose root has no rights in the host's"
            )));
        }
    }
    Ok(())
}

/// The runtime's checks name fields as the OCI does.
fn cri_name(field: &str) -> String {
    for (oci, cri) in [
        (".size", ".length"),
        (".containerID", ".container_id"),
        (".hostID", ".host_id"),
    ] {
        if let Some(front) = field.strip_suffix(oci) {
            return format!("{front}{cri}");
        }
    }
    field.to_owned()
}

fn words(list: &[v1::IdMapping]) -> String {
    let one = |mapping: &v1::IdMapping| {
        format!(
            "{}→{}+{}",
            mapping.container_id, mapping.host_id, mapping.length
        )
    };
    match list {
        [] => "none".to_owned(),
        list => list.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests;
