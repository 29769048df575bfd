//! Tests of what hollow nodes pretend.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{Pretence, plan_pretence};

fn pretence(pod: Value) -> Pretence {
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    plan_pretence(&pod, "hollow-")
}

#[test]
fn a_pod_runs_as_soon_as_it_is_bound_and_goes_when_it_is_deleted() {
    let pod = |node: Value, phase: &str| {
        json!({"metadata": {"name": "p", "namespace": "n"},
            "spec": {"nodeName": node, "containers": [{"name": "c"}]}, "status": {"phase": phase}})
    };
    assert_eq!(pretence(pod(Value::Null, "Pending")), Pretence::Nothing);
    assert_eq!(pretence(pod(json!("real"), "Pending")), Pretence::Nothing);
    assert_eq!(
        pretence(pod(json!("hollow-1"), "Running")),
        Pretence::Nothing
    );
    let Pretence::Run(status) = pretence(pod(json!("hollow-1"), "Pending")) else {
        panic!("it is not said to run");
    };
    assert_eq!(
        status["status"]["containerStatuses"][0]["ready"],
        json!(true)
    );
    let mut deleted = pod(json!("hollow-1"), "Running");
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(pretence(deleted), Pretence::End);
}
