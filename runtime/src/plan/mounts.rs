//! Mounts: what is mounted where, with which attributes.

use std::path::Path;

use oci_spec::runtime::Mount;

use super::SpecError;
use super::idmap::{IdmapPlan, plan_idmap};
use super::mappings::{Mappings, outside_of};
use super::options::{OptionPlan, VALUE_LIMIT_BYTES, plan_options};
use crate::ids::{ContainerPath, HostPath};
use crate::sys::mount::Depth;

/// One entry of `mounts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPlan {
    /// Where, below the container's root.
    pub destination: ContainerPath,
    /// What.
    pub kind: MountKind,
    /// How.
    pub options: OptionPlan,
    /// With which owners.
    pub idmap: Option<IdmapPlan>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A filesystem of its own.
    Filesystem {
        /// `proc`, `tmpfs`, …
        kind: String,
        /// What `/proc/mounts` shows as its device.
        source: String,
    },
    /// A part of the host's tree.
    Bind {
        /// The part.
        source: HostPath,
        /// How deep.
        depth: Depth,
    },
    /// The container's own cgroups.
    Cgroup,
}

/// Plans every entry, in order.
///
/// # Errors
///
/// A destination or source that is missing or relative, or an option that is
/// not honoured yet.
pub fn plan_mounts(
    bundle: &Path,
    mounts: &[Mount],
    mappings: Option<&Mappings>,
) -> Result<Vec<MountPlan>, SpecError> {
    let numbered = mounts.iter().enumerate();
    let mut plans: Vec<MountPlan> = numbered
        .map(|(index, mount)| plan_mount(bundle, (index, mount), mappings))
        .collect::<Result<_, SpecError>>()?;
    if let Some(mappings) = mappings {
        drop_foreign_groups(&mut plans, mappings);
    }
    Ok(plans)
}

/// Takes `gid=` of a devpts away where the user namespace has no such group:
/// the kernel would refuse the mount. Terminals then belong to their maker's
/// group, which is the one thing left to do, and what crun does.
fn drop_foreign_groups(mounts: &mut [MountPlan], mappings: &Mappings) {
    if mappings.gids.is_empty() {
        return;
    }
    let is_foreign = |(key, value): &(String, Option<String>)| {
        let gid = value.as_deref().and_then(|value| value.parse().ok());
        key == "gid" && gid.is_some_and(|gid| outside_of(&mappings.gids, gid).is_none())
    };
    for mount in mounts {
        if matches!(&mount.kind, MountKind::Filesystem { kind, .. } if kind == "devpts") {
            mount
                .options
                .filesystem
                .retain(|option| !is_foreign(option));
        }
    }
}

/// Refuses what cannot be had in a tree of mounts that no namespace holds, where a
/// container without a mount namespace is made.
///
/// # Errors
///
/// A root that shares its mounts, for its peers would be the host's; and option
/// texts that only `mount(2)` takes, which does not mount there.
pub fn refuse_in_hosts_namespace(
    mounts: &[MountPlan],
    root_propagation: u64,
) -> Result<(), SpecError> {
    if root_propagation & libc::MS_SHARED != 0 {
        let reason =
            "shared needs a mount namespace, else the container's mounts would be the host's";
        return Err(SpecError::new("linux.rootfsPropagation", reason));
    }
    let is_long = |mount: &MountPlan| {
        matches!(mount.kind, MountKind::Filesystem { .. }) && mount.options.has_long_value()
    };
    match mounts.iter().position(is_long) {
        None => Ok(()),
        Some(index) => {
            let field = format!("mounts[{index}].options");
            let reason =
                format!("an option of {VALUE_LIMIT_BYTES} bytes and more needs a mount namespace");
            Err(SpecError::new(field, reason))
        }
    }
}

/// `linux.rootfsPropagation`, as the flags that the whole tree is set to.
///
/// # Errors
///
/// A word that is no propagation type.
pub fn plan_root_propagation(word: Option<&str>) -> Result<u64, SpecError> {
    let kind = match word.unwrap_or("").trim_start_matches('r') {
        // What happens on the host is still seen, nothing flows back.
        "" | "slave" => libc::MS_SLAVE,
        "private" | "unbindable" => libc::MS_PRIVATE,
        // The container's own mount points must not reach the host while it is set
        // up; sharing is turned on at the end (stage `lock-root`).
        "shared" => libc::MS_SHARED,
        _ => {
            let expected =
                "expected shared, slave, private or unbindable, each also with an r in front";
            return Err(SpecError::new("linux.rootfsPropagation", expected));
        }
    };
    Ok(kind | libc::MS_REC)
}

fn plan_mount(
    bundle: &Path,
    (index, mount): (usize, &Mount),
    mappings: Option<&Mappings>,
) -> Result<MountPlan, SpecError> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    if mount.destination().as_os_str().is_empty() {
        return Err(SpecError::new(
            field("destination"),
            "expected an absolute path",
        ));
    }
    let options = plan_options(&field("options"), mount.options().as_deref().unwrap_or(&[]))?;
    let word = mount.typ().as_deref().unwrap_or("");
    let source = mount.source().as_deref();
    let kind = match (options.bind, word) {
        (Some(_), _) | (None, "bind" | "rbind") => MountKind::Bind {
            source: bind_source(bundle, source)
                .ok_or_else(|| SpecError::new(field("source"), "expected the path to bind"))?,
            depth: match (options.bind, word) {
                (Some(Depth::Recursive), _) | (_, "rbind") => Depth::Recursive,
                _ => Depth::One,
            },
        },
        (None, "cgroup" | "cgroup2") => MountKind::Cgroup,
        (None, "" | "none") => {
            let reason = "expected a filesystem's name, or bind or rbind among the options";
            return Err(SpecError::new(field("type"), reason));
        }
        (None, kind) => MountKind::Filesystem {
            kind: kind.to_owned(),
            source: source.map_or(kind.to_owned(), |source| {
                source.to_string_lossy().into_owned()
            }),
        },
    };
    let is_tmpfs = matches!(&kind, MountKind::Filesystem { kind, .. } if kind == "tmpfs");
    if options.copies_up && !is_tmpfs {
        let reason = "tmpcopyup is for mounts of type tmpfs";
        return Err(SpecError::new(field("options"), reason));
    }
    let idmap = plan_idmap(&field, mount, &options, mappings)?;
    if idmap.is_some() && !matches!(kind, MountKind::Bind { .. }) {
        let reason = "idmap: expected a bind mount";
        return Err(SpecError::new(field("options"), reason));
    }
    Ok(MountPlan {
        destination: ContainerPath::new(Path::new("/").join(mount.destination())),
        kind,
        options,
        idmap,
    })
}

/// A relative source begins at the bundle (runtime-spec, config.md#mounts).
fn bind_source(bundle: &Path, source: Option<&Path>) -> Option<HostPath> {
    let source = source.filter(|source| !source.as_os_str().is_empty())?;
    Some(HostPath::new(bundle.join(source)))
}
