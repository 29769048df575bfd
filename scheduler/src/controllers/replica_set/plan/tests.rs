use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use proptest::prelude::{Strategy, any, prop, proptest};
use serde_json::{Value, json};

use super::{Actions, Failure, plan_replica_set, status};
use crate::controllers::replica_set::rank::Doubled;

const START: &str = "2026-01-01T00:00:00Z";

fn at(seconds: i64) -> Timestamp {
    START.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
}

fn set(replicas: i32, min_ready: i32) -> ReplicaSet {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "set", "generation": 3},
        "spec": {"replicas": replicas, "minReadySeconds": min_ready,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web", "tier": "front"}}}},
    }))
    .unwrap()
}

fn pod(name: &str, fields: Value) -> Arc<Pod> {
    let mut pod =
        json!({"metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}}});
    json_patch::merge(&mut pod, &fields);
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn ready(name: &str, since: i64) -> Arc<Pod> {
    let since = at(since).to_string();
    let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}]});
    pod(
        name,
        json!({"spec": {"nodeName": "n1", "containers": []}, "status": status}),
    )
}

fn plan(set: &ReplicaSet, pods: &[Arc<Pod>]) -> Actions {
    plan_replica_set(set, pods, &Doubled::default(), at(100)).actions
}

#[test]
fn ended_and_ending_pods_are_replaced() {
    let ending = pod("a", json!({"metadata": {"deletionTimestamp": START}}));
    let failed = pod("b", json!({"status": {"phase": "Failed"}}));
    let pods = [ending, failed, ready("c", 0)];
    assert_eq!(plan(&set(3, 0), &pods), Actions::Create(2));
    assert_eq!(plan(&set(1, 0), &pods), Actions::None);
}

#[test]
fn the_surplus_goes_unready_first() {
    let pods = [ready("a", 0), pod("b", json!({})), ready("c", 0)];
    assert_eq!(
        plan(&set(2, 0), &pods),
        Actions::Delete(vec![pods[1].clone()])
    );
    let Actions::Delete(all) = plan(&set(0, 0), &pods) else {
        panic!()
    };
    assert_eq!(all.len(), 3);
}

#[test]
fn a_set_that_is_deleted_does_nothing() {
    let mut set = set(5, 0);
    set.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
    assert_eq!(plan(&set, &[]), Actions::None);
}

#[test]
fn the_status_counts_and_minimal_readiness_waits() {
    let set = set(4, 60);
    let labelled = pod("d", json!({"metadata": {"labels": {"tier": "front"}}}));
    let ending = pod("e", json!({"metadata": {"deletionTimestamp": START}}));
    let pods = [ready("a", 0), ready("b", 70), labelled, ending];
    let found = status(&set, &pods, None, at(100));
    assert_eq!(
        serde_json::to_value(&found).unwrap(),
        json!({"replicas": 3, "fullyLabeledReplicas": 1, "readyReplicas": 2,
            "availableReplicas": 1, "terminatingReplicas": 1, "observedGeneration": 3})
    );
    let plan = plan_replica_set(&set, &pods, &Doubled::default(), at(100));
    assert_eq!(plan.again.unwrap().as_secs(), 30);
}

#[test]
fn a_failure_is_a_condition_until_it_is_over() {
    let mut set = set(1, 0);
    let failure = |message: &str| Failure {
        doing: "FailedCreate",
        message: message.to_owned(),
    };
    let first = status(&set, &[], Some(failure("quota")), at(1));
    set.status = Some(first.clone());
    let condition = &first.conditions.as_ref().unwrap()[0];
    assert_eq!(
        (condition.type_.as_deref(), condition.status.as_deref()),
        (Some("ReplicaFailure"), Some("True"))
    );
    // Saying it again changes nothing, so that no write wakes the controller.
    assert_eq!(status(&set, &[], Some(failure("quota 2")), at(9)), first);
    assert_eq!(status(&set, &[], None, at(9)).conditions, None);
}

/// What may happen to pods between two looks.
#[derive(Debug, Clone)]
enum Happens {
    Ready(prop::sample::Index),
    Unready(prop::sample::Index),
    Fails(prop::sample::Index),
    IsDeleted(prop::sample::Index),
    Vanishes(prop::sample::Index),
    Scale(i32),
    Look,
}

fn happens() -> impl Strategy<Value = Happens> {
    use Happens::{Fails, IsDeleted, Look, Ready, Scale, Unready, Vanishes};
    proptest::prop_oneof![
        4 => any::<prop::sample::Index>().prop_map(Ready),
        1 => any::<prop::sample::Index>().prop_map(Unready),
        1 => any::<prop::sample::Index>().prop_map(Fails),
        1 => any::<prop::sample::Index>().prop_map(IsDeleted),
        1 => any::<prop::sample::Index>().prop_map(Vanishes),
        1 => (0..12).prop_map(Scale),
        4 => proptest::prelude::Just(Look),
    ]
}

/// A world of pods in which plans are carried out.
struct World {
    set: ReplicaSet,
    pods: BTreeMap<String, Value>,
    made: usize,
}

impl World {
    fn look(&mut self) {
        let pods: Vec<Arc<Pod>> = self
            .pods
            .values()
            .map(|pod| Arc::new(serde_json::from_value(pod.clone()).unwrap()))
            .collect();
        let active = pods
            .iter()
            .filter(|pod| crate::controllers::pods::is_active(pod))
            .count();
        let wanted = super::wanted(&self.set);
        match plan(&self.set, &pods) {
            Actions::None => assert_eq!(active, wanted),
            Actions::Create(more) => {
                assert_eq!(active + more, wanted);
                for _ in 0..more {
                    self.made += 1;
                    let name = format!("p{}", self.made);
                    let pod = json!({"metadata": {"name": name}, "status": {"phase": "Pending"}});
                    self.pods.insert(name, pod);
                }
            }
            Actions::Delete(victims) => {
                assert_eq!(active - victims.len(), wanted);
                // None that is ready goes while one stays that is not.
                let gone = |pod: &Arc<Pod>| {
                    victims
                        .iter()
                        .any(|victim| victim.metadata.name == pod.metadata.name)
                };
                let ready = |pod: &&Arc<Pod>| crate::controllers::pods::is_ready(pod);
                let lost = pods.iter().filter(|pod| gone(pod)).filter(ready).count();
                let left = pods
                    .iter()
                    .filter(|pod| crate::controllers::pods::is_active(pod) && !gone(pod))
                    .filter(|pod| !ready(pod))
                    .count();
                assert!(lost == 0 || left == 0);
                for victim in victims {
                    self.pods.remove(victim.metadata.name.as_deref().unwrap());
                }
            }
        }
    }

    fn happen(&mut self, event: &Happens) {
        let names: Vec<String> = self.pods.keys().cloned().collect();
        let change =
            |index: &prop::sample::Index| names.get(index.index(names.len().max(1))).cloned();
        match event {
            Happens::Look => self.look(),
            Happens::Scale(replicas) => self.set.spec.replicas = Some(*replicas),
            Happens::Vanishes(index) => {
                change(index).map(|name| self.pods.remove(&name));
            }
            Happens::Ready(index) => self.merge(change(index), json!({"spec": {"nodeName": "n"}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})),
            Happens::Unready(index) => self.merge(change(index), json!({"status": {"conditions": []}})),
            Happens::Fails(index) => self.merge(change(index), json!({"status": {"phase": "Failed", "conditions": []}})),
            Happens::IsDeleted(index) => self.merge(change(index), json!({"metadata": {"deletionTimestamp": START}})),
        }
    }

    fn merge(&mut self, name: Option<String>, patch: Value) {
        if let Some(pod) = name.and_then(|name| self.pods.get_mut(&name)) {
            json_patch::merge(pod, &patch);
            if pod.get("spec").is_some() {
                pod["spec"]["containers"] = json!([]);
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_one_look_makes_the_number_right(
        replicas in 0..12,
        events in prop::collection::vec(happens(), 0..60),
    ) {
        let mut world = World { set: set(replicas, 0), pods: BTreeMap::new(), made: 0 };
        for event in &events {
            world.happen(event);
        }
        world.look();
        let made = world.made;
        // The second look finds nothing to do.
        world.look();
        proptest::prop_assert_eq!(made, world.made);
    }
}
