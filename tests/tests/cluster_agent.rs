//! The node agent with real parts: the API over a store on disk, `berth cri`, images of
//! a registry. Server and agent are processes, so that they can be killed. Needs root.

#![allow(
    clippy::unwrap_used,
    reason = "a suite's own functions may panic as its tests may"
)]

#[path = "cluster_agent/world.rs"]
mod world;

/// What a pod goes through: it runs, is looked into, changes, ends.
#[path = "cluster_agent/pods.rs"]
mod pods;

/// Agents that are killed, servers that are away.
#[path = "cluster_agent/faults.rs"]
mod faults;
