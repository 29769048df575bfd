//! Device nodes and links in `/dev`.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::FileType;

use super::SpecError;
use super::mounts::{MountKind, MountPlan};
use crate::ids::ContainerPath;

/// What stands in `/dev` besides its mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePlan {
    /// Nodes, the spec's default ones first.
    pub nodes: Vec<DeviceNode>,
    /// Links: target and place.
    pub links: Vec<(PathBuf, ContainerPath)>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Where.
    pub path: ContainerPath,
    /// Character, block or fifo.
    pub kind: FileType,
    /// Major and minor number as one.
    pub device: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Name, major, minor of what every container has (runtime-spec,
/// config-linux.md#default-devices).
const DEFAULT_NODES: &[(&str, u32, u32)] = &[
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Place and target of what every container has (runtime-spec, runtime-linux.md).
const LINKS: &[(&str, &str)] = &[
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// Plans `/dev`, unless it is a part of the host's tree: nothing is added to that.
///
/// # Errors
///
/// A device of an unknown type, or without a path.
pub fn plan_devices(
    mounts: &[MountPlan],
    devices: &[LinuxDevice],
) -> Result<Option<DevicePlan>, SpecError> {
    let is_hosts = |mount: &MountPlan| {
        mount.destination.as_path() == Path::new("/dev")
            && matches!(mount.kind, MountKind::Bind { .. })
    };
    if mounts.iter().any(is_hosts) {
        return Ok(None);
    }
    let mut nodes: Vec<DeviceNode> = DEFAULT_NODES
        .iter()
        .map(|(path, major, minor)| DeviceNode {
            path: ContainerPath::new(*path),
            kind: FileType::CharacterDevice,
            device: rustix::fs::makedev(*major, *minor),
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .collect();
    for (index, device) in devices.iter().enumerate() {
        let node = plan_node(index, device)?;
        // A device that the spec names itself replaces the default one.
        nodes.retain(|other| other.path != node.path);
        nodes.push(node);
    }
    let links = LINKS.iter();
    let links = links.map(|(place, target)| (PathBuf::from(target), ContainerPath::new(*place)));
    Ok(Some(DevicePlan {
        nodes,
        links: links.collect(),
    }))
}

fn plan_node(index: usize, device: &LinuxDevice) -> Result<DeviceNode, SpecError> {
    let field = |name: &str| format!("linux.devices[{index}].{name}");
    if !device.path().is_absolute() {
        return Err(SpecError::new(field("path"), "expected an absolute path"));
    }
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => {
            return Err(SpecError::new(
                field("type"),
                "expected c, b, u or p, found a",
            ));
        }
    };
    let number = |name: &str, value: i64| {
        u32::try_from(value).map_err(|_| {
            SpecError::new(
                field(name),
                format!("expected a number from 0, found {value}"),
            )
        })
    };
    let device_number = match kind {
        FileType::Fifo => 0,
        _ => rustix::fs::makedev(
            number("major", device.major())?,
            number("minor", device.minor())?,
        ),
    };
    Ok(DeviceNode {
        path: ContainerPath::new(device.path().clone()),
        kind,
        device: device_number,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}
