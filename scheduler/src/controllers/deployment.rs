//! Deployment: replaces the pods of one template by those of the next, slowly.
//!
//! ```text
//!   Deployment ─▶ ReplicaSet of template 1   replicas 3 ▶ 2 ▶ 1 ▶ 0
//!             └─▶ ReplicaSet of template 2   replicas 1 ▶ 2 ▶ 3
//! ```
//!
//! It never touches a pod: it only moves numbers between ReplicaSets, one per
//! template, and all of its state is in them and in its status. How far a rollout
//! may go at once is `maxSurge` (pods above `replicas`) and `maxUnavailable` (pods
//! below). A ReplicaSet is named by its template's hash, so that two looks, or two
//! processes, that want the set of one template make one.
//!
//! With the annotation `berth.dev/rollback-on-failure: "true"` a rollout that
//! passes its `progressDeadlineSeconds` is taken back: the template becomes the one
//! of the last revision that was complete, as `kubectl rollout undo` would do it.
//! Which revisions were complete is noted on their ReplicaSets.
//!
//! Read more: "Deployments" in the Kubernetes documentation.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::Pod,
};
use serde_json::json;

use super::{
    cluster::{Cluster, Deletion, Mirrors, WriteError, difference, json_of, now},
    mirror::Key,
    ownership::{claim, selector},
    pods,
    recorder::Weight,
    work::{Again, Controller, Queue, orphans_due, own_changes_due, owners_due},
};
use plan::{Action, Observed};

/// What to do, as values.
pub mod plan;
/// Which ReplicaSet is of which template and revision.
pub mod revision;
/// How many pods of each set a rolling update wants.
pub mod rolling;
/// Status and conditions.
pub mod status;

/// Keeps Deployments.
pub struct Deployments;

#[async_trait]
impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "deployment"
    }

    fn subscribe(&self, mirrors: &Arc<Mirrors>, queue: &Queue) {
        own_changes_due(&mirrors.deployments, queue);
        owners_due(&mirrors.replica_sets, "Deployment", queue);
        orphans_due::<Deployment, ReplicaSet>(mirrors, queue, |of| Some(&of.spec.selector));
        last_pods_due(mirrors, queue);
    }

    async fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Again, WriteError> {
        let Some(deployment) = cluster.mirrors.deployments.read(key) else {
            return Ok(Again::OnChange);
        };
        let Some(selector) = selector(&deployment.spec.selector) else {
            return Ok(Again::OnChange);
        };
        let sets: Vec<Arc<ReplicaSet>> = claim(cluster, &*deployment, &selector).await?;
        let occupied = sets.iter().filter(|set| has_pods(cluster, set));
        let observed = Observed {
            deployment: &deployment,
            sets: &sets,
            occupied: occupied
                .filter_map(|set| set.metadata.uid.clone())
                .collect(),
        };
        let plan = plan::plan_deployment(&observed, now());
        for action in &plan.actions {
            apply(cluster, &deployment, action).await?;
        }
        // What was read is old where the deployment itself was changed; its change
        // makes it due again.
        if !plan.actions.iter().any(Action::changes_deployment) {
            cluster
                .write_status(&*deployment, deployment.status.as_ref(), &plan.status)
                .await?;
        }
        Ok(Again::after(plan.again))
    }
}

/// Whether a pod of a set is still there: Recreate waits for the old ones.
fn has_pods(cluster: &Cluster, set: &ReplicaSet) -> bool {
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let pods = cluster.mirrors.pods.of_owner(uid);
    pods.iter().any(|pod| !pods::has_ended(pod))
}

/// Makes a Deployment due when a pod of it goes: its sets' numbers went down long
/// before, and Recreate waits for the last pod.
fn last_pods_due(mirrors: &Arc<Mirrors>, queue: &Queue) {
    let queue = Arc::clone(queue);
    let sets = Arc::downgrade(mirrors);
    mirrors.pods.listen(move |change| {
        let gone = match (change.before, change.after) {
            (Some(before), None) => Some(before),
            (Some(before), Some(after)) if pods::has_ended(after) && !pods::has_ended(before) => {
                Some(after)
            }
            _ => None,
        };
        let owner = gone.and_then(|pod| owner_set(pod));
        let (Some(set), Some(mirrors)) = (owner, sets.upgrade()) else {
            return;
        };
        if let Some(set) = mirrors.replica_sets.read(&set)
            && let Some(owner) = super::ownership::controller_of(&*set)
            && owner.kind == "Deployment"
        {
            queue.add(Key::new(&Key::of(&*set).namespace, &owner.name));
        }
    });
}

fn owner_set(pod: &Pod) -> Option<Key> {
    let owner = super::ownership::controller_of(pod).filter(|owner| owner.kind == "ReplicaSet")?;
    Some(Key::new(pod.metadata.namespace.as_deref()?, &owner.name))
}

async fn apply(
    cluster: &Cluster,
    deployment: &Deployment,
    action: &Action,
) -> Result<(), WriteError> {
    let say = |weight, reason: &str, message: String| {
        cluster.recorder.say(deployment, weight, reason, message);
    };
    match action {
        Action::CreateSet(set) => {
            let name = set.metadata.name.clone().unwrap_or_default();
            match cluster.create(&**set).await {
                Ok(_) => {
                    let replicas = set.spec.replicas.unwrap_or(0);
                    let message = format!("Scaled up replica set {name} from 0 to {replicas}");
                    say(Weight::Normal, "ScalingReplicaSet", message);
                    Ok(())
                }
                Err(WriteError::Exists) => collide(cluster, deployment, set).await,
                Err(error) => {
                    let message = format!("Failed to create new replica set \"{name}\": {error}");
                    say(Weight::Warning, "ReplicaSetCreateError", message);
                    Err(error)
                }
            }
        }
        Action::UpdateSet { before, after } => {
            let Some(patch) = difference(&json_of(before), &json_of(after)) else {
                return Ok(());
            };
            cluster.patch(&**before, patch).await?;
            let counts = (
                before.spec.replicas.unwrap_or(1),
                after.spec.replicas.unwrap_or(1),
            );
            let name = before.metadata.name.as_deref().unwrap_or_default();
            if counts.0 != counts.1 {
                let way = if counts.0 < counts.1 { "up" } else { "down" };
                let message = format!(
                    "Scaled {way} replica set {name} from {} to {}",
                    counts.0, counts.1
                );
                say(Weight::Normal, "ScalingReplicaSet", message);
            }
            Ok(())
        }
        Action::DeleteSet(set) => cluster.delete(&**set, Deletion::Background).await,
        Action::SetRevision(revision) => {
            let annotations = json!({ revision::REVISION: revision.to_string() });
            let patch = json!({"metadata": {"annotations": annotations}});
            cluster.patch(deployment, patch).await.map(|_| ())
        }
        Action::RollBack { to, template, why } => {
            let old = json_of(&deployment.spec.template);
            if let Some(template) = difference(&old, &json_of(template)) {
                let patch = json!({"spec": {"template": template}});
                cluster.patch(deployment, patch).await?;
            }
            let message =
                format!("Rolled back to revision {to}, the last that was complete: {why}");
            say(Weight::Warning, "DeploymentRollback", message);
            Ok(())
        }
    }
}

/// The name of a new set is taken: by our own set, of which the mirror does not
/// know yet, or by chance by that of another template. Then the hash has to be
/// another one, and the count of collisions makes it so.
async fn collide(
    cluster: &Cluster,
    deployment: &Deployment,
    wanted: &ReplicaSet,
) -> Result<(), WriteError> {
    let found = cluster.read_live::<ReplicaSet>(&Key::of(wanted)).await?;
    let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
    if let Some(found) = found
        && (!super::ownership::is_controlled_by(&found, uid)
            || !revision::is_of_template(&found, &deployment.spec.template))
    {
        let mut status = deployment.status.clone().unwrap_or_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        cluster
            .write_status(deployment, deployment.status.as_ref(), &status)
            .await?;
    }
    Err(WriteError::Exists)
}
