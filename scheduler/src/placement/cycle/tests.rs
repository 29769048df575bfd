//! Tests of decisions: what must hold after thousands of them.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;

use crate::placement::{
    cycle::{Breadth, Draw, decide, enough},
    fixture::{node, pod_of, read, snapshot},
};

#[test]
fn no_node_is_overcommitted_and_no_refusal_broken() {
    let nodes: Vec<_> = (0..150)
        .map(|number| {
            let zone = format!("z{}", number % 3);
            node(
                &format!("n{number}"),
                json!({"metadata": {"labels": {"zone": zone}}}),
            )
        })
        .collect();
    for breadth in [Breadth::All, Breadth::Enough] {
        let mut snapshot = snapshot(&nodes, &[]);
        let mut lot = StdRng::seed_from_u64(7);
        let mut draw = Draw::new(StdRng::seed_from_u64(8), breadth);
        let mut placed = 0;
        for number in 0..1500 {
            let app = format!("app-{}", number % 10);
            let cpu = format!("{}m", lot.random_range(1..=10) * 100);
            let over = json!({"metadata": {"labels": {"app": app}}, "spec": {"affinity": {"podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": {"matchLabels": {"app": app}},
                "topologyKey": "kubernetes.io/hostname"}]}}}});
            let pod = read(&mut snapshot, &pod_of(&format!("p{number}"), &cpu, over));
            if let Some(slot) = decide(&mut snapshot, &pod, &mut draw).node {
                let name = snapshot.node(slot).name;
                snapshot.place(pod, name);
                placed += 1;
            }
        }
        for slot in snapshot.ready() {
            let node = snapshot.node(*slot);
            assert!(node.used.cpu_millis <= 4000);
            let mut cohorts: Vec<_> = node.pods.iter().map(|pod| pod.cohort).collect();
            let pods = cohorts.len();
            cohorts.sort_by_key(|cohort| format!("{cohort:?}"));
            cohorts.dedup();
            assert_eq!(cohorts.len(), pods, "two of one kind on a node");
        }
        // 150 nodes with four processors hold a thousand pods of half of one easily.
        assert!(placed > 1000, "{placed}");
    }
}

#[test]
fn ties_fall_evenly() {
    let nodes: Vec<_> = (0..4)
        .map(|number| node(&format!("n{number}"), json!({})))
        .collect();
    let mut snapshot = snapshot(&nodes, &[]);
    let pod = read(&mut snapshot, &pod_of("p", "1", json!({})));
    let mut draw = Draw::new(StdRng::seed_from_u64(1), Breadth::All);
    let mut counts = [0; 4];
    for _ in 0..400 {
        counts[decide(&mut snapshot, &pod, &mut draw).node.expect("a node")] += 1;
    }
    assert!(
        counts.iter().all(|count| (60..140).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn a_pod_of_one_node_looks_at_that_node_only() {
    let nodes: Vec<_> = (0..4)
        .map(|number| node(&format!("n{number}"), json!({})))
        .collect();
    let mut snapshot = snapshot(&nodes, &[]);
    let over = json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}]}}}}});
    let pod = read(&mut snapshot, &pod_of("p", "1", over));
    let mut draw = Draw::new(StdRng::seed_from_u64(1), Breadth::All);
    let decision = decide(&mut snapshot, &pod, &mut draw);
    assert_eq!(
        decision.node.map(|slot| snapshot.node_name(slot)),
        Some("n2")
    );
    assert_eq!(
        decision.refusals.reasons.len(),
        3,
        "the others are counted in the message"
    );
}

#[test]
fn enough_is_as_many_as_kube_scheduler_takes() {
    for (nodes, expected) in [
        (3, 3),
        (99, 99),
        (100, 100),
        (1000, 420),
        (5000, 500),
        (20_000, 1000),
    ] {
        assert_eq!(enough(nodes), expected, "{nodes} nodes");
    }
}
