//! What is looked at: groups, /proc, the store, the links of a pod.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use berth_netd::request::LinkStatistics;
use berth_runtime::cgroup::plan::CgroupPlan;
use berth_runtime::cgroup::stats::CgroupStats;
use berth_runtime::cgroup::tree::CgroupVersion;
use berth_runtime::clock::now_nanoseconds;

use crate::engine::error::{Error, ErrorKind};
use crate::engine::records::PodRecord;
use crate::engine::view::ContainerView;
use crate::engine::{Engine, cgroups, pressure};
use crate::images::Usage;
use crate::v1;

/// A pod at one moment.
#[derive(Debug)]
pub(super) struct PodFacts {
    pub id: String,
    pub name: String,
    pub namespace: String,
    pub group: GroupFacts,
    pub links: Vec<LinkStatistics>,
    pub containers: Vec<ContainerFacts>,
}

/// A container that runs, at one moment.
#[derive(Debug)]
pub(super) struct ContainerFacts {
    pub id: String,
    pub name: String,
    pub image: String,
    pub started_at: i64,
    pub resources: v1::LinuxContainerResources,
    pub group: GroupFacts,
    pub file_system: Option<FileSystem>,
    /// By name, as `max_open_files`; none is no limit.
    pub limits: BTreeMap<String, u64>,
}

/// What a group's files and its processes tell.
#[derive(Debug, Default)]
pub(super) struct GroupFacts {
    /// Below each hierarchy's root.
    pub path: String,
    pub seen_at: i64,
    pub used: CgroupStats,
    pub kernel_memory_bytes: Option<u64>,
    pub huge_page_peaks: BTreeMap<String, u64>,
    /// `cpu`, `memory` and `io`, where the kernel keeps the account.
    pub pressure: BTreeMap<&'static str, v1::PsiStats>,
    pub processes: u64,
    pub descriptors: u64,
    pub sockets: u64,
}

/// Where a container's root writes go.
#[derive(Debug)]
pub(super) struct FileSystem {
    pub mountpoint: String,
    pub written: Usage,
    pub size_bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// Looks at a pod.
pub(super) async fn pod(engine: &Engine, id: &str) -> Result<PodFacts, Error> {
    let record = engine.sandbox(id)?;
    let views = engine.views(&record).await?;
    let links = engine.link_statistics(&record).await.unwrap_or_default();
    let engine = engine.clone();
    let looked = move || look(&engine, &record, views, links);
    tokio::task::spawn_blocking(looked)
        .await
        .map_err(|error| Error::caused(ErrorKind::Storage, "look at a pod", error))?
}

fn look(
    engine: &Engine,
    record: &PodRecord,
    views: Vec<ContainerView>,
    links: Vec<LinkStatistics>,
) -> Result<PodFacts, Error> {
    let mut containers = Vec::new();
    for view in views.into_iter().filter(|view| view.pid != 0) {
        containers.push(container(engine, &view)?);
    }
    Ok(PodFacts {
        id: record.id.clone(),
        name: record.name.clone(),
        namespace: record.namespace.clone(),
        group: group(&record.id, &record.cgroup)?,
        links,
        containers,
    })
}

fn container(engine: &Engine, view: &ContainerView) -> Result<ContainerFacts, Error> {
    let record = &view.record;
    let config = &record.config.0;
    Ok(ContainerFacts {
        id: record.id.clone(),
        name: record.name.clone(),
        image: config
            .image
            .as_ref()
            .map(|image| match image.user_specified_image.as_str() {
                "" => image.image.clone(),
                name => name.to_owned(),
            })
            .unwrap_or_default(),
        started_at: view.started_at,
        resources: record.resources.0.clone(),
        group: group(&record.id, &record.cgroup)?,
        file_system: file_system(engine, &record.id),
        limits: fs::read_to_string(format!("/proc/{}/limits", view.pid))
            .map(|text| parse_limits(&text))
            .unwrap_or_default(),
    })
}

fn group(id: &str, path: &str) -> Result<GroupFacts, Error> {
    let failed = |error| {
        let text = format!("read the use of the cgroup {path}");
        Error::caused(ErrorKind::Storage, text, error)
    };
    let plan = cgroups::container_group(id, path)?;
    let used = plan.stats().map_err(failed)?;
    let pids = plan.pids().map_err(failed)?;
    let (descriptors, sockets) = pids
        .iter()
        .map(|pid| count_files(*pid))
        .fold((0, 0), |(descriptors, sockets), (more, of_them)| {
            (descriptors + more, sockets + of_them)
        });
    let pressure = [("cpu", "cpu"), ("memory", "memory"), ("io", "io")]
        .into_iter()
        .filter_map(|(name, file)| Some((name, pressure::read(&plan, file)?)))
        .collect();
    Ok(GroupFacts {
        path: path.to_owned(),
        seen_at: now_nanoseconds(),
        kernel_memory_bytes: kernel_memory(&plan, &used),
        huge_page_peaks: huge_page_peaks(&plan, &used),
        pressure,
        processes: pids.len() as u64,
        descriptors,
        sockets,
        used,
    })
}

/// Open descriptors of a process, and those of them that are sockets.
fn count_files(pid: i32) -> (u64, u64) {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    let links = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    links.fold((0, 0), |(all, sockets), link| {
        let socket = link.to_string_lossy().starts_with("socket:");
        (all + 1, sockets + u64::from(socket))
    })
}

/// Version 1 has a file, version 2 a line of `memory.stat` (Linux 5.18).
fn kernel_memory(plan: &CgroupPlan, used: &CgroupStats) -> Option<u64> {
    match directory(plan, CgroupVersion::V1, "memory") {
        Some(directory) => number(&directory.join("memory.kmem.usage_in_bytes")),
        None => used.memory.as_ref()?.detail.get("kernel").copied(),
    }
}

/// Only version 1 records them.
fn huge_page_peaks(plan: &CgroupPlan, used: &CgroupStats) -> BTreeMap<String, u64> {
    let Some(directory) = directory(plan, CgroupVersion::V1, "hugetlb") else {
        return BTreeMap::new();
    };
    let peak = |size: &String| {
        let file = format!("hugetlb.{size}.max_usage_in_bytes");
        Some((size.clone(), number(&directory.join(file))?))
    };
    used.hugetlb.keys().filter_map(peak).collect()
}

fn directory(plan: &CgroupPlan, version: CgroupVersion, controller: &str) -> Option<PathBuf> {
    plan.hierarchies
        .iter()
        .find(|hierarchy| hierarchy.version == version && hierarchy.has(controller))
        .map(|hierarchy| hierarchy.directory())
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn file_system(engine: &Engine, container_id: &str) -> Option<FileSystem> {
    let mountpoint = engine.config().data_dir.join("snapshots");
    let whole = rustix::fs::statvfs(&mountpoint).ok()?;
    Some(FileSystem {
        written: engine.images().snapshot_usage(container_id).ok()?,
        size_bytes: whole.f_blocks * whole.f_frsize,
        inodes: whole.f_files,
        inodes_free: whole.f_ffree,
        mountpoint: mountpoint.display().to_string(),
    })
}

/// `Max open files            1024                 4096                 files`.
fn parse_limits(text: &str) -> BTreeMap<String, u64> {
    let row = |line: &str| {
        // The name has spaces in it and the columns are of fixed width
        // (fs/proc/base.c, proc_pid_limits).
        let (name, rest) = line.split_at_checked(26)?;
        let soft = rest.split_whitespace().next()?.parse().ok()?;
        let name = name.trim().to_ascii_lowercase().replace(' ', "_");
        Some((name, soft))
    };
    text.lines().skip(1).filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        let limits = parse_limits(&fs::read_to_string("/proc/self/limits").unwrap());
        assert!(limits["max_open_files"] > 0, "{limits:?}");
        assert!(!limits.contains_key("limit"));
    }

    #[test]
    fn open_files_are_counted() {
        let (_a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let (all, sockets) = count_files(own);
        assert!(sockets >= 2 && all > sockets, "{all} {sockets}");
    }
}
