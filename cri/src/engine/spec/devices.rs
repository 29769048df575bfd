//! Device nodes, and who may open them.
//!
//! A device node is two things: a file made by mknod(2), and a rule of the
//! cgroup that says whether its numbers may be opened. Without the rule the
//! node is useless, without the node the rule is.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use super::host::HostFacts;
use super::{Privilege, clean_absolute};
use crate::engine::error::{Error, ErrorKind};
use crate::v1;

/// A node as it is on the host, with the place it gets in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedDevice {
    /// Where it goes in the container.
    pub path: PathBuf,
    /// Character or block.
    pub kind: LinuxDeviceType,
    /// The driver's number.
    pub major: u64,
    /// The device's number within the driver.
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What the cgroup allows: some of `r`, `w`, `m`.
    pub access: String,
}

/// Looks up the devices of a request; a directory stands for all nodes in it.
///
/// # Errors
///
/// `Invalid` with the field's name.
pub fn observe_requested(requested: &[v1::Device]) -> Result<Vec<ObservedDevice>, Error> {
    let mut found = Vec::new();
    for device in requested {
        let host = clean_absolute("devices.host_path", &device.host_path)?;
        let target = match device.container_path.as_str() {
            "" => host.clone(),
            path => clean_absolute("devices.container_path", path)?,
        };
        let access = check_access(&device.permissions)?;
        let metadata = fs::metadata(&host).map_err(|error| {
            Error::caused(
                ErrorKind::Invalid,
                format!("devices.host_path: {}", host.display()),
                error,
            )
        })?;
        if metadata.is_dir() {
            for mut inner in observe_all(&host) {
                let below = inner.path.strip_prefix(&host).unwrap_or(Path::new(""));
                inner.path = target.join(below);
                inner.access.clone_from(&access);
                found.push(inner);
            }
        } else {
            let observed = from_metadata(&target, &metadata, &access).ok_or_else(|| {
                Error::invalid(format!(
                    "devices.host_path: {} is not a device",
                    host.display()
                ))
            })?;
            found.push(observed);
        }
    }
    Ok(found)
}

/// Every node below a directory. What vanishes meanwhile is left out.
pub fn observe_all(directory: &Path) -> Vec<ObservedDevice> {
    let mut found = Vec::new();
    let mut folders = vec![directory.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            // Not followed: /dev/fd and the like lead back into /proc.
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            // Terminals and shared memory belong to the container's own mounts.
            let own = ["pts", "shm", "mqueue", "fd", "console"];
            if folder == Path::new("/dev") && own.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            if metadata.is_dir() {
                folders.push(path);
            } else if let Some(device) = from_metadata(&path, &metadata, "rwm") {
                found.push(device);
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn from_metadata(path: &Path, metadata: &fs::Metadata, access: &str) -> Option<ObservedDevice> {
    let kind = if metadata.file_type().is_char_device() {
        LinuxDeviceType::C
    } else if metadata.file_type().is_block_device() {
        LinuxDeviceType::B
    } else {
        return None;
    };
    Some(ObservedDevice {
        path: path.to_path_buf(),
        kind,
        major: u64::from(rustix::fs::major(metadata.rdev())),
        minor: u64::from(rustix::fs::minor(metadata.rdev())),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: access.to_owned(),
    })
}

fn check_access(permissions: &str) -> Result<String, Error> {
    if permissions.is_empty() {
        return Ok("rwm".to_owned());
    }
    if permissions.chars().all(|letter| "rwm".contains(letter)) {
        return Ok(permissions.to_owned());
    }
    Err(Error::invalid(format!(
        "devices.permissions: {permissions:?} holds more than r, w and m"
    )))
}

/// The nodes to make: those asked for; all of the host's for a privileged one.
///
/// # Errors
///
/// `Invalid` from the OCI's builder.
pub fn plan_nodes(
    requested: &[ObservedDevice],
    host: &HostFacts,
    privilege: Privilege,
) -> Result<Vec<LinuxDevice>, Error> {
    let mut nodes: Vec<&ObservedDevice> = requested.iter().collect();
    if privilege == Privilege::Privileged {
        let rest = host
            .devices
            .iter()
            .filter(|device| !is_default_node(&device.path))
            .filter(|device| !requested.iter().any(|other| other.path == device.path));
        nodes.extend(rest);
    }
    nodes.into_iter().map(node).collect()
}

/// The OCI runtime makes these by itself (config-linux.md, default devices).
fn is_default_node(path: &Path) -> bool {
    const DEFAULT: [&str; 7] = [
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/dev/random",
        "/dev/urandom",
        "/dev/tty",
        "/dev/ptmx",
    ];
    DEFAULT.iter().any(|known| path == Path::new(known))
}

fn node(device: &ObservedDevice) -> Result<LinuxDevice, Error> {
    Ok(LinuxDeviceBuilder::default()
        .path(&device.path)
        .typ(device.kind)
        .major(number(device.major))
        .minor(number(device.minor))
        .file_mode(device.mode)
        .uid(device.uid)
        .gid(device.gid)
        .build()?)
}

/// The cgroup's rules: deny all, then allow what every container needs and
/// what was asked for.
///
/// # Errors
///
/// `Invalid` from the OCI's builder.
pub fn plan_rules(
    requested: &[ObservedDevice],
    privilege: Privilege,
) -> Result<Vec<LinuxDeviceCgroup>, Error> {
    let any = |allow: bool| {
        LinuxDeviceCgroupBuilder::default()
            .allow(allow)
            .access("rwm")
            .build()
    };
    if privilege == Privilege::Privileged {
        return Ok(vec![any(true)?]);
    }
    let mut rules = vec![any(false)?];
    for (kind, major, minor, access) in ALLOWED {
        let mut rule = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(kind)
            .access(access)
            .build()?;
        rule.set_major(major);
        rule.set_minor(minor);
        rules.push(rule);
    }
    for device in requested {
        rules.push(
            LinuxDeviceCgroupBuilder::default()
                .allow(true)
                .typ(device.kind)
                .major(number(device.major))
                .minor(number(device.minor))
                .access(device.access.clone())
                .build()?,
        );
    }
    Ok(rules)
}

/// Kind, major, minor, access; none stands for every number
/// (Documentation/admin-guide/devices.txt).
type Rule = (LinuxDeviceType, Option<i64>, Option<i64>, &'static str);

const ALLOWED: [Rule; 11] = [
    // Making a node gives nothing as long as it may not be opened.
    (LinuxDeviceType::C, None, None, "m"),
    (LinuxDeviceType::B, None, None, "m"),
    // null, zero, full, random, urandom.
    (LinuxDeviceType::C, Some(1), Some(3), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(5), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(7), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(8), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(9), "rwm"),
    // tty, ptmx, pts.
    (LinuxDeviceType::C, Some(5), Some(0), "rwm"),
    (LinuxDeviceType::C, Some(5), Some(2), "rwm"),
    (LinuxDeviceType::C, Some(136), None, "rwm"),
    // console.
    (LinuxDeviceType::C, Some(5), Some(1), "rwm"),
];

/// The kernel's numbers have at most 20 bits.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host: &str, container: &str, permissions: &str) -> v1::Device {
        v1::Device {
            host_path: host.to_owned(),
            container_path: container.to_owned(),
            permissions: permissions.to_owned(),
        }
    }

    #[test]
    fn a_device_is_found_with_its_numbers() {
        let found = observe_requested(&[request("/dev/null", "/dev/nothing", "rw")]).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].major, found[0].minor), (1, 3));
        assert_eq!(found[0].path, Path::new("/dev/nothing"));
        let rules = plan_rules(&found, Privilege::Confined).unwrap();
        assert!(!rules[0].allow());
        let last = rules.last().unwrap();
        assert_eq!((last.major(), last.minor()), (Some(1), Some(3)));
        assert_eq!(last.access().as_deref(), Some("rw"));
        let nodes = plan_nodes(&found, &HostFacts::default(), Privilege::Confined).unwrap();
        assert_eq!(nodes.len(), 1);
    }

    #[test]
    fn what_is_no_device_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        fs::write(&plain, b"").unwrap();
        let error = observe_requested(&[request(plain.to_str().unwrap(), "", "")]).unwrap_err();
        assert!(error.to_string().contains("is not a device"), "{error}");
        let error = observe_requested(&[request("/nowhere", "", "")]).unwrap_err();
        assert!(error.chain().contains("devices.host_path: /nowhere"));
        let error = observe_requested(&[request("/dev/null", "", "rx")]).unwrap_err();
        assert!(error.to_string().contains("\"rx\""), "{error}");
    }

    #[test]
    fn a_privileged_container_gets_the_hosts_devices_once() {
        let node = |path: &str| ObservedDevice {
            path: path.into(),
            kind: LinuxDeviceType::B,
            major: 8,
            minor: 0,
            mode: 0o660,
            uid: 0,
            gid: 6,
            access: "rwm".to_owned(),
        };
        let host = HostFacts {
            devices: vec![node("/dev/null"), node("/dev/sda"), node("/dev/sdb")],
            ..HostFacts::default()
        };
        let nodes = plan_nodes(&[node("/dev/sda")], &host, Privilege::Privileged).unwrap();
        let paths: Vec<_> = nodes.iter().map(|node| node.path().clone()).collect();
        assert_eq!(paths, [Path::new("/dev/sda"), Path::new("/dev/sdb")]);
        let rules = plan_rules(&[], Privilege::Privileged).unwrap();
        assert_eq!(rules.len(), 1);
        assert!(rules[0].allow());
    }
}
