//! Tests of the queue: time is a parameter.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::placement::{
    facts::PodFacts,
    fixture::{pod, read, snapshot},
    queue::{Patience, Queue},
};

fn facts(name: &str, priority: i32, created: i64) -> Arc<PodFacts> {
    let mut snapshot = snapshot(&[], &[]);
    let mut facts = PodFacts::clone(&read(
        &mut snapshot,
        &pod(name, json!({"spec": {"priority": priority}})),
    ));
    facts.created = created;
    Arc::new(facts)
}

fn names(queue: &mut Queue, now: Instant) -> Vec<String> {
    std::iter::from_fn(|| queue.next(now))
        .map(|pod| pod.name.name.to_string())
        .collect()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn the_most_important_is_first_then_the_oldest() {
    let now = Instant::now();
    let mut queue = Queue::new(Patience::default());
    for (name, priority, created) in [
        ("c", 0, 2),
        ("b", 0, 1),
        ("a", 5, 9),
        ("d", -1, 0),
        ("e", 0, 2),
    ] {
        queue.put(facts(name, priority, created), now);
    }
    assert_eq!(names(&mut queue, now), ["a", "b", "c", "e", "d"]);
}

#[test]
fn delays_double_up_to_ten_seconds() {
    let now = Instant::now();
    let mut queue = Queue::new(Patience::default());
    let pod = facts("p", 0, 0);
    queue.put(pod.clone(), now);
    let mut now = now;
    for wait in [1, 2, 4, 8, 10, 10] {
        assert!(queue.next(now).is_some());
        queue.delay(&pod.name, now);
        assert_eq!(queue.next_wake(), Some(now + seconds(wait)));
        assert!(
            queue
                .next(now + seconds(wait) - Duration::from_millis(1))
                .is_none()
        );
        now += seconds(wait);
    }
}

#[test]
fn a_refused_pod_waits_for_something_that_helps() {
    let now = Instant::now();
    let mut queue = Queue::new(Patience::default());
    let pod = facts("p", 0, 0);
    queue.put(pod.clone(), now);
    queue.next(now);
    queue.refuse(&pod.name, 0b10, now);
    queue.reconsider(now + seconds(5), |_, by| by & 0b01 != 0);
    assert!(
        queue.next(now + seconds(5)).is_none(),
        "another filter's matter"
    );
    queue.reconsider(now + seconds(5), |_, by| by & 0b10 != 0);
    assert!(queue.next(now + seconds(5)).is_some());
}

#[test]
fn help_that_comes_at_once_does_not_shorten_the_delay() {
    let now = Instant::now();
    let mut queue = Queue::new(Patience::default());
    let pod = facts("p", 0, 0);
    queue.put(pod.clone(), now);
    queue.next(now);
    queue.refuse(&pod.name, 1, now);
    queue.reconsider(now, |_, _| true);
    assert!(queue.next(now).is_none());
    assert_eq!(queue.next_wake(), Some(now + seconds(1)));
    assert!(queue.next(now + seconds(1)).is_some());
}

#[test]
fn a_refused_pod_is_tried_again_after_five_minutes_anyway() {
    let now = Instant::now();
    let mut queue = Queue::new(Patience::default());
    let pod = facts("p", 0, 0);
    queue.put(pod.clone(), now);
    queue.next(now);
    queue.refuse(&pod.name, 1, now);
    assert!(queue.next(now + seconds(299)).is_none());
    assert!(queue.next(now + seconds(300)).is_some());
}

#[test]
fn only_other_wishes_give_a_refused_pod_a_new_chance() {
    let now = Instant::now();
    let mut queue = Queue::new(Patience::default());
    let pod = facts("p", 0, 0);
    queue.put(pod.clone(), now);
    queue.next(now);
    queue.refuse(&pod.name, 1, now);
    let later = now + seconds(2);
    queue.put(pod.clone(), later);
    assert!(queue.next(later).is_none(), "nothing is new");
    let mut changed = PodFacts::clone(&pod);
    changed.demand.cpu_millis = 5;
    queue.put(Arc::new(changed), later);
    assert!(queue.next(later).is_some());
}

#[test]
fn a_gate_holds_a_pod_until_it_is_lifted() {
    let now = Instant::now();
    let mut queue = Queue::new(Patience::default());
    let free = facts("p", 0, 0);
    let mut gated = PodFacts::clone(&free);
    gated.wishes.gates = vec!["wait".to_owned()];
    queue.put(Arc::new(gated), now);
    assert!(queue.next(now + seconds(1000)).is_none());
    queue.put(free, now);
    assert!(queue.next(now).is_some());
}

#[test]
fn a_pod_that_is_being_tried_is_not_handed_out_twice() {
    let now = Instant::now();
    let mut queue = Queue::new(Patience::default());
    let pod = facts("p", 0, 0);
    queue.put(pod.clone(), now);
    assert!(queue.next(now).is_some());
    queue.put(pod.clone(), now);
    assert!(queue.next(now).is_none());
    queue.remove(&pod.name);
    assert!(queue.is_empty());
}
