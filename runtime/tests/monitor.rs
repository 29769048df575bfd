//! The monitor with a real OCI runtime and real containers.
//!
//! Needs root, a static busybox, and the runtime that `RUNTIME_UNDER_TEST`
//! names (`runc` when unset; `berth-oci` stands for the one built here). Each
//! test has a mount namespace, a temporary directory and a cgroup parent of its
//! own.

#![allow(
    clippy::unwrap_used,
    reason = "the lint's exception for tests does not reach their fixture"
)]

#[path = "monitor/fixture.rs"]
mod fixture;

#[path = "monitor/attach.rs"]
mod attach;
#[path = "monitor/life.rs"]
mod life;
#[path = "monitor/logs.rs"]
mod logs;
#[path = "monitor/pods.rs"]
mod pods;
