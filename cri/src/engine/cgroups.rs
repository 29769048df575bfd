//! Groups of a pod: where they are, what they use, and their end.
//!
//! ```text
//! /berth              EngineConfig::cgroup_parent
//!     POD             the pod; a kubelet names its own parent instead
//!         CID         a container, made and removed by the OCI runtime
//! ```
//!
//! With the driver `systemd` a kubelet names a slice that it made, by its name or
//! by its path, and a container is a scope in it, made by systemd when the OCI
//! runtime asks over D-Bus:
//!
//! ```text
//! /kubepods.slice/kubepods-burstable.slice
//!     kubepods-burstable-podUID.slice    the pod
//!         cri-berth-CID.scope            a container
//! ```

use std::path::{Path, PathBuf};

use berth_runtime::cgroup::plan::{CgroupManager, CgroupPlan, CgroupRequest, plan_cgroup};
use berth_runtime::cgroup::remove::remove_empty;
use berth_runtime::cgroup::systemd::{Bus, expand_slice, scope::observe_systemd};
use berth_runtime::cgroup::tree::observe_tree;

use super::config::EngineConfig;
use super::error::{Error, ErrorKind};
use super::spec::clean_absolute;
use crate::v1;

/// Who makes the pods' groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Driver {
    /// We and the OCI runtime, by their paths.
    #[default]
    Cgroupfs,
    /// systemd, in slices that a kubelet names.
    Systemd,
}

/// What a scope's name begins with.
const SCOPE_PREFIX: &str = "cri-berth";

/// The group of a pod: below the kubelet's parent when it names one.
///
/// # Errors
///
/// `Invalid` and `Unsupported`, naming the field.
pub fn pod_group(
    config: &v1::PodSandboxConfig,
    pod_id: &str,
    engine: &EngineConfig,
) -> Result<String, Error> {
    let asked = config
        .linux
        .as_ref()
        .map(|linux| linux.cgroup_parent.as_str())
        .unwrap_or_default();
    let group = match (asked, engine.cgroup_driver) {
        // No kubelet: `crictl`, or `berth run`.
        ("", _) => clean_absolute("cgroup_parent", &engine.cgroup_parent)?.join(pod_id),
        (asked, Driver::Systemd) => slice_group(asked)?,
        (asked, Driver::Cgroupfs) if is_slice(asked) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "config.linux.cgroup_parent: {asked:?} is a systemd slice; the cgroupfs driver \
                     is in force (runtime.cgroup_driver of cri.toml)"
                ),
            ));
        }
        // A kubelet's parent is the pod's own group, made and limited by it.
        (asked, Driver::Cgroupfs) => clean_absolute("config.linux.cgroup_parent", asked)?,
    };
    if group == Path::new("/") {
        return Err(Error::invalid(
            "config.linux.cgroup_parent: expected a group, not the root",
        ));
    }
    Ok(group.display().to_string())
}

/// Whether a group is a slice of systemd's.
pub fn is_slice(group: &str) -> bool {
    group.ends_with(".slice")
}

/// Where a slice is: its name tells in which others it stands.
fn slice_group(asked: &str) -> Result<PathBuf, Error> {
    // A kubelet sends the whole path, critest the last name.
    let name = asked.rsplit('/').next().unwrap_or_default();
    if !is_slice(name) {
        return Err(Error::invalid(format!(
            "config.linux.cgroup_parent: {asked:?} is no slice such as \
             kubepods-burstable-podUID.slice, which the driver systemd expects \
             (runtime.cgroup_driver of cri.toml)"
        )));
    }
    let path = expand_slice(name)
        .map_err(|error| Error::caused(ErrorKind::Invalid, "config.linux.cgroup_parent", error))?;
    Ok(Path::new("/").join(path))
}

/// The group of a container in a pod's.
pub fn container_path(pod_group: &str, id: &str) -> String {
    match is_slice(pod_group) {
        true => format!("{pod_group}/{SCOPE_PREFIX}-{id}.scope"),
        false => format!("{pod_group}/{id}"),
    }
}

/// A container's group as an OCI configuration has it: a path, or with systemd
/// `slice:prefix:name`.
pub fn oci_path(pod_group: &str, id: &str) -> PathBuf {
    let slice = pod_group.rsplit('/').next().unwrap_or_default();
    match is_slice(pod_group) {
        true => PathBuf::from(format!("{slice}:{SCOPE_PREFIX}:{id}")),
        false => PathBuf::from(container_path(pod_group, id)),
    }
}

/// Whether the driver can be had.
///
/// # Errors
///
/// `Unsupported` when no systemd answers.
pub fn check_driver(driver: Driver) -> Result<(), Error> {
    match driver {
        Driver::Cgroupfs => Ok(()),
        Driver::Systemd => match observe_systemd(Bus::System) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::caused(
                ErrorKind::Unsupported,
                "runtime.cgroup_driver: \"systemd\" cannot be had; nothing was started",
                error,
            )),
        },
    }
}

/// Removes the pod's empty group and then the engine's, if that is empty too.
///
/// A group that a kubelet made is the kubelet's to remove.
///
/// # Errors
///
/// `Storage` when a process or a group is left in the pod's group.
pub fn remove_pod_group(group: &str, default_parent: &str) -> Result<(), Error> {
    let Some(parent) = Path::new(group)
        .parent()
        .filter(|parent| *parent == Path::new(default_parent))
    else {
        return Ok(());
    };
    let failed = |error| {
        Error::caused(
            ErrorKind::Storage,
            format!("remove the cgroup {group}"),
            error,
        )
    };
    let tree = observe_tree().map_err(failed)?;
    remove_empty(&tree, Path::new(group)).map_err(failed)?;
    // Other pods keep it.
    let _ = remove_empty(&tree, parent);
    Ok(())
}

/// The groups of a container, to read from them.
///
/// # Errors
///
/// `Storage` when the machine's hierarchies cannot be read.
pub fn container_group(id: &str, group: &str) -> Result<CgroupPlan, Error> {
    let failed = |error| {
        Error::caused(
            ErrorKind::Storage,
            format!("find the cgroup {group}"),
            error,
        )
    };
    let path = PathBuf::from(group);
    let tree = observe_tree().map_err(failed)?;
    let request = CgroupRequest {
        id,
        cgroups_path: Some(&path),
        resources: None,
        manager: CgroupManager::Cgroupfs,
        annotations: None,
    };
    plan_cgroup(&request, &tree).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(parent: &str) -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: parent.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn of(parent: &str, cgroup_driver: Driver) -> Result<String, Error> {
        let engine = EngineConfig {
            cgroup_driver,
            ..crate::engine::config::tests::config()
        };
        pod_group(&asking(parent), "p1", &engine)
    }

    #[test]
    fn a_pod_has_a_group_of_its_own_or_the_kubelets() {
        let of = |parent| of(parent, Driver::Cgroupfs);
        assert_eq!(of("").unwrap(), "/berth/p1");
        assert_eq!(of("/kubepods/podx").unwrap(), "/kubepods/podx");
        assert_eq!(of("/").unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(of("/a/../b").unwrap_err().kind(), ErrorKind::Invalid);
        let slice = of("kubepods-pod1.slice").unwrap_err();
        assert_eq!(slice.kind(), ErrorKind::Unsupported);
        assert!(
            slice.to_string().contains("runtime.cgroup_driver"),
            "{slice}"
        );
        assert_eq!(container_path("/berth/p1", "c1"), "/berth/p1/c1");
        assert_eq!(oci_path("/berth/p1", "c1"), Path::new("/berth/p1/c1"));
    }

    #[test]
    fn a_slice_stands_where_its_name_says() {
        let of = |parent| of(parent, Driver::Systemd);
        let path = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice";
        assert_eq!(of("kubepods-besteffort-pod1_2.slice").unwrap(), path);
        assert_eq!(of(path).unwrap(), path);
        assert_eq!(of("").unwrap(), "/berth/p1");
        for wrong in ["/kubepods/podx", "-.slice", "a--b.slice", ".slice"] {
            let error = of(wrong).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{wrong}");
            assert!(error.to_string().contains("cgroup_parent"), "{error}");
        }
        let scope = container_path(path, "c1");
        assert_eq!(scope, format!("{path}/cri-berth-c1.scope"));
        let told = "kubepods-besteffort-pod1_2.slice:cri-berth:c1";
        assert_eq!(oci_path(path, "c1"), Path::new(told));
    }
}
