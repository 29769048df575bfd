//! Tests of preemption: who goes, and who need not.

use serde_json::{Value, json};

use crate::placement::{
    cycle::{self, Breadth, Draw},
    fixture::{node, pod, pod_of, read, snapshot},
    message,
    preemption::{Budget, Outcome, Preemption, plan_preemption},
    selector::Selector,
    snapshot::Snapshot,
};
use rand::{SeedableRng, rngs::StdRng};

fn running(name: &str, node: &str, cpu: &str, priority: i32) -> k8s_openapi::api::core::v1::Pod {
    let over = json!({
        "metadata": {"labels": {"app": name.split('-').next()}},
        "spec": {"nodeName": node, "priority": priority},
    });
    pod_of(name, cpu, over)
}

fn plan(snapshot: &mut Snapshot, waiting: Value, budgets: &[Budget]) -> (Outcome, String) {
    let pod = read(snapshot, &pod("waiting", waiting));
    let mut draw = Draw::new(StdRng::seed_from_u64(1), Breadth::All);
    let decision = cycle::decide(snapshot, &pod, &mut draw);
    assert!(decision.node.is_none(), "the pod fits without preemption");
    let outcome = plan_preemption(snapshot, &pod, &decision.refusals, budgets);
    let message = message::unschedulable(snapshot, &decision.refusals, &outcome);
    (outcome, message)
}

fn wants(cpu: &str, priority: i32) -> Value {
    json!({"spec": {"priority": priority, "containers": [
        {"name": "m", "resources": {"requests": {"cpu": cpu}}}]}})
}

fn evicted(snapshot: &Snapshot, outcome: Outcome) -> (String, Vec<String>) {
    let Outcome::Evict(Preemption { node, victims, .. }) = outcome else {
        panic!("nobody is evicted: {outcome:?}");
    };
    let mut names: Vec<String> = victims
        .iter()
        .map(|pod| pod.name.name.to_string())
        .collect();
    names.sort();
    (snapshot.node_name(node).to_owned(), names)
}

#[test]
fn as_few_and_as_unimportant_as_possible_go() {
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let pods = [
        running("low-1", "a", "2", 1),
        running("mid-1", "a", "2", 5),
        running("mid-2", "b", "2", 5),
        running("mid-3", "b", "2", 5),
    ];
    let mut snapshot = snapshot(&nodes, &pods);
    let before = snapshot.pod_count();
    let (outcome, _) = plan(&mut snapshot, wants("2", 10), &[]);
    assert_eq!(
        evicted(&snapshot, outcome),
        ("a".to_owned(), vec!["low-1".to_owned()])
    );
    let (outcome, _) = plan(&mut snapshot, wants("3", 10), &[]);
    assert_eq!(
        evicted(&snapshot, outcome),
        ("a".to_owned(), vec!["low-1".to_owned(), "mid-1".to_owned()]),
        "a lower sum of priorities"
    );
    assert_eq!(snapshot.pod_count(), before, "the snapshot is as before");
    let slot = snapshot.slot_named("a").expect("a node");
    assert_eq!(snapshot.node(slot).used.cpu_millis, 4000);
}

#[test]
fn equals_and_betters_stay() {
    let mut snapshot = snapshot(&[node("a", json!({}))], &[running("one", "a", "4", 10)]);
    let (outcome, message) = plan(&mut snapshot, wants("2", 10), &[]);
    assert!(matches!(outcome, Outcome::Helpless { .. }));
    assert_eq!(
        message,
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
         1 No preemption victims found for incoming pod."
    );
}

#[test]
fn nodes_that_could_never_hold_the_pod_are_left_alone() {
    let cordoned = node("b", json!({"spec": {"unschedulable": true}}));
    let pods = [running("one", "a", "4", 0), running("two", "b", "4", 0)];
    let mut snapshot = snapshot(&[node("a", json!({})), cordoned], &pods);
    let (outcome, message) = plan(&mut snapshot, wants("5", 10), &[]);
    assert!(matches!(outcome, Outcome::Helpless { .. }));
    assert_eq!(
        message,
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. preemption: \
         0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    );
}

#[test]
fn who_never_preempts_waits() {
    let mut snapshot = snapshot(&[node("a", json!({}))], &[running("one", "a", "4", 0)]);
    let mut modest = wants("2", 10);
    modest["spec"]["preemptionPolicy"] = json!("Never");
    let (outcome, message) = plan(&mut snapshot, modest, &[]);
    assert!(matches!(outcome, Outcome::Never));
    assert!(
        message.ends_with("not eligible due to preemptionPolicy=Never."),
        "{message}"
    );
}

#[test]
fn no_one_else_goes_while_victims_are_leaving() {
    let mut leaving = running("one", "a", "2", 0);
    leaving.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
            k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
        ));
    let mut snapshot = snapshot(
        &[node("a", json!({}))],
        &[leaving, running("two", "a", "2", 0)],
    );
    let mut again = wants("2", 10);
    again["status"] = json!({"nominatedNodeName": "a"});
    let (outcome, _) = plan(&mut snapshot, again, &[]);
    assert!(matches!(outcome, Outcome::Waits));
}

#[test]
fn budgets_are_broken_only_where_nothing_else_helps() {
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let pods = [
        running("kept-1", "a", "4", 0),
        running("free-1", "b", "4", 3),
    ];
    let mut snapshot = snapshot(&nodes, &pods);
    let selector =
        serde_json::from_value(json!({"matchLabels": {"app": "kept"}})).expect("a selector");
    let budget = Budget {
        namespace: snapshot.symbols.intern("default"),
        selector: Selector::read(&mut snapshot.symbols, Some(&selector)),
        allowed: 0,
    };
    let (outcome, _) = plan(&mut snapshot, wants("2", 10), std::slice::from_ref(&budget));
    assert_eq!(
        evicted(&snapshot, outcome),
        ("b".to_owned(), vec!["free-1".to_owned()])
    );
    snapshot.remove_node("b");
    let (outcome, _) = plan(&mut snapshot, wants("2", 10), &[budget]);
    assert_eq!(
        evicted(&snapshot, outcome),
        ("a".to_owned(), vec!["kept-1".to_owned()])
    );
}

#[test]
fn refused_company_may_go() {
    let mut snapshot = snapshot(
        &[node("a", json!({}))],
        &[
            running("noisy-1", "a", "1", 0),
            running("calm-1", "a", "1", 0),
        ],
    );
    let mut shy = wants("1", 10);
    shy["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "noisy"}}, "topologyKey": "kubernetes.io/hostname"}]}});
    let (outcome, _) = plan(&mut snapshot, shy, &[]);
    assert_eq!(
        evicted(&snapshot, outcome),
        ("a".to_owned(), vec!["noisy-1".to_owned()])
    );
}

#[test]
fn room_that_is_kept_is_not_given_to_lesser_pods() {
    let mut snapshot = snapshot(&[node("a", json!({}))], &[]);
    let great = read(
        &mut snapshot,
        &pod_of("great", "3", json!({"spec": {"priority": 10}})),
    );
    let name = snapshot.symbols.intern("a");
    snapshot.nominate(&great, name);
    let mut draw = Draw::new(StdRng::seed_from_u64(1), Breadth::All);
    let small = read(&mut snapshot, &pod_of("small", "2", json!({})));
    let decision = cycle::decide(&mut snapshot, &small, &mut draw);
    assert!(decision.node.is_none());
    assert_eq!(decision.refusals.reasons.len(), 1, "the reason is told");
    assert!(
        cycle::decide(&mut snapshot, &great, &mut draw)
            .node
            .is_some()
    );
    let greater = read(
        &mut snapshot,
        &pod_of("greater", "2", json!({"spec": {"priority": 11}})),
    );
    assert!(
        cycle::decide(&mut snapshot, &greater, &mut draw)
            .node
            .is_some()
    );
}
