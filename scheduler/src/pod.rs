//! A pod on one node: from its spec to running containers, and to its end.
//!
//! Everything here speaks to the node through the CRI
//! ([`berth_cri::service::CriService`]) and nothing else, so that the engine in
//! this process, berth's socket and another runtime's socket are one to it.

/// What happens to a pod, for whoever watches.
pub mod events;
/// What containers wrote, from their log files.
pub mod logs;
/// ConfigMaps and Secrets, found by namespace and name.
pub mod objects;
/// What the CRI will be asked for, worked out without asking.
pub mod plan;
/// Asking a container how it is.
pub mod probes;
/// What a worker is told once: directories, waits, facts of the node.
pub mod settings;
/// Names and numbers of the CRI's stop signals.
pub mod signal;
/// Deployments and Jobs beside a pod.
pub mod templates;
/// Directories of the node that containers mount.
pub mod volumes;
/// One pod, kept as its spec says until it ends.
pub mod worker;
