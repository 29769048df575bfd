//! Tests of explanations.

use serde_json::json;

use crate::placement::{
    explain::explain,
    fixture::{node, pod_of, snapshot},
};

#[test]
fn every_node_is_told_with_numbers() {
    let nodes = [
        node("a", json!({})),
        node(
            "b",
            json!({"spec": {"unschedulable": true, "taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}),
        ),
    ];
    let running = pod_of("busy", "3500m", json!({"spec": {"nodeName": "a"}}));
    let mut snapshot = snapshot(&nodes, &[running]);
    let found = explain(&mut snapshot, &pod_of("web", "1", json!({})));
    assert!(found.best.is_empty());
    let text = found.to_string();
    for part in [
        "pod default/web",
        "asks for pods 1, cpu 1; priority 0",
        "0 of 2 nodes fit",
        "cpu: 1 wanted, 500m free (3500m of 4 taken)",
        "the node is cordoned",
        "the pod does not tolerate k=v:NoSchedule",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn a_pod_that_runs_is_judged_as_if_it_did_not() {
    let alone = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"nodeName": "a", "affinity": {
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}]}}}});
    let web = pod_of("web", "3", alone.clone());
    let other = pod_of("other", "3", json!({"spec": {"nodeName": "b"}}));
    let mut snapshot = snapshot(
        &[node("a", json!({})), node("b", json!({}))],
        &[web.clone(), other],
    );
    let found = explain(&mut snapshot, &web);
    assert_eq!(found.bound_to.as_deref(), Some("a"));
    assert_eq!(found.best, ["a"]);
    let verdict = &found.nodes[0];
    assert!(verdict.current && verdict.fits);
    assert_eq!(
        verdict.total,
        verdict.scores.iter().map(|share| share.points).sum::<i64>()
    );
    assert!(found.to_string().contains("a would be chosen again"));
    assert_eq!(snapshot.pod_count(), 2, "the snapshot is as before");
    let json = serde_json::to_value(&found).expect("it is data");
    assert_eq!(json["nodes"][1]["filters"][5]["accepts"], json!(false));
}
