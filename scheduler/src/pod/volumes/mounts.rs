//! What a container mounts where.
//!
//! Mounts are handed over with the shorter paths first, so that one inside
//! another lands on top of it.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

use berth_cri::v1;
use k8s_openapi::api::core::v1::{Container, VolumeMount};

use super::{Content, VolumeError, VolumesPlan, sub_path};
use crate::pod::plan::{ConfigError, config_error, environment::Environment};

/// One mount of a container, before its source is in place.
#[derive(Debug, Clone, PartialEq)]
pub struct MountPlan {
    /// The mount as the CRI takes it, with its final source.
    pub mount: v1::Mount,
    /// What has to be put in place for it.
    pub preparation: Preparation,
}

/// What has to be put in place before a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preparation {
    /// Nothing.
    None,
    /// A part of a volume, mounted onto the source.
    SubPath {
        /// The volume's name.
        volume: String,
        /// The volume's place.
        root: PathBuf,
        /// The part.
        sub_path: PathBuf,
    },
    /// An empty file that every user of the container can write to.
    EmptyFile,
}

/// Plans the mounts of one start of a container.
///
/// # Errors
///
/// A mount of an unknown volume; a `subPath` that leaves it or names a variable
/// that is not set.
pub fn plan_mounts(
    volumes: &VolumesPlan,
    container: &Container,
    attempt: u32,
    environment: &Environment,
) -> Result<Vec<MountPlan>, ConfigError> {
    let mut plans = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let place = volumes.directory.join(".subpaths").join(&mount.name);
        let place = place.join(&container.name).join(index.to_string());
        plans.push(plan_mount(volumes, mount, place, environment)?);
    }
    let taken = |path: &str| {
        let mut mounts = container.volume_mounts.iter().flatten();
        mounts.any(|mount| Path::new(&mount.mount_path) == Path::new(path))
    };
    if !taken("/etc/hosts") {
        plans.push(MountPlan {
            mount: mount_of(&hosts_file(volumes), "/etc/hosts"),
            preparation: Preparation::None,
        });
    }
    if let Some(path) = &container.termination_message_path
        && !path.is_empty()
        && !taken(path)
    {
        let source = message_file(volumes, &container.name, attempt);
        plans.push(MountPlan {
            mount: mount_of(&source, path),
            preparation: Preparation::EmptyFile,
        });
    }
    plans.sort_by_key(|plan| Path::new(&plan.mount.container_path).components().count());
    Ok(plans)
}

/// The mounts as the CRI takes them, for a pod with these ids: a file that belongs
/// to 7 in the volume belongs to 7 in the pod, whichever id of the machine that is.
/// A pod without ids of its own sees a volume as the machine does.
pub fn owned_by(plans: &[MountPlan], users: &v1::UserNamespace) -> Vec<v1::Mount> {
    let owned = |plan: &MountPlan| v1::Mount {
        uid_mappings: users.uids.clone(),
        gid_mappings: users.gids.clone(),
        ..plan.mount.clone()
    };
    plans.iter().map(owned).collect()
}

/// The pod's hosts file.
pub fn hosts_file(volumes: &VolumesPlan) -> PathBuf {
    volumes.directory.join(".etc-hosts")
}

/// The file that one start of a container writes its last words to.
pub fn message_file(volumes: &VolumesPlan, container: &str, attempt: u32) -> PathBuf {
    let directory = volumes.directory.join(".containers").join(container);
    directory.join(attempt.to_string())
}

/// Puts the sources of a container's mounts in place.
///
/// # Errors
///
/// The mount that could not be prepared, by its volume.
pub fn ensure_mounts(plans: &[MountPlan]) -> Result<(), VolumeError> {
    for plan in plans {
        let target = Path::new(&plan.mount.host_path);
        match &plan.preparation {
            Preparation::None => {}
            Preparation::SubPath {
                volume,
                root,
                sub_path,
            } => {
                sub_path::bind_sub_path(root, sub_path, target).map_err(|source| VolumeError {
                    volume: volume.clone(),
                    step: format!("subPath {:?} was not mounted", sub_path.display()),
                    source,
                })?;
            }
            Preparation::EmptyFile => {
                create_message_file(target).map_err(|source| VolumeError {
                    volume: String::new(),
                    step: format!("{} was not made", target.display()),
                    source,
                })?
            }
        }
    }
    Ok(())
}

fn create_message_file(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        super::ensure_private_directory(parent)?;
    }
    fs::write(path, "")?;
    // Whoever the container runs as writes to it.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))
}

fn plan_mount(
    volumes: &VolumesPlan,
    mount: &VolumeMount,
    place: PathBuf,
    environment: &Environment,
) -> Result<MountPlan, ConfigError> {
    let volume = volumes
        .volumes
        .iter()
        .find(|volume| volume.name == mount.name)
        .ok_or_else(|| config_error(format!("volumeMount {:?}: no such volume", mount.name)))?;
    let root = match &volume.content {
        Content::HostPath(source) => PathBuf::from(&source.path),
        Content::EmptyDir(_) | Content::Files { .. } => volumes.directory.join(&volume.name),
    };
    let (source, preparation) = match plan_sub_path(mount, environment)? {
        None => (root, Preparation::None),
        Some(sub_path) => (
            place,
            Preparation::SubPath {
                volume: mount.name.clone(),
                root,
                sub_path,
            },
        ),
    };
    // Files out of objects are berth's to write, whatever the mount says.
    let readonly = mount.read_only == Some(true) || matches!(volume.content, Content::Files { .. });
    let recursive = matches!(
        mount.recursive_read_only.as_deref(),
        Some("Enabled" | "IfPossible")
    );
    Ok(MountPlan {
        mount: v1::Mount {
            readonly,
            recursive_read_only: readonly && recursive,
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
                Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
                _ => v1::MountPropagation::PropagationPrivate,
            }
            .into(),
            mount_options: mount.bind_mount_options.clone().unwrap_or_default(),
            ..mount_of(&source, &mount.mount_path)
        },
        preparation,
    })
}

/// The part of a volume that a mount names, if it names one.
fn plan_sub_path(
    mount: &VolumeMount,
    environment: &Environment,
) -> Result<Option<PathBuf>, ConfigError> {
    let named = match (&mount.sub_path, &mount.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => path.clone(),
        (_, Some(expression)) if !expression.is_empty() => {
            let path = environment.expand_text(expression);
            if path.contains("$(") {
                return Err(config_error(format!(
                    "subPathExpr {expression:?}: a variable in it is not set"
                )));
            }
            path
        }
        _ => return Ok(None),
    };
    let path = PathBuf::from(&named);
    let stays = path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !stays {
        return Err(config_error(format!(
            "subPath {named:?}: expected a relative path without '..'"
        )));
    }
    Ok(Some(path))
}

fn mount_of(source: &Path, target: &str) -> v1::Mount {
    v1::Mount {
        host_path: source.to_string_lossy().into_owned(),
        container_path: target.to_owned(),
        ..Default::default()
    }
}
