//! The node agent with real parts: the API over a store on disk, `berth cri` or containerd,
//! images of a registry, kubectl. Server and agent are processes, so that they can be
//! killed. Needs root.

#![allow(
    clippy::unwrap_used,
    reason = "a suite's own functions may panic as its tests may"
)]

#[path = "cluster_agent/world.rs"]
mod world;

/// Debian's containerd as the runtime below the agent.
#[path = "cluster_agent/containerd.rs"]
mod containerd;

/// What a pod goes through: it runs, is looked into, changes, ends.
#[path = "cluster_agent/pods.rs"]
mod pods;

/// Agents that are killed, servers that are away.
#[path = "cluster_agent/faults.rs"]
mod faults;

/// The agent on a runtime that is not ours.
#[path = "cluster_agent/foreign.rs"]
mod foreign;

/// Streams by the real kubectl.
#[path = "cluster_agent/streams.rs"]
mod streams;

/// What pods are given of objects and of the node.
#[path = "cluster_agent/volumes.rs"]
mod volumes;

/// Images: who may pull them, when they are pulled, when they go.
#[path = "cluster_agent/images.rs"]
mod images;

/// How containers begin, are asked how they are, and end.
#[path = "cluster_agent/lives.rs"]
mod lives;

/// A node that runs short.
#[path = "cluster_agent/shortage.rs"]
mod shortage;

/// Other resources for pods that run, and classes of runtimes.
#[path = "cluster_agent/resize.rs"]
mod resize;

/// Jobs by the exit codes of real containers.
#[path = "cluster_agent/jobs.rs"]
mod jobs;
