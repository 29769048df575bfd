//! Readiness gates: conditions that others set, and that a pod is not ready without.
//!
//! A load balancer that has yet to learn of the pod, say, sets its condition when it
//! has. The worker knows of containers alone, so what it says of the pod is held back
//! here, where the server's own view of the pod's conditions is at hand.
//!
//! Read more: "Pod readiness" in the Kubernetes documentation.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{PodCondition, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

/// Why a pod is not ready, if a gate is closed.
pub fn closed(gates: &[String], told: &PodStatus) -> Option<String> {
    let conditions = told.conditions.as_deref().unwrap_or_default();
    gates.iter().find_map(|gate| {
        let condition = conditions.iter().find(|condition| condition.type_ == *gate);
        match condition.map(|condition| condition.status.as_str()) {
            Some("True") => None,
            Some(status) => Some(format!(
                "the status of pod readiness gate {gate:?} is not \"True\", but {status}"
            )),
            None => Some(format!(
                "corresponding condition of pod readiness gate {gate:?} does not exist."
            )),
        }
    })
}

/// Takes `Ready` back from a status whose gates are not all open. A gate that opens is
/// a change of its own: its moment is `now` and not that of the containers.
pub fn hold_back(gates: &[String], told: &PodStatus, wanted: &mut PodStatus, now: Timestamp) {
    if gates.is_empty() {
        return;
    }
    let closed = closed(gates, told);
    let own = wanted.conditions.iter_mut().flatten();
    for ready in own.filter(|condition| condition.type_ == "Ready" && condition.status == "True") {
        *ready = PodCondition {
            last_transition_time: Some(Time(now)),
            ..ready.clone()
        };
        if let Some(message) = &closed {
            ready.status = "False".to_owned();
            ready.reason = Some("ReadinessGatesNotReady".to_owned());
            ready.message = Some(message.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::api::core::v1::PodStatus;
    use serde_json::{Value, json};

    use super::hold_back;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_pod_is_ready_when_all_its_gates_are_open() {
        let gates = ["a.example/up".to_owned(), "b.example/up".to_owned()];
        let running = json!({"conditions": [{"type": "Ready", "status": "True"},
            {"type": "ContainersReady", "status": "True"}]});
        let held = |told: Value| {
            let mut wanted = status(running.clone());
            hold_back(&gates, &status(told), &mut wanted, Timestamp::UNIX_EPOCH);
            let conditions = wanted.conditions.unwrap();
            assert_eq!(conditions[1].status, "True");
            conditions[0].clone()
        };
        let one = json!({"type": "a.example/up", "status": "True"});
        let missing = held(json!({"conditions": [one]}));
        assert_eq!(missing.status, "False");
        assert!(missing.message.unwrap().contains("does not exist"));
        let other = json!({"type": "b.example/up", "status": "False"});
        let closed = held(json!({"conditions": [one, other]}));
        assert!(closed.message.unwrap().ends_with("but False"));
        let other = json!({"type": "b.example/up", "status": "True"});
        assert_eq!(held(json!({"conditions": [one, other]})).status, "True");
    }
}
