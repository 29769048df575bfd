//! What of `/proc` and `/sys` a container does not see, or cannot write, where nobody says otherwise.
//!
//! Most of these files are not in a namespace: they tell of the whole machine,
//! or steer it, and a root without a user namespace of its own could write to
//! them. Docker, containerd and the kubelet hide the same ones.
//!
//! `/sys/devices/virtual/powercap` and `/proc/interrupts` are here because keys
//! of other processes can be guessed from what a processor draws (PLATYPUS,
//! CVE-2020-8694) and from when it is interrupted.
//!
//! Read more: OCI config-linux.md#masked-paths, proc(5). Try `berth-oci spec`,
//! and take one out.

/// Files and folders that are found empty.
pub const DEFAULT_MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Files and folders that can be read and not written.
pub const DEFAULT_READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];
