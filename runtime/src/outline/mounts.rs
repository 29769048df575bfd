//! Mounts and device nodes in words.

use rustix::fs::FileType;
use serde::Serialize;

use super::shown;
use crate::plan::devices::{DeviceNode, DevicePlan};
use crate::plan::idmap::IdmapPlan;
use crate::plan::mappings::{IdRange, Mappings};
use crate::plan::mounts::{MountKind, MountPlan};
use crate::plan::options::OptionPlan;
use crate::stages::mount_tree::first_of_cgroups;
use crate::sys::mount::{AttributeChange, Depth};

/// One mount.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Where, in the container.
    pub destination: String,
    /// The filesystem's name, or `bind`, `rbind` or `cgroup`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What: a path of the host for binds, else the name that `/proc/mounts` shows.
    pub source: String,
    /// Attributes of this mount, as words of mount(8).
    pub flags: Vec<&'static str>,
    /// The same for it and all mounts below it.
    pub recursive_flags: Vec<&'static str>,
    /// What passes to and from its peers, in the order in which it is set.
    pub propagation: Vec<String>,
    /// A tmpfs begins with a copy of what it covers.
    pub copies_up: bool,
    /// How its files' owners are moved; empty where they are not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<String>,
    /// What the filesystem itself is told.
    pub data: Vec<String>,
    /// The calls by which it is made.
    pub made_by: &'static str,
    /// The stage that makes it.
    pub stage: &'static str,
}

/// What stands in `/dev`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Devices {
    /// Device nodes.
    pub nodes: Vec<Node>,
    /// Symbolic links.
    pub links: Vec<Link>,
}

/// A device node.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Where, in the container.
    pub path: String,
    /// `c`, `b` or `p`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The driver.
    pub major: u32,
    /// The device of that driver.
    pub minor: u32,
    /// Permissions in octal.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A symbolic link.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// Where, in the container.
    pub path: String,
    /// What it holds.
    pub target: String,
}

/// An attribute's bit, and its words when it is set and when it is cleared.
const ATTRIBUTES: &[(u64, &str, &str)] = &[
    (libc::MOUNT_ATTR_RDONLY, "ro", "rw"),
    (libc::MOUNT_ATTR_NOSUID, "nosuid", "suid"),
    (libc::MOUNT_ATTR_NODEV, "nodev", "dev"),
    (libc::MOUNT_ATTR_NOEXEC, "noexec", "exec"),
    (libc::MOUNT_ATTR_NODIRATIME, "nodiratime", "diratime"),
    (libc::MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow", "symfollow"),
];

/// All mounts, in order.
pub fn outline_mounts(plans: &[MountPlan]) -> Vec<Mount> {
    let first = first_of_cgroups(plans);
    let numbered = plans.iter().enumerate();
    numbered
        .map(|(index, plan)| {
            let stage = if index < first {
                "mount-tree"
            } else {
                "mount-rest"
            };
            outline_mount(plan, stage)
        })
        .collect()
}

fn outline_mount(plan: &MountPlan, stage: &'static str) -> Mount {
    let MountPlan {
        destination,
        kind,
        options,
        idmap,
    } = plan;
    let OptionPlan {
        // It is in the kind.
        bind: _,
        attributes,
        recursive,
        propagation,
        copies_up,
        // It is in the plan's own.
        idmap: _,
        filesystem,
    } = options;
    let (kind, source, made_by) = match kind {
        MountKind::Filesystem { kind, source } => (
            kind.clone(),
            source.clone(),
            "fsopen(2), fsconfig(2), fsmount(2), move_mount(2)",
        ),
        MountKind::Bind { source, depth } => {
            let word = match depth {
                Depth::One => "bind",
                Depth::Recursive => "rbind",
            };
            (
                word.to_owned(),
                shown(source.as_path()),
                "open_tree(2), mount_setattr(2), move_mount(2)",
            )
        }
        MountKind::Cgroup => (
            "cgroup".to_owned(),
            "the container's own groups".to_owned(),
            "open_tree(2) of each group, move_mount(2)",
        ),
    };
    let data = filesystem.iter().map(|(key, value)| match value {
        Some(value) => format!("{key}={value}"),
        None => key.clone(),
    });
    Mount {
        destination: shown(destination.as_path()),
        kind,
        source,
        flags: flag_words(*attributes),
        recursive_flags: flag_words(*recursive),
        propagation: propagation
            .iter()
            .map(|(depth, kind)| {
                let deep = match depth {
                    Depth::One => "",
                    Depth::Recursive => "r",
                };
                format!("{deep}{}", propagation_word(*kind))
            })
            .collect(),
        copies_up: *copies_up,
        owners: idmap.as_ref().map(outline_idmap).unwrap_or_default(),
        data: data.collect(),
        made_by,
        stage,
    }
}

/// The word of the option, and the map unless it is the container's own.
fn outline_idmap(plan: &IdmapPlan) -> Vec<String> {
    let IdmapPlan { depth, mappings } = plan;
    let word = match depth {
        Depth::One => "idmap",
        Depth::Recursive => "ridmap",
    };
    let given = mappings.iter().flat_map(outline_mappings);
    std::iter::once(word.to_owned()).chain(given).collect()
}

/// `uids` or `gids`, then inside (for a mount: on disk), outside, and how many.
pub fn outline_mappings(mappings: &Mappings) -> Vec<String> {
    let Mappings { uids, gids } = mappings;
    let named = |name: &'static str, ranges: &[IdRange]| -> Vec<String> {
        let ranges = ranges.iter();
        ranges
            .map(|range| format!("{name}={}-{}-{}", range.inside, range.outside, range.count))
            .collect()
    };
    [named("uids", uids), named("gids", gids)].concat()
}

/// `MOUNT_ATTR_*` as words of mount(8).
fn flag_words(change: AttributeChange) -> Vec<&'static str> {
    let AttributeChange {
        set,
        clear,
        propagation,
    } = change;
    let mut words = Vec::new();
    for (bit, when_set, when_cleared) in ATTRIBUTES {
        if set & bit != 0 {
            words.push(*when_set);
        } else if clear & bit != 0 {
            words.push(*when_cleared);
        }
    }
    if clear & libc::MOUNT_ATTR__ATIME != 0 {
        words.push(match set & libc::MOUNT_ATTR__ATIME {
            libc::MOUNT_ATTR_NOATIME => "noatime",
            libc::MOUNT_ATTR_STRICTATIME => "strictatime",
            _ => "relatime",
        });
    }
    if propagation != 0 {
        words.push(propagation_word(propagation));
    }
    words
}

/// `MS_*` of propagation as a word.
pub fn propagation_word(flags: u64) -> &'static str {
    let recursive = flags & libc::MS_REC != 0;
    match (flags & !libc::MS_REC, recursive) {
        (libc::MS_SHARED, false) => "shared",
        (libc::MS_SHARED, true) => "rshared",
        (libc::MS_SLAVE, false) => "slave",
        (libc::MS_SLAVE, true) => "rslave",
        (libc::MS_PRIVATE, false) => "private",
        (libc::MS_PRIVATE, true) => "rprivate",
        (libc::MS_UNBINDABLE, false) => "unbindable",
        (libc::MS_UNBINDABLE, true) => "runbindable",
        _ => "unchanged",
    }
}

/// What stands in `/dev`.
pub fn outline_devices(plan: &DevicePlan) -> Devices {
    let DevicePlan { nodes, links } = plan;
    Devices {
        nodes: nodes.iter().map(outline_node).collect(),
        links: links
            .iter()
            .map(|(target, place)| Link {
                path: shown(place.as_path()),
                target: shown(target),
            })
            .collect(),
    }
}

fn outline_node(node: &DeviceNode) -> Node {
    let DeviceNode {
        path,
        kind,
        device,
        mode,
        uid,
        gid,
    } = node;
    Node {
        path: shown(path.as_path()),
        kind: match kind {
            FileType::BlockDevice => "b",
            FileType::Fifo => "p",
            _ => "c",
        },
        major: rustix::fs::major(*device),
        minor: rustix::fs::minor(*device),
        mode: format!("{mode:04o}"),
        uid: *uid,
        gid: *gid,
    }
}
