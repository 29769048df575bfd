//! The names, what they mean and their labels.
//!
//! The names are cAdvisor's, whose place a runtime takes by serving them; the
//! words are ours. Sorted by name.

use crate::v1::MetricType;

/// Labels of every metric, in the order of their values.
pub(super) const BASE_LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// One metric.
#[derive(Debug)]
pub(super) struct Descriptor {
    /// As in `/metrics/cadvisor`.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Whether it only grows.
    pub kind: MetricType,
    /// Labels after the base ones.
    pub labels: &'static [&'static str],
}

const NONE: &[&str] = &[];
const CPU: &[&str] = &["cpu"];
const DEVICE: &[&str] = &["device"];
const DEVICE_OPERATION: &[&str] = &["device", "major", "minor", "operation"];
const FAILURE: &[&str] = &["failure_type", "scope"];
const INTERFACE: &[&str] = &["interface"];
const PAGE_SIZE: &[&str] = &["pagesize"];
const ULIMIT: &[&str] = &["ulimit"];

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Descriptor {
    Descriptor {
        name,
        help,
        kind: MetricType::Counter,
        labels,
    }
}

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Descriptor {
    Descriptor {
        name,
        help,
        kind: MetricType::Gauge,
        labels,
    }
}

/// All of them.
pub(super) const DESCRIPTORS: [Descriptor; 56] = [
    counter(
        "container_blkio_device_usage_total",
        DEVICE_OPERATION,
        "Bytes that the group moved to and from a block device.",
    ),
    counter(
        "container_cpu_cfs_periods_total",
        NONE,
        "Periods of the processor's quota in which the group was runnable.",
    ),
    counter(
        "container_cpu_cfs_throttled_periods_total",
        NONE,
        "Periods in which the quota ran out.",
    ),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        NONE,
        "Time that the group waited for the next period.",
    ),
    counter(
        "container_cpu_system_seconds_total",
        NONE,
        "Processor time in the kernel.",
    ),
    counter("container_cpu_usage_seconds_total", CPU, "Processor time."),
    counter(
        "container_cpu_user_seconds_total",
        NONE,
        "Processor time in user space.",
    ),
    gauge(
        "container_file_descriptors",
        NONE,
        "Open file descriptors of all processes.",
    ),
    gauge(
        "container_fs_inodes_free",
        DEVICE,
        "Inodes that are left on the file system of the container's root.",
    ),
    gauge(
        "container_fs_inodes_total",
        DEVICE,
        "Inodes of the file system of the container's root.",
    ),
    gauge(
        "container_fs_limit_bytes",
        DEVICE,
        "Size of the file system of the container's root.",
    ),
    counter(
        "container_fs_reads_bytes_total",
        DEVICE,
        "Bytes read from a block device.",
    ),
    counter(
        "container_fs_reads_total",
        DEVICE,
        "Requests to read from a block device.",
    ),
    gauge(
        "container_fs_usage_bytes",
        DEVICE,
        "Bytes that the container wrote into its root.",
    ),
    counter(
        "container_fs_writes_bytes_total",
        DEVICE,
        "Bytes written to a block device.",
    ),
    counter(
        "container_fs_writes_total",
        DEVICE,
        "Requests to write to a block device.",
    ),
    gauge(
        "container_hugetlb_max_usage_bytes",
        PAGE_SIZE,
        "The highest use of huge pages so far.",
    ),
    gauge(
        "container_hugetlb_usage_bytes",
        PAGE_SIZE,
        "Huge pages in use.",
    ),
    gauge(
        "container_last_seen",
        NONE,
        "When the container was looked at, in seconds since the epoch.",
    ),
    gauge(
        "container_memory_cache",
        NONE,
        "Memory that holds pages of files.",
    ),
    counter(
        "container_memory_failcnt",
        NONE,
        "How often the limit was hit.",
    ),
    counter("container_memory_failures_total", FAILURE, "Page faults."),
    gauge(
        "container_memory_kernel_usage",
        NONE,
        "Memory that the kernel uses for the group.",
    ),
    gauge(
        "container_memory_mapped_file",
        NONE,
        "Memory of mapped files.",
    ),
    gauge(
        "container_memory_max_usage_bytes",
        NONE,
        "The highest use of memory so far.",
    ),
    gauge("container_memory_rss", NONE, "Anonymous memory."),
    gauge("container_memory_swap", NONE, "Swap in use."),
    gauge(
        "container_memory_usage_bytes",
        NONE,
        "Memory in use, caches included.",
    ),
    gauge(
        "container_memory_working_set_bytes",
        NONE,
        "Memory in use that is not easily given back.",
    ),
    counter(
        "container_network_receive_bytes_total",
        INTERFACE,
        "Bytes received.",
    ),
    counter(
        "container_network_receive_errors_total",
        INTERFACE,
        "Bad packets received.",
    ),
    counter(
        "container_network_receive_packets_dropped_total",
        INTERFACE,
        "Packets dropped on the way in.",
    ),
    counter(
        "container_network_receive_packets_total",
        INTERFACE,
        "Packets received.",
    ),
    counter(
        "container_network_transmit_bytes_total",
        INTERFACE,
        "Bytes sent.",
    ),
    counter(
        "container_network_transmit_errors_total",
        INTERFACE,
        "Packets that could not be sent.",
    ),
    counter(
        "container_network_transmit_packets_dropped_total",
        INTERFACE,
        "Packets dropped on the way out.",
    ),
    counter(
        "container_network_transmit_packets_total",
        INTERFACE,
        "Packets sent.",
    ),
    counter(
        "container_oom_events_total",
        NONE,
        "Processes that the kernel killed for lack of memory.",
    ),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        NONE,
        "Time in which all tasks waited for a processor.",
    ),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        NONE,
        "Time in which some task waited for a processor.",
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        NONE,
        "Time in which all tasks waited for a disk.",
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        NONE,
        "Time in which some task waited for a disk.",
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        NONE,
        "Time in which all tasks waited for memory.",
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        NONE,
        "Time in which some task waited for memory.",
    ),
    gauge("container_processes", NONE, "Processes."),
    gauge("container_sockets", NONE, "Open sockets of all processes."),
    gauge(
        "container_spec_cpu_period",
        NONE,
        "Length of a period of the processor's quota, in microseconds.",
    ),
    gauge(
        "container_spec_cpu_quota",
        NONE,
        "Processor time in a period, in microseconds.",
    ),
    gauge(
        "container_spec_cpu_shares",
        NONE,
        "Share of the processors.",
    ),
    gauge(
        "container_spec_memory_limit_bytes",
        NONE,
        "Limit of memory; 0 is none.",
    ),
    gauge(
        "container_spec_memory_reservation_limit_bytes",
        NONE,
        "Memory that is kept under pressure; 0 is none.",
    ),
    gauge(
        "container_spec_memory_swap_limit_bytes",
        NONE,
        "Limit of memory and swap together; 0 is none.",
    ),
    gauge(
        "container_start_time_seconds",
        NONE,
        "When the container was started, in seconds since the epoch.",
    ),
    gauge("container_threads", NONE, "Threads."),
    gauge(
        "container_threads_max",
        NONE,
        "Limit of threads; 0 is none.",
    ),
    gauge(
        "container_ulimits_soft",
        ULIMIT,
        "Soft limits of the container's first process.",
    ),
];

/// The descriptor of a name.
pub(super) fn find(name: &str) -> Option<&'static Descriptor> {
    DESCRIPTORS
        .iter()
        .find(|descriptor| descriptor.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_each_is_there_once() {
        assert!(
            DESCRIPTORS
                .windows(2)
                .all(|pair| pair[0].name < pair[1].name)
        );
        assert!(find("container_threads").is_some() && find("threads").is_none());
    }
}
