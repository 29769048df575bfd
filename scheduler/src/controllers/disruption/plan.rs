//! How many pods may be taken away now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::controllers::deployment::rolling::{Round, resolve};
use crate::controllers::pods;

/// How long a pod whose eviction was granted may take to be told to end. After that whoever
/// asked has died in between.
const GRANTED: Duration = Duration::from_secs(120);

/// A budget's status, and when to look again though nothing changes.
///
/// `wanted` is how many pods their owners want.
pub fn plan(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    wanted: i32,
    now: Timestamp,
) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let (granted, again) = still_granted(budget, pods, now);
    let is_healthy = |pod: &&Arc<Pod>| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        pods::is_active(pod) && pods::is_ready(pod) && !granted.contains_key(name)
    };
    let healthy = count(pods.iter().filter(is_healthy).count());
    let (expected, desired) = desired(budget, count(pods.len()), wanted);
    let allowed = match expected {
        0 => 0,
        _ => (healthy - desired).max(0),
    };
    let status = PodDisruptionBudgetStatus {
        conditions: Some(vec![condition(budget, allowed, now)]),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: (!granted.is_empty()).then_some(granted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: budget.metadata.generation,
    };
    (status, again)
}

/// How many pods should be there, and how many of them healthy.
fn desired(budget: &PodDisruptionBudget, there: i32, wanted: i32) -> (i32, i32) {
    let spec = budget.spec.clone().unwrap_or_default();
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let away = resolve(Some(most), "0%", wanted, Round::Up);
            (wanted, (wanted - away).max(0))
        }
        (None, Some(IntOrString::Int(least))) => (there, *least),
        (None, Some(share)) => (wanted, resolve(Some(share), "0%", wanted, Round::Up)),
        // Nothing was asked for, so nothing is granted.
        (None, None) => (0, 0),
    }
}

/// Pods whose eviction was granted and that were not told to end yet.
fn still_granted(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let before = budget.status.as_ref();
    let before = before.and_then(|status| status.disrupted_pods.clone());
    let mut again = None;
    let mut granted = before.unwrap_or_default();
    granted.retain(|name, since| {
        let stands = pods
            .iter()
            .any(|pod| pod.metadata.name.as_ref() == Some(name) && !pods::is_terminating(pod));
        let age = Duration::try_from(now.duration_since(since.0)).unwrap_or_default();
        let left = GRANTED.checked_sub(age).filter(|left| !left.is_zero());
        if stands && let Some(left) = left {
            again = Some(again.map_or(left, |again: Duration| again.min(left)));
        }
        stands && left.is_some()
    });
    (granted, again)
}

fn condition(budget: &PodDisruptionBudget, allowed: i32, now: Timestamp) -> Condition {
    let (status, reason) = match allowed {
        0 => ("False", "InsufficientPods"),
        _ => ("True", "SufficientPods"),
    };
    let before = budget.status.iter().flat_map(|status| &status.conditions);
    let mut before = before
        .flatten()
        .filter(|one| one.type_ == "DisruptionAllowed");
    let since = before.next().filter(|one| one.status == status);
    Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        observed_generation: budget.metadata.generation,
        last_transition_time: since.map_or(Time(now), |one| one.last_transition_time.clone()),
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::{Timestamp, ToSpan};
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::api::policy::v1::PodDisruptionBudget;
    use serde_json::{Value, json};

    use super::plan;

    fn pods(ready: &[bool]) -> Vec<Arc<Pod>> {
        let pod = |(number, ready): (usize, &bool)| {
            let ready = if *ready { "True" } else { "False" };
            let pod = json!({"metadata": {"name": format!("p{number}")},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        ready.iter().enumerate().map(pod).collect()
    }

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        let budget = json!({"metadata": {"generation": 3}, "spec": spec, "status": status});
        serde_json::from_value(budget).unwrap()
    }

    #[test]
    fn what_is_allowed_is_what_is_healthy_beyond_what_is_desired() {
        let now = Timestamp::UNIX_EPOCH;
        for (spec, ready, wanted, expected) in [
            (
                json!({"minAvailable": 2}),
                &[true, true, true][..],
                3,
                [3, 2, 3, 1],
            ),
            (
                json!({"minAvailable": 2}),
                &[true, true, false],
                3,
                [2, 2, 3, 0],
            ),
            (json!({"minAvailable": 0}), &[], 0, [0, 0, 0, 0]),
            (
                json!({"minAvailable": "50%"}),
                &[true, true, true],
                3,
                [3, 2, 3, 1],
            ),
            (
                json!({"maxUnavailable": 1}),
                &[true, true, true],
                3,
                [3, 2, 3, 1],
            ),
            // A Deployment that is to have five has two away already.
            (
                json!({"maxUnavailable": 1}),
                &[true, true, true],
                5,
                [3, 4, 5, 0],
            ),
            (
                json!({"maxUnavailable": "30%"}),
                &[true; 10],
                10,
                [10, 7, 10, 3],
            ),
            (json!({"maxUnavailable": 0}), &[true], 1, [1, 1, 1, 0]),
            (json!({}), &[true, true], 2, [2, 0, 0, 0]),
        ] {
            let (status, _) = plan(
                &budget(spec.clone(), Value::Null),
                &pods(ready),
                wanted,
                now,
            );
            let found = [
                status.current_healthy,
                status.desired_healthy,
                status.expected_pods,
                status.disruptions_allowed,
            ];
            let found = found.map(Option::unwrap);
            assert_eq!(found, expected, "{spec}");
            assert_eq!(status.observed_generation, Some(3));
        }
    }

    #[test]
    fn a_pod_whose_eviction_was_granted_is_not_counted_until_it_ends() {
        let now = Timestamp::UNIX_EPOCH;
        let status = json!({"disruptedPods": {"p0": "1970-01-01T00:00:00Z", "gone": "1970-01-01T00:00:00Z"},
            "currentHealthy": 3, "desiredHealthy": 2, "disruptionsAllowed": 0, "expectedPods": 3});
        let budget = budget(json!({"minAvailable": 2}), status);
        let (status, again) = plan(&budget, &pods(&[true; 3]), 3, now);
        assert_eq!(status.current_healthy, Some(2));
        assert_eq!(status.disruptions_allowed, Some(0));
        let granted = status.disrupted_pods.unwrap();
        assert_eq!(granted.keys().collect::<Vec<_>>(), ["p0"]);
        assert_eq!(again, Some(super::GRANTED));
        // Whoever asked has died: the grant ends.
        let (status, _) = plan(&budget, &pods(&[true; 3]), 3, now + 3.minutes());
        assert_eq!(status.disrupted_pods, None);
        assert_eq!(status.disruptions_allowed, Some(1));
    }
}
