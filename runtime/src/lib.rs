//! The OCI runtime and the per-pod monitor.
//!
//! The program `berth-oci` is a thin shell around this library. The engine in
//! `berth-cri` uses [`monitor::protocol`] to talk to a pod's monitor.

/// Control groups: counting and limiting.
pub mod cgroup;
/// Names that cannot be mixed up.
pub mod ids;
/// The process that outlives every daemon: one a pod.
pub mod monitor;
/// System call filters.
pub mod seccomp;
/// The one door to the kernel.
pub mod sys;
