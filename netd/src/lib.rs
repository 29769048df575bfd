//! Networks of pods on one machine: links, addresses, routes, host ports.
//!
//! A pod's network is a *veth pair*: two virtual interfaces joined back to
//! back. One end, `eth0`, lives in the pod's network namespace; the other is a
//! port of a *bridge* on the host, and the bridge itself carries the gateway's
//! addresses. nftables does the rest: masquerade on the way out, destination
//! NAT for host ports on the way in.
//!
//! ```text
//!   pod a            pod b                 the host
//!  ┌────────┐      ┌────────┐      ┌──────────────────────────┐
//!  │  eth0  │      │  eth0  │      │  routes, table "berth"   │
//!  └───┬────┘      └───┬────┘      └───┬──────────────────┬───┘
//!      │ veth pair     │ veth pair     │ gateway address  │
//!  ┌───┴───────────────┴───────────────┴───┐          ┌───┴───┐
//!  │            bridge "berth0"            │          │ eth0… │── outside
//!  └───────────────────────────────────────┘          └───────┘
//! ```
//!
//! That is the network of our own. Where a directory of CNI configurations is
//! named, plugins of others make it instead (`cni`); they are the only programs
//! that this crate starts.
//!
//! Everything follows one shape: what is wanted and what was observed go into
//! pure functions that return a plan, and a thin layer applies the plan by
//! netlink: no `ip`, no `nft`, no `iptables`.
//!
//! Try it: `Netd::plan` and `Netd::rules` print what an attach would do.

#![forbid(unsafe_code)]

/// Which address a pod gets.
pub mod addresses;
/// What attaching a pod will do, worked out before anything is touched.
pub mod attach;
/// This node as one of many: overlay, services and names, from the cluster's API.
pub mod cluster;
/// Networks that plugins make: the Container Network Interface.
pub mod cni;
/// Names of services and pods.
pub mod dns;
/// What went wrong, and the kind that callers branch on.
pub mod error;
/// Files of this crate's state.
pub(crate) mod files;
/// Forgets flows of datagrams that a change of host ports has overtaken.
pub mod flows;
/// Who holds what, on disk.
pub mod ledger;
/// Links, addresses, routes.
pub mod links;
/// Whether a process of the host has a port already.
pub mod listeners;
/// The door to this crate: attach, detach, reconcile.
pub mod netd;
/// A network: its bridge, its subnets, whether it masquerades.
pub mod network;
/// The door to nftables.
pub mod nft;
/// The network between nodes: a tunnel with static entries.
pub mod overlay;
/// Taking away what a pod, or a network without pods, has.
pub mod release;
/// What a caller asks for one pod, and what it gets.
pub mod request;
/// The nftables rules, as data.
pub mod rules;
/// Services: one address in front of many pods.
pub mod services;
/// Kernel settings under `/proc/sys/net`.
pub mod settings;
