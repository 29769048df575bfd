use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::{admit, resize};

fn node() -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": "n1", "labels": {"disk": "ssd", "generation": "3"}},
        "spec": {"taints": [
            {"key": "gone", "effect": "NoExecute"}, {"key": "full", "effect": "NoSchedule"}]},
        "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"}}}))
    .unwrap()
}

/// A pod that tolerates the node.
fn pod(spec: Value) -> Pod {
    let mut spec = spec;
    if spec["tolerations"].is_null() {
        spec["tolerations"] = json!([{"operator": "Exists"}]);
    }
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "a"}]);
    }
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
}

fn asking(cpu: &str) -> Pod {
    pod(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}))
}

fn on_port(port: i32, address: &str) -> Pod {
    pod(json!({"containers": [{"name": "a",
        "ports": [{"containerPort": 1, "hostPort": port, "hostIP": address}]}]}))
}

fn verdict(pod: &Pod, others: &[&Pod]) -> String {
    match admit(pod, &node(), others) {
        Ok(()) => "yes".to_owned(),
        Err(refusal) => refusal.reason,
    }
}

#[test]
fn resources_are_what_others_left() {
    assert_eq!(verdict(&asking("2"), &[]), "yes");
    assert_eq!(verdict(&asking("1500m"), &[&asking("600m")]), "OutOfcpu");
    assert_eq!(verdict(&asking("1500m"), &[&asking("500m")]), "yes");
    let message = admit(&asking("3"), &node(), &[&asking("1")])
        .unwrap_err()
        .message;
    assert!(
        message.ends_with("cpu, requested: 3000, used: 1000, capacity: 2000"),
        "{message}"
    );
    let gpu = json!({"containers": [{"name": "a",
        "resources": {"limits": {"example.org/gpu": "1"}}}]});
    assert_eq!(verdict(&pod(gpu), &[]), "OutOfexample.org/gpu");
    let empty = pod(json!({}));
    assert_eq!(verdict(&empty, &[&empty, &empty, &empty]), "OutOfpods");
}

#[test]
fn init_containers_count_beside_sidecars_before_them() {
    let spec = json!({
        "initContainers": [
            {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
            {"name": "i", "resources": {"requests": {"cpu": "1500m"}}}],
        "containers": [{"name": "a", "resources": {"requests": {"cpu": "100m"}}}]});
    let demand = super::demand(pod(spec).spec.as_ref().unwrap());
    assert_eq!(demand["cpu"], 2500);
}

#[test]
fn host_ports_are_for_one_pod() {
    let table = [
        (80, "", "NodePorts"),
        (81, "", "yes"),
        (80, "10.0.0.1", "NodePorts"),
    ];
    for (port, address, expected) in table {
        assert_eq!(
            verdict(&on_port(port, address), &[&on_port(80, "")]),
            expected
        );
    }
    let elsewhere = on_port(80, "10.0.0.2");
    assert_eq!(verdict(&on_port(80, "10.0.0.1"), &[&elsewhere]), "yes");
}

#[test]
fn selectors_choose_by_label_and_name() {
    let term = |key: &str, operator: &str, values: Value| {
        pod(json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]}}}}))
    };
    let table = [
        (pod(json!({"nodeSelector": {"disk": "ssd"}})), "yes"),
        (
            pod(json!({"nodeSelector": {"disk": "hdd"}})),
            "NodeAffinity",
        ),
        (term("disk", "In", json!(["ssd", "x"])), "yes"),
        (term("disk", "NotIn", json!(["ssd"])), "NodeAffinity"),
        (term("rack", "DoesNotExist", json!(null)), "yes"),
        (term("generation", "Gt", json!(["2"])), "yes"),
        (term("generation", "Lt", json!(["3"])), "NodeAffinity"),
    ];
    for (pod, expected) in table {
        assert_eq!(verdict(&pod, &[]), expected, "{:?}", pod.spec);
    }
    let by_name = |name: &str| {
        pod(json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]}}}}))
    };
    assert_eq!(verdict(&by_name("n1"), &[]), "yes");
    assert_eq!(verdict(&by_name("n2"), &[]), "NodeAffinity");
}

#[test]
fn only_taints_that_end_pods_keep_one_out() {
    let bearing = |tolerations: Value| pod(json!({"tolerations": tolerations}));
    let table = [
        (json!([]), "TaintToleration"),
        (json!([{"key": "gone", "operator": "Exists"}]), "yes"),
        (json!([{"key": "gone", "value": "x"}]), "TaintToleration"),
        (
            json!([{"key": "gone", "operator": "Exists", "effect": "NoSchedule"}]),
            "TaintToleration",
        ),
    ];
    for (tolerations, expected) in table {
        assert_eq!(
            verdict(&bearing(tolerations.clone()), &[]),
            expected,
            "{tolerations}"
        );
    }
}

#[test]
fn more_is_given_only_where_there_is_more() {
    let ask = |before: &str, wanted: &str, others: &[&Pod]| {
        let outcome = resize(&asking(wanted), &asking(before), &node(), others);
        outcome.map_or_else(|pending| pending.reason, |()| "yes")
    };
    assert_eq!(ask("1", "2", &[]), "yes");
    assert_eq!(ask("1", "2", &[&asking("1")]), "Deferred");
    assert_eq!(ask("1", "3", &[]), "Infeasible");
    // A node that has promised too much takes back what it can.
    assert_eq!(ask("2", "1500m", &[&asking("2")]), "yes");
}
