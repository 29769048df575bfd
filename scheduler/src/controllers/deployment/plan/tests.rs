use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use proptest::prelude::{Just, Strategy, prop, proptest};
use serde_json::json;

use super::{Action, Observed, plan_deployment};
use crate::controllers::{
    deployment::{revision, rolling::Bounds, status},
    pods,
    replica_set::{
        plan::{Actions, plan_replica_set, status as set_status},
        rank::Doubled,
    },
};

/// A cluster of one Deployment, in which plans are carried out one write at a
/// time and ReplicaSets look whenever they like.
struct World {
    now: Timestamp,
    deployment: Deployment,
    sets: BTreeMap<String, ReplicaSet>,
    pods: BTreeMap<String, Pod>,
    serial: u64,
    rolled_back: Vec<i64>,
}

impl World {
    fn new(replicas: i32, surge: i32, unavailable: i32) -> World {
        let deployment = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "web", "generation": 1},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                "progressDeadlineSeconds": 600, "revisionHistoryLimit": 2,
                "strategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "v1"}]}}},
        }));
        World {
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            deployment: deployment.unwrap(),
            sets: BTreeMap::new(),
            pods: BTreeMap::new(),
            serial: 0,
            rolled_back: Vec::new(),
        }
    }

    fn set_image(&mut self, image: &str) {
        let spec = self.deployment.spec.template.spec.as_mut().unwrap();
        spec.containers[0].image = Some(image.to_owned());
        self.changed();
    }

    fn changed(&mut self) {
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    /// Looks at the Deployment; says whether anything was done.
    fn look(&mut self) -> bool {
        let sets: Vec<Arc<ReplicaSet>> = self.sets.values().cloned().map(Arc::new).collect();
        let occupied = self
            .pods
            .values()
            .map(|pod| owner(pod).to_owned())
            .collect();
        let observed = Observed {
            deployment: &self.deployment,
            sets: &sets,
            occupied,
        };
        let plan = plan_deployment(&observed, self.now);
        let mut acted = !plan.actions.is_empty();
        for action in plan.actions {
            self.apply(action);
        }
        if !acted && self.deployment.status.as_ref() != Some(&plan.status) {
            self.deployment.status = Some(plan.status);
            acted = true;
        }
        acted
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::CreateSet(mut set) => {
                self.serial += 1;
                let name = set.metadata.name.clone().unwrap();
                set.metadata.uid = Some(name.clone());
                set.metadata.generation = Some(1);
                set.metadata.creation_timestamp = Some(Time(self.now));
                assert!(self.sets.insert(name, *set).is_none(), "created twice");
            }
            Action::UpdateSet { before, after } => {
                let mut after = *after;
                if before.spec != after.spec {
                    *after.metadata.generation.as_mut().unwrap() += 1;
                }
                self.sets
                    .insert(after.metadata.name.clone().unwrap(), after);
            }
            Action::DeleteSet(set) => {
                assert_eq!(self.pods_of(set.metadata.uid.as_deref().unwrap()).len(), 0);
                self.sets
                    .remove(set.metadata.name.as_deref().unwrap())
                    .unwrap();
            }
            Action::SetRevision(to) => {
                let annotations = self.deployment.metadata.annotations.get_or_insert_default();
                annotations.insert(revision::REVISION.to_owned(), to.to_string());
            }
            Action::RollBack { to, template, .. } => {
                self.rolled_back.push(to);
                self.deployment.spec.template = *template;
                self.changed();
            }
        }
    }

    fn pods_of(&self, set: &str) -> Vec<Arc<Pod>> {
        let mine = self.pods.values().filter(|pod| owner(pod) == set);
        mine.cloned().map(Arc::new).collect()
    }

    /// Looks at one ReplicaSet.
    fn look_at_set(&mut self, name: &str) -> bool {
        let set = self.sets[name].clone();
        let pods = self.pods_of(name);
        let mut acted = true;
        match plan_replica_set(&set, &pods, &Doubled::default(), self.now).actions {
            Actions::None => acted = false,
            Actions::Create(count) => {
                for _ in 0..count {
                    self.serial += 1;
                    let name = format!("{name}-{:05}", self.serial);
                    let template = set.spec.template.as_ref().unwrap();
                    let mut pod = pods::of_template(template, &set.metadata, name.clone());
                    pod.metadata.owner_references =
                        Some(pods::controller_reference(&set).into_iter().collect());
                    self.pods.insert(name, pod);
                }
            }
            Actions::Delete(victims) => {
                for pod in victims {
                    self.pods.remove(pod.metadata.name.as_deref().unwrap());
                }
            }
        }
        let status = set_status(&set, &self.pods_of(name), None, self.now);
        let known = &mut self.sets.get_mut(name).unwrap().status;
        acted |= known.as_ref() != Some(&status);
        *known = Some(status);
        acted
    }

    /// A pod becomes ready, if its image is one that works.
    fn become_ready(&mut self, at: usize) -> bool {
        let mut waiting = self.pods.values_mut().filter(|pod| {
            let image = pod.spec.as_ref().unwrap().containers[0]
                .image
                .clone()
                .unwrap();
            !pods::is_ready(pod) && !image.contains("broken")
        });
        let Some(pod) = waiting.nth(at) else {
            return false;
        };
        pod.status = serde_json::from_value(
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
        )
        .unwrap();
        true
    }

    fn active(&self) -> i32 {
        i32::try_from(self.pods.len()).unwrap()
    }

    fn available(&self) -> i32 {
        let ready = self.pods.values().filter(|pod| pods::is_ready(pod));
        i32::try_from(ready.count()).unwrap()
    }

    /// Lets everybody act until nobody does.
    fn settle(&mut self) {
        for _ in 0..2_000 {
            let mut acted = self.look();
            let names: Vec<String> = self.sets.keys().cloned().collect();
            for name in names {
                acted |= self.look_at_set(&name);
            }
            acted |= self.become_ready(0);
            if !acted {
                return;
            }
        }
        panic!(
            "nobody came to rest: {:?} {:#?}",
            self.deployment.status, self.sets
        );
    }

    fn wait(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    fn reason(&self) -> String {
        let progress = status::condition(self.deployment.status.as_ref().unwrap(), "Progressing");
        progress.unwrap().reason.clone().unwrap()
    }

    fn image(&self) -> &str {
        self.deployment
            .spec
            .template
            .spec
            .as_ref()
            .unwrap()
            .containers[0]
            .image
            .as_deref()
            .unwrap()
    }

    fn revisions(&self) -> Vec<(i64, i32)> {
        let mut all: Vec<_> = self
            .sets
            .values()
            .map(|set| (revision::revision(set), set.spec.replicas.unwrap()))
            .collect();
        all.sort_unstable();
        all
    }
}

fn owner(pod: &Pod) -> &str {
    &pod.metadata.owner_references.as_ref().unwrap()[0].uid
}

#[test]
fn a_rollout_is_revisions_and_history_has_an_end() {
    let mut world = World::new(3, 1, 0);
    world.settle();
    assert_eq!(world.revisions(), [(1, 3)]);
    assert_eq!(world.reason(), "NewReplicaSetAvailable");
    for image in ["v2", "v3", "v4"] {
        world.set_image(image);
        world.settle();
    }
    assert_eq!(world.revisions(), [(2, 0), (3, 0), (4, 3)]);
    // Undone, the old set is the newest revision.
    world.set_image("v3");
    world.settle();
    assert_eq!(world.revisions(), [(2, 0), (4, 0), (5, 3)]);
    let set = world
        .sets
        .values()
        .find(|set| revision::revision(set) == 5)
        .unwrap();
    let annotations = set.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations[revision::REVISION_HISTORY], "3");
    let annotations = world.deployment.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations[revision::REVISION], "5");
    let status = world.deployment.status.as_ref().unwrap();
    assert_eq!(
        status.observed_generation,
        world.deployment.metadata.generation
    );
    assert_eq!(
        (status.updated_replicas, status.available_replicas),
        (Some(3), Some(3))
    );
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(4, 1, 1);
    world.settle();
    world.deployment.spec.paused = Some(true);
    world.set_image("v2");
    world.settle();
    assert_eq!(world.revisions(), [(1, 4)]);
    assert_eq!(world.reason(), "DeploymentPaused");
    world.deployment.spec.replicas = Some(6);
    world.changed();
    world.settle();
    assert_eq!(world.revisions(), [(1, 6)]);
    world.deployment.spec.paused = Some(false);
    world.changed();
    world.settle();
    assert_eq!(world.revisions(), [(1, 0), (2, 6)]);
}

#[test]
fn a_recreation_has_no_two_templates_at_once() {
    let mut world = World::new(3, 0, 0);
    world.deployment.spec.strategy = serde_json::from_value(json!({"type": "Recreate"})).unwrap();
    world.settle();
    world.set_image("v2");
    for _ in 0..30 {
        world.look();
        let names: Vec<String> = world.sets.keys().cloned().collect();
        for name in names {
            world.look_at_set(&name);
            let owners: std::collections::BTreeSet<&str> = world.pods.values().map(owner).collect();
            assert!(owners.len() <= 1);
        }
        world.become_ready(0);
    }
    world.settle();
    assert_eq!(world.revisions(), [(1, 0), (2, 3)]);
}

#[test]
fn a_rollout_that_stands_still_says_so_and_goes_on_when_it_moves() {
    let mut world = World::new(3, 1, 0);
    world.settle();
    world.set_image("broken");
    world.settle();
    assert_eq!(world.revisions(), [(1, 3), (2, 1)]);
    world.wait(599);
    world.settle();
    assert_ne!(world.reason(), "ProgressDeadlineExceeded");
    world.wait(1);
    world.settle();
    assert_eq!(world.reason(), "ProgressDeadlineExceeded");
    assert_eq!(world.available(), 3);
    assert!(world.rolled_back.is_empty());
    world.set_image("v3");
    world.settle();
    assert_eq!(world.reason(), "NewReplicaSetAvailable");
    assert_eq!(world.revisions(), [(1, 0), (2, 0), (3, 3)]);
}

#[test]
fn a_rollout_that_fails_is_taken_back_where_that_is_wanted() {
    let mut world = World::new(3, 1, 0);
    world.deployment.metadata.annotations = Some(BTreeMap::from([(
        revision::ROLLBACK.to_owned(),
        "true".to_owned(),
    )]));
    world.settle();
    for image in ["v2", "broken-1", "broken-2"] {
        world.set_image(image);
        world.settle();
    }
    // Revision 3 was never complete: the rollback goes past it.
    world.wait(600);
    world.settle();
    assert_eq!(world.rolled_back, [2]);
    assert_eq!(world.image(), "v2");
    assert_eq!(world.reason(), "NewReplicaSetAvailable");
    assert_eq!(world.available(), 3);
    // What was complete once and fails today is not taken back: there is no
    // better.
    world.wait(10_000);
    world.settle();
    assert_eq!(world.rolled_back, [2]);
}

#[test]
fn a_first_rollout_that_fails_has_nothing_to_go_back_to() {
    let mut world = World::new(2, 1, 0);
    world.deployment.metadata.annotations = Some(BTreeMap::from([(
        revision::ROLLBACK.to_owned(),
        "true".to_owned(),
    )]));
    world.set_image("broken");
    world.settle();
    world.wait(601);
    world.settle();
    assert_eq!(world.reason(), "ProgressDeadlineExceeded");
    assert!(world.rolled_back.is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Look,
    LookAtSet(prop::sample::Index),
    Ready(usize),
    Image(u8),
}

fn step() -> impl Strategy<Value = Step> {
    proptest::prop_oneof![
        4 => Just(Step::Look),
        6 => proptest::prelude::any::<prop::sample::Index>().prop_map(Step::LookAtSet),
        3 => (0..4_usize).prop_map(Step::Ready),
        1 => (0..5_u8).prop_map(Step::Image),
    ]
}

proptest! {
    /// However the looks of both controllers, pods and edits interleave: never
    /// more pods than allowed, never fewer available, and it comes to an end.
    #[test]
    fn both_lines_hold_whatever_the_order(
        replicas in 1..9,
        surge in 0..4,
        unavailable in 0..4,
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut world = World::new(replicas, surge, unavailable);
        world.settle();
        let bounds = Bounds::of(&world.deployment);
        for step in steps {
            match step {
                Step::Look => {
                    world.look();
                }
                Step::LookAtSet(index) => {
                    let names: Vec<String> = world.sets.keys().cloned().collect();
                    world.look_at_set(&names[index.index(names.len())]);
                }
                Step::Ready(at) => {
                    world.become_ready(at);
                }
                // Two of five images never become ready.
                Step::Image(image) if image > 2 => world.set_image(&format!("broken-{image}")),
                Step::Image(image) => world.set_image(&format!("v{image}")),
            }
            proptest::prop_assert!(world.active() <= bounds.maximum(), "{} pods", world.active());
            proptest::prop_assert!(world.available() >= bounds.minimum(), "{} available", world.available());
        }
        world.set_image("last");
        world.settle();
        proptest::prop_assert_eq!(world.available(), replicas);
        proptest::prop_assert_eq!(world.active(), replicas);
        proptest::prop_assert_eq!(world.reason(), "NewReplicaSetAvailable");
    }

    #[test]
    fn scaling_in_the_middle_of_a_rollout_comes_to_an_end(
        replicas in 0..9,
        scales in prop::collection::vec((0..12, 0..12_usize), 0..6),
    ) {
        let mut world = World::new(replicas, 1, 1);
        world.settle();
        world.set_image("v2");
        let mut last = replicas;
        for (replicas, looks) in scales {
            last = replicas;
            world.deployment.spec.replicas = Some(replicas);
            world.changed();
            for _ in 0..looks {
                world.look();
                let names: Vec<String> = world.sets.keys().cloned().collect();
                for name in names {
                    world.look_at_set(&name);
                }
                world.become_ready(0);
            }
        }
        world.settle();
        proptest::prop_assert_eq!(world.available(), last);
        proptest::prop_assert_eq!(world.active(), last);
    }
}
