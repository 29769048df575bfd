//! DaemonSet: one pod on every node that can have it.
//!
//! The controller chooses the nodes, the scheduler binds: each pod is made with a
//! node affinity for the name of its node, so that it waits for room and may
//! preempt as any other pod. Which nodes can have it is decided by what does not
//! change from minute to minute (selector, affinity, taints), not by room.
//!
//! A pod is of the present template if its label `controller-revision-hash` says
//! so. Old templates are kept in ControllerRevisions, for `kubectl rollout history`
//! and `undo`.
//!
//! Read more: "DaemonSet" in the Kubernetes documentation.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, Pod},
};
use serde_json::json;
use tokio::time::Instant;

use super::{
    cluster::{Cluster, Deletion, Mirrors, WriteError, now},
    mirror::Key,
    names,
    ownership::{claim, selector},
    pods,
    queue::Backoff,
    recorder::Weight,
    work::{Again, Controller, Queue, orphans_due, own_changes_due, owners_due},
};
use history::Step;
use plan::{Action, Observed};

/// Which nodes can have a pod.
pub mod eligible;
/// The templates that a set had.
pub mod history;
/// What to do, as values.
pub mod plan;

/// How long a node waits for another pod after one that failed there.
const AFTER_FAILURE: Backoff = Backoff {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(900),
};

/// How many requests of one reconciliation are under way at once.
const AT_ONCE: usize = 32;

/// Keeps DaemonSets.
#[derive(Default)]
pub struct DaemonSets {
    /// How often pods failed, by set and node. Only a pace is decided on it, so
    /// that nothing is lost with it.
    failures: Mutex<HashMap<(String, String), Failures>>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    in_a_row: u32,
    last: Instant,
}

#[async_trait]
impl Controller for DaemonSets {
    fn name(&self) -> &'static str {
        "daemon-set"
    }

    fn subscribe(&self, mirrors: &Arc<Mirrors>, queue: &Queue) {
        own_changes_due(&mirrors.daemon_sets, queue);
        owners_due(&mirrors.pods, "DaemonSet", queue);
        owners_due(&mirrors.revisions, "DaemonSet", queue);
        orphans_due::<DaemonSet, Pod>(mirrors, queue, |set| Some(&set.spec.selector));
        let sets = Arc::downgrade(mirrors);
        let queue = Arc::clone(queue);
        mirrors.nodes.listen(move |change| {
            let before = change.before.map(|node| eligible::facts(node));
            let after = change.after.map(|node| eligible::facts(node));
            // Heartbeats change nodes all the time, and no set.
            if before == after {
                return;
            }
            let Some(mirrors) = sets.upgrade() else {
                return;
            };
            for set in mirrors.daemon_sets.all() {
                queue.add(Key::of(&*set));
            }
        });
    }

    async fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Again, WriteError> {
        let Some(set) = cluster.mirrors.daemon_sets.read(key) else {
            return Ok(Again::OnChange);
        };
        let Some(selector) = selector(&set.spec.selector) else {
            return Ok(Again::OnChange);
        };
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let pods: Vec<Arc<Pod>> = claim(cluster, &*set, &selector).await?;
        // Before the first pod of a template. Pods do not wait for it if it fails.
        let kept = keep_history(cluster, &set, &pods).await;
        let nodes = cluster.mirrors.nodes.all();
        let observed = Observed {
            set: &set,
            nodes: &nodes,
            pods: &pods,
            waits: self.waits(&uid),
        };
        let plan = plan::plan_daemon_set(&observed, now());
        for node in &plan.failed_on {
            self.note_failure(&uid, node);
        }
        let done = apply(cluster, &set, &plan.actions).await;
        let Some(set) = cluster.mirrors.daemon_sets.read(key) else {
            return Ok(Again::OnChange);
        };
        let observed = Observed {
            set: &set,
            nodes: &nodes,
            pods: &cluster.mirrors.pods.of_owner(&uid),
            waits: BTreeMap::new(),
        };
        let status = plan::status(&observed, now());
        cluster
            .write_status(&*set, set.status.as_ref(), &status)
            .await?;
        done.and(kept)?;
        // The failures noted just now make their nodes due later than the plan
        // could know.
        let waits = self.waits(&uid).into_values().min();
        Ok(Again::after(plan.again).or(Again::after(waits)))
    }
}

impl DaemonSets {
    /// Which nodes must wait, and how long.
    fn waits(&self, uid: &str) -> BTreeMap<String, Duration> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, failures| failures.last.elapsed() < AFTER_FAILURE.longest * 2);
        let mine = failures.iter().filter(|((of, _), _)| of == uid);
        mine.filter_map(|((_, node), failures)| {
            let wait = AFTER_FAILURE.wait(failures.in_a_row, 0.0);
            let left = wait.checked_sub(failures.last.elapsed())?;
            (!left.is_zero()).then(|| (node.clone(), left))
        })
        .collect()
    }

    fn note_failure(&self, uid: &str, node: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = failures.entry((uid.to_owned(), node.to_owned()));
        let failures = entry.or_insert(Failures {
            in_a_row: 0,
            last: Instant::now(),
        });
        failures.in_a_row += 1;
        failures.last = Instant::now();
    }
}

async fn keep_history(
    cluster: &Cluster,
    set: &DaemonSet,
    pods: &[Arc<Pod>],
) -> Result<(), WriteError> {
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let revisions = cluster.mirrors.revisions.of_owner(uid);
    for step in history::plan_history(set, &revisions, pods) {
        match step {
            Step::Create(revision) => drop(cluster.create(&*revision).await?),
            Step::Renumber(revision, number) => {
                let patch = json!({ "revision": number });
                cluster.patch(&*revision, patch).await?;
            }
            Step::Remove(revision) => cluster.delete(&*revision, Deletion::Background).await?,
        }
    }
    Ok(())
}

async fn apply(cluster: &Cluster, set: &DaemonSet, actions: &[Action]) -> Result<(), WriteError> {
    let burst = actions.iter().take(cluster.config.burst).cloned();
    let burst: Vec<Action> = burst.collect();
    let outcomes: Vec<Result<(), WriteError>> = stream::iter(
        burst
            .into_iter()
            .map(|action| async move { apply_one(cluster, set, action).await }),
    )
    .buffer_unordered(AT_ONCE)
    .collect()
    .await;
    outcomes.into_iter().collect()
}

async fn apply_one(cluster: &Cluster, set: &DaemonSet, action: Action) -> Result<(), WriteError> {
    let say = |weight, reason: &str, message: String| {
        cluster.recorder.say(set, weight, reason, message);
    };
    match action {
        Action::Create { node } => {
            let prefix = format!("{}-", set.metadata.name.as_deref().unwrap_or_default());
            let pod = plan::pod_for(set, &node, names::generate(&prefix));
            match cluster.create(&pod).await {
                Ok(made) => {
                    let name = made.metadata.name.unwrap_or_default();
                    say(
                        Weight::Normal,
                        "SuccessfulCreate",
                        format!("Created pod: {name}"),
                    );
                    Ok(())
                }
                Err(error) => {
                    if !matches!(error, WriteError::NamespaceEnds) {
                        let message = format!("Error creating: {error}");
                        say(Weight::Warning, "FailedCreate", message);
                    }
                    Err(error)
                }
            }
        }
        Action::Delete { pod, why } => {
            cluster.delete(&*pod, Deletion::Background).await?;
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let node = plan::node_of(&pod).unwrap_or_default();
            match why {
                plan::Why::Ended => {
                    let phase = pods::phase(&pod);
                    let message = format!(
                        "Found {} daemon pod {name} on node {node}, will try to kill it",
                        phase.to_lowercase()
                    );
                    say(Weight::Warning, &format!("{phase}DaemonPod"), message);
                }
                plan::Why::Unwanted | plan::Why::Outdated => {
                    say(
                        Weight::Normal,
                        "SuccessfulDelete",
                        format!("Deleted pod: {name}"),
                    );
                }
            }
            Ok(())
        }
    }
}

/// All that a node's name needs.
pub(crate) fn name_of(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}
