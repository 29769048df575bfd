//! What an object must be to be stored: every broken rule at once, in Kubernetes' words.
//!
//! The order of a write is: read, [`unknown_fields`], defaults, addresses handed
//! out, then [`create`] or [`update`], so rules may count on defaults.

use serde_json::Value;

use self::checks::Checks;
use super::{error::FieldError, kind::Kind, schema::settle};

/// The list of broken rules, and the few checks that most rules are made of.
mod checks;
/// Rules of one container.
mod container;
/// Fields that are kept and not carried out.
mod honoured;
/// Rules of `metadata`.
mod metadata;
/// Names, labels and keys: what may stand in them.
pub mod names;
/// Rules of kinds that have few.
mod plain;
/// Rules of a pod's spec.
mod pod;
/// What of a running pod may be resized.
mod resize;
/// Rules of RuntimeClasses.
mod runtime_class;
/// Rules of Services and EndpointSlices.
mod services;
/// Rules of a pod's volumes.
mod volume;
/// Rules of Deployments, ReplicaSets, DaemonSets, Jobs and CronJobs.
mod workloads;

/// The broken rules of an object that is to be created.
#[must_use]
pub fn create(kind: &Kind, object: &Value) -> Vec<FieldError> {
    // No rule can be checked of a value that is of another type altogether.
    let wrong = settle::wrong_types(kind, object);
    if !wrong.is_empty() {
        return wrong;
    }
    let mut checks = Checks::default();
    metadata::check(kind, object, &mut checks);
    check(kind, object, &mut checks);
    checks.found
}

/// The broken rules of an object that is to take the place of another.
#[must_use]
pub fn update(kind: &Kind, object: &Value, before: &Value) -> Vec<FieldError> {
    let wrong = settle::wrong_types(kind, object);
    if !wrong.is_empty() {
        return wrong;
    }
    let mut checks = Checks::default();
    metadata::check(kind, object, &mut checks);
    metadata::check_update(object, before, &mut checks);
    check(kind, object, &mut checks);
    check_update(kind, object, before, &mut checks);
    checks.found
}

/// The broken rules of a pod whose containers shall have other resources.
#[must_use]
pub fn resize(kind: &Kind, object: &Value, before: &Value) -> Vec<FieldError> {
    let wrong = settle::wrong_types(kind, object);
    if !wrong.is_empty() {
        return wrong;
    }
    let mut checks = Checks::default();
    check(kind, object, &mut checks);
    resize::check(object, before, &mut checks);
    checks.found
}

/// The paths of fields that no type has, as `spec.containers[0].imagee`.
///
/// With `fieldValidation=Strict` they are an error (`strict decoding error: unknown field
/// "…"`), with `Warn` a warning each, with `Ignore` nothing.
#[must_use]
pub fn unknown_fields(kind: &Kind, object: &Value) -> Vec<String> {
    settle::unknown_fields(kind, object)
}

/// Fields that are kept but not carried out, a sentence each for a `Warning` header.
#[must_use]
pub fn not_honoured(kind: &Kind, object: &Value) -> Vec<String> {
    honoured::find(kind, object)
}

fn check(kind: &Kind, object: &Value, checks: &mut Checks) {
    match (kind.group, kind.kind) {
        ("", "Pod") => pod::check(object, checks),
        ("", "Service") => services::check_service(object, checks),
        ("", "ConfigMap") => plain::check_config_map(object, checks),
        ("", "Secret") => plain::check_secret(object, checks),
        ("", "Node") => plain::check_node(object, checks),
        ("" | "events.k8s.io", "Event") => plain::check_event(object, checks),
        ("apps", "Deployment") => workloads::check_deployment(object, checks),
        ("apps", "ReplicaSet") => workloads::check_replica_set(object, checks),
        ("apps", "DaemonSet") => workloads::check_daemon_set(object, checks),
        ("batch", "Job") => workloads::check_job(object, checks),
        ("batch", "CronJob") => workloads::check_cron_job(object, checks),
        ("discovery.k8s.io", "EndpointSlice") => services::check_slice(object, checks),
        ("coordination.k8s.io", "Lease") => plain::check_lease(object, checks),
        ("scheduling.k8s.io", "PriorityClass") => plain::check_priority_class(object, checks),
        ("policy", "PodDisruptionBudget") => workloads::check_budget(object, checks),
        ("node.k8s.io", "RuntimeClass") => runtime_class::check(object, checks),
        _ => {}
    }
}

fn check_update(kind: &Kind, object: &Value, before: &Value, checks: &mut Checks) {
    match (kind.group, kind.kind) {
        ("", "Pod") => pod::check_update(object, before, checks),
        ("", "Service") => services::check_service_update(object, before, checks),
        ("", "ConfigMap") => plain::check_frozen(object, before, checks),
        ("", "Secret") => {
            checks.unchanged("type", &object["type"], &before["type"]);
            plain::check_frozen(object, before, checks);
        }
        ("", "Node") => plain::check_node_update(object, before, checks),
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet") => {
            workloads::check_selector_kept(object, before, checks);
        }
        ("batch", "Job") => workloads::check_job_update(object, before, checks),
        ("discovery.k8s.io", "EndpointSlice") => {
            checks.unchanged(
                "addressType",
                &object["addressType"],
                &before["addressType"],
            );
        }
        ("scheduling.k8s.io", "PriorityClass") => {
            plain::check_priority_class_update(object, before, checks);
        }
        ("node.k8s.io", "RuntimeClass") => {
            checks.unchanged("handler", &object["handler"], &before["handler"]);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
