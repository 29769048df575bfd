//! Groups of a pod: where they are, what they use, and their end.
//!
//! ```text
//! /berth              EngineConfig::cgroup_parent
//!     POD             the pod; a kubelet names its own parent instead
//!         CID         a container, made and removed by the OCI runtime
//! ```

use std::path::{Path, PathBuf};

use berth_runtime::cgroup::plan::{CgroupManager, CgroupPlan, CgroupRequest, plan_cgroup};
use berth_runtime::cgroup::remove::remove_empty;
use berth_runtime::cgroup::tree::observe_tree;

use super::error::{Error, ErrorKind};
use super::spec::clean_absolute;
use crate::v1;

/// The group of a pod: below the kubelet's parent when it names one.
///
/// # Errors
///
/// `Invalid`, naming the field.
pub fn pod_group(
    config: &v1::PodSandboxConfig,
    default_parent: &str,
    pod_id: &str,
) -> Result<String, Error> {
    let asked = config
        .linux
        .as_ref()
        .map(|linux| linux.cgroup_parent.as_str())
        .unwrap_or_default();
    if asked.ends_with(".slice") {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "config.linux.cgroup_parent: {asked:?} is a systemd slice; the cgroupfs driver is \
                 expected"
            ),
        ));
    }
    let group = match asked {
        "" => clean_absolute("cgroup_parent", default_parent)?.join(pod_id),
        // A kubelet's parent is the pod's own group, made and limited by it.
        asked => clean_absolute("config.linux.cgroup_parent", asked)?,
    };
    if group == Path::new("/") {
        return Err(Error::invalid(
            "config.linux.cgroup_parent: expected a group, not the root",
        ));
    }
    Ok(group.display().to_string())
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

    #[test]
    fn a_pod_has_a_group_of_its_own_or_the_kubelets() {
        let of = |parent: &str| pod_group(&asking(parent), "/berth", "p1");
        assert_eq!(of("").unwrap(), "/berth/p1");
        assert_eq!(of("/kubepods/podx").unwrap(), "/kubepods/podx");
        assert_eq!(of("/").unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(of("/a/../b").unwrap_err().kind(), ErrorKind::Invalid);
        let slice = of("kubepods-pod1.slice").unwrap_err();
        assert_eq!(slice.kind(), ErrorKind::Unsupported);
    }
}
