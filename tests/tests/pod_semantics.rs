//! What a pod's fields mean, from a manifest to the program that feels it: each test
//! gives a manifest to the real `berth` on a machine of its own, looks from within the
//! containers and from outside, and sweeps up. Needs root.

// A suite has no way to end but by a panic, also outside of its test functions.
#![allow(clippy::unwrap_used)]

mod pod_semantics {
    /// One machine, and what a test asks of a pod.
    mod world;

    /// Variables, and where they come from.
    mod environment;
    /// Init containers and sidecars.
    mod init;
    /// Deployments, Jobs, manifests of several documents, manifests with mistakes.
    mod manifests;
    /// Ports, names, resolvers.
    mod network;
    /// Probes, hooks, and the end of a container.
    mod probes;
    /// Limits of memory, processors and time.
    mod resources;
    /// Who starts what again, and when.
    mod restarts;
    /// Users, capabilities, filters.
    mod security;
    /// What containers of a pod share.
    mod sharing;
    /// How a pod ends.
    mod stopping;
    /// Ids of the pod's own.
    mod users;
    /// Volumes of every kind.
    mod volumes;
}
