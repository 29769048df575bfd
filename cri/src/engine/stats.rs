//! Use of CPU, memory, disk and network.
//!
//! Numbers that the kernel does not keep here are left out of a reply, not
//! reported as zero: a kubelet that reads "0 bytes used" evicts nothing.

use std::time::Duration;

use berth_netd::netd::Netd;
use berth_netd::request::LinkStatistics;
use berth_runtime::cgroup::stats::CgroupStats;
use berth_runtime::clock::now_nanoseconds;
use berth_runtime::monitor::protocol::PodNamespace;

use super::error::{Error, ErrorKind};
use super::monitor_link::blocking;
use super::records::{ContainerRecord, PodRecord};
use super::sandbox::POD_INTERFACE;
use super::spec::namespaces::PodNamespaces;
use super::view::ContainerView;
use super::{Engine, cgroups, pressure};
use crate::v1;

/// A namespace of a pod that goes away meanwhile must not hold a listing up.
const NETWORK_PATIENCE: Duration = Duration::from_secs(2);

impl Engine {
    /// Use of CPU, memory and disk by one container.
    ///
    /// # Errors
    ///
    /// `NotFound`, `Storage` when the kernel's files cannot be read.
    pub async fn stats(&self, wanted: &str) -> Result<v1::ContainerStats, Error> {
        let view = self.view(wanted).await?;
        self.stats_of(view).await
    }

    /// The same of a container that was looked up already.
    ///
    /// # Errors
    ///
    /// `Storage` when the kernel's files cannot be read.
    pub async fn stats_of(&self, view: ContainerView) -> Result<v1::ContainerStats, Error> {
        let images = self.images().clone();
        let mountpoint = self
            .config()
            .data_dir
            .join("snapshots")
            .display()
            .to_string();
        blocking(move || {
            let record = &view.record;
            // One that has ended has no group any more, but still files.
            let used = match view.pid {
                0 => GroupUse::default(),
                _ => read_group(&record.id, &record.cgroup)?,
            };

            let written = images.snapshot_usage(&record.id).ok();
            Ok(v1::ContainerStats {
                attributes: Some(attributes(record)),
                cpu: cpu_usage(&used),
                memory: memory_usage(&used),
                writable_layer: written.map(|usage| v1::FilesystemUsage {
                    timestamp: now_nanoseconds(),
                    fs_id: Some(v1::FilesystemIdentifier { mountpoint }),
                    used_bytes: some(usage.bytes),
                    inodes_used: some(usage.inodes),
                }),
                swap: swap_usage(&used),
                io: io_usage(&used),
            })
        })
        .await
    }

    /// Use of CPU, memory, network and processes by one sandbox.
    ///
    /// # Errors
    ///
    /// `NotFound`, `Storage` when the kernel's files cannot be read.
    pub async fn sandbox_stats(&self, wanted: &str) -> Result<v1::PodSandboxStats, Error> {
        let pod = self.sandbox(wanted)?;
        let mut containers = Vec::new();
        for view in self.views(&pod).await? {
            containers.push(self.stats_of(view).await?);
        }
        let (id, group) = (pod.id.clone(), pod.cgroup.clone());
        let used = blocking(move || read_group(&id, &group)).await?;
        let network = self.network_usage(&pod).await;
        Ok(v1::PodSandboxStats {
            attributes: Some(v1::PodSandboxAttributes {
                id: pod.id.clone(),
                metadata: pod.config.0.metadata.clone(),
                labels: pod.config.0.labels.clone(),
                annotations: pod.config.0.annotations.clone(),
            }),
            linux: Some(v1::LinuxPodSandboxStats {
                cpu: cpu_usage(&used),
                memory: memory_usage(&used),
                network,
                process: used.numbers.pids.as_ref().map(|pids| v1::ProcessUsage {
                    timestamp: now_nanoseconds(),
                    process_count: some(pids.current),
                }),
                containers,
                io: io_usage(&used),
            }),
            ..Default::default()
        })
    }

    /// The counters of a pod's interfaces; none for a pod on the host's network.
    pub(crate) async fn link_statistics(&self, pod: &PodRecord) -> Option<Vec<LinkStatistics>> {
        let pod_dir = self.paths().pod(&pod.id);
        let namespaces = PodNamespaces::plan(&pod.config.0, &pod_dir).ok()?;
        let netns = namespaces.path(PodNamespace::Net)?;
        let reading = Netd::statistics(&netns);
        tokio::time::timeout(NETWORK_PATIENCE, reading)
            .await
            .ok()?
            .ok()
    }

    async fn network_usage(&self, pod: &PodRecord) -> Option<v1::NetworkUsage> {
        let links = self.link_statistics(pod).await?;
        let usage: Vec<v1::NetworkInterfaceUsage> = links.iter().map(interface_usage).collect();
        Some(v1::NetworkUsage {
            timestamp: now_nanoseconds(),
            default_interface: usage
                .iter()
                .find(|interface| interface.name == POD_INTERFACE)
                .cloned(),
            interfaces: usage
                .into_iter()
                .filter(|interface| interface.name != "lo")
                .collect(),
        })
    }
}

/// What a group used, and how long its tasks waited where the kernel counts it.
#[derive(Debug, Default)]
struct GroupUse {
    numbers: CgroupStats,
    cpu_pressure: Option<v1::PsiStats>,
    memory_pressure: Option<v1::PsiStats>,
    io_pressure: Option<v1::PsiStats>,
}

fn read_group(id: &str, group: &str) -> Result<GroupUse, Error> {
    let plan = cgroups::container_group(id, group)?;
    let numbers = plan.stats().map_err(|error| {
        Error::caused(
            ErrorKind::Storage,
            format!("read the use of the cgroup {group}"),
            error,
        )
    })?;
    Ok(GroupUse {
        numbers,
        cpu_pressure: pressure::read(&plan, "cpu"),
        memory_pressure: pressure::read(&plan, "memory"),
        io_pressure: pressure::read(&plan, "io"),
    })
}

/// What names a container in statistics.
pub(super) fn attributes(record: &ContainerRecord) -> v1::ContainerAttributes {
    v1::ContainerAttributes {
        id: record.id.clone(),
        metadata: record.config.0.metadata.clone(),
        labels: record.config.0.labels.clone(),
        annotations: record.config.0.annotations.clone(),
    }
}

fn cpu_usage(used: &GroupUse) -> Option<v1::CpuUsage> {
    used.numbers.cpu.as_ref().map(|cpu| v1::CpuUsage {
        timestamp: now_nanoseconds(),
        usage_core_nano_seconds: some(cpu.usage_ns),
        // A rate needs two looks; who asks twice has both.
        usage_nano_cores: None,
        psi: used.cpu_pressure,
    })
}

fn memory_usage(used: &GroupUse) -> Option<v1::MemoryUsage> {
    used.numbers.memory.as_ref().map(|memory| v1::MemoryUsage {
        timestamp: now_nanoseconds(),
        working_set_bytes: some(memory.working_set_bytes),
        available_bytes: memory
            .limit_bytes
            .and_then(|limit| some(limit.saturating_sub(memory.working_set_bytes))),
        usage_bytes: some(memory.usage_bytes),
        rss_bytes: some(memory.rss_bytes),
        page_faults: detail(&memory.detail, &["pgfault", "total_pgfault"]),
        major_page_faults: detail(&memory.detail, &["pgmajfault", "total_pgmajfault"]),
        psi: used.memory_pressure,
    })
}

fn io_usage(used: &GroupUse) -> Option<v1::IoUsage> {
    used.io_pressure.map(|psi| v1::IoUsage {
        timestamp: now_nanoseconds(),
        psi: Some(psi),
    })
}

fn swap_usage(used: &GroupUse) -> Option<v1::SwapUsage> {
    let swap = used.numbers.memory.as_ref()?.swap_bytes?;
    Some(v1::SwapUsage {
        timestamp: now_nanoseconds(),
        swap_available_bytes: None,
        swap_usage_bytes: some(swap),
    })
}

fn detail(
    values: &std::collections::BTreeMap<String, u64>,
    names: &[&str],
) -> Option<v1::UInt64Value> {
    names
        .iter()
        .find_map(|name| values.get(*name))
        .and_then(|value| some(*value))
}

fn interface_usage(link: &LinkStatistics) -> v1::NetworkInterfaceUsage {
    v1::NetworkInterfaceUsage {
        name: link.interface.clone(),
        rx_bytes: some(link.received_bytes),
        rx_errors: some(link.received_errors),
        tx_bytes: some(link.sent_bytes),
        tx_errors: some(link.sent_errors),
    }
}

fn some(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}
