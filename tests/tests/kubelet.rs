//! A real kubelet on `berth cri`.
//!
//! Each test has a machine of its own with a registry, `berth cri` and a
//! kubelet, which reads its pods from files. Needs root, and the kubelet that
//! `./x kubelet` builds from its Go module; without it the suite says loudly that
//! it did not run.

#![allow(
    clippy::unwrap_used,
    reason = "a suite's own functions may panic as its tests may"
)]

/// The machine, both programs, and pods as a kubelet tells of them.
#[path = "kubelet/node.rs"]
mod node;

/// Pods of every shape.
#[path = "kubelet/shapes.rs"]
mod shapes;

/// Probes of each kind, restarts, hooks, and how a pod ends.
#[path = "kubelet/lives.rs"]
mod lives;

/// Logs, exec and port-forward through the kubelet.
#[path = "kubelet/streams.rs"]
mod streams;

/// Rotation, garbage, statistics.
#[path = "kubelet/housekeeping.rs"]
mod housekeeping;

/// Either side is killed.
#[path = "kubelet/restarts.rs"]
mod restarts;

/// Hosts that are a cluster.
#[path = "cluster/world.rs"]
#[allow(dead_code, reason = "the cluster suite needs more of it")]
mod world;

/// A kubelet in the agent's place.
#[path = "kubelet/cluster.rs"]
mod cluster;

/// What a kubelet does for pods of an API only.
#[path = "kubelet/api_pods.rs"]
mod api_pods;

/// A node that is short of disk.
#[path = "kubelet/eviction.rs"]
mod eviction;

/// The machine shuts down.
#[path = "kubelet/shutdown.rs"]
mod shutdown;
