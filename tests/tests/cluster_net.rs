//! The network between hosts: overlay, services and names over a fabric of
//! throw-away hosts, each with a netd of its own in it.
//!
//! The API is a small one in this process that lists and watches three kinds;
//! everything else is real: the kernel's tunnel and tables, pods as network
//! namespaces that `Netd` attaches, TCP and UDP. Needs root.

#![allow(
    clippy::unwrap_used,
    reason = "a suite's own functions may panic as its tests may"
)]

/// Namespaces, sockets and exchanges, as the suite of one machine's networks has them.
#[allow(dead_code, reason = "the other suite uses the rest")]
#[path = "net/world.rs"]
mod world;

/// Hosts, each with a netd, and pods on them.
#[path = "cluster_net/hosts.rs"]
mod hosts;

/// Pods across hosts.
#[path = "cluster_net/overlay.rs"]
mod overlay;

/// One address in front of many pods.
#[path = "cluster_net/services.rs"]
mod services;

/// Names.
#[path = "cluster_net/dns.rs"]
mod dns;

/// Deletions by others, kills, cables pulled.
#[path = "cluster_net/trouble.rs"]
mod trouble;
