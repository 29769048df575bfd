//! `berth cri` as a kubelet and its clients use it.
//!
//! Each test has a machine of its own with a server in it, and speaks to it by
//! the generated client over the socket. Needs root. What others wrote to judge
//! a server (critest, crictl) runs where `CRITEST` and `CRICTL` name it.

#![allow(
    clippy::unwrap_used,
    reason = "a suite's own functions may panic as its tests may"
)]

#[path = "cri/world.rs"]
mod world;

/// Every call's common path, bad input, and what a killed server loses: nothing.
#[path = "cri/calls.rs"]
mod calls;

/// The server's file: written out, checked, and honoured.
#[path = "cri/configuration.rs"]
mod configuration;

/// RuntimeClass handlers: runc and crun make containers, the monitor stays ours.
#[path = "cri/handlers.rs"]
mod handlers;

/// Networks that plugins of CNI make.
#[path = "cri/cni.rs"]
mod cni;

/// The suites of cri-tools.
#[path = "cri/critest.rs"]
mod critest;

/// A server that is killed at any moment, while pods come and go.
#[path = "cri/restart.rs"]
mod restart;

/// Pods whose ids are not the host's.
#[path = "cri/user_namespaces.rs"]
mod user_namespaces;

/// A store that is damaged, of another version, or full.
#[path = "cri/damage.rs"]
mod damage;

/// What is left of a container that has ended.
#[path = "cri/endings.rs"]
mod endings;

/// The server under a service manager.
#[path = "cri/service.rs"]
mod service;

/// The server's own numbers, and its traces.
#[path = "cri/telemetry.rs"]
mod telemetry;

/// Exec, attach and port-forward.
#[path = "cri/streaming.rs"]
mod streaming;
