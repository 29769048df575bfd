//! Which nodes can have a pod of a DaemonSet.
//!
//! Only what is a property of the node and the template is asked. A taint
//! `NoSchedule` that came later does not drive a running pod out, one of
//! `NoExecute` does: so there are two answers.
//!
//! Read more: "Taints and Tolerations", "How Daemon Pods are scheduled".

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, PodSpec, Taint, Toleration};

use crate::demands::{is_borne, selects};

/// What of a node decides.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeFacts {
    name: String,
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    ends: bool,
}

/// What of a node decides.
pub fn facts(node: &Node) -> NodeFacts {
    let spec = node.spec.clone().unwrap_or_default();
    let mut taints = spec.taints.unwrap_or_default();
    // A cordoned node may lack the taint for a moment.
    if spec.unschedulable == Some(true) {
        taints.push(Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        });
    }
    for taint in &mut taints {
        taint.time_added = None;
    }
    NodeFacts {
        name: node.metadata.name.clone().unwrap_or_default(),
        labels: node.metadata.labels.clone().unwrap_or_default(),
        taints,
        ends: node.metadata.deletion_timestamp.is_some(),
    }
}

/// What a node can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eligibility {
    /// A pod shall be there.
    Run,
    /// None shall be made, one that is there may stay.
    Keep,
    /// None shall be there.
    No,
}

/// What a node can have of a pod with this spec and the default tolerations.
pub fn eligibility(spec: &PodSpec, node: &NodeFacts) -> Eligibility {
    let named = spec.node_name.as_deref().filter(|name| !name.is_empty());
    if named.is_some_and(|name| name != node.name) || !selects(spec, &node.name, &node.labels) {
        return Eligibility::No;
    }
    let tolerations = tolerations(spec);
    let unbearable = |effect: &str| {
        let mut taints = node.taints.iter();
        taints.any(|taint| taint.effect == effect && !is_borne(taint, &tolerations))
    };
    match () {
        () if unbearable("NoExecute") => Eligibility::No,
        () if unbearable("NoSchedule") || node.ends => Eligibility::Keep,
        () => Eligibility::Run,
    }
}

/// A pod's tolerations with those that every pod of a DaemonSet has: it is to
/// watch over a node in bad times as well.
pub fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let no_schedule = [
        "disk-pressure",
        "memory-pressure",
        "pid-pressure",
        "unschedulable",
    ];
    let network = (spec.host_network == Some(true)).then_some("network-unavailable");
    let executes = ["not-ready", "unreachable"].map(|key| (key, "NoExecute"));
    let schedules = no_schedule
        .into_iter()
        .chain(network)
        .map(|key| (key, "NoSchedule"));
    for (key, effect) in executes.into_iter().chain(schedules) {
        let toleration = Toleration {
            key: Some(format!("node.kubernetes.io/{key}")),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !all.contains(&toleration) {
            all.push(toleration);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Node, PodSpec};
    use serde_json::{Value, json};

    use super::{Eligibility, eligibility, facts};

    fn asked(spec: &Value, node: &Value) -> Eligibility {
        let mut spec = spec.clone();
        spec["containers"] = json!([]);
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let mut of = json!({"metadata": {"name": "n1", "labels": {"disk": "ssd", "cpus": "8"}}});
        json_patch::merge(&mut of, node);
        let node: Node = serde_json::from_value(of).unwrap();
        eligibility(&spec, &facts(&node))
    }

    fn affinity(term: &Value) -> Value {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [term]}}}})
    }

    fn taint(key: &str, effect: &str) -> Value {
        json!({"spec": {"taints": [{"key": key, "value": "v", "effect": effect}]}})
    }

    #[test]
    fn selectors_and_affinity_choose_nodes() {
        use Eligibility::{No, Run};
        let plain = json!({});
        let expression = |key: &str, operator: &str, values: Value| {
            affinity(
                &json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}),
            )
        };
        for (spec, expected) in [
            (json!({}), Run),
            (json!({"nodeName": "n1"}), Run),
            (json!({"nodeName": "n2"}), No),
            (json!({"nodeSelector": {"disk": "ssd"}}), Run),
            (json!({"nodeSelector": {"disk": "hdd"}}), No),
            (expression("disk", "In", json!(["ssd", "nvme"])), Run),
            (expression("disk", "NotIn", json!(["ssd"])), No),
            (expression("gpu", "NotIn", json!(["a"])), Run),
            (expression("gpu", "Exists", json!(null)), No),
            (expression("gpu", "DoesNotExist", json!(null)), Run),
            (expression("cpus", "Gt", json!(["4"])), Run),
            (expression("cpus", "Lt", json!(["8"])), No),
            (affinity(&json!({})), No),
            (
                affinity(
                    &json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}),
                ),
                Run,
            ),
            (
                affinity(
                    &json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}),
                ),
                No,
            ),
        ] {
            assert_eq!(asked(&spec, &plain), expected, "{spec}");
        }
    }

    #[test]
    fn taints_keep_new_pods_out_or_drive_all_out() {
        use Eligibility::{Keep, No, Run};
        let bears = |toleration: Value| json!({ "tolerations": [toleration] });
        for (spec, node, expected) in [
            (json!({}), taint("a", "NoSchedule"), Keep),
            (json!({}), taint("a", "NoExecute"), No),
            (json!({}), taint("a", "PreferNoSchedule"), Run),
            (
                json!({}),
                taint("node.kubernetes.io/unreachable", "NoExecute"),
                Run,
            ),
            (
                json!({}),
                taint("node.kubernetes.io/memory-pressure", "NoSchedule"),
                Run,
            ),
            (
                json!({}),
                taint("node.kubernetes.io/network-unavailable", "NoSchedule"),
                Keep,
            ),
            (
                json!({"hostNetwork": true}),
                taint("node.kubernetes.io/network-unavailable", "NoSchedule"),
                Run,
            ),
            (json!({}), json!({"spec": {"unschedulable": true}}), Run),
            (
                bears(json!({"key": "a", "operator": "Exists"})),
                taint("a", "NoExecute"),
                Run,
            ),
            (
                bears(json!({"key": "a", "value": "v", "effect": "NoSchedule"})),
                taint("a", "NoSchedule"),
                Run,
            ),
            (
                bears(json!({"key": "a", "value": "w"})),
                taint("a", "NoSchedule"),
                Keep,
            ),
            (
                bears(json!({"operator": "Exists"})),
                taint("anything", "NoExecute"),
                Run,
            ),
            (
                bears(json!({"key": "b", "operator": "Exists"})),
                taint("a", "NoSchedule"),
                Keep,
            ),
        ] {
            assert_eq!(asked(&spec, &node), expected, "{spec} {node}");
        }
    }
}
