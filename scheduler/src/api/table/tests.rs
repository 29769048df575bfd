use jiff::Timestamp;
use proptest::{prop_assert_eq, proptest};
use serde_json::{Value, json};

use super::table;
use crate::api::{
    defaults::tests::{any_kind, any_object},
    kind::by_plural,
};

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

/// The cells of one object by column.
fn cells(group: &str, plural: &str, mut object: Value) -> Value {
    object["metadata"]["name"] = json!("a");
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    let table = table(by_plural(group, plural).unwrap(), &[object], now());
    let columns = table["columnDefinitions"].as_array().unwrap();
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(columns.len(), cells.len());
    let named = columns.iter().zip(cells);
    Value::Object(
        named
            .map(|(column, cell)| (column["name"].as_str().unwrap().to_owned(), cell.clone()))
            .collect(),
    )
}

fn pod(status: Value) -> Value {
    cells(
        "",
        "pods",
        json!({"spec": {"containers": [{"name": "c"}, {"name": "d"}], "initContainers": [{"name": "i"}]}, "status": status}),
    )
}

#[test]
fn a_pod_has_the_word_that_says_it_best() {
    let running = |ready: bool| json!({"name": "c", "ready": ready, "restartCount": 0, "state": {"running": {}}});
    let waiting = |reason: &str| {
        json!({"name": "c", "restartCount": 3, "state": {"waiting": {"reason": reason}},
        "lastState": {"terminated": {"finishedAt": "2026-01-01T00:55:00Z"}}})
    };
    let ended = |code: i64, reason: &str| json!({"name": "c", "state": {"terminated": {"exitCode": code, "reason": reason}}});
    let initialized = json!([{"name": "i", "state": {"terminated": {"exitCode": 0}}}]);
    let table = [
        (json!({"phase": "Pending"}), "0/2", "Pending", "0"),
        (
            json!({"phase": "Pending", "initContainerStatuses": [{"state": {"running": {}}}]}),
            "0/2",
            "Init:0/1",
            "0",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [waiting("CrashLoopBackOff")]}),
            "0/2",
            "Init:CrashLoopBackOff",
            "3 (5m ago)",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [ended(2, "")]}),
            "0/2",
            "Init:ExitCode:2",
            "0",
        ),
        (
            json!({"phase": "Running", "initContainerStatuses": initialized, "containerStatuses": [running(true), running(false)]}),
            "1/2",
            "Running",
            "0",
        ),
        (
            json!({"phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff"), running(true)]}),
            "1/2",
            "CrashLoopBackOff",
            "3 (5m ago)",
        ),
        (
            json!({"phase": "Succeeded", "containerStatuses": [ended(0, "Completed"), ended(0, "Completed")]}),
            "0/2",
            "Completed",
            "0",
        ),
        (
            json!({"phase": "Running", "containerStatuses": [ended(0, "Completed"), running(true)],
            "conditions": [{"type": "Ready", "status": "True"}]}),
            "1/2",
            "Running",
            "0",
        ),
        (
            json!({"phase": "Failed", "reason": "Evicted"}),
            "0/2",
            "Evicted",
            "0",
        ),
    ];
    for (status, ready, word, restarts) in table {
        let cells = pod(status.clone());
        assert_eq!(
            (&cells["Ready"], &cells["Status"], &cells["Restarts"]),
            (&json!(ready), &json!(word), &json!(restarts)),
            "{status}"
        );
    }
    let deleted = cells(
        "",
        "pods",
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:59:00Z"}, "status": {"phase": "Running"}}),
    );
    assert_eq!(deleted["Status"], "Terminating");
    assert_eq!(deleted["Age"], "60m");
}

#[test]
fn a_sidecar_counts_among_the_containers() {
    let cells = cells(
        "",
        "pods",
        json!({
        "spec": {"containers": [{"name": "c"}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]},
        "status": {"phase": "Running",
            "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "restartCount": 2, "state": {"running": {}}}],
            "containerStatuses": [{"name": "c", "ready": true, "restartCount": 1, "state": {"running": {}}}]}}),
    );
    assert_eq!(
        (&cells["Ready"], &cells["Restarts"]),
        (&json!("2/2"), &json!("3"))
    );
}

#[test]
fn the_other_kinds_have_kubectls_columns() {
    let deployment = cells(
        "apps",
        "deployments",
        json!({"spec": {"replicas": 3, "selector": {"matchLabels": {"app": "a"}},
        "template": {"spec": {"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "j"}]}}}, "status": {"readyReplicas": 2, "updatedReplicas": 1}}),
    );
    assert_eq!(
        deployment,
        json!({"Name": "a", "Ready": "2/3", "Up-to-date": 1, "Available": 0, "Age": "60m",
        "Containers": "c,d", "Images": "i,j", "Selector": "app=a"})
    );

    let service = cells(
        "",
        "services",
        json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1",
        "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}),
    );
    assert_eq!(
        (
            &service["Port(s)"],
            &service["External-IP"],
            &service["Cluster-IP"]
        ),
        (
            &json!("80:30080/TCP,53/UDP"),
            &json!("<none>"),
            &json!("10.0.0.1")
        )
    );

    let node = cells(
        "",
        "nodes",
        json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}},
        "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}],
        "addresses": [{"type": "InternalIP", "address": "10.0.0.9"}], "nodeInfo": {"kernelVersion": "6", "architecture": "amd64"}}}),
    );
    assert_eq!(
        (&node["Status"], &node["Roles"], &node["Kernel-Version"]),
        (
            &json!("Ready,SchedulingDisabled"),
            &json!("control-plane"),
            &json!("6 (amd64)")
        )
    );

    let job = cells(
        "batch",
        "jobs",
        json!({"spec": {"completions": 2}, "status": {"succeeded": 2, "startTime": "2026-01-01T00:00:00Z",
        "completionTime": "2026-01-01T00:00:30Z", "conditions": [{"type": "Complete", "status": "True"}]}}),
    );
    assert_eq!(
        (&job["Status"], &job["Completions"], &job["Duration"]),
        (&json!("Complete"), &json!("2/2"), &json!("30s"))
    );

    let slice = cells(
        "discovery.k8s.io",
        "endpointslices",
        json!({"addressType": "IPv4", "ports": [{"port": 80}],
        "endpoints": [{"addresses": ["1"]}, {"addresses": ["2"]}, {"addresses": ["3"]}, {"addresses": ["4"]}]}),
    );
    assert_eq!(
        (&slice["Ports"], &slice["Endpoints"]),
        (&json!("80"), &json!("1,2,3 + 1 more..."))
    );

    let event = cells(
        "",
        "events",
        json!({"involvedObject": {"kind": "Pod", "name": "p"}, "lastTimestamp": "2026-01-01T00:59:30Z", "count": 2}),
    );
    assert_eq!(
        (&event["Object"], &event["Last Seen"], &event["Count"]),
        (&json!("pod/p"), &json!("30s"), &json!(2))
    );
}

proptest! {
    #[test]
    fn any_object_has_a_row_of_as_many_cells_as_columns(kind in any_kind(), object in any_object()) {
        let table = table(kind, &[object], now());
        prop_assert_eq!(table["rows"][0]["cells"].as_array().unwrap().len(), table["columnDefinitions"].as_array().unwrap().len());
    }
}
