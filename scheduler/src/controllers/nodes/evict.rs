//! Which pods have to leave a node, and when.
//!
//! A taint with the effect `NoExecute` drives out every pod that does not tolerate it; one that
//! tolerates it for some seconds stays for so long from when the taint was added. Most pods say
//! nothing about nodes that are not ready: for them a default holds.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};

use super::plan::{NOT_READY, UNREACHABLE};
use crate::controllers::pods;
use crate::demands::tolerates;

/// By what pods are judged.
pub struct Rules {
    /// The taints that drive out.
    pub taints: Vec<Taint>,
    /// The node cannot be heard: nobody there will confirm the end of a pod.
    pub dead: bool,
    /// How long pods tolerate that a node is not ready, if they do not say.
    pub toleration: Duration,
}

/// What becomes of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Stay,
    /// It stays for now.
    Later(Duration),
    /// It is told to end, with its grace.
    Evict,
    /// It is removed from the API, since nobody can end it.
    Remove,
}

/// The taints of a node that drive out.
pub fn evicting(node: &Node) -> Vec<Taint> {
    let taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    taints
        .filter(|taint| taint.effect == "NoExecute")
        .cloned()
        .collect()
}

/// Without those that say that a node is lost: what is left somebody has set on purpose.
pub fn by_hand(taints: Vec<Taint>) -> Vec<Taint> {
    taints.into_iter().filter(|taint| !is_lost(taint)).collect()
}

fn is_lost(taint: &Taint) -> bool {
    taint.key == NOT_READY || taint.key == UNREACHABLE
}

/// What becomes of a pod now.
pub fn plan(rules: &Rules, pod: &Pod, now: Timestamp) -> Fate {
    if let Some(end) = &pod.metadata.deletion_timestamp {
        // Its grace is over, and nobody says that it ended.
        return match (rules.dead, until(end.0, now)) {
            (false, _) => Fate::Stay,
            (true, Some(wait)) => Fate::Later(wait),
            (true, None) => Fate::Remove,
        };
    }
    if pods::has_ended(pod) {
        return Fate::Stay;
    }
    let tolerations = pod
        .spec
        .iter()
        .flat_map(|spec| spec.tolerations.iter().flatten());
    let tolerations: Vec<&Toleration> = tolerations.collect();
    let ends = rules
        .taints
        .iter()
        .filter_map(|taint| end_under(taint, &tolerations, rules));
    match ends.min() {
        None => Fate::Stay,
        Some(end) => until(end, now).map_or(Fate::Evict, Fate::Later),
    }
}

/// When a taint drives out a pod; never, if it is tolerated for ever.
fn end_under(taint: &Taint, tolerations: &[&Toleration], rules: &Rules) -> Option<Timestamp> {
    let added = taint
        .time_added
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let after = |seconds: i64| {
        let stay = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        added.checked_add(stay).unwrap_or(Timestamp::MAX)
    };
    let matching: Vec<&&Toleration> = tolerations
        .iter()
        .filter(|toleration| tolerates(toleration, taint))
        .collect();
    if matching.is_empty() {
        let stay = if is_lost(taint) {
            rules.toleration
        } else {
            Duration::ZERO
        };
        return Some(added.checked_add(stay).unwrap_or(Timestamp::MAX));
    }
    // The shortest counts, as for Kubernetes; one without seconds is without end.
    matching
        .iter()
        .filter_map(|toleration| toleration.toleration_seconds)
        .min()
        .map(after)
}

/// How long until then; none if that is over.
fn until(then: Timestamp, now: Timestamp) -> Option<Duration> {
    let left = Duration::try_from(then.duration_since(now)).ok()?;
    (!left.is_zero()).then_some(left)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use k8s_openapi::api::core::v1::{Pod, Taint};
    use serde_json::{Value, json};

    use super::{Fate, Rules, plan};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn taint(key: &str) -> Taint {
        let added = at(0).to_string();
        serde_json::from_value(json!({"key": key, "effect": "NoExecute", "timeAdded": added}))
            .unwrap()
    }

    fn pod(tolerations: Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": [], "tolerations": tolerations}}))
            .unwrap()
    }

    fn rules(keys: &[&str]) -> Rules {
        let taints = keys.iter().map(|key| taint(key)).collect();
        Rules {
            taints,
            dead: false,
            toleration: Duration::from_secs(5),
        }
    }

    const LOST: &str = "node.kubernetes.io/unreachable";

    #[test]
    fn a_pod_that_says_nothing_stays_for_the_default_and_then_goes() {
        let rules = rules(&[LOST]);
        let pod = pod(json!([]));
        assert_eq!(
            plan(&rules, &pod, at(1)),
            Fate::Later(Duration::from_secs(4))
        );
        assert_eq!(plan(&rules, &pod, at(5)), Fate::Evict);
    }

    #[test]
    fn a_taint_by_hand_drives_out_at_once() {
        assert_eq!(plan(&rules(&["gpu"]), &pod(json!([])), at(0)), Fate::Evict);
        assert_eq!(plan(&rules(&[]), &pod(json!([])), at(0)), Fate::Stay);
    }

    #[test]
    fn tolerations_are_matched_as_kubernetes_does() {
        let lost = rules(&[LOST]);
        let seconds = |operator: &str, seconds: Value| {
            pod(
                json!([{"key": LOST, "operator": operator, "effect": "NoExecute",
                "tolerationSeconds": seconds}]),
            )
        };
        assert_eq!(
            plan(&lost, &seconds("Exists", json!(60)), at(59)),
            Fate::Later(Duration::from_secs(1))
        );
        assert_eq!(
            plan(&lost, &seconds("Exists", json!(60)), at(60)),
            Fate::Evict
        );
        assert_eq!(
            plan(&lost, &seconds("Exists", json!(null)), at(9999)),
            Fate::Stay
        );
        assert_eq!(
            plan(&lost, &seconds("Exists", json!(-1)), at(0)),
            Fate::Evict
        );
        assert_eq!(
            plan(&lost, &seconds("Equal", json!(null)), at(9)),
            Fate::Stay
        );
        assert_eq!(
            plan(&lost, &pod(json!([{"operator": "Exists"}])), at(9)),
            Fate::Stay
        );
        let other = pod(json!([{"key": LOST, "operator": "Equal", "value": "x"}]));
        assert_eq!(plan(&lost, &other, at(9)), Fate::Evict);
        let effect = pod(json!([{"key": LOST, "operator": "Exists", "effect": "NoSchedule"}]));
        assert_eq!(plan(&lost, &effect, at(9)), Fate::Evict);
        // Each taint has to be tolerated; the earliest end counts.
        let both = rules(&[LOST, "gpu"]);
        let one = pod(json!([{"key": "gpu", "operator": "Exists"}]));
        assert_eq!(
            plan(&both, &one, at(2)),
            Fate::Later(Duration::from_secs(3))
        );
    }

    #[test]
    fn on_a_dead_node_a_pod_is_removed_when_its_grace_is_over() {
        let mut pod = pod(json!([]));
        pod.metadata.deletion_timestamp =
            serde_json::from_value(json!(at(30).to_string())).unwrap();
        let mut rules = rules(&[LOST]);
        assert_eq!(
            plan(&rules, &pod, at(40)),
            Fate::Stay,
            "the node will end it"
        );
        rules.dead = true;
        assert_eq!(
            plan(&rules, &pod, at(20)),
            Fate::Later(Duration::from_secs(10))
        );
        assert_eq!(plan(&rules, &pod, at(30)), Fate::Remove);
    }

    #[test]
    fn who_has_ended_stays() {
        let mut pod = pod(json!([]));
        pod.status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
        assert_eq!(plan(&rules(&["gpu"]), &pod, at(9)), Fate::Stay);
    }
}
