//! What is mounted where.
//!
//! The kernel's own file systems first, then the files that make a pod (name,
//! hosts, resolver), then what the request asks for. A mount hides what lies
//! below its destination, so all are sorted by depth: `/data` comes before
//! `/data/cache`, whoever asked for which.

use std::path::{Path, PathBuf};

use berth_runtime::plan::mappings::outside_of;
use oci_spec::runtime::{Mount, MountBuilder};

use super::user_namespace::{cri_ranges, oci_ranges, plan_ranges};
use super::{Privilege, SpecInputs, clean_absolute};
use crate::engine::error::Error;
use crate::v1;

/// The group `tty` of nearly every `/etc/group`.
const TTY_GROUP: u32 = 5;

/// Files on the host that all containers of a pod share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFiles {
    /// `/etc/hosts`.
    pub hosts: PathBuf,
    /// `/etc/hostname`.
    pub hostname: PathBuf,
    /// `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// `/dev/shm`: the pod's tmpfs, or the host's own.
    pub shm: PathBuf,
}

/// The OCI's `mounts`, in the order in which they are made.
///
/// # Errors
///
/// `Invalid` or `Unsupported` with the field's name.
pub fn plan_mounts(inputs: &SpecInputs<'_>, privilege: Privilege) -> Result<Vec<Mount>, Error> {
    check_image_owners(inputs)?;
    let requested = plan_requested(&inputs.container.mounts)?;
    let mut all: Vec<Mount> = kernel_mounts(inputs, privilege)?;
    all.extend(pod_mounts(inputs)?);
    all.retain(|mount| !is_replaced(mount.destination(), &requested));
    all.extend(requested);
    // Stable: of two with one depth, the earlier one stays first.
    all.sort_by_key(|mount| mount.destination().components().count());
    Ok(all)
}

/// File systems that the kernel makes up.
fn kernel_mounts(inputs: &SpecInputs<'_>, privilege: Privilege) -> Result<Vec<Mount>, Error> {
    // A program that may write to /sys or to the groups could change the host.
    let access = match privilege {
        Privilege::Confined => "ro",
        Privilege::Privileged => "rw",
    };
    let mut terminals = vec![
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
    ];
    // Group 5 is tty: the owner of a terminal can be written to by it. The kernel
    // refuses the mount where a user namespace has no such group.
    let users = inputs.namespaces.users().mappings();
    if users.is_none_or(|users| outside_of(&users.gids, TTY_GROUP).is_some()) {
        terminals.push("gid=5");
    }
    [
        virtual_mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        virtual_mount(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        virtual_mount("/dev/pts", "devpts", &terminals),
        virtual_mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        virtual_mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
        virtual_mount(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        ),
    ]
    .into_iter()
    .collect()
}

/// The files that all containers of the pod share.
fn pod_mounts(inputs: &SpecInputs<'_>) -> Result<Vec<Mount>, Error> {
    let files = inputs.files;
    // With a read-only root these are read-only too, as everything else in /etc.
    let access = if super::security_context(inputs.container).readonly_rootfs {
        "ro"
    } else {
        "rw"
    };
    [
        bind("/etc/hosts", &files.hosts, &["rbind", "rprivate", access]),
        bind(
            "/etc/hostname",
            &files.hostname,
            &["rbind", "rprivate", access],
        ),
        bind(
            "/etc/resolv.conf",
            &files.resolv_conf,
            &["rbind", "rprivate", access],
        ),
        bind("/dev/shm", &files.shm, &["rbind", "rprivate", "rw"]),
    ]
    .into_iter()
    .collect()
}

fn virtual_mount(destination: &str, kind: &str, options: &[&str]) -> Result<Mount, Error> {
    Ok(MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(kind)
        .options(owned(options))
        .build()?)
}

fn bind(destination: &str, source: &Path, options: &[&str]) -> Result<Mount, Error> {
    Ok(MountBuilder::default()
        .destination(destination)
        .typ("bind")
        .source(source)
        .options(owned(options))
        .build()?)
}

fn owned(options: &[&str]) -> Vec<String> {
    options.iter().map(|option| (*option).to_owned()).collect()
}

/// A requested mount takes the place of a default one at the same destination.
///
/// One at `/dev` or `/sys` brings its own tree, so the defaults below go too.
fn is_replaced(default: &Path, requested: &[Mount]) -> bool {
    requested.iter().any(|mount| {
        let wanted = mount.destination();
        let brings_tree = wanted == Path::new("/dev") || wanted == Path::new("/sys");
        wanted == default || (brings_tree && default.starts_with(wanted))
    })
}

fn plan_requested(mounts: &[v1::Mount]) -> Result<Vec<Mount>, Error> {
    let mut planned: Vec<Mount> = Vec::new();
    for mount in mounts {
        let next = plan_one(mount)?;
        if planned
            .iter()
            .any(|known| known.destination() == next.destination())
        {
            return Err(Error::invalid(format!(
                "mounts: two of them go to {}",
                next.destination().display()
            )));
        }
        planned.push(next);
    }
    Ok(planned)
}

fn plan_one(mount: &v1::Mount) -> Result<Mount, Error> {
    let destination = clean_absolute("mounts.container_path", &mount.container_path)?;
    if destination == Path::new("/") {
        return Err(Error::invalid(
            "mounts.container_path: the root itself cannot be mounted over",
        ));
    }
    let source = clean_absolute("mounts.host_path", &mount.host_path)?;
    let mut options = vec!["rbind", propagation_option(mount)?];
    options.push(access_option(mount)?);
    let mut options = owned(&options);
    options.extend(mount.mount_options.iter().cloned());
    let planned = MountBuilder::default()
        .destination(destination)
        .typ("bind")
        .source(source)
        .options(options)
        .build()?;
    with_owners(planned, mount)
}

/// A kubelet states the pod's ids on every mount, also on an image's. That one has
/// them already, and nothing else can be had.
fn check_image_owners(inputs: &SpecInputs<'_>) -> Result<(), Error> {
    let users = inputs.namespaces.users().mappings();
    let users = users.cloned().unwrap_or_default();
    let (uids, gids) = (cri_ranges(&users.uids), cri_ranges(&users.gids));
    let mounts = inputs.container.mounts.iter();
    for mount in mounts.filter(|mount| mount.image.is_some()) {
        for (name, wanted, known) in [
            ("uid_mappings", &mount.uid_mappings, &uids),
            ("gid_mappings", &mount.gid_mappings, &gids),
        ] {
            if !wanted.is_empty() && wanted != known {
                return Err(Error::invalid(format!(
                    "mounts: {}: {name}: an image's files have the pod's own owners; expected \
                     the pod's ids or none",
                    mount.container_path
                )));
            }
        }
    }
    Ok(())
}

/// Owners that are shown moved: a kubelet asks for it with the pod's own ids, so
/// that a volume's files belong inside to the ids that they have on disk.
fn with_owners(mut planned: Mount, mount: &v1::Mount) -> Result<Mount, Error> {
    // Moved already: see `check_image_owners`.
    if mount.image.is_some() {
        return Ok(planned);
    }
    let field = |name: &str| format!("mounts: {}: {name}", mount.container_path);
    let lists = [&mount.uid_mappings, &mount.gid_mappings];
    match lists.map(|list| list.is_empty()) {
        [true, true] => return Ok(planned),
        [false, false] => {}
        [missing_uids, _] => {
            let name = if missing_uids {
                "uid_mappings"
            } else {
                "gid_mappings"
            };
            return Err(Error::invalid(format!(
                "{}: expected with the other of uid_mappings and gid_mappings: both or none",
                field(name)
            )));
        }
    }
    let uids = plan_ranges(&field("uid_mappings"), &mount.uid_mappings)?;
    let gids = plan_ranges(&field("gid_mappings"), &mount.gid_mappings)?;
    planned.set_uid_mappings(Some(oci_ranges(&uids)?));
    planned.set_gid_mappings(Some(oci_ranges(&gids)?));
    Ok(planned)
}

fn propagation(mount: &v1::Mount) -> Result<v1::MountPropagation, Error> {
    v1::MountPropagation::try_from(mount.propagation).map_err(|_| {
        Error::invalid(format!(
            "mounts.propagation: {} is not a propagation of the CRI",
            mount.propagation
        ))
    })
}

fn propagation_option(mount: &v1::Mount) -> Result<&'static str, Error> {
    Ok(match propagation(mount)? {
        v1::MountPropagation::PropagationPrivate => "rprivate",
        v1::MountPropagation::PropagationHostToContainer => "rslave",
        v1::MountPropagation::PropagationBidirectional => "rshared",
    })
}

fn access_option(mount: &v1::Mount) -> Result<&'static str, Error> {
    if !mount.recursive_read_only {
        return Ok(if mount.readonly { "ro" } else { "rw" });
    }
    // The CRI's own rules: without them a submount that appears later is writable.
    if !mount.readonly {
        return Err(Error::invalid(format!(
            "mounts.recursive_read_only: {} must be readonly too",
            mount.container_path
        )));
    }
    if propagation(mount)? != v1::MountPropagation::PropagationPrivate {
        return Err(Error::invalid(format!(
            "mounts.recursive_read_only: {} must have private propagation",
            mount.container_path
        )));
    }
    Ok("rro")
}

/// What the root mount must be for the mounts' propagation to reach it.
///
/// # Errors
///
/// `Invalid` for an unknown propagation.
pub fn rootfs_propagation(container: &v1::ContainerConfig) -> Result<Option<String>, Error> {
    let mut wanted = None;
    for mount in &container.mounts {
        match propagation(mount)? {
            v1::MountPropagation::PropagationPrivate => {}
            v1::MountPropagation::PropagationHostToContainer => {
                wanted.get_or_insert("rslave");
            }
            v1::MountPropagation::PropagationBidirectional => wanted = Some("rshared"),
        }
    }
    Ok(wanted.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::spec::tests::{Fixture, sandbox_with};

    fn request(from: &str, to: &str) -> v1::Mount {
        v1::Mount {
            host_path: from.to_owned(),
            container_path: to.to_owned(),
            ..Default::default()
        }
    }

    fn planned(mounts: Vec<v1::Mount>) -> Result<Vec<Mount>, Error> {
        let mut fixture = Fixture::new();
        fixture.container.mounts = mounts;
        plan_mounts(&fixture.inputs(), Privilege::Confined)
    }

    fn destinations(mounts: &[Mount]) -> Vec<&str> {
        mounts
            .iter()
            .map(|mount| mount.destination().to_str().unwrap())
            .collect()
    }

    fn options(mount: &Mount) -> String {
        mount.options().as_ref().unwrap().join(",")
    }

    #[test]
    fn every_container_has_the_kernels_file_systems_and_the_pods_files() {
        let mounts = planned(Vec::new()).unwrap();
        assert_eq!(
            destinations(&mounts),
            [
                "/proc",
                "/dev",
                "/sys",
                "/dev/pts",
                "/dev/mqueue",
                "/etc/hosts",
                "/etc/hostname",
                "/etc/resolv.conf",
                "/dev/shm",
                "/sys/fs/cgroup",
            ]
        );
        assert!(options(&mounts[2]).ends_with(",ro"));
    }

    #[test]
    fn a_parent_comes_before_its_child_whoever_asked() {
        let mounts = planned(vec![
            request("/a", "/data/cache/x"),
            request("/b", "/data"),
            request("/c", "/etc"),
        ])
        .unwrap();
        let list = destinations(&mounts);
        let at = |path: &str| list.iter().position(|known| *known == path).unwrap();
        assert!(at("/data") < at("/data/cache/x"));
        assert!(at("/etc") < at("/etc/hosts"));
    }

    #[test]
    fn a_request_replaces_a_default() {
        let mounts = planned(vec![request("/h", "/etc/hosts/"), request("/dev", "/dev")]).unwrap();
        let list = destinations(&mounts);
        assert_eq!(list.iter().filter(|path| **path == "/etc/hosts").count(), 1);
        assert!(!list.contains(&"/dev/pts"));
        let hosts = mounts
            .iter()
            .find(|mount| mount.destination() == Path::new("/etc/hosts"))
            .unwrap();
        assert_eq!(hosts.source().as_deref(), Some(Path::new("/h")));
    }

    #[test]
    fn propagation_and_access_become_options() {
        let mut mount = request("/a", "/a");
        mount.readonly = true;
        mount.propagation = v1::MountPropagation::PropagationHostToContainer as i32;
        assert_eq!(options(&plan_one(&mount).unwrap()), "rbind,rslave,ro");
        let mut shared = request("/b", "/b");
        shared.propagation = v1::MountPropagation::PropagationBidirectional as i32;
        assert_eq!(options(&plan_one(&shared).unwrap()), "rbind,rshared,rw");
        let container = v1::ContainerConfig {
            mounts: vec![shared, mount.clone()],
            ..Default::default()
        };
        assert_eq!(
            rootfs_propagation(&container).unwrap().as_deref(),
            Some("rshared")
        );
        mount.recursive_read_only = true;
        let error = plan_one(&mount).unwrap_err();
        assert!(error.to_string().contains("private propagation"), "{error}");
        mount.propagation = 0;
        assert_eq!(options(&plan_one(&mount).unwrap()), "rbind,rprivate,rro");
    }

    #[test]
    fn owners_are_moved_as_asked() {
        let range = |length| v1::IdMapping {
            host_id: 65_536,
            container_id: 0,
            length,
        };
        let mut mount = request("/a", "/a");
        mount.uid_mappings = vec![range(10)];
        let error = plan_one(&mount).unwrap_err();
        assert!(error.to_string().contains("/a: gid_mappings: "), "{error}");
        mount.gid_mappings = vec![range(0)];
        let error = plan_one(&mount).unwrap_err();
        assert!(
            error.to_string().contains("gid_mappings[0].length"),
            "{error}"
        );
        mount.gid_mappings = vec![range(20)];
        let planned = plan_one(&mount).unwrap();
        let uids = planned.uid_mappings().as_ref().unwrap();
        assert_eq!((uids[0].host_id(), uids[0].size()), (65_536, 10));
        assert_eq!(planned.gid_mappings().as_ref().unwrap()[0].size(), 20);
    }

    #[test]
    fn an_images_owners_are_moved_once() {
        let ids = |host_id| {
            vec![v1::IdMapping {
                host_id,
                container_id: 0,
                length: 65_536,
            }]
        };
        let options = v1::NamespaceOption {
            userns_options: Some(v1::UserNamespace {
                mode: v1::NamespaceMode::Pod as i32,
                uids: ids(65_536),
                gids: ids(65_536),
            }),
            ..Default::default()
        };
        let mut fixture = Fixture::with_sandbox(sandbox_with(options));
        let mut plan = |first| {
            let mut mount = request("/image", "/image");
            mount.image = Some(v1::ImageSpec::default());
            mount.uid_mappings = ids(first);
            mount.gid_mappings = ids(first);
            fixture.container.mounts = vec![mount];
            plan_mounts(&fixture.inputs(), Privilege::Confined)
        };
        let mounts = plan(65_536).unwrap();
        let image = mounts
            .iter()
            .find(|mount| mount.destination() == Path::new("/image"))
            .unwrap();
        assert!(image.uid_mappings().is_none() && image.gid_mappings().is_none());
        let error = plan(131_072).unwrap_err();
        assert!(
            error.to_string().contains("/image: uid_mappings"),
            "{error}"
        );
    }

    #[test]
    fn mounts_that_cannot_be_are_refused() {
        for (wrong, part) in [
            (request("/a", "relative"), "not an absolute path"),
            (request("/a", "/x/../../y"), "holds \"..\""),
            (request("/a", "/"), "root itself"),
            (request("", "/a"), "mounts.host_path"),
        ] {
            let error = planned(vec![wrong]).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
        let twice = vec![request("/a", "/x"), request("/b", "/x/")];
        let error = planned(twice).unwrap_err();
        assert!(error.to_string().contains("two of them"), "{error}");
    }
}
