use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{batch::v1::Job, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use proptest::prelude::{Just, Strategy, any, prop, proptest};
use serde_json::{Value, json};

use super::{New, Pace, Plan, index_of, is_tracked, plan_job};
use crate::controllers::{job::TRACKING, pods, queue::Backoff};

const PACE: Pace = Pace {
    backoff: Backoff {
        first: Duration::from_secs(10),
        longest: Duration::from_secs(600),
    },
    burst: 100,
};

struct World {
    job: Job,
    pods: BTreeMap<String, Pod>,
    now: Timestamp,
    made: usize,
    /// What ended, by the pods themselves.
    succeeded: BTreeSet<String>,
    failed: BTreeSet<String>,
}

impl World {
    fn new(spec: Value) -> World {
        let mut all = json!({"metadata": {"name": "sum", "uid": "sum"}, "spec": {"template": {}}});
        json_patch::merge(&mut all, &json!({ "spec": spec }));
        World {
            job: serde_json::from_value(all).unwrap(),
            pods: BTreeMap::new(),
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            made: 0,
            succeeded: BTreeSet::new(),
            failed: BTreeSet::new(),
        }
    }

    fn plan(&self) -> Plan {
        let pods: Vec<_> = self.pods.values().cloned().map(Arc::new).collect();
        plan_job(&self.job, &pods, &PACE, self.now)
    }

    /// Looks, and carries out only the first steps, as one who is killed.
    fn look(&mut self, mut steps: usize) -> Plan {
        let plan = self.plan();
        let mut go = move || {
            let goes = steps > 0;
            steps = steps.saturating_sub(1);
            goes
        };
        let names = |pods: &[Arc<Pod>]| -> Vec<String> {
            pods.iter()
                .filter_map(|pod| pod.metadata.name.clone())
                .collect()
        };
        if go() {
            self.job.status = Some(plan.status.clone());
        } else {
            return plan;
        }
        for name in names(&plan.release) {
            if go() {
                self.release(&name);
            }
        }
        for name in names(&plan.delete) {
            if go() {
                self.delete(&name);
            }
        }
        for name in names(&plan.dismiss) {
            if go() {
                self.release(&name);
                // Nobody counts it, and it never ends by itself.
                self.pods.remove(&name);
            }
        }
        for new in &plan.create {
            if go() {
                self.make(*new);
            }
        }
        plan
    }

    fn make(&mut self, new: New) {
        self.made += 1;
        let name = format!("p{:04}", self.made);
        let mut pod = json!({"metadata": {"name": name, "uid": name, "finalizers": [TRACKING], "annotations": {}}});
        if let Some(index) = new.index {
            pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] =
                json!(index.to_string());
        }
        if let Some(failures) = new.failures {
            pod["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"] =
                json!(failures.to_string());
        }
        self.pods.insert(name, serde_json::from_value(pod).unwrap());
    }

    fn release(&mut self, name: &str) {
        let Some(pod) = self.pods.get_mut(name) else {
            return;
        };
        pod.metadata.finalizers = None;
        if pods::is_terminating(pod) {
            self.pods.remove(name);
        }
    }

    /// Somebody deletes a pod: it stays as long as it has a finalizer.
    fn delete(&mut self, name: &str) {
        let now = self.now;
        let Some(pod) = self.pods.get_mut(name) else {
            return;
        };
        if !is_tracked(pod) {
            self.pods.remove(name);
            return;
        }
        if !pods::has_ended(pod) && !pods::is_terminating(pod) {
            self.failed.insert(name.to_owned());
        }
        pod.metadata.deletion_timestamp = Some(Time(now));
    }

    fn finish(&mut self, name: &str, phase: &str) {
        let now = self.now.to_string();
        let Some(pod) = self.pods.get_mut(name).filter(|pod| pods::is_active(pod)) else {
            return;
        };
        let code = i32::from(phase == "Failed");
        let state = json!({"terminated": {"exitCode": code, "finishedAt": now}});
        pod.status = serde_json::from_value(json!({"phase": phase, "containerStatuses": [
            {"name": "main", "image": "a", "imageID": "a", "ready": false, "restartCount": 0, "state": state}]}))
        .unwrap();
        match phase {
            "Failed" => self.failed.insert(name.to_owned()),
            _ => self.succeeded.insert(name.to_owned()),
        };
    }

    fn finish_index(&mut self, index: i32, phase: &str) {
        let pods = self.pods.iter();
        let mut mine = pods.filter(|(_, pod)| index_of(pod) == Some(index) && pods::is_active(pod));
        let name = mine.next().unwrap().0.clone();
        self.finish(&name, phase);
    }

    fn active(&self) -> Vec<String> {
        let active = self.pods.iter().filter(|(_, pod)| pods::is_active(pod));
        active.map(|(name, _)| name.clone()).collect()
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            let before = (self.job.clone(), self.pods.clone());
            self.look(usize::MAX);
            if before == (self.job.clone(), self.pods.clone()) {
                return;
            }
        }
        panic!("nobody came to rest: {:#?}", self.job.status);
    }

    fn wait(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// The counts, and the last condition's type and reason.
    fn outcome(&self) -> (i32, i32, String) {
        let status = self.job.status.as_ref().unwrap();
        let last = status.conditions.iter().flatten().last();
        let last = last.map(|is| format!("{} {}", is.type_, is.reason.as_deref().unwrap()));
        (
            status.succeeded.unwrap_or(0),
            status.failed.unwrap_or(0),
            last.unwrap_or_default(),
        )
    }
}

#[test]
fn completions_run_in_parallel_and_are_counted() {
    let mut world = World::new(json!({"completions": 3, "parallelism": 2}));
    world.settle();
    assert_eq!(world.active().len(), 2);
    let first = world.active()[0].clone();
    world.finish(&first, "Succeeded");
    // Deleted the moment it ended: it is counted all the same.
    world.delete(&first);
    world.settle();
    assert_eq!(world.outcome(), (1, 0, String::new()));
    assert!(!world.pods.contains_key(&first));
    for name in world.active() {
        world.finish(&name, "Succeeded");
    }
    world.settle();
    assert_eq!(
        world.outcome(),
        (3, 0, "Complete CompletionsReached".to_owned())
    );
    let status = world.job.status.clone().unwrap();
    assert!(status.completion_time.is_some() && status.uncounted_terminated_pods.is_none());
    assert_eq!((status.active, world.made), (Some(0), 3));
}

#[test]
fn failures_wait_longer_and_end_the_job() {
    let mut world = World::new(json!({"completions": 1, "backoffLimit": 2}));
    let mut waits = Vec::new();
    for _ in 0..3 {
        world.settle();
        let name = world.active()[0].clone();
        world.finish(&name, "Failed");
        world.settle();
        let wait = world.plan().again.map_or(0, |wait| wait.as_secs());
        waits.push(wait);
        world.wait(i64::try_from(wait).unwrap());
    }
    assert_eq!(waits, [10, 20, 0]);
    assert_eq!(
        world.outcome(),
        (0, 3, "Failed BackoffLimitExceeded".to_owned())
    );
    assert!(world.pods.values().all(|pod| !is_tracked(pod)));
}

#[test]
fn restarts_inside_pods_count_too() {
    let mut world = World::new(json!({"completions": 1, "backoffLimit": 2}));
    world.settle();
    let restarted = |count: i32| {
        json!({"phase": "Running", "containerStatuses": [
        {"name": "a", "image": "a", "imageID": "a", "ready": true, "restartCount": count}]})
    };
    let set = |world: &mut World, count| {
        let pod = world.pods.values_mut().next().unwrap();
        pod.status = serde_json::from_value(restarted(count)).unwrap();
    };
    set(&mut world, 2);
    world.settle();
    assert_eq!(world.outcome().2, "");
    set(&mut world, 3);
    world.settle();
    assert_eq!(
        world.outcome(),
        (0, 1, "Failed BackoffLimitExceeded".to_owned())
    );
    assert!(world.active().is_empty());
}

#[test]
fn each_index_succeeds_once() {
    let mut world =
        World::new(json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed"}));
    world.settle();
    world.finish_index(0, "Succeeded");
    world.finish_index(1, "Failed");
    world.finish_index(3, "Succeeded");
    world.settle();
    let status = world.job.status.clone().unwrap();
    assert_eq!(status.completed_indexes.as_deref(), Some("0,3"));
    world.wait(10);
    world.settle();
    world.finish_index(1, "Succeeded");
    world.finish_index(2, "Succeeded");
    world.settle();
    assert_eq!(
        world.outcome(),
        (4, 1, "Complete CompletionsReached".to_owned())
    );
    let status = world.job.status.clone().unwrap();
    assert_eq!(status.completed_indexes.as_deref(), Some("0-3"));
}

#[test]
fn an_index_may_fail_for_good_while_others_go_on() {
    let mut world = World::new(
        json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1}),
    );
    world.settle();
    world.finish_index(0, "Failed");
    world.settle();
    world.wait(10);
    world.settle();
    world.finish_index(0, "Failed");
    world.settle();
    let status = world.job.status.clone().unwrap();
    assert_eq!(status.failed_indexes.as_deref(), Some("0"));
    assert_eq!(world.outcome().2, "");
    world.finish_index(1, "Succeeded");
    world.settle();
    assert_eq!(world.outcome(), (1, 2, "Failed FailedIndexes".to_owned()));
}

#[test]
fn a_deadline_ends_it_and_suspension_stops_the_clock() {
    let mut world =
        World::new(json!({"completions": 5, "parallelism": 2, "activeDeadlineSeconds": 60}));
    world.settle();
    assert_eq!(world.plan().again.unwrap().as_secs(), 60);
    world.wait(50);
    world.job.spec.as_mut().unwrap().suspend = Some(true);
    world.settle();
    assert_eq!(
        (world.active().len(), world.outcome()),
        (0, (0, 0, "Suspended JobSuspended".to_owned()))
    );
    world.wait(5000);
    world.settle();
    world.job.spec.as_mut().unwrap().suspend = Some(false);
    world.settle();
    assert_eq!(world.active().len(), 2);
    world.wait(59);
    world.settle();
    assert_eq!(world.outcome().2, "Suspended JobResumed");
    world.wait(1);
    world.settle();
    assert_eq!(
        world.outcome(),
        (0, 2, "Failed DeadlineExceeded".to_owned())
    );
}

#[test]
fn policies_ignore_failures_or_fail_the_job() {
    let rule = |action: &str, operator: &str| json!({"action": action, "onExitCodes": {"operator": operator, "values": [1]}});
    let policy = |rule: Value| json!({"completions": 1, "backoffLimit": 0, "podFailurePolicy": {"rules": [rule]}});
    let mut world = World::new(policy(rule("Ignore", "In")));
    world.settle();
    let name = world.active()[0].clone();
    world.finish(&name, "Failed");
    world.settle();
    assert_eq!(
        (world.outcome(), world.active().len()),
        ((0, 0, String::new()), 1)
    );
    let mut world = World::new(policy(rule("FailJob", "In")));
    world.settle();
    let name = world.active()[0].clone();
    world.finish(&name, "Failed");
    world.settle();
    assert_eq!(
        world.outcome(),
        (0, 1, "Failed PodFailurePolicy".to_owned())
    );
    let mut world = World::new(policy(rule("FailJob", "NotIn")));
    world.settle();
    let name = world.active()[0].clone();
    world.finish(&name, "Failed");
    world.settle();
    assert_eq!(world.outcome().2, "Failed BackoffLimitExceeded");
}

#[test]
fn a_success_policy_ends_the_others() {
    let mut world = World::new(
        json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededIndexes": "0-1", "succeededCount": 1}]}}),
    );
    world.settle();
    world.finish_index(2, "Succeeded");
    world.settle();
    assert_eq!(world.outcome().2, "");
    world.finish_index(1, "Succeeded");
    world.settle();
    assert_eq!(world.outcome().2, "Complete SuccessPolicy");
    assert!(world.active().is_empty());
}

#[test]
fn a_work_queue_is_done_with_its_last_worker() {
    let mut world = World::new(json!({"parallelism": 3}));
    world.settle();
    let workers = world.active();
    world.finish(&workers[0], "Succeeded");
    world.settle();
    assert_eq!((world.active().len(), world.outcome().2.as_str()), (2, ""));
    world.finish(&workers[1], "Succeeded");
    world.finish(&workers[2], "Failed");
    world.settle();
    assert_eq!(
        world.outcome(),
        (2, 1, "Complete CompletionsReached".to_owned())
    );
}

#[test]
fn a_finished_job_goes_when_its_time_is_over() {
    let mut world = World::new(json!({"completions": 0, "ttlSecondsAfterFinished": 30}));
    world.settle();
    assert_eq!(world.outcome().2, "Complete CompletionsReached");
    world.wait(29);
    let plan = world.plan();
    assert_eq!((plan.remove, plan.again.unwrap().as_secs()), (false, 1));
    world.wait(1);
    assert!(world.plan().remove);
}

#[derive(Debug, Clone)]
enum Step {
    Look(usize),
    Succeed(prop::sample::Index),
    Fail(prop::sample::Index),
    Delete(prop::sample::Index),
    Wait(i64),
}

fn step() -> impl Strategy<Value = Step> {
    proptest::prop_oneof![
        4 => (0..6_usize).prop_map(Step::Look),
        2 => Just(Step::Look(usize::MAX)),
        3 => any::<prop::sample::Index>().prop_map(Step::Succeed),
        2 => any::<prop::sample::Index>().prop_map(Step::Fail),
        2 => any::<prop::sample::Index>().prop_map(Step::Delete),
        1 => (1..40_i64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Killed after any write, with pods that end and are deleted at any time:
    /// every end is counted, and none twice.
    #[test]
    fn no_end_is_lost_and_none_counts_twice(
        completions in 1..6_i32,
        parallelism in 1..5_i32,
        indexed in any::<bool>(),
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mode = if indexed { "Indexed" } else { "NonIndexed" };
        let mut world = World::new(json!({"completions": completions, "parallelism": parallelism,
            "completionMode": mode, "backoffLimit": 1000}));
        for step in steps {
            let names: Vec<String> = world.pods.keys().cloned().collect();
            let name = |index: &prop::sample::Index| names.get(index.index(names.len().max(1))).cloned().unwrap_or_default();
            match step {
                Step::Look(steps) => {
                    world.look(steps);
                }
                Step::Succeed(index) => world.finish(&name(&index), "Succeeded"),
                Step::Fail(index) => world.finish(&name(&index), "Failed"),
                Step::Delete(index) => world.delete(&name(&index)),
                Step::Wait(seconds) => world.wait(seconds),
            }
            proptest::prop_assert!(world.active().len() <= usize::try_from(parallelism).unwrap());
        }
        for _ in 0..200 {
            world.settle();
            world.wait(700);
            for name in world.active() {
                world.finish(&name, "Succeeded");
            }
            if world.outcome().2.starts_with("Complete") {
                break;
            }
        }
        world.settle();
        let (succeeded, failed, end) = world.outcome();
        proptest::prop_assert_eq!(end, "Complete CompletionsReached");
        proptest::prop_assert_eq!(usize::try_from(failed).unwrap(), world.failed.len());
        proptest::prop_assert_eq!(succeeded, completions);
        proptest::prop_assert_eq!(usize::try_from(succeeded).unwrap(), world.succeeded.len());
    }
}
