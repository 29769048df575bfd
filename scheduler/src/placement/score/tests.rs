//! Tests of the scores: what each says of two nodes.

use serde_json::{Value, json};

use crate::placement::{
    filter::Place,
    fixture::{node, on, pod_of, read, snapshot},
    score::SCORES,
};

/// The ratings that a score gives nodes `a` and `b`; none if it has nothing to say.
fn ratings(score: &str, nodes: [Value; 2], running: &[Value], waiting: Value) -> Option<Vec<i64>> {
    let [a, b] = nodes;
    let running: Vec<_> = running
        .iter()
        .enumerate()
        .map(|(place, over)| pod_of(&format!("running-{place}"), "1", over.clone()))
        .collect();
    let mut snapshot = snapshot(&[node("a", a), node("b", b)], &running);
    let pod = read(&mut snapshot, &pod_of("waiting", "1", waiting));
    let fits: Vec<usize> = ["a", "b"]
        .iter()
        .map(|name| snapshot.slot_named(name).expect("a node"))
        .collect();
    let row = SCORES
        .iter()
        .find(|row| row.name == score)
        .expect("a score");
    let weigh = (row.prepare)(&snapshot, &pod, &fits)?;
    let mut numbers: Vec<i64> = fits
        .iter()
        .map(|slot| weigh.raw(&Place::of(&snapshot, *slot).expect("a node")))
        .collect();
    weigh.normalise(&mut numbers);
    assert!(numbers.iter().all(|number| (0..=100).contains(number)));
    Some(numbers)
}

fn plain() -> [Value; 2] {
    [json!({}), json!({})]
}

fn web(node: &str) -> Value {
    let mut all = on(node, json!({}));
    all["metadata"] = json!({"labels": {"app": "web"}});
    all
}

#[test]
fn room_that_is_left_is_liked() {
    // One of four processors wanted, and 200 MiB of 8 GiB for want of a word.
    let found = ratings(
        "NodeResourcesFit",
        plain(),
        &[on("b", json!({}))],
        json!({}),
    );
    assert_eq!(found, Some(vec![86, 72]));
}

#[test]
fn shares_that_come_nearer_are_liked() {
    let much_memory = json!({"spec": {"nodeName": "b", "containers": [
        {"name": "m", "resources": {"requests": {"memory": "2Gi"}}}]}});
    let found = ratings(
        "NodeResourcesBalancedAllocation",
        plain(),
        &[much_memory],
        json!({}),
    );
    assert_eq!(found, Some(vec![68, 81]));
    let nothing = json!({"spec": {"containers": [{"name": "m"}]}});
    assert_eq!(
        ratings("NodeResourcesBalancedAllocation", plain(), &[], nothing),
        None
    );
}

#[test]
fn images_that_are_there_are_liked() {
    let holder = json!({"status": {"images": [
        {"names": ["docker.io/library/app:latest", "app:latest"], "sizeBytes": 1_046_478_848}]}});
    // Half of the nodes have it, so it counts half.
    let found = ratings("ImageLocality", [holder, json!({})], &[], json!({}));
    assert_eq!(found, Some(vec![48, 0]));
    assert_eq!(ratings("ImageLocality", plain(), &[], json!({})), None);
}

#[test]
fn preferred_node_affinity_is_weighed() {
    let liked = |weight: i32, key: &str| {
        json!({"weight": weight, "preference": {
        "matchExpressions": [{"key": key, "operator": "Exists"}]}})
    };
    let wants = json!({"spec": {"affinity": {"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [liked(30, "x"), liked(10, "y")]}}}});
    let label = |keys: Value| json!({"metadata": {"labels": keys}});
    let found = ratings(
        "NodeAffinity",
        [label(json!({"x": "", "y": ""})), label(json!({"y": ""}))],
        &[],
        wants,
    );
    assert_eq!(found, Some(vec![100, 25]));
    assert_eq!(ratings("NodeAffinity", plain(), &[], json!({})), None);
}

#[test]
fn disliked_taints_count_unless_tolerated() {
    let tainted = || json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    let found = ratings("TaintToleration", [tainted(), json!({})], &[], json!({}));
    assert_eq!(found, Some(vec![0, 100]));
    let bears = json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists"}]}});
    let found = ratings("TaintToleration", [tainted(), json!({})], &[], bears);
    assert_eq!(found, Some(vec![100, 100]));
    assert_eq!(ratings("TaintToleration", plain(), &[], json!({})), None);
}

#[test]
fn liked_company_attracts_in_both_directions() {
    let term = json!([{"weight": 10, "podAffinityTerm": {
        "labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}}]);
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    let near = json!({"spec": {"affinity": {"podAffinity": {preferred: term}}}});
    let far = json!({"spec": {"affinity": {"podAntiAffinity": {preferred: term}}}});
    let score = "InterPodAffinity";
    assert_eq!(
        ratings(score, plain(), &[web("a")], near.clone()),
        Some(vec![100, 0])
    );
    assert_eq!(
        ratings(score, plain(), &[web("a")], far.clone()),
        Some(vec![0, 100])
    );
    assert_eq!(ratings(score, plain(), &[], near.clone()), None);
    let mut running = far;
    running["spec"]["nodeName"] = json!("a");
    let mut waiting = web("a");
    waiting["spec"]["nodeName"] = Value::Null;
    assert_eq!(
        ratings(score, plain(), &[running], waiting),
        Some(vec![0, 100])
    );
}

#[test]
fn crowded_domains_are_disliked() {
    let wants = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
         "labelSelector": {"matchLabels": {"app": "web"}}}]}});
    let score = "PodTopologySpread";
    assert_eq!(
        ratings(score, plain(), &[web("a")], wants.clone()),
        Some(vec![0, 100])
    );
    assert_eq!(ratings(score, plain(), &[], wants), Some(vec![100, 100]));
    // Replicas that say nothing are spread all the same.
    let replica = json!({"metadata": {"labels": {"app": "web"}, "ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}]}});
    assert_eq!(
        ratings(score, plain(), &[web("a"), web("a")], replica),
        Some(vec![40, 100])
    );
    assert_eq!(ratings(score, plain(), &[web("a")], json!({})), None);
}
