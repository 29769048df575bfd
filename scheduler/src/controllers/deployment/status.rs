//! Status and conditions: what `kubectl rollout status` waits for.
//!
//! ```text
//!   Progressing   True     NewReplicaSetCreated, FoundNewReplicaSet, ReplicaSetUpdated
//!                 True     NewReplicaSetAvailable     the rollout is complete
//!                 False    ProgressDeadlineExceeded   nothing moved for too long
//!                 Unknown  DeploymentPaused, DeploymentResumed
//!   Available     whether no more are missing than maxUnavailable
//!   ReplicaFailure  what a set's creation of pods fails with
//! ```

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{
        Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    revision::{self, REVISION},
    rolling::{Bounds, is_observed},
};

/// The condition that says how a rollout goes.
pub const PROGRESSING: &str = "Progressing";
/// Nothing moved for too long.
pub const DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";
/// How long a rollout may stand still, in seconds, where none is given.
pub const DEADLINE: i32 = 600;
const COMPLETE: &str = "NewReplicaSetAvailable";
const PAUSED: &str = "DeploymentPaused";

/// One condition.
pub fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    let conditions = status.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_.as_deref() == Some(kind))
}

/// Whether all pods are of the newest template, available, and no other is left.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let replicas = deployment.spec.replicas.unwrap_or(1);
    status.updated_replicas.unwrap_or(0) == replicas
        && status.replicas.unwrap_or(0) == replicas
        && status.available_replicas.unwrap_or(0) == replicas
        && condition(status, PROGRESSING)
            .is_some_and(|progress| progress.reason.as_deref() == Some(COMPLETE))
}

/// The status by what is observed, and when it changes by time alone.
pub fn plan_status(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let sum = |field: fn(&ReplicaSetStatus) -> Option<i32>| {
        let statuses = sets.iter().filter_map(|set| set.status.as_ref());
        statuses.filter_map(field).fold(0, i32::saturating_add)
    };
    let available = sum(|status| status.available_replicas);
    // As Kubernetes counts them: against what the sets want, surge included.
    let wanted: i32 = sets.iter().map(|set| super::rolling::wants(set)).sum();
    let before = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(sum(|status| Some(status.replicas))),
        updated_replicas: Some(
            new.and_then(|new| new.status.as_ref())
                .map_or(0, |status| status.replicas),
        ),
        ready_replicas: Some(sum(|status| status.ready_replicas)),
        available_replicas: Some(available),
        unavailable_replicas: Some((wanted - available).max(0)),
        terminating_replicas: Some(sum(|status| status.terminating_replicas)),
        collision_count: before.collision_count,
        conditions: before.conditions.clone(),
    };
    let minimum = Bounds::of(deployment).minimum();
    let (value, reason, message) = match available >= minimum {
        true => (
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        ),
        false => (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        ),
    };
    set_condition(&mut status, "Available", (value, reason, message), now);
    plan_failure(&mut status, sets, new, now);
    let again = plan_progress(deployment, &before, &mut status, new, now);
    (status, again)
}

/// Passes on why a set cannot create its pods.
fn plan_failure(
    status: &mut DeploymentStatus,
    sets: &[Arc<ReplicaSet>],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) {
    let failure = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        let failed = |kind: Option<&str>| kind == Some("ReplicaFailure");
        conditions
            .iter()
            .find(|condition| failed(condition.type_.as_deref()))
            .cloned()
    };
    let found = new
        .and_then(failure)
        .or_else(|| sets.iter().find_map(|set| failure(set)));
    match found {
        Some(found) => {
            let reason = found.reason.unwrap_or_default();
            let message = found.message.unwrap_or_default();
            set_condition(status, "ReplicaFailure", ("True", &reason, &message), now);
        }
        None => remove_condition(status, "ReplicaFailure"),
    }
}

/// Writes how the rollout goes; returns when its deadline is.
fn plan_progress(
    deployment: &Deployment,
    before: &DeploymentStatus,
    status: &mut DeploymentStatus,
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> Option<Duration> {
    let deadline = deployment
        .spec
        .progress_deadline_seconds
        .unwrap_or(DEADLINE);
    // "None" as Kubernetes spells it.
    if deadline == i32::MAX {
        remove_condition(status, PROGRESSING);
        return None;
    }
    let name = new
        .and_then(|new| new.metadata.name.as_deref())
        .unwrap_or_default();
    let was = condition(before, PROGRESSING).cloned();
    let reason = was.as_ref().and_then(|was| was.reason.as_deref());
    let is_paused = deployment.spec.paused == Some(true);
    if is_paused {
        if reason != Some(PAUSED) {
            set_progress(status, ("Unknown", PAUSED, "Deployment is paused"), now);
        }
        return None;
    }
    let Some(new) = new else {
        let message = "The new replica set is yet to be created.";
        if reason != Some("NewReplicaSetCreated") {
            set_progress(status, ("True", "NewReplicaSetCreated", message), now);
        }
        return None;
    };
    let replicas = deployment.spec.replicas.unwrap_or(1);
    let updated = status.updated_replicas.unwrap_or(0);
    let all = status.replicas.unwrap_or(0);
    let done =
        updated == replicas && all == replicas && status.available_replicas == Some(replicas);
    if done && is_observed(new) {
        let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
        let text = condition(before, PROGRESSING).and_then(|was| was.message.clone());
        if reason != Some(COMPLETE) || text.as_deref() != Some(&message) {
            set_progress(status, ("True", COMPLETE, &message), now);
        }
        return None;
    }
    // A rollout that was complete stays so when pods die or `replicas` changes;
    // another template or revision begins anew.
    let is_new = is_new_rollout(deployment, new, was.as_ref());
    if reason == Some(COMPLETE) && !is_new && all == updated {
        return None;
    }
    if was.is_none() || is_new || reason == Some(PAUSED) || has_progressed(before, status) {
        let reason = match reason {
            Some(PAUSED) => (
                "Unknown",
                "DeploymentResumed",
                "Deployment is resumed".to_owned(),
            ),
            _ if is_new => (
                "True",
                "FoundNewReplicaSet",
                format!("Found new replica set \"{name}\""),
            ),
            _ => (
                "True",
                "ReplicaSetUpdated",
                format!("ReplicaSet \"{name}\" is progressing."),
            ),
        };
        set_progress(status, (reason.0, reason.1, &reason.2), now);
    }
    if reason == Some(DEADLINE_EXCEEDED)
        && condition(status, PROGRESSING).and_then(|is| is.reason.as_deref())
            == Some(DEADLINE_EXCEEDED)
    {
        return None;
    }
    let since = condition(status, PROGRESSING)
        .and_then(|is| is.last_update_time.as_ref().map(|time| time.0))?;
    let allowed = Duration::from_secs(u64::try_from(deadline).unwrap_or(0));
    let stood = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    match allowed.checked_sub(stood).filter(|left| !left.is_zero()) {
        Some(left) => Some(left),
        None => {
            let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
            set_progress(status, ("False", DEADLINE_EXCEEDED, &message), now);
            None
        }
    }
}

/// Whether the condition speaks of another set, or the set of another revision.
fn is_new_rollout(
    deployment: &Deployment,
    new: &ReplicaSet,
    was: Option<&DeploymentCondition>,
) -> bool {
    let name = new.metadata.name.as_deref().unwrap_or_default();
    let message = was
        .and_then(|was| was.message.as_deref())
        .unwrap_or_default();
    let other_set = message.contains('"') && !message.contains(&format!("\"{name}\""));
    let known = revision::number(&deployment.metadata, REVISION);
    other_set || known.is_some_and(|known| known < revision::revision(new))
}

fn has_progressed(before: &DeploymentStatus, status: &DeploymentStatus) -> bool {
    let number = |field: Option<i32>| field.unwrap_or(0);
    let old = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(status.updated_replicas) > number(before.updated_replicas)
        || old(status) < old(before)
        || number(status.ready_replicas) > number(before.ready_replicas)
        || number(status.available_replicas) > number(before.available_replicas)
}

/// Sets the condition that says how a rollout goes, as of now.
fn set_progress(status: &mut DeploymentStatus, is: (&str, &str, &str), now: Timestamp) {
    set_condition(status, PROGRESSING, is, now);
    let conditions = status.conditions.iter_mut().flatten();
    for condition in conditions.filter(|is| is.type_.as_deref() == Some(PROGRESSING)) {
        condition.last_update_time = Some(Time(now));
    }
}

/// Sets a condition; its times change only with what it says.
fn set_condition(
    status: &mut DeploymentStatus,
    kind: &str,
    (value, reason, message): (&str, &str, &str),
    now: Timestamp,
) {
    let before = condition(status, kind).cloned();
    let same = |field: fn(&DeploymentCondition) -> Option<&String>, is: &str| {
        before.as_ref().and_then(field).map(String::as_str) == Some(is)
    };
    if same(|of| of.status.as_ref(), value)
        && same(|of| of.reason.as_ref(), reason)
        && same(|of| of.message.as_ref(), message)
    {
        return;
    }
    let since = match same(|of| of.status.as_ref(), value) {
        true => before
            .as_ref()
            .and_then(|before| before.last_transition_time.clone()),
        false => None,
    };
    let made = DeploymentCondition {
        type_: Some(kind.to_owned()),
        status: Some(value.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: since.or(Some(Time(now))),
    };
    remove_condition(status, kind);
    status.conditions.get_or_insert_default().push(made);
}

fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_.as_deref() != Some(kind));
    }
    if status.conditions.as_ref().is_some_and(Vec::is_empty) {
        status.conditions = None;
    }
}
