//! ReplicaSet: a number of pods of one template, at all times.
//!
//! The loop is short, because all thought is in `plan`: claim the pods, plan,
//! create or delete what the plan says, write the status. Pods are created in
//! batches that double (1, 2, 4, …) and stop at the first failure, so that a
//! thousand replicas that the API refuses (a quota, a mistake in the template) are
//! one refused request and not a thousand.
//!
//! Read more: "ReplicaSet" in the Kubernetes documentation.

use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{
    apps::v1::{ReplicaSet, ReplicaSetStatus},
    core::v1::Pod,
};
use kube::Resource;

use super::{
    cluster::{Cluster, Deletion, Mirrors, WriteError, now},
    mirror::Key,
    names,
    ownership::{claim, controller_of, selector},
    pods,
    recorder::Weight,
    work::{Again, Controller, Queue, orphans_due, own_changes_due, owners_due},
};

/// What to do, as values.
pub mod plan;
/// Which pods to delete first.
pub mod rank;

/// How many requests of one reconciliation are under way at once.
const AT_ONCE: usize = 32;

/// Keeps ReplicaSets.
pub struct ReplicaSets;

#[async_trait]
impl Controller for ReplicaSets {
    fn name(&self) -> &'static str {
        "replica-set"
    }

    fn subscribe(&self, mirrors: &Arc<Mirrors>, queue: &Queue) {
        own_changes_due(&mirrors.replica_sets, queue);
        owners_due(&mirrors.pods, "ReplicaSet", queue);
        orphans_due::<ReplicaSet, Pod>(mirrors, queue, |set| Some(&set.spec.selector));
    }

    async fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Again, WriteError> {
        let Some(set) = cluster.mirrors.replica_sets.read(key) else {
            return Ok(Again::OnChange);
        };
        let Some(selector) = selector(&set.spec.selector) else {
            return Ok(Again::OnChange);
        };
        let pods: Vec<Arc<Pod>> = claim(cluster, &*set, &selector).await?;
        let plan = plan::plan_replica_set(&set, &pods, &neighbours(cluster, &set, &pods), now());
        let failure = apply(cluster, &set, &plan.actions).await.err();
        // After the actions: what was just created or deleted is in the mirror.
        let Some(set) = cluster.mirrors.replica_sets.read(key) else {
            return Ok(Again::OnChange);
        };
        let pods = cluster.mirrors.pods.of_owner(uid(&*set));
        let failed = failure.as_ref().map(|error| plan::Failure {
            doing: plan.actions.doing(),
            message: error.to_string(),
        });
        let status: ReplicaSetStatus = plan::status(&set, &pods, failed, now());
        cluster
            .write_status(&*set, set.status.as_ref(), &status)
            .await?;
        match failure {
            Some(error) => Err(error),
            None => Ok(Again::after(plan.again)),
        }
    }
}

/// The pods on the nodes of some pods, for a set that wants few on each.
fn neighbours(cluster: &Cluster, set: &ReplicaSet, mine: &[Arc<Pod>]) -> rank::Doubled {
    // The other sets of one Deployment count too: old and new pods of one
    // program share its fate on a node.
    let family = match controller_of(set) {
        Some(owner) => {
            let sets = cluster.mirrors.replica_sets.of_owner(&owner.uid);
            let others = sets.iter().filter(|other| uid(&***other) != uid(set));
            let pods = others.flat_map(|other| cluster.mirrors.pods.of_owner(uid(&**other)));
            pods.collect()
        }
        None => Vec::new(),
    };
    rank::Doubled::of(mine.iter().chain(&family).map(|pod| &**pod))
}

/// Carries out the actions of a plan; at the first failure the rest is left for
/// the next look.
async fn apply(
    cluster: &Cluster,
    set: &ReplicaSet,
    actions: &plan::Actions,
) -> Result<(), WriteError> {
    match actions {
        plan::Actions::None => Ok(()),
        plan::Actions::Create(count) => create(cluster, set, *count).await,
        plan::Actions::Delete(victims) => delete(cluster, set, victims).await,
    }
}

async fn create(cluster: &Cluster, set: &ReplicaSet, count: usize) -> Result<(), WriteError> {
    let template = set.spec.template.clone().unwrap_or_default();
    let prefix = format!("{}-", set.metadata.name.as_deref().unwrap_or_default());
    let make = || async {
        let mut pod = pods::of_template(&template, &set.metadata, names::generate(&prefix));
        pod.metadata.owner_references = Some(pods::controller_reference(set).into_iter().collect());
        let made = cluster.create(&pod).await;
        match &made {
            Ok(made) => cluster.recorder.say(
                set,
                Weight::Normal,
                "SuccessfulCreate",
                format!(
                    "Created pod: {}",
                    made.metadata.name.as_deref().unwrap_or_default()
                ),
            ),
            Err(WriteError::NamespaceEnds) => {}
            Err(error) => cluster.recorder.say(
                set,
                Weight::Warning,
                "FailedCreate",
                format!("Error creating: {error}"),
            ),
        }
        made.map(|_| ())
    };
    in_batches(count.min(cluster.config.burst), make).await
}

/// Runs `make` so often, in batches that double and stop at a failure.
///
/// # Errors
///
/// The first failure; the other requests of its batch were done.
pub async fn in_batches<F: Future<Output = Result<(), WriteError>>>(
    count: usize,
    make: impl Fn() -> F,
) -> Result<(), WriteError> {
    let mut left = count;
    let mut batch = 1;
    while left > 0 {
        let now = batch.min(left);
        let outcomes: Vec<_> = stream::iter((0..now).map(|_| make()))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        outcomes.into_iter().collect::<Result<(), _>>()?;
        left -= now;
        batch = now.saturating_mul(2);
    }
    Ok(())
}

async fn delete(
    cluster: &Cluster,
    set: &ReplicaSet,
    victims: &[Arc<Pod>],
) -> Result<(), WriteError> {
    let victims = victims.iter().take(cluster.config.burst).cloned();
    let each: Vec<_> = victims.collect();
    stream::iter(each.into_iter().map(|pod| async move {
        cluster.delete(&*pod, Deletion::Background).await?;
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let message = format!("Deleted pod: {name}");
        cluster
            .recorder
            .say(set, Weight::Normal, "SuccessfulDelete", message);
        Ok(())
    }))
    .buffer_unordered(AT_ONCE)
    .try_collect()
    .await
}

fn uid<K: Resource>(object: &K) -> &str {
    object.meta().uid.as_deref().unwrap_or_default()
}
