//! Objects as rows: what `kubectl get` prints.
//!
//! The client asks for `application/json;as=Table` and prints what it gets, so
//! the columns of each kind are the server's. Columns of priority 1 are shown
//! with `-o wide` only. Each row carries the object's metadata along.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::kind::Kind;

/// A span of time in the few signs that a column has.
pub mod age;
/// Nodes, namespaces, leases, priority classes.
mod cluster;
/// ConfigMaps, Secrets, accounts, events: what has few columns.
mod plain;
/// Pods, with the one word that says how a pod is.
mod pods;
/// Services and their endpoints.
mod services;
/// Deployments, ReplicaSets, DaemonSets, Jobs, CronJobs.
mod workloads;

/// The columns of a kind and how a row is made.
struct Layout {
    columns: &'static [Column],
    row: fn(&Value, Timestamp) -> Vec<Value>,
}

/// One column.
#[derive(Debug, Clone, Copy)]
struct Column {
    name: &'static str,
    /// `string`, `integer` or `boolean`.
    kind: &'static str,
    format: &'static str,
    /// 1 for those that are shown with `-o wide` only.
    priority: u8,
    description: &'static str,
}

/// The `Table` of some objects of a kind.
///
/// The caller sets the list's `metadata` (revision, `continue`), and replaces each row's
/// `object` where the client asked for the whole object or none.
#[must_use]
pub fn table(kind: &Kind, objects: &[Value], now: Timestamp) -> Value {
    let layout = layout(kind);
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            json!({
                "cells": (layout.row)(object, now),
                "object": {
                    "kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": object["metadata"],
                },
            })
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": layout.columns.iter().copied().map(Column::to_value).collect::<Vec<_>>(),
        "rows": rows,
    })
}

fn layout(kind: &Kind) -> Layout {
    match (kind.group, kind.kind) {
        ("", "Pod") => pods::LAYOUT,
        ("", "Node") => cluster::NODES,
        ("", "Namespace") => cluster::NAMESPACES,
        ("", "Service") => services::SERVICES,
        ("", "ConfigMap") => plain::CONFIG_MAPS,
        ("", "Secret") => plain::SECRETS,
        ("", "ServiceAccount") => plain::SERVICE_ACCOUNTS,
        ("" | "events.k8s.io", "Event") => plain::EVENTS,
        ("apps", "Deployment") => workloads::DEPLOYMENTS,
        ("apps", "ReplicaSet") => workloads::REPLICA_SETS,
        ("apps", "DaemonSet") => workloads::DAEMON_SETS,
        ("apps", "ControllerRevision") => workloads::REVISIONS,
        ("batch", "Job") => workloads::JOBS,
        ("batch", "CronJob") => workloads::CRON_JOBS,
        ("discovery.k8s.io", "EndpointSlice") => services::ENDPOINT_SLICES,
        ("coordination.k8s.io", "Lease") => cluster::LEASES,
        ("scheduling.k8s.io", "PriorityClass") => cluster::PRIORITY_CLASSES,
        ("storage.k8s.io", "CSINode") => cluster::CSI_NODES,
        ("node.k8s.io", "RuntimeClass") => cluster::RUNTIME_CLASSES,
        ("policy", "PodDisruptionBudget") => plain::BUDGETS,
        _ => plain::ANYTHING,
    }
}

impl Column {
    fn to_value(self) -> Value {
        json!({
            "name": self.name,
            "type": self.kind,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }
}

const fn string(name: &'static str, description: &'static str) -> Column {
    Column {
        name,
        kind: "string",
        format: "",
        priority: 0,
        description,
    }
}

const fn integer(name: &'static str, description: &'static str) -> Column {
    Column {
        kind: "integer",
        ..string(name, description)
    }
}

const fn wide(name: &'static str, description: &'static str) -> Column {
    Column {
        priority: 1,
        ..string(name, description)
    }
}

const NAME: Column = Column {
    format: "name",
    ..string(
        "Name",
        "The object's name, one of its kind in its namespace.",
    )
};
const AGE: Column = string("Age", "The time since the object was created.");
const CONTAINERS: Column = wide("Containers", "The names of the template's containers.");
const IMAGES: Column = wide("Images", "The images of the template's containers.");
const SELECTOR: Column = wide("Selector", "The labels that select the pods.");

/// The object's name.
fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

/// The time since the object was created.
fn age(object: &Value, now: Timestamp) -> Value {
    since(&object["metadata"]["creationTimestamp"], now)
}

/// The time since a timestamp, or `<unknown>`.
fn since(time: &Value, now: Timestamp) -> Value {
    match age::read(time) {
        Some(time) => json!(age::between(time, now)),
        None => json!("<unknown>"),
    }
}

/// A number that is zero where it is not set.
fn count(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// A text, or a word for nothing.
fn text_or(value: &Value, nothing: &str) -> String {
    match value.as_str() {
        Some(text) if !text.is_empty() => text.to_owned(),
        _ => nothing.to_owned(),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Containers' names and images, each joined by commas.
fn containers(spec: &Value) -> [Value; 2] {
    ["name", "image"].map(|field| {
        let texts: Vec<&str> = list(&spec["containers"])
            .iter()
            .filter_map(|container| container[field].as_str())
            .collect();
        json!(texts.join(","))
    })
}

/// A selector object as text.
fn selector(selector: &Value) -> Value {
    match super::selector::LabelSelector::from_object(selector) {
        _ if selector.is_null() => json!("<none>"),
        Some(selector) if selector.is_empty() => json!("<none>"),
        Some(selector) => json!(selector.to_string()),
        None => json!("<error>"),
    }
}

/// A map of labels as text.
fn labels(labels: &Value) -> String {
    let Some(labels) = labels.as_object().filter(|labels| !labels.is_empty()) else {
        return "<none>".to_owned();
    };
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.join(",")
}

/// Whether a condition of this type is true.
fn has_condition(object: &Value, kind: &str) -> bool {
    list(&object["status"]["conditions"])
        .iter()
        .any(|condition| condition["type"] == kind && condition["status"] == "True")
}

#[cfg(test)]
mod tests;
