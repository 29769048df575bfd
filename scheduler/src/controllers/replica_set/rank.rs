//! Which pods to delete first.
//!
//! In this order, each rule deciding where the ones before it tie:
//!
//! 1. without a node, before those with one;
//! 2. Pending, before unknown, before Running;
//! 3. not ready, before ready;
//! 4. the lower `controller.kubernetes.io/pod-deletion-cost`;
//! 5. on the node with more pods of the same set or Deployment;
//! 6. ready for a shorter time;
//! 7. whose containers were restarted more often;
//! 8. the younger;
//! 9. by name, so that two looks choose the same.
//!
//! Times are compared by their logarithm, as Kubernetes does: pods that are about
//! as old tie, so that scaling down does not always undo the latest placement.
//!
//! Read more: "ReplicaSet" in the Kubernetes documentation, "Scaling a
//! ReplicaSet" and "Pod deletion cost".

use std::{cmp::Reverse, collections::HashMap};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::controllers::pods;

/// The annotation that says how much a pod would be missed.
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// How many pods that belong together are on each node.
#[derive(Debug, Default, Clone)]
pub struct Doubled {
    on_node: HashMap<String, usize>,
}

impl Doubled {
    /// Counts those that run or will.
    pub fn of<'a>(pods: impl Iterator<Item = &'a Pod>) -> Doubled {
        let mut on_node: HashMap<String, usize> = HashMap::new();
        for pod in pods.filter(|pod| pods::is_active(pod)) {
            if let Some(node) = pods::node(pod) {
                *on_node.entry(node.to_owned()).or_default() += 1;
            }
        }
        Doubled { on_node }
    }

    fn on(&self, pod: &Pod) -> usize {
        let node = pods::node(pod).and_then(|node| self.on_node.get(node));
        node.copied().unwrap_or(0)
    }
}

/// What decides; less is deleted first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    has_node: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    company: Reverse<usize>,
    ready_for: u32,
    restarts: Reverse<i32>,
    age: u32,
    name: String,
}

/// The rank of one pod.
pub fn rank(pod: &Pod, doubled: &Doubled, now: Timestamp) -> Rank {
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    Rank {
        has_node: pods::node(pod).is_some(),
        phase: match pods::phase(pod) {
            "Pending" => 0,
            "Running" => 2,
            _ => 1,
        },
        ready: pods::is_ready(pod),
        cost: deletion_cost(pod),
        company: Reverse(doubled.on(pod)),
        ready_for: pods::ready_since(pod)
            .flatten()
            .map_or(0, |since| magnitude(since, now)),
        restarts: Reverse(pods::restarts(pod)),
        age: created.map_or(0, |since| magnitude(since, now)),
        name: pod.metadata.name.clone().unwrap_or_default(),
    }
}

/// A cost that is not a number is no cost.
fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    let cost = annotations.and_then(|all| all.get(DELETION_COST));
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// The logarithm of a time's distance in seconds.
fn magnitude(since: Timestamp, now: Timestamp) -> u32 {
    let seconds = now.duration_since(since).as_secs();
    u64::try_from(seconds).map_or(0, |seconds| (seconds + 1).ilog2())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::{Doubled, rank};

    fn pod(name: &str, change: impl Fn(&mut Value)) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "n1", "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True",
                "lastTransitionTime": "2026-01-01T00:00:10Z"}]},
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn each_rule_decides_where_the_ones_before_it_tie() {
        let first_to_last = [
            pod("z0", |pod| {
                pod["spec"]["nodeName"] = json!("");
                pod["status"] = json!({"phase": "Pending"});
            }),
            pod("z1", |pod| pod["status"] = json!({"phase": "Pending"})),
            pod("z2", |pod| pod["status"] = json!({"phase": "Unknown"})),
            pod("z3", |pod| pod["status"]["conditions"] = json!([])),
            pod("z4", |pod| {
                pod["metadata"]["annotations"] =
                    json!({"controller.kubernetes.io/pod-deletion-cost": "-5"});
            }),
            pod("z5", |pod| pod["spec"]["nodeName"] = json!("crowd")),
            pod("z6", |pod| {
                pod["status"]["conditions"][0]["lastTransitionTime"] =
                    json!("2026-01-01T00:59:00Z");
            }),
            pod("z7", |pod| {
                pod["status"]["containerStatuses"] = json!([{"name": "a", "image": "a", "imageID": "a",
                    "ready": true, "restartCount": 3}]);
            }),
            pod("z8", |pod| {
                pod["metadata"]["creationTimestamp"] = json!("2026-01-01T00:50:00Z");
                pod["status"]["conditions"][0]["lastTransitionTime"] =
                    json!("2026-01-01T00:00:10Z");
            }),
            pod("a9", |_| {}),
            pod("b9", |_| {}),
            pod("a0", |pod| {
                pod["metadata"]["annotations"] =
                    json!({"controller.kubernetes.io/pod-deletion-cost": "7"});
            }),
        ];
        let crowd = [
            pod("c1", |pod| pod["spec"]["nodeName"] = json!("crowd")),
            pod("c2", |pod| pod["spec"]["nodeName"] = json!("crowd")),
            pod("c3", |pod| pod["spec"]["nodeName"] = json!("crowd")),
        ];
        let others = (0..9).map(|_| crowd.iter());
        let doubled = Doubled::of(first_to_last.iter().chain(others.flatten()));
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let mut sorted: Vec<&Pod> = first_to_last.iter().rev().collect();
        sorted.sort_by_cached_key(|pod| rank(pod, &doubled, now));
        let names = |pods: &[&Pod]| -> Vec<String> {
            pods.iter()
                .filter_map(|pod| pod.metadata.name.clone())
                .collect()
        };
        let expected: Vec<&Pod> = first_to_last.iter().collect();
        assert_eq!(names(&sorted), names(&expected));
    }
}
