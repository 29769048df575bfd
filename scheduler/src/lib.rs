//! The pod worker, and later the cluster around it.
#![forbid(unsafe_code)]

/// The node agent: pods of a cluster on this node.
pub mod agent;
/// The cluster's API: objects behind HTTP, as Kubernetes has them.
pub mod api;
/// The control loops: each makes one kind of object true.
pub mod controllers;
/// What a pod demands of its node, read straight from the API's objects.
pub mod demands;
/// Nodes that only pretend, for tests and benchmarks.
pub mod hollow;
/// Reading manifests: every mistake in one go, each with its line.
pub mod manifest;
/// Which node a pod runs on, and why.
pub mod placement;
/// A pod on one node: from its spec to running containers, and to its end.
pub mod pod;
/// When a CronJob is due.
pub mod schedule;
/// The server's process: the API over TLS, joining, and what the leader runs.
pub mod server;
/// The cluster's memory: keys, values, revisions and watches; a file of redb, or etcd.
pub mod store;
/// Who is who in a cluster: the authority, certificates, join tokens, mutual TLS.
pub mod trust;
/// How long to wait before something is tried again.
pub mod waits;
