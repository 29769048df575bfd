//! The cluster's store: the same promises from a file and from etcd, and what a kill leaves.
//!
//! `conformance` holds what each store must do, as a table; `embedded` and `members` run it on
//! theirs and add the faults that only they can have. Wants Debian's `etcd-server` and
//! `etcd-client`; `disk` needs root, for a small file system.

#![allow(
    clippy::unwrap_used,
    reason = "a suite's own functions may panic as its tests may"
)]

/// What every store promises.
#[path = "cluster_store/conformance.rs"]
mod conformance;

/// A disk that is full.
#[path = "cluster_store/disk.rs"]
mod disk;

/// The file: killed in the middle of writing.
#[path = "cluster_store/embedded.rs"]
mod embedded;

/// etcd: members that die, freeze and come back.
#[path = "cluster_store/members.rs"]
mod members;

/// Who leads, among servers that share a store.
#[path = "cluster_store/leaders.rs"]
mod leaders;
