//! Placement: which node a pod runs on.
//!
//! ```text
//!  watch pods, nodes --> Snapshot --+
//!                                   v
//!  pods without a node --> Queue --> cycle: filters --> scores --> node
//!                            ^         |                            |
//!                            |         | nothing fits               | assume at once,
//!                            |         v                            v bind in the background
//!                            +--- preemption, backoff        POST pods/NAME/binding
//! ```
//!
//! A decision is pure: a snapshot and a pod in, a node or the reasons out. The
//! loop around it observes and applies. Nothing is kept outside the API, so the
//! loop may die anywhere: bindings that were not made are made again, and one
//! that was made cannot be made twice (the API binds a pod only once).
//!
//! Read more: "Kubernetes Scheduler" and "Scheduling Framework" in the
//! Kubernetes documentation, whose plugins' names and defaults are kept here.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

/// Resources as integers, and what a pod asks for.
pub mod amounts;
/// What the loop writes.
pub mod apply;
/// Counts of pods by topology, kept up to date.
pub mod census;
/// What placement did, as numbers.
pub mod counters;
/// One decision.
pub mod cycle;
/// Why a pod is where it is, or nowhere.
pub mod explain;
/// What placement knows of a pod.
pub mod facts;
/// What a node must satisfy.
pub mod filter;
/// Nodes and pods for tests.
#[cfg(test)]
mod fixture;
/// The message of a pod that no node fits.
pub mod message;
/// What the loop hears.
pub mod news;
/// What placement knows of a node.
pub mod node;
/// Who must go so that a pod finds room.
pub mod preemption;
/// Numbers of priority classes.
pub mod priority;
/// Pods that wait.
pub mod queue;
/// Why a node does not fit.
pub mod reason;
/// Which of the nodes that fit is best.
pub mod score;
/// Selectors of labels.
pub mod selector;
/// The loop.
pub mod session;
/// Nodes and pods: the input of a decision.
pub mod snapshot;
/// Texts as numbers.
pub mod symbol;
/// Taints and tolerations.
pub mod taint;
/// Pods by domain for spreads.
pub mod tally;

/// How pods are placed.
#[derive(Debug, Clone)]
pub struct PlacementConfig {
    /// Pods with this `spec.schedulerName` are placed, others left alone.
    pub scheduler_name: String,
    /// How long pods wait that could not be placed.
    pub patience: queue::Patience,
    /// How many nodes are looked at for a pod.
    pub breadth: cycle::Breadth,
    /// How many bindings are under way at once.
    pub bindings_at_once: usize,
    /// A pod's failures are told by an event at most once in this time.
    pub event_interval: Duration,
    /// Makes ties fall alike in every run; for tests.
    pub seed: Option<u64>,
    /// What was done, to be read by others.
    pub counters: Arc<counters::Counters>,
}

impl Default for PlacementConfig {
    fn default() -> PlacementConfig {
        PlacementConfig {
            scheduler_name: "default-scheduler".to_owned(),
            patience: queue::Patience::default(),
            breadth: cycle::Breadth::Enough,
            bindings_at_once: 256,
            event_interval: Duration::from_secs(60),
            seed: None,
            counters: Arc::default(),
        }
    }
}

/// Places pods until `shutdown`, which waits for the bindings under way.
///
/// At most one such loop should run in a cluster: a pod is never bound twice,
/// but two loops could each give the last room of a node away.
pub async fn run(client: kube::Client, config: PlacementConfig, shutdown: CancellationToken) {
    loop {
        let session = session::Session::start(&client, &config);
        match session.run(&shutdown).await {
            session::Ended::Stopped => return,
            session::Ended::Worn => tracing::info!("placement: reads the cluster anew"),
        }
    }
}
