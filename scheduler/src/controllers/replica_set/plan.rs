//! What a ReplicaSet has to do, as values.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::rank::{Doubled, rank};
use crate::controllers::{
    cluster::has_labels,
    pods::{self, count, seconds},
};

/// What to create or delete.
#[derive(Debug, Clone, PartialEq)]
pub enum Actions {
    /// There are as many as wanted.
    None,
    /// So many more.
    Create(usize),
    /// These.
    Delete(Vec<Arc<Pod>>),
}

impl Actions {
    /// The word that a condition has for it.
    pub fn doing(&self) -> &'static str {
        match self {
            Actions::Delete(_) => "FailedDelete",
            Actions::None | Actions::Create(_) => "FailedCreate",
        }
    }
}

/// A plan, and when to look again though nothing changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What to do.
    pub actions: Actions,
    /// When the next pod becomes available by having been ready for long enough.
    pub again: Option<Duration>,
}

/// Why pods could not be created or deleted.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// The reason, one word.
    pub doing: &'static str,
    /// In words.
    pub message: String,
}

/// What to do about the pods of a set; `pods` are those that it owns.
pub fn plan_replica_set(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    doubled: &Doubled,
    now: Timestamp,
) -> Plan {
    let min_ready = seconds(set.spec.min_ready_seconds);
    let active: Vec<&Arc<Pod>> = pods.iter().filter(|pod| pods::is_active(pod)).collect();
    let again = active
        .iter()
        .filter_map(|pod| pods::available_in(pod, min_ready, now))
        .min();
    Plan {
        actions: plan_actions(set, active, doubled, now),
        again,
    }
}

fn plan_actions(
    set: &ReplicaSet,
    mut active: Vec<&Arc<Pod>>,
    doubled: &Doubled,
    now: Timestamp,
) -> Actions {
    // A set that is being deleted leaves its pods to the garbage collector, or to
    // whoever adopts them.
    if set.metadata.deletion_timestamp.is_some() {
        return Actions::None;
    }
    let wanted = wanted(set);
    if active.len() < wanted {
        return Actions::Create(wanted - active.len());
    }
    let surplus = active.len() - wanted;
    if surplus == 0 {
        return Actions::None;
    }
    active.sort_by_cached_key(|pod| rank(pod, doubled, now));
    Actions::Delete(active.into_iter().take(surplus).cloned().collect())
}

/// How many pods a set wants.
pub fn wanted(set: &ReplicaSet) -> usize {
    usize::try_from(set.spec.replicas.unwrap_or(1)).unwrap_or(0)
}

/// The status of a set that owns `pods`.
pub fn status(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    failed: Option<Failure>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let min_ready = seconds(set.spec.min_ready_seconds);
    let active: Vec<&Arc<Pod>> = pods.iter().filter(|pod| pods::is_active(pod)).collect();
    let terminating = pods
        .iter()
        .filter(|pod| pods::is_terminating(pod) && !pods::has_ended(pod));
    let template = set.spec.template.as_ref();
    let labels = template.and_then(|template| template.metadata.as_ref()?.labels.clone());
    let labels = labels.unwrap_or_default();
    let before = set.status.as_ref();
    let of_active =
        |test: &dyn Fn(&Pod) -> bool| Some(count(active.iter().filter(|pod| test(pod)).count()));
    ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: of_active(&|pod| has_labels(pod.metadata.labels.as_ref(), &labels)),
        ready_replicas: of_active(&pods::is_ready),
        available_replicas: of_active(&|pod| pods::is_available(pod, min_ready, now)),
        terminating_replicas: Some(count(terminating.count())),
        observed_generation: set.metadata.generation,
        conditions: conditions(
            before.and_then(|status| status.conditions.clone()),
            failed,
            now,
        ),
    }
}

fn conditions(
    before: Option<Vec<ReplicaSetCondition>>,
    failed: Option<Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut all = before.unwrap_or_default();
    let is_failure =
        |condition: &ReplicaSetCondition| condition.type_.as_deref() == Some("ReplicaFailure");
    match failed {
        None => all.retain(|condition| !is_failure(condition)),
        // One that says the same keeps its time: else each try would be a change.
        Some(failure)
            if all.iter().any(|known| {
                is_failure(known) && known.reason.as_deref() == Some(failure.doing)
            }) => {}
        Some(failure) => {
            all.retain(|condition| !is_failure(condition));
            all.push(ReplicaSetCondition {
                type_: Some("ReplicaFailure".to_owned()),
                status: Some("True".to_owned()),
                reason: Some(failure.doing.to_owned()),
                message: Some(failure.message),
                last_transition_time: Some(Time(now)),
            });
        }
    }
    Some(all).filter(|all| !all.is_empty())
}

#[cfg(test)]
mod tests;
