//! Clusters of real hosts: each with its own server or none, agent, network and runtime.

#![allow(
    clippy::unwrap_used,
    reason = "a suite's own functions may panic as its tests may"
)]

/// A drain keeps to a disruption budget.
#[path = "cluster/budget.rs"]
mod budget;
/// The demo of a small cluster, with a client that counts failures.
#[path = "cluster/demo.rs"]
mod demo;
/// Server, agent and network killed, a host cut off, a disk full.
#[path = "cluster/faults.rs"]
mod faults;
/// Beginning, joining, leaving, and what goes wrong with them.
#[path = "cluster/membership.rs"]
mod membership;
/// A node's parts, each a process of its own.
#[path = "cluster/parts.rs"]
mod parts;
/// Pods, as the API tells and as runtimes have them.
#[path = "cluster/pods.rs"]
mod pods;
/// Several servers on one etcd: joining, leading, dying, freezing, and etcd's own troubles.
#[path = "cluster/servers.rs"]
mod servers;
/// What `node.toml` sets, and mistakes in it.
#[path = "cluster/settings.rs"]
mod settings;
/// A thousand pods at once.
#[path = "cluster/storm.rs"]
mod storm;
/// Tokens and certificates of every bad kind.
#[path = "cluster/trust.rs"]
mod trust;
/// Pods on nodes that joined, with berth's own commands.
#[path = "cluster/usage.rs"]
mod usage;
/// Hosts on a wire that become a cluster.
#[path = "cluster/world.rs"]
mod world;
