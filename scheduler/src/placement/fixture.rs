//! Nodes and pods for tests, written as manifests write them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::placement::{
    facts::{Extent, PodFacts},
    filter::{FILTERS, Place},
    snapshot::Snapshot,
};

/// A node with four processors, 8 GiB, room for 110 pods and its own host name.
///
/// `over` replaces parts of it.
pub fn node(name: &str, over: Value) -> Node {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    });
    merge(&mut node, over);
    serde_json::from_value(node).expect("a node")
}

/// A pod of namespace `default`; `over` replaces parts of it.
pub fn pod(name: &str, over: Value) -> Pod {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"containers": [{"name": "main", "image": "app"}]},
    });
    merge(&mut pod, over);
    serde_json::from_value(pod).expect("a pod")
}

/// A pod whose only container requests so much processor time.
pub fn pod_of(name: &str, cpu: &str, over: Value) -> Pod {
    let mut all = json!({"spec": {"containers": [
        {"name": "main", "image": "app", "resources": {"requests": {"cpu": cpu}}}
    ]}});
    merge(&mut all, over);
    pod(name, all)
}

/// `{"spec": {"nodeName": node}}` with more.
pub fn on(node: &str, over: Value) -> Value {
    let mut all = json!({"spec": {"nodeName": node}});
    merge(&mut all, over);
    all
}

fn merge(into: &mut Value, over: Value) {
    match (into, over) {
        (Value::Object(into), Value::Object(over)) => {
            for (key, value) in over {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, over) => *into = over,
    }
}

/// A snapshot of nodes and of pods that have a node.
pub fn snapshot(nodes: &[Node], pods: &[Pod]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for node in nodes {
        snapshot.set_node(node);
    }
    for pod in pods {
        place(&mut snapshot, pod);
    }
    snapshot
}

/// Puts a pod on the node that it names.
pub fn place(snapshot: &mut Snapshot, pod: &Pod) {
    let facts = snapshot.read_pod(pod, Extent::Running);
    let node = facts.bound_to.expect("the pod has a node");
    snapshot.place(facts, node);
}

/// Reads a pod that waits.
pub fn read(snapshot: &mut Snapshot, pod: &Pod) -> Arc<PodFacts> {
    snapshot.read_pod(pod, Extent::Waiting)
}

/// The names of the filters that turn a node down, with the texts of their reasons.
pub fn refusals(snapshot: &Snapshot, pod: &PodFacts, node: &str) -> Vec<(&'static str, String)> {
    let slot = snapshot.slot_named(node).expect("the node is known");
    let place = Place::of(snapshot, slot).expect("the node has an object");
    let mut all = Vec::new();
    for filter in FILTERS {
        if let Some(check) = (filter.prepare)(snapshot, pod) {
            check.judge(&place, &mut |reason| {
                all.push((filter.name, reason.summary(&snapshot.symbols)));
            });
        }
    }
    all
}
