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
//! Everything follows one shape: what is wanted and what was observed go into
//! pure functions that return a plan, and a thin layer applies the plan by
//! netlink. No program (`ip`, `nft`, `iptables`) is ever started.
//!
//! Try it: `Netd::plan` and `Netd::rules` print what an attach would do.

#![forbid(unsafe_code)]

/// What went wrong, and the kind that callers branch on.
pub mod error;
/// A network: its bridge, its subnets, whether it masquerades.
pub mod network;
/// What a caller asks for one pod, and what it gets.
pub mod request;
