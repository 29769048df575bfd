//! What the API fills in where an object is silent.
//!
//! A stored object says everything: whoever reads it never asks "and if it is
//! not set?". The defaults are Kubernetes' own, so that a client which knows
//! them by heart reads here what it would read there.
//!
//! Filling in twice is filling in once: a write of what was read changes nothing.

use serde_json::{Value, json};

use super::{kind::Kind, schema::settle::settle};

/// A pod's spec, alone or in a template.
mod pod;
/// Deployments, ReplicaSets, DaemonSets, Jobs and CronJobs.
mod workloads;

/// How long a pod stays on a node that is not ready or not reachable.
///
/// Kubernetes waits five minutes. Here a dead node's pods run elsewhere within
/// seconds, unless they tolerate more.
pub const TOLERATION_SECONDS: u64 = 5;

/// Settles an object (nulls, unknown fields, quantities) and sets what was left out.
///
/// Call [`super::validate::unknown_fields`] before, for afterwards they are gone. A Job's
/// selector is made of its uid, so that must be set before too.
pub fn set_defaults(kind: &Kind, object: &mut Value) {
    settle(kind, object);
    match (kind.group, kind.kind) {
        ("", "Pod") => pod::fill_pod(object),
        ("", "Service") => fill_service(object),
        ("", "Secret") => fill_secret(object),
        ("", "Namespace") => fill_namespace(object),
        ("", "Node") => fill_node(object),
        ("apps", "Deployment") => workloads::fill_deployment(object),
        ("apps", "ReplicaSet") => workloads::fill_replica_set(object),
        ("apps", "DaemonSet") => workloads::fill_daemon_set(object),
        ("batch", "Job") => workloads::fill_job(object),
        ("batch", "CronJob") => workloads::fill_cron_job(object),
        ("discovery.k8s.io", "EndpointSlice") => {
            for port in items(object, "ports") {
                fill(port, "name", json!(""));
                fill_text(port, "protocol", "TCP");
            }
        }
        ("scheduling.k8s.io", "PriorityClass") => {
            fill_text(object, "preemptionPolicy", "PreemptLowerPriority");
        }
        _ => {}
    }
}

/// The status that an object begins with; what the client sent as one is dropped.
pub fn begin_status(kind: &Kind, object: &mut Value) {
    let status = match (kind.group, kind.kind) {
        ("", "Pod") => json!({"phase": "Pending", "qosClass": pod::quality_of_service(object)}),
        ("", "Namespace") => json!({"phase": "Active"}),
        ("", "Service") => json!({"loadBalancer": {}}),
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet") => match kind.kind {
            "ReplicaSet" => json!({"replicas": 0}),
            "DaemonSet" => json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0,
                "numberMisscheduled": 0, "numberReady": 0}),
            _ => json!({}),
        },
        ("batch", "Job" | "CronJob") => json!({}),
        ("policy", "PodDisruptionBudget") => json!({"currentHealthy": 0, "desiredHealthy": 0,
            "disruptionsAllowed": 0, "expectedPods": 0}),
        // An agent makes its node together with what it observes of it; nobody else observes first.
        _ => return,
    };
    if let Some(fields) = object.as_object_mut() {
        fields.insert("status".to_owned(), status);
    }
}

/// The class of service of a pod, by what its containers ask for.
#[must_use]
pub fn quality_of_service(pod: &Value) -> &'static str {
    pod::quality_of_service(pod)
}

fn fill_service(service: &mut Value) {
    let spec = inside(service, "spec");
    fill_text(spec, "type", "ClusterIP");
    fill_text(spec, "sessionAffinity", "None");
    let kind = text(spec, "type").to_owned();
    if text(spec, "sessionAffinity") == "ClientIP" {
        let client = inside(inside(spec, "sessionAffinityConfig"), "clientIP");
        fill(client, "timeoutSeconds", json!(10_800));
    } else if let Some(fields) = spec.as_object_mut() {
        fields.remove("sessionAffinityConfig");
    }
    let outside = kind == "NodePort" || kind == "LoadBalancer";
    if outside
        || spec["externalIPs"]
            .as_array()
            .is_some_and(|list| !list.is_empty())
    {
        fill_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if outside || kind == "ClusterIP" {
        fill_text(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        fill(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
    for port in items(spec, "ports") {
        fill_text(port, "protocol", "TCP");
        let target = &port["targetPort"];
        if target.is_null() || *target == json!(0) || *target == json!("") {
            port["targetPort"] = port["port"].clone();
        }
    }
}

/// `stringData` is for writing only: it becomes `data`.
fn fill_secret(secret: &mut Value) {
    use base64::Engine as _;
    fill_text(secret, "type", "Opaque");
    let Some(fields) = secret.as_object_mut() else {
        return;
    };
    let Some(Value::Object(texts)) = fields.remove("stringData") else {
        return;
    };
    let data = fields.entry("data").or_insert_with(|| json!({}));
    for (key, value) in texts {
        if let (Some(data), Some(value)) = (data.as_object_mut(), value.as_str()) {
            let encoded = base64::engine::general_purpose::STANDARD.encode(value);
            data.insert(key, Value::String(encoded));
        }
    }
}

fn fill_namespace(namespace: &mut Value) {
    let name = namespace["metadata"]["name"].clone();
    if name.as_str().is_some_and(|name| !name.is_empty()) {
        let labels = inside(inside(namespace, "metadata"), "labels");
        // A selector of namespaces can then name one.
        if labels.is_object() {
            labels["kubernetes.io/metadata.name"] = name;
        }
    }
    let deleting = !namespace["metadata"]["deletionTimestamp"].is_null();
    if !deleting {
        fill(
            inside(namespace, "spec"),
            "finalizers",
            json!(["kubernetes"]),
        );
    }
}

fn fill_node(node: &mut Value) {
    inside(node, "spec");
    let capacity = node["status"]["capacity"].clone();
    if capacity.is_object() {
        fill(inside(node, "status"), "allocatable", capacity);
    }
}

/// The object below a field, made if it is not there.
fn inside<'a>(object: &'a mut Value, field: &str) -> &'a mut Value {
    if !object.is_object() {
        return object;
    }
    let below = &mut object[field];
    if below.is_null() {
        *below = json!({});
    }
    below
}

/// Sets a field that is not set.
fn fill(object: &mut Value, field: &str, value: Value) {
    if object.is_object() && object[field].is_null() {
        object[field] = value;
    }
}

/// Sets a text that is not set or empty.
fn fill_text(object: &mut Value, field: &str, value: &str) {
    if object.is_object() && (object[field].is_null() || object[field] == json!("")) {
        object[field] = json!(value);
    }
}

/// The objects of a list.
fn items<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    let list = object.get_mut(field).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter(|item| item.is_object())
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or("")
}

#[cfg(test)]
pub(super) mod tests;
