//! The cgroup hierarchies of this machine, as the caller's mount namespace shows them.
//!
//! A version 1 hierarchy is one mount with one or a few controllers, and there
//! are about ten of them; version 2 is a single mount with all controllers. A
//! hybrid machine has both: each controller lives in one of the two worlds, and
//! only the kernel's tables tell in which. Two files answer everything:
//!
//! - `/proc/self/mountinfo` says where each hierarchy is mounted, and which part
//!   of it (in a container that part is not the whole);
//! - `/proc/self/cgroup` says where the caller stands in each.
//!
//! See cgroups(7), proc_pid_mountinfo(5), and the kernel's
//! `Documentation/admin-guide/cgroup-v2.rst`. Try `grep cgroup /proc/self/mountinfo`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::CgroupError;
use super::files;
use super::systemd::SystemdView;
use crate::mountinfo::{self, Mount, unescape};

/// Which of the two interfaces a hierarchy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupVersion {
    /// One hierarchy per controller, `memory.limit_in_bytes`.
    V1,
    /// The unified hierarchy, `memory.max`.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// The interface that it speaks.
    pub version: CgroupVersion,
    /// Its controllers; `name=systemd` for a version 1 hierarchy that only names groups.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The caller's own group, below the mount point; empty for its root.
    pub own_group: PathBuf,
}

/// All hierarchies of the machine: version 1, version 2, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupTree {
    /// The hierarchies in the order of their mounts.
    pub hierarchies: Vec<Hierarchy>,
    /// The service manager, where it is to make the groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd: Option<SystemdView>,
}

impl CgroupTree {
    /// Whether version 2 is all there is.
    pub fn is_pure_v2(&self) -> bool {
        !self.hierarchies.is_empty()
            && self
                .hierarchies
                .iter()
                .all(|hierarchy| hierarchy.version == CgroupVersion::V2)
    }
}

/// Reads the hierarchies that this process can reach.
///
/// # Errors
///
/// [`CgroupError::Call`] when `/proc` is not mounted or not readable.
pub fn observe_tree() -> Result<CgroupTree, CgroupError> {
    let mountinfo = files::read(Path::new("/proc/self/mountinfo"))?;
    let own_groups = files::read(Path::new("/proc/self/cgroup"))?;
    let mut tree = parse_tree(&mountinfo, &own_groups);
    for hierarchy in &mut tree.hierarchies {
        // Version 2 names its controllers in a file, not in the mount's options.
        if hierarchy.version == CgroupVersion::V2 {
            let names = files::read(&hierarchy.mount_point.join("cgroup.controllers"))?;
            hierarchy.controllers = words(&names);
        }
    }
    Ok(tree)
}

fn words(text: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(text)
        .split_ascii_whitespace()
        .map(str::to_owned)
        .collect()
}

/// Makes the tree out of the text of the two files of `/proc`.
///
/// Version 2 controllers stay empty, because neither file names them.
pub fn parse_tree(mountinfo: &[u8], own_groups: &[u8]) -> CgroupTree {
    let mounts: Vec<Mount> = mountinfo::parse(mountinfo).collect();
    let mut hierarchies: Vec<Hierarchy> = Vec::new();
    for mount in &mounts {
        let version = match mount.filesystem {
            b"cgroup" => CgroupVersion::V1,
            b"cgroup2" => CgroupVersion::V2,
            _ => continue,
        };
        let controllers = match version {
            CgroupVersion::V1 => v1_controllers(mount.super_options),
            CgroupVersion::V2 => Vec::new(),
        };
        // The same hierarchy can be mounted again, for example bound into a
        // chroot. One door is enough: the first is the system's own.
        let seen = hierarchies
            .iter()
            .any(|known| known.version == version && known.controllers == controllers);
        if seen || is_hidden(mount, &mounts) {
            continue;
        }
        let own = own_group(own_groups, version, &controllers);
        hierarchies.push(Hierarchy {
            version,
            controllers,
            mount_point: unescape(mount.mount_point),
            own_group: below_root(own, &unescape(mount.root)),
        });
    }
    CgroupTree {
        hierarchies,
        systemd: None,
    }
}

/// Whether a path lookup of the mount point ends on another mount.
///
/// Every mount at or above the point has to be an ancestor of this one;
/// otherwise it was put on top later and covers it.
fn is_hidden(mount: &Mount, mounts: &[Mount]) -> bool {
    let covers = |other: &&Mount| {
        other.id != mount.id && is_at_or_above(other.mount_point, mount.mount_point)
    };
    mounts
        .iter()
        .filter(covers)
        .any(|other| !is_ancestor(other, mount, mounts))
}

fn is_at_or_above(upper: &[u8], lower: &[u8]) -> bool {
    match lower.strip_prefix(upper) {
        Some(rest) => rest.is_empty() || upper == b"/" || rest.starts_with(b"/"),
        None => false,
    }
}

fn is_ancestor(candidate: &Mount, mount: &Mount, mounts: &[Mount]) -> bool {
    let mut parent = mount.parent;
    // The chain is no longer than the list; a loop in a broken list must end.
    for _ in 0..mounts.len() {
        if parent == candidate.id {
            return true;
        }
        match mounts.iter().find(|other| other.id == parent) {
            Some(next) if next.parent != next.id => parent = next.parent,
            _ => return false,
        }
    }
    false
}

/// Options of the superblock that are no controllers.
const V1_OPTIONS: [&str; 9] = [
    "rw",
    "ro",
    "xattr",
    "clone_children",
    "noprefix",
    "cpuset_v2_mode",
    "favordynmods",
    "none",
    "seclabel",
];

fn v1_controllers(super_options: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(super_options)
        .split(',')
        .filter(|option| !V1_OPTIONS.contains(option) && !option.starts_with("release_agent="))
        .map(str::to_owned)
        .collect()
}

/// The caller's path in the hierarchy, from lines as `4:memory:/a/b` and `0::/a`.
fn own_group<'a>(own_groups: &'a [u8], version: CgroupVersion, controllers: &[String]) -> &'a [u8] {
    for line in own_groups.split(|byte| *byte == b'\n') {
        let mut fields = line.splitn(3, |byte| *byte == b':');
        let (Some(number), Some(names), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let matches = match version {
            CgroupVersion::V2 => number == b"0" && names.is_empty(),
            CgroupVersion::V1 => names
                .split(|byte| *byte == b',')
                .any(|name| controllers.iter().any(|known| known.as_bytes() == name)),
        };
        if matches {
            return path;
        }
    }
    b"/"
}

/// Where a group is below a mount that shows only the part from `root` on.
fn below_root(group: &[u8], root: &Path) -> PathBuf {
    let group = Path::new(OsStr::from_bytes(group));
    // A group outside the visible part cannot be named: the top stands for it.
    group
        .strip_prefix(root)
        .map(Path::to_path_buf)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
