//! PodDisruptionBudgets: how many pods of an application may be taken away at a time.
//!
//! An eviction (`kubectl drain`) asks the budget that selects the pod, and takes one of its
//! `disruptionsAllowed`. Who counts those is this controller:
//!
//! ```text
//!   allowed = healthy - desired          never less than 0
//!   healthy   pods that are ready, are not told to end, and were not evicted just now
//!   desired   minAvailable, or what maxUnavailable leaves of the replicas that are wanted
//! ```
//!
//! A pod whose eviction was granted is named in `disruptedPods` until it is seen to end, so that
//! a count that is made in between does not grant its place again.
//!
//! Read more: "Specifying a Disruption Budget" in the Kubernetes documentation.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::core::Selector;

use super::cluster::{Cluster, Mirrors, WriteError, now};
use super::mirror::{Key, Mirror};
use super::ownership::{controller_of, selects};
use super::work::{self, Again, Controller, Queue};

/// The count, as a value.
pub mod plan;

/// See the module.
pub struct Disruptions;

#[async_trait]
impl Controller for Disruptions {
    fn name(&self) -> &'static str {
        "disruption"
    }

    fn subscribe(&self, mirrors: &Arc<Mirrors>, queue: &Queue) {
        work::own_changes_due(&mirrors.budgets, queue);
        let (known, due) = (Arc::downgrade(mirrors), Arc::clone(queue));
        // Weak: the mirrors own this listener.
        mirrors.pods.listen(move |change| {
            let Some(mirrors) = known.upgrade() else {
                return;
            };
            for pod in change.states() {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                for budget in mirrors.budgets.of_namespace(namespace) {
                    if selector_of(&budget).is_some_and(|selector| selects(&selector, &**pod)) {
                        due.add(Key::of(&*budget));
                    }
                }
            }
        });
        namespace_due(&mirrors.deployments, mirrors, queue);
        namespace_due(&mirrors.replica_sets, mirrors, queue);
    }

    async fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Again, WriteError> {
        let Some(budget) = cluster.mirrors.budgets.read(key) else {
            return Ok(Again::OnChange);
        };
        if budget.metadata.deletion_timestamp.is_some() {
            return Ok(Again::OnChange);
        }
        let mut pods = cluster.mirrors.pods.of_namespace(&key.namespace);
        match selector_of(&budget) {
            Some(selector) => pods.retain(|pod| selects(&selector, &**pod)),
            None => pods.clear(),
        }
        let wanted = wanted_by_owners(&cluster.mirrors, &key.namespace, &pods);
        let (status, again) = plan::plan(&budget, &pods, wanted, now());
        cluster
            .write_status(&*budget, budget.status.as_ref(), &status)
            .await?;
        Ok(Again::after(again))
    }
}

/// The pods of a budget: an empty selector is all of the namespace, none is no pod.
fn selector_of(budget: &PodDisruptionBudget) -> Option<Selector> {
    let selector = budget.spec.as_ref()?.selector.clone()?;
    Selector::try_from(selector).ok()
}

/// Makes all budgets of a namespace due when an object in it changes: how many pods are
/// wanted may be another number.
fn namespace_due<K: super::mirror::Mirrored>(
    of: &Mirror<K>,
    mirrors: &Arc<Mirrors>,
    queue: &Queue,
) {
    let (known, queue) = (Arc::downgrade(mirrors), Arc::clone(queue));
    of.listen(move |change| {
        let Some(mirrors) = known.upgrade() else {
            return;
        };
        for object in change.states() {
            let namespace = object.meta().namespace.as_deref().unwrap_or_default();
            for budget in mirrors.budgets.of_namespace(namespace) {
                queue.add(Key::of(&*budget));
            }
        }
    });
}

/// How many pods the owners of some pods want together. Owners that have no number of
/// replicas, and pods that have no owner, count as the pods that there are.
fn wanted_by_owners(mirrors: &Mirrors, namespace: &str, pods: &[Arc<Pod>]) -> i32 {
    let mut owners: Vec<String> = Vec::new();
    let mut wanted = 0;
    for pod in pods {
        let set = controller_of(&**pod).filter(|owner| owner.kind == "ReplicaSet");
        let set =
            set.and_then(|owner| read_owned::<ReplicaSet>(&mirrors.replica_sets, namespace, owner));
        let Some(set) = set else {
            wanted += 1;
            continue;
        };
        let deployment = controller_of(&*set).filter(|owner| owner.kind == "Deployment");
        let deployment = deployment
            .and_then(|owner| read_owned::<Deployment>(&mirrors.deployments, namespace, owner));
        let (uid, replicas) = match &deployment {
            Some(deployment) => (deployment.uid(), deployment.spec.replicas),
            None => (set.uid(), set.spec.replicas),
        };
        let uid = uid.unwrap_or_default();
        if !owners.contains(&uid) {
            owners.push(uid);
            wanted += replicas.unwrap_or(1);
        }
    }
    wanted
}

fn read_owned<K: super::mirror::Mirrored>(
    mirror: &Mirror<K>,
    namespace: &str,
    owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference,
) -> Option<Arc<K>> {
    let found = mirror.read(&Key::new(namespace, &owner.name))?;
    (found.meta().uid.as_deref() == Some(owner.uid.as_str())).then_some(found)
}
