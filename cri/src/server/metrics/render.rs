//! Numbers under their names.
//!
//! Pure: what is known of a pod in, a list of metrics out. A number that is
//! not known has no line here.

use berth_runtime::cgroup::stats::{CpuStats, MemoryStats};

use super::descriptors;
use super::observe::{ContainerFacts, FileSystem, GroupFacts, PodFacts};
use crate::v1;

const NS_PER_SECOND: u64 = 1_000_000_000;
/// cAdvisor names the sum over all processors so.
const ALL_CPUS: &str = "total";

/// The metrics of a pod and of its containers.
pub(super) fn pod(facts: &PodFacts) -> v1::PodSandboxMetrics {
    let labels = |container: &str, id: &str, image: &str, name: &str| {
        [container, id, image, name, &facts.namespace, &facts.name].map(str::to_owned)
    };
    let mut own = Page::new(labels("", &facts.group.path, "", &facts.id));
    group(&mut own, &facts.group);
    links(&mut own, facts);
    let of_container = |container: &ContainerFacts| {
        let mut page = Page::new(labels(
            &container.name,
            &container.group.path,
            &container.image,
            &container.id,
        ));
        group(&mut page, &container.group);
        one_container(&mut page, container);
        v1::ContainerMetrics {
            container_id: container.id.clone(),
            metrics: page.metrics,
        }
    };
    v1::PodSandboxMetrics {
        pod_sandbox_id: facts.id.clone(),
        container_metrics: facts.containers.iter().map(of_container).collect(),
        metrics: own.metrics,
    }
}

/// Metrics with the same base labels.
struct Page {
    base: [String; 6],
    metrics: Vec<v1::Metric>,
}

impl Page {
    fn new(base: [String; 6]) -> Page {
        Page {
            base,
            metrics: Vec::new(),
        }
    }

    fn add(&mut self, name: &str, value: u64) {
        self.add_labelled(name, &[], value);
    }

    fn add_known(&mut self, name: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    /// `name` is without the prefix that all have.
    fn add_labelled(&mut self, name: &str, labels: &[&str], value: u64) {
        let name = format!("container_{name}");
        let descriptor = descriptors::find(&name);
        debug_assert!(
            descriptor.is_some_and(|known| known.labels.len() == labels.len()),
            "{name} {labels:?}"
        );
        let Some(descriptor) = descriptor else { return };
        self.metrics.push(v1::Metric {
            name,
            // Gathered live.
            timestamp: 0,
            metric_type: descriptor.kind as i32,
            label_values: self
                .base
                .iter()
                .cloned()
                .chain(labels.iter().map(|label| (*label).to_owned()))
                .collect(),
            value: Some(v1::UInt64Value { value }),
        });
    }
}

fn group(page: &mut Page, facts: &GroupFacts) {
    page.add("last_seen", seconds(facts.seen_at));
    page.add("processes", facts.processes);
    page.add("file_descriptors", facts.descriptors);
    page.add("sockets", facts.sockets);
    if let Some(pids) = &facts.used.pids {
        page.add("threads", pids.current);
        page.add("threads_max", pids.limit.unwrap_or(0));
    }
    if let Some(used) = &facts.used.cpu {
        cpu(page, used);
    }
    if let Some(used) = &facts.used.memory {
        memory(page, used);
    }
    page.add_known("memory_kernel_usage", facts.kernel_memory_bytes);
    for (device, used) in &facts.used.block_io {
        let (major, minor) = device.split_once(':').unwrap_or((device, ""));
        for (operation, bytes) in [("Read", used.read_bytes), ("Write", used.written_bytes)] {
            let labels = [device.as_str(), major, minor, operation];
            page.add_labelled("blkio_device_usage_total", &labels, bytes);
        }
        page.add_labelled("fs_reads_bytes_total", &[device], used.read_bytes);
        page.add_labelled("fs_reads_total", &[device], used.reads);
        page.add_labelled("fs_writes_bytes_total", &[device], used.written_bytes);
        page.add_labelled("fs_writes_total", &[device], used.writes);
    }
    for (size, used) in &facts.used.hugetlb {
        page.add_labelled("hugetlb_usage_bytes", &[size], used.usage_bytes);
    }
    for (size, peak) in &facts.huge_page_peaks {
        page.add_labelled("hugetlb_max_usage_bytes", &[size], *peak);
    }
    for (resource, waited) in &facts.pressure {
        let total = |data: Option<&v1::PsiData>| data.map(|data| data.total / NS_PER_SECOND);
        let name = |what: &str| format!("pressure_{resource}_{what}_seconds_total");
        page.add_known(&name("waiting"), total(waited.some.as_ref()));
        page.add_known(&name("stalled"), total(waited.full.as_ref()));
    }
}

fn cpu(page: &mut Page, used: &CpuStats) {
    page.add_labelled(
        "cpu_usage_seconds_total",
        &[ALL_CPUS],
        used.usage_ns / NS_PER_SECOND,
    );
    page.add("cpu_user_seconds_total", used.user_ns / NS_PER_SECOND);
    page.add("cpu_system_seconds_total", used.system_ns / NS_PER_SECOND);
    page.add("cpu_cfs_periods_total", used.periods);
    page.add("cpu_cfs_throttled_periods_total", used.throttled_periods);
    page.add(
        "cpu_cfs_throttled_seconds_total",
        used.throttled_ns / NS_PER_SECOND,
    );
}

fn memory(page: &mut Page, used: &MemoryStats) {
    page.add("memory_usage_bytes", used.usage_bytes);
    page.add_known("memory_max_usage_bytes", used.max_usage_bytes);
    page.add("memory_working_set_bytes", used.working_set_bytes);
    page.add("memory_rss", used.rss_bytes);
    page.add("memory_swap", used.swap_bytes.unwrap_or(0));
    page.add("memory_failcnt", used.limit_hits);
    page.add("oom_events_total", used.oom_kills);
    // Version 1 counts the groups below under `total_`, version 2 always does.
    let detail = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| used.detail.get(*name).copied())
    };
    page.add_known("memory_cache", detail(&["total_cache", "file"]));
    page.add_known(
        "memory_mapped_file",
        detail(&["total_mapped_file", "file_mapped"]),
    );
    for (kind, names) in [
        ("pgfault", ["total_pgfault", "pgfault"]),
        ("pgmajfault", ["total_pgmajfault", "pgmajfault"]),
    ] {
        if let Some(count) = detail(&names) {
            page.add_labelled("memory_failures_total", &[kind, "hierarchy"], count);
        }
        let own = used.detail.get(kind).copied();
        if let Some(count) = own {
            page.add_labelled("memory_failures_total", &[kind, "container"], count);
        }
    }
}

fn links(page: &mut Page, facts: &PodFacts) {
    for link in facts.links.iter().filter(|link| link.interface != "lo") {
        for (name, value) in [
            ("receive_bytes_total", link.received_bytes),
            ("receive_errors_total", link.received_errors),
            ("receive_packets_dropped_total", link.received_dropped),
            ("receive_packets_total", link.received_packets),
            ("transmit_bytes_total", link.sent_bytes),
            ("transmit_errors_total", link.sent_errors),
            ("transmit_packets_dropped_total", link.sent_dropped),
            ("transmit_packets_total", link.sent_packets),
        ] {
            page.add_labelled(&format!("network_{name}"), &[&link.interface], value);
        }
    }
}

fn one_container(page: &mut Page, facts: &ContainerFacts) {
    page.add("start_time_seconds", seconds(facts.started_at));
    let asked = &facts.resources;
    for (name, value) in [
        ("cpu_period", asked.cpu_period),
        ("cpu_quota", asked.cpu_quota),
        ("cpu_shares", asked.cpu_shares),
        ("memory_limit_bytes", asked.memory_limit_in_bytes),
        ("memory_swap_limit_bytes", asked.memory_swap_limit_in_bytes),
        ("memory_reservation_limit_bytes", reservation(asked)),
    ] {
        // A negative number is no limit, which is told as 0.
        let value = u64::try_from(value).unwrap_or(0);
        page.add(&format!("spec_{name}"), value);
    }
    for (limit, value) in &facts.limits {
        page.add_labelled("ulimits_soft", &[limit], *value);
    }
    if let Some(root) = &facts.file_system {
        file_system(page, root);
    }
}

/// A kubelet asks for it by version 2's name.
fn reservation(asked: &v1::LinuxContainerResources) -> i64 {
    asked
        .unified
        .get("memory.low")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn file_system(page: &mut Page, root: &FileSystem) {
    for (name, value) in [
        ("inodes_free", root.inodes_free),
        ("inodes_total", root.inodes),
        ("limit_bytes", root.size_bytes),
        ("usage_bytes", root.written.bytes),
    ] {
        page.add_labelled(&format!("fs_{name}"), &[&root.mountpoint], value);
    }
}

fn seconds(nanoseconds: i64) -> u64 {
    u64::try_from(nanoseconds).unwrap_or(0) / NS_PER_SECOND
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use berth_netd::request::LinkStatistics;
    use berth_runtime::cgroup::stats::{BlockIoStats, CgroupStats, HugetlbStats, PidsStats};

    use super::*;
    use crate::images::Usage;

    fn everything() -> PodFacts {
        let used = || CgroupStats {
            cpu: Some(CpuStats {
                usage_ns: 3_900_000_000,
                ..Default::default()
            }),
            memory: Some(MemoryStats {
                max_usage_bytes: Some(1),
                detail: [
                    "total_cache",
                    "total_mapped_file",
                    "pgfault",
                    "total_pgmajfault",
                ]
                .map(|name| (name.to_owned(), 1))
                .into(),
                ..Default::default()
            }),
            pids: Some(PidsStats::default()),
            block_io: BTreeMap::from([("8:0".to_owned(), BlockIoStats::default())]),
            hugetlb: BTreeMap::from([("2MB".to_owned(), HugetlbStats::default())]),
        };
        let waited = || v1::PsiStats {
            some: Some(v1::PsiData::default()),
            full: Some(v1::PsiData::default()),
        };
        let group = || GroupFacts {
            path: "/g".to_owned(),
            used: used(),
            kernel_memory_bytes: Some(1),
            huge_page_peaks: BTreeMap::from([("2MB".to_owned(), 1)]),
            pressure: ["cpu", "io", "memory"].map(|name| (name, waited())).into(),
            ..Default::default()
        };
        PodFacts {
            id: "p".to_owned(),
            name: "web".to_owned(),
            namespace: "shop".to_owned(),
            group: group(),
            links: vec![LinkStatistics {
                interface: "eth0".to_owned(),
                received_bytes: 7,
                received_packets: 0,
                received_errors: 0,
                received_dropped: 0,
                sent_bytes: 0,
                sent_packets: 0,
                sent_errors: 0,
                sent_dropped: 0,
            }],
            containers: vec![ContainerFacts {
                id: "c".to_owned(),
                name: "main".to_owned(),
                image: "nginx".to_owned(),
                started_at: 5_000_000_001,
                resources: v1::LinuxContainerResources {
                    cpu_quota: -1,
                    cpu_shares: 512,
                    ..Default::default()
                },
                group: group(),
                file_system: Some(FileSystem {
                    mountpoint: "/d".to_owned(),
                    written: Usage::default(),
                    size_bytes: 1,
                    inodes: 1,
                    inodes_free: 1,
                }),
                limits: BTreeMap::from([("max_open_files".to_owned(), 1024)]),
            }],
        }
    }

    #[test]
    fn all_that_is_described_is_told_and_nothing_else() {
        let pod = pod(&everything());
        let container = &pod.container_metrics[0];
        let told: BTreeSet<&str> = pod
            .metrics
            .iter()
            .chain(&container.metrics)
            .map(|metric| metric.name.as_str())
            .collect();
        let described: BTreeSet<&str> = descriptors::DESCRIPTORS
            .iter()
            .map(|descriptor| descriptor.name)
            .collect();
        assert_eq!(told, described);
        for metric in pod.metrics.iter().chain(&container.metrics) {
            let labels = descriptors::find(&metric.name).unwrap().labels.len();
            assert_eq!(metric.label_values.len(), 6 + labels, "{}", metric.name);
        }
    }

    #[test]
    fn values_are_in_the_units_of_their_names() {
        let pod = pod(&everything());
        let value = |name: &str| {
            let metrics = &pod.container_metrics[0].metrics;
            let metric = metrics.iter().find(|metric| metric.name == name).unwrap();
            metric.value.unwrap().value
        };
        assert_eq!(value("container_cpu_usage_seconds_total"), 3);
        assert_eq!(value("container_start_time_seconds"), 5);
        assert_eq!(value("container_spec_cpu_quota"), 0);
        assert_eq!(value("container_spec_cpu_shares"), 512);
    }

    #[test]
    fn what_is_not_counted_is_not_told() {
        let mut facts = everything();
        facts.group = GroupFacts::default();
        facts.links.clear();
        let pod = pod(&facts);
        let told = |name: &str| pod.metrics.iter().any(|metric| metric.name == name);
        assert!(told("container_processes"));
        assert!(!told("container_memory_usage_bytes"));
        assert!(!told("container_network_receive_bytes_total"));
    }
}
