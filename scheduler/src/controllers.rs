//! The control loops: each makes one kind of object true.
//!
//! ```text
//!   API ──watch──▶ Mirror (one a kind, with indices) ──changes──▶ keys
//!                     ▲                                            │
//!                     │ own writes, at once                     WorkQueue
//!                     │                                            │
//!   API ◀──writes── Cluster ◀── actions ── plan(now, object, children)
//! ```
//!
//! A controller is level-triggered: a change says only *which* object to look
//! at, never what to do. Whoever missed a hundred changes and whoever missed
//! none come to the same plan, so a controller can be killed at any point and
//! started again.
//!
//! **A mirror must not be older than our own writes.** A watch is always a
//! little late: right after it created a pod, a controller that looks into its
//! mirror finds one pod too few and would create another. Kubernetes counts
//! "expectations" per key and waits until the watch has delivered them, or five
//! minutes. Deterministic names with a create-conflict would guard creation, but
//! not deletion (a late mirror makes a scale-down choose a second victim), and
//! names would be used again, which `kubectl wait --for=delete` and people
//! reading logs do not expect. Here every write's answer goes into the mirror
//! before the next plan is made ([`cluster::Cluster`]), and events older than
//! what is known are dropped: the mirror reads its own writes, for all kinds and
//! controllers alike. Where a second creation would do harm even after a
//! restart in the middle (a CronJob's Job, a Deployment's ReplicaSet), names are
//! deterministic as well.
//!
//! Read more: "Controllers" in the Kubernetes documentation; the module docs of
//! each controller.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::{
    cluster::Cluster,
    cron_job::CronJobs,
    daemon_set::DaemonSets,
    deployment::Deployments,
    disruption::Disruptions,
    endpoints::Endpoints,
    garbage::GarbageConfig,
    job::Jobs,
    namespaces::Namespaces,
    nodes::{Nodes, NodesConfig},
    queue::Backoff,
    replica_set::ReplicaSets,
    work::Controller,
};

/// All mirrors, and the writes that go through them.
pub mod cluster;
/// A job at each time of a schedule.
pub mod cron_job;
/// One pod on every node that can have it.
pub mod daemon_set;
/// Moves from one template's pods to the next one's.
pub mod deployment;
/// How many pods may be taken away at a time.
pub mod disruption;
/// EndpointSlices of services.
pub mod endpoints;
/// What belongs to an owner that is gone.
pub mod garbage;
/// Pods until enough of them have succeeded.
pub mod job;
/// What the API last said of one kind, kept by its watch and by our own writes.
pub mod mirror;
/// Names that tell generated objects apart.
pub mod names;
/// Namespaces that every cluster has, and the end of others.
pub mod namespaces;
/// Nodes: alive or not, taints, evictions, ranges.
pub mod nodes;
/// Which objects belong to which controller: adopting and releasing.
pub mod ownership;
/// What all controllers ask of a pod.
pub mod pods;
/// Keys that are due, each once, later after each failure.
pub mod queue;
/// Events, folded where they repeat.
pub mod recorder;
/// A number of pods of one template.
pub mod replica_set;
/// A controller's loop: changes to keys, keys to reconciliations.
pub mod work;

/// Periods, limits, and names; tests shorten them.
#[derive(Debug, Clone)]
pub struct ControllersConfig {
    /// The name of this process in events.
    pub instance: String,
    /// How many keys of one controller are worked on at once.
    pub workers: usize,
    /// How long a key that failed waits.
    pub backoff: Backoff,
    /// After how long an object that only our own write told of is looked up.
    pub confirm_after: Duration,
    /// Within how long equal events are folded into one.
    pub fold_events: Duration,
    /// How long a job's failures make its next pod wait.
    pub job_backoff: Backoff,
    /// The most pods that one reconciliation creates or deletes.
    pub burst: usize,
    /// When a node is dead, and which addresses its pods get.
    pub nodes: NodesConfig,
    /// What is kept of what is over.
    pub garbage: GarbageConfig,
}

impl Default for ControllersConfig {
    fn default() -> Self {
        ControllersConfig {
            instance: "berth".to_owned(),
            workers: 4,
            backoff: Backoff::default(),
            confirm_after: Duration::from_secs(10),
            fold_events: Duration::from_secs(600),
            job_backoff: Backoff {
                first: Duration::from_secs(10),
                longest: Duration::from_secs(600),
            },
            burst: 500,
            nodes: NodesConfig::default(),
            garbage: GarbageConfig::default(),
        }
    }
}

/// Runs all controllers until `shutdown`.
///
/// On return none of their tasks runs any more. A reconciliation under way is
/// given up between two of its writes, which is what a crash would do too.
pub async fn run(client: kube::Client, config: ControllersConfig, shutdown: CancellationToken) {
    let (cluster, mirrors) = Cluster::new(client, config);
    let all = controllers(&cluster);
    let limits = cluster.config.garbage.clone();
    let collect = garbage::run(Arc::clone(&cluster), limits, shutdown.clone());
    tokio::join!(run_only(cluster, mirrors, all, shutdown), collect);
}

/// Every controller there is, in no order that matters.
fn controllers(cluster: &Arc<Cluster>) -> Vec<Arc<dyn Controller>> {
    vec![
        Arc::new(ReplicaSets),
        Arc::new(Deployments),
        Arc::new(DaemonSets::default()),
        Arc::new(Jobs),
        Arc::new(CronJobs),
        Arc::new(Endpoints),
        Arc::new(Disruptions),
        Arc::new(Namespaces),
        Arc::new(Nodes::new(cluster.config.nodes.clone())),
    ]
}

/// Runs some controllers over one set of mirrors until `shutdown`.
async fn run_only(
    cluster: Arc<Cluster>,
    mirrors: cluster::Mirroring,
    controllers: Vec<Arc<dyn Controller>>,
    shutdown: CancellationToken,
) {
    let mut loops = JoinSet::new();
    // Queues first: a change that a mirror learns before anybody listens would
    // be lost.
    for controller in controllers {
        loops.spawn(work::run(
            Arc::clone(&cluster),
            controller,
            shutdown.clone(),
        ));
    }
    let recorder = Arc::clone(&cluster.recorder);
    loops.spawn(recorder.run(shutdown.clone()));
    let mut watches = JoinSet::new();
    mirrors.start(&mut watches);
    shutdown.cancelled().await;
    // Each loop ends its workers and waits for them: who leads next must not meet
    // one of them still writing.
    while loops.join_next().await.is_some() {}
    watches.shutdown().await;
}

#[cfg(test)]
mod live_tests;
#[cfg(test)]
mod tests;
