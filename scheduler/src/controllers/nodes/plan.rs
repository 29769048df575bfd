//! What a node's conditions and taints shall be.
//!
//! | condition | taint | effects |
//! |---|---|---|
//! | Ready is not True | `node.kubernetes.io/not-ready` | NoSchedule, NoExecute |
//! | Ready is Unknown | `node.kubernetes.io/unreachable` | NoSchedule, NoExecute |
//! | MemoryPressure, DiskPressure, PIDPressure | `node.kubernetes.io/{memory,disk,pid}-pressure` | NoSchedule |
//! | NetworkUnavailable | `node.kubernetes.io/network-unavailable` | NoSchedule |
//! | `spec.unschedulable` (cordoned) | `node.kubernetes.io/unschedulable` | NoSchedule |
//!
//! Other taints are left as they are.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, PodCondition, PodStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::controllers::pods;

/// The taint of a node that says itself that it is not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// The taint of a node that says nothing.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions that make a taint where they are True.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "node.kubernetes.io/network-unavailable",
    ),
];

/// What is known of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// It says that it is ready.
    Yes,
    /// It says that it is not, or never said anything.
    No,
    /// It was not heard for too long.
    Unknown,
}

/// What a node's Ready condition says.
pub fn ready(node: &Node) -> Ready {
    match status_of(node, "Ready") {
        Some("True") => Ready::Yes,
        Some("Unknown") => Ready::Unknown,
        _ => Ready::No,
    }
}

fn status_of<'a>(node: &'a Node, kind: &str) -> Option<&'a str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind);
    found.map(|condition| condition.status.as_str())
}

/// The conditions of a silent node; none if they say so already.
pub fn silence(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    if ready(node) == Ready::Unknown {
        return None;
    }
    let before = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone());
    let mut conditions = before.unwrap_or_default();
    if !conditions
        .iter()
        .any(|condition| condition.type_ == "Ready")
    {
        conditions.push(NodeCondition {
            type_: "Ready".to_owned(),
            ..NodeCondition::default()
        });
    }
    for condition in &mut conditions {
        if condition.status != "Unknown" {
            condition.status = "Unknown".to_owned();
            condition.last_transition_time = Some(Time(now));
        }
        condition.reason = Some("NodeStatusUnknown".to_owned());
        condition.message = Some("the node does not renew its lease".to_owned());
    }
    Some(conditions)
}

/// The taints of a node; none if they are as they should be.
pub fn taints(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let before = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    let wanted = wanted(node);
    let mut after: Vec<Taint> = before
        .iter()
        .filter(|taint| {
            !is_ours(&taint.key) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str()))
        })
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !after
            .iter()
            .any(|taint| taint.key == key && taint.effect == effect)
        {
            after.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                time_added: Some(Time(now)),
                value: None,
            });
        }
    }
    (after != before).then_some(after)
}

fn is_ours(key: &str) -> bool {
    [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key)
        || PRESSURES.iter().any(|(_, taint)| *taint == key)
}

fn wanted(node: &Node) -> Vec<(&'static str, &'static str)> {
    let mut wanted = Vec::new();
    let key = match ready(node) {
        Ready::Yes => None,
        Ready::No => Some(NOT_READY),
        Ready::Unknown => Some(UNREACHABLE),
    };
    wanted.extend(
        key.into_iter()
            .flat_map(|key| [(key, "NoSchedule"), (key, "NoExecute")]),
    );
    let pressed = PRESSURES
        .iter()
        .filter(|(kind, _)| status_of(node, kind) == Some("True"));
    wanted.extend(pressed.map(|(_, key)| (*key, "NoSchedule")));
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

/// The status of a pod whose node is silent; none if it is not ready anyway.
pub fn unready(pod: &Pod, now: Timestamp) -> Option<PodStatus> {
    if !pods::is_ready(pod) || pods::has_ended(pod) {
        return None;
    }
    let mut status = pod.status.clone()?;
    for condition in status.conditions.iter_mut().flatten() {
        if condition.type_ == "Ready" {
            *condition = PodCondition {
                status: "False".to_owned(),
                reason: Some("NodeLost".to_owned()),
                message: Some("its node does not renew its lease".to_owned()),
                last_transition_time: Some(Time(now)),
                ..condition.clone()
            };
        }
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::api::core::v1::Node;
    use serde_json::{Value, json};

    use super::{Ready, ready, silence, taints};

    fn node(ready: &str, spec: Value) -> Node {
        let conditions = json!([{"type": "Ready", "status": ready},
            {"type": "DiskPressure", "status": "False"}]);
        serde_json::from_value(json!({"spec": spec, "status": {"conditions": conditions}})).unwrap()
    }

    fn keys(node: &Node) -> Option<Vec<String>> {
        let taints = taints(node, Timestamp::UNIX_EPOCH)?;
        Some(
            taints
                .iter()
                .map(|taint| format!("{}:{}", taint.key, taint.effect))
                .collect(),
        )
    }

    #[test]
    fn taints_follow_the_conditions_and_leave_others_alone() {
        let other = json!({"key": "gpu", "effect": "NoSchedule"});
        let mut current = node("True", json!({"taints": [other]}));
        assert_eq!(keys(&current), None);
        for (status, key) in [("False", "not-ready"), ("Unknown", "unreachable")] {
            current
                .status
                .as_mut()
                .unwrap()
                .conditions
                .as_mut()
                .unwrap()[0]
                .status = status.into();
            let expected = ["NoSchedule", "NoExecute"]
                .map(|effect| format!("node.kubernetes.io/{key}:{effect}"));
            let found = keys(&current).unwrap();
            assert_eq!(found[0], "gpu:NoSchedule");
            assert_eq!(found[1..], expected);
            current.spec.as_mut().unwrap().taints = taints(&current, Timestamp::UNIX_EPOCH);
            assert_eq!(keys(&current), None, "a second look finds nothing to do");
        }
        current
            .status
            .as_mut()
            .unwrap()
            .conditions
            .as_mut()
            .unwrap()[0]
            .status = "True".into();
        assert_eq!(keys(&current).unwrap(), ["gpu:NoSchedule"]);
    }

    #[test]
    fn pressure_and_cordon_keep_new_pods_away() {
        let mut current = node("True", json!({"unschedulable": true}));
        current
            .status
            .as_mut()
            .unwrap()
            .conditions
            .as_mut()
            .unwrap()[1]
            .status = "True".into();
        let expected = ["disk-pressure", "unschedulable"]
            .map(|key| format!("node.kubernetes.io/{key}:NoSchedule"));
        assert_eq!(keys(&current).unwrap(), expected);
    }

    #[test]
    fn of_a_silent_node_nothing_is_known() {
        let current = node("True", json!({}));
        let conditions = silence(&current, Timestamp::UNIX_EPOCH).unwrap();
        assert!(
            conditions
                .iter()
                .all(|condition| condition.status == "Unknown")
        );
        assert_eq!(conditions.len(), 2);
        assert_eq!(
            silence(&node("Unknown", json!({})), Timestamp::UNIX_EPOCH),
            None
        );
        // One that never said anything is named as well.
        let conditions = silence(&Node::default(), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(
            (conditions.len(), conditions[0].type_.as_str()),
            (1, "Ready")
        );
        assert_eq!(ready(&Node::default()), Ready::No);
    }
}
