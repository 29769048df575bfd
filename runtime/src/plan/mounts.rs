//! Mounts: what is mounted where, with which attributes.

use std::path::Path;

use oci_spec::runtime::Mount;

use super::SpecError;
use super::options::{OptionPlan, plan_options};
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
pub fn plan_mounts(bundle: &Path, mounts: &[Mount]) -> Result<Vec<MountPlan>, SpecError> {
    let numbered = mounts.iter().enumerate();
    numbered
        .map(|(index, mount)| plan_mount(bundle, index, mount))
        .collect()
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

fn plan_mount(bundle: &Path, index: usize, mount: &Mount) -> Result<MountPlan, SpecError> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    if mount.destination().as_os_str().is_empty() {
        return Err(SpecError::new(
            field("destination"),
            "expected an absolute path",
        ));
    }
    let mapped = |ids: bool, name: &str| match ids {
        true => Err(SpecError::new(
            field(name),
            "id-mapped mounts are not supported yet",
        )),
        false => Ok(()),
    };
    mapped(
        mount
            .uid_mappings()
            .as_ref()
            .is_some_and(|ids| !ids.is_empty()),
        "uidMappings",
    )?;
    mapped(
        mount
            .gid_mappings()
            .as_ref()
            .is_some_and(|ids| !ids.is_empty()),
        "gidMappings",
    )?;
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
    Ok(MountPlan {
        destination: ContainerPath::new(Path::new("/").join(mount.destination())),
        kind,
        options,
    })
}

/// A relative source begins at the bundle (runtime-spec, config.md#mounts).
fn bind_source(bundle: &Path, source: Option<&Path>) -> Option<HostPath> {
    let source = source.filter(|source| !source.as_os_str().is_empty())?;
    Some(HostPath::new(bundle.join(source)))
}
