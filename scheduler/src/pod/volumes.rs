//! A pod's volumes: directories of the node that its containers mount.
//!
//! ```text
//! VOLUMES/POD_UID/
//!   NAME/                       one volume
//!   .subpaths/NAME/CONTAINER/N  one mount of a part of a volume
//!   .containers/CONTAINER/N     what start N of a container says as it ends
//!   .etc-hosts                  the pod's /etc/hosts
//! ```
//!
//! A volume's name is a DNS label, so no volume can be called `.subpaths`. The
//! directory of a pod is readable by root alone: what a container may see is
//! decided by mounts, not by paths on the node.
//!
//! Everything here blocks, as the kernel's mounts do; the worker calls it off
//! its own thread.
//!
//! Read more: "Volumes" in the Kubernetes documentation, tmpfs(5),
//! openat2(2), mount_namespaces(7).

use std::{
    io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{HostPathVolumeSource, Volume};

use super::plan::{ConfigError, config_error, facts::PodFacts};
use crate::manifest::quantity;

/// Writing them so that a reader sees the old ones or the new ones.
pub mod atomic;
/// An empty directory, on disk or in memory.
pub mod empty_dir;
/// Files out of ConfigMaps, Secrets and the pod itself, as data.
pub mod files;
/// A path of the node, checked.
pub mod host_path;
/// What a container mounts where.
pub mod mounts;
/// The group that owns a volume.
pub mod ownership;
/// A part of a volume, which links cannot leave.
pub mod sub_path;
/// Taking everything away again.
pub mod teardown;

use empty_dir::EmptyDirPlan;
use files::FileTree;

/// All volumes of one pod.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumesPlan {
    /// The pod's own directory.
    pub directory: PathBuf,
    /// The volumes, in the pod's order.
    pub volumes: Vec<VolumePlan>,
    /// The group that owns what the pod alone uses.
    pub fs_group: Option<u32>,
}

/// One volume.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumePlan {
    /// Its name in the pod.
    pub name: String,
    /// What it is made of.
    pub content: Content,
}

/// What a volume is made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Nothing yet.
    EmptyDir(EmptyDirPlan),
    /// What stands on the node already.
    HostPath(HostPathVolumeSource),
    /// Files that the pod may read.
    Files {
        /// The files.
        tree: FileTree,
        /// Where they are kept.
        storage: Storage,
    },
}

/// Where a volume's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// On the node's disk.
    Disk,
    /// In memory alone: secrets must not outlive the pod on a disk.
    Memory,
}

/// A volume that could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("volume {volume:?}: {step}")]
pub struct VolumeError {
    /// The volume's name.
    pub volume: String,
    /// What was not reached.
    pub step: String,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

impl VolumesPlan {
    /// Only those that are files out of objects, which change while the pod runs.
    pub fn files(mut self) -> VolumesPlan {
        self.volumes
            .retain(|volume| matches!(volume.content, Content::Files { .. }));
        self
    }

    /// The place of a volume on the node.
    pub fn find_host_path(&self, volume: &str) -> Option<PathBuf> {
        let plan = self.volumes.iter().find(|plan| plan.name == volume)?;
        Some(match &plan.content {
            Content::HostPath(source) => PathBuf::from(&source.path),
            Content::EmptyDir(_) | Content::Files { .. } => self.directory.join(&plan.name),
        })
    }
}

/// Plans the volumes of a pod.
///
/// # Errors
///
/// A ConfigMap, Secret or key that is missing and not optional; a file's path
/// that would leave its volume; a kind of volume that is not built.
pub fn plan_volumes(facts: &PodFacts<'_>, directory: PathBuf) -> Result<VolumesPlan, ConfigError> {
    plan_each(facts, directory, Err)
}

/// As [`plan_volumes`], for a pod that waits for what it lacks: such volumes are planned
/// without their files.
///
/// # Errors
///
/// What waiting does not heal: a kind of volume that is not built, a group that is none.
pub fn plan_places(facts: &PodFacts<'_>, directory: PathBuf) -> Result<VolumesPlan, ConfigError> {
    plan_each(facts, directory, |_| {
        Ok(Content::Files {
            tree: FileTree::new(),
            storage: Storage::Disk,
        })
    })
}

fn plan_each(
    facts: &PodFacts<'_>,
    directory: PathBuf,
    lacking: fn(ConfigError) -> Result<Content, ConfigError>,
) -> Result<VolumesPlan, ConfigError> {
    let spec = facts.pod.spec.as_ref();
    let volumes = spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
        .map(|volume| {
            plan_content(facts, volume)
                .map_err(|error| error.within(&format!("volume {:?}", volume.name)))
                .or_else(lacking)
                .map(|content| VolumePlan {
                    name: volume.name.clone(),
                    content,
                })
        })
        .collect::<Result<_, _>>()?;
    let fs_group = spec
        .and_then(|spec| spec.security_context.as_ref())
        .and_then(|context| context.fs_group)
        .map(|group| {
            u32::try_from(group)
                .map_err(|_| config_error(format!("fsGroup: {group} is no group's number")))
        })
        .transpose()?;
    Ok(VolumesPlan {
        directory,
        volumes,
        fs_group,
    })
}

fn plan_content(facts: &PodFacts<'_>, volume: &Volume) -> Result<Content, ConfigError> {
    if let Some(source) = &volume.host_path {
        return Ok(Content::HostPath(source.clone()));
    }
    if let Some(source) = &volume.empty_dir {
        return Ok(Content::EmptyDir(EmptyDirPlan {
            medium: empty_dir::read_medium(source.medium.as_deref())?,
            limit_bytes: source
                .size_limit
                .as_ref()
                .map(quantity::whole)
                .and_then(|limit| u64::try_from(limit).ok())
                .filter(|limit| *limit > 0),
            mode: files::mode(source.mode.unwrap_or(0o777)),
        }));
    }
    if let Some(source) = &volume.config_map {
        let tree = files::plan_config_map(facts, source)?;
        return Ok(Content::Files {
            tree,
            storage: Storage::Disk,
        });
    }
    if let Some(source) = &volume.secret {
        let tree = files::plan_secret(facts, source)?;
        return Ok(Content::Files {
            tree,
            storage: Storage::Memory,
        });
    }
    if let Some(source) = &volume.downward_api {
        let tree = files::plan_downward(facts, source)?;
        return Ok(Content::Files {
            tree,
            storage: Storage::Memory,
        });
    }
    if let Some(source) = &volume.projected {
        let tree = files::plan_projected(facts, source)?;
        return Ok(Content::Files {
            tree,
            storage: Storage::Memory,
        });
    }
    // As the API server does: a volume of no kind is an empty directory.
    Ok(Content::EmptyDir(EmptyDirPlan {
        medium: empty_dir::Medium::Disk,
        limit_bytes: None,
        mode: 0o777,
    }))
}

/// Makes what is missing of a pod's volumes.
///
/// What an earlier worker made is kept as it is, with the files that containers
/// wrote; files out of objects are written anew if they changed.
///
/// # Errors
///
/// The first volume that cannot be made. What was made stands; the pod's
/// teardown removes it.
pub fn ensure_volumes(plan: &VolumesPlan) -> Result<(), VolumeError> {
    ensure_private_directory(&plan.directory).map_err(|source| VolumeError {
        volume: String::new(),
        step: format!("{} was not made", plan.directory.display()),
        source,
    })?;
    for volume in &plan.volumes {
        let path = plan.directory.join(&volume.name);
        match &volume.content {
            Content::HostPath(source) => host_path::ensure_host_path(source),
            Content::EmptyDir(empty) => empty_dir::ensure_empty_dir(empty, &path, plan.fs_group),
            Content::Files { tree, storage } => ensure_files(tree, *storage, &path, plan.fs_group),
        }
        .map_err(|failure| VolumeError {
            volume: volume.name.clone(),
            step: failure.step,
            source: failure.source,
        })?;
    }
    Ok(())
}

/// A step towards a volume that failed.
#[derive(Debug)]
pub struct StepFailure {
    step: String,
    source: io::Error,
}

/// Names the step that an I/O error belongs to.
fn step(text: impl Into<String>) -> impl FnOnce(io::Error) -> StepFailure {
    let step = text.into();
    move |source| StepFailure { step, source }
}

fn ensure_files(
    tree: &FileTree,
    storage: Storage,
    path: &Path,
    fs_group: Option<u32>,
) -> Result<(), StepFailure> {
    match storage {
        Storage::Disk => ensure_directory(path, 0o755),
        Storage::Memory => empty_dir::ensure_tmpfs(path, None, 0o755),
    }
    .map_err(step(format!("{} was not made", path.display())))?;
    atomic::write_tree(path, tree, fs_group).map_err(step(format!(
        "files were not written to {}",
        path.display()
    )))
}

/// Makes a directory, or gives one that is there its mode again.
fn ensure_directory(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    // The mode that mkdir(2) takes is cut by the process' umask; chmod's is not.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Makes a directory that only root can enter, with its parents.
fn ensure_private_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(path)
}

#[cfg(test)]
mod tests;
