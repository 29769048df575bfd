//! Classes, weights and quotas as tables.

use super::{QosClass, plan_pod_resources, plan_qos, plan_resources};
use crate::pod::settings::NodeFacts;
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Value, json};

fn spec(value: Value) -> PodSpec {
    serde_json::from_value(value).unwrap()
}

fn node() -> NodeFacts {
    NodeFacts {
        name: "node".to_owned(),
        addresses: Vec::new(),
        cpu_millis: 2000,
        memory_bytes: 1 << 30,
    }
}

#[test]
fn the_class_follows_requests_and_limits() {
    let both = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    let more = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}});
    let table = [
        (json!({}), json!({}), QosClass::BestEffort),
        (both.clone(), both.clone(), QosClass::Guaranteed),
        (both.clone(), json!({}), QosClass::Burstable),
        (both.clone(), more, QosClass::Burstable),
        (
            json!({"limits": {"cpu": "1"}}),
            both.clone(),
            QosClass::Burstable,
        ),
        (
            json!({"requests": {"memory": "1"}}),
            json!({}),
            QosClass::Burstable,
        ),
    ];
    for (one, two, class) in table {
        let spec = spec(json!({"containers": [
            {"name": "a", "resources": one}, {"name": "b", "resources": two}]}));
        assert_eq!(plan_qos(&spec), class, "{spec:?}");
    }
    let whole = spec(json!({"containers": [{"name": "a"}], "resources": both}));
    assert_eq!(plan_qos(&whole), QosClass::Guaranteed);
}

#[test]
fn requests_become_weights_and_limits_quotas() {
    let pod = spec(json!({"containers": [{"name": "a", "resources": {
        "limits": {"cpu": "1500m", "memory": "64Mi", "hugepages-2Mi": "4Mi"},
        "requests": {"cpu": "250m", "memory": "512Mi"}}}]}));
    let settings = plan_resources(&pod.containers[0], QosClass::Burstable, &node());
    assert_eq!(
        (settings.cpu_period, settings.cpu_quota),
        (100_000, 150_000)
    );
    assert_eq!(settings.cpu_shares, 256);
    assert_eq!(settings.memory_limit_in_bytes, 64 << 20);
    assert_eq!(settings.hugepage_limits[0].page_size, "2MB");
    assert_eq!(settings.hugepage_limits[0].limit, 4 << 20);
    assert_eq!(settings.oom_score_adj, 500);
}

#[test]
fn small_numbers_stay_above_what_the_kernel_refuses() {
    let pod = spec(json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "1m"}}}]}));
    let settings = plan_resources(&pod.containers[0], QosClass::Burstable, &node());
    assert_eq!((settings.cpu_quota, settings.cpu_shares), (1000, 2));
    let silent = spec(json!({"containers": [{"name": "a"}]}));
    let settings = plan_resources(&silent.containers[0], QosClass::BestEffort, &node());
    assert_eq!((settings.cpu_period, settings.cpu_quota), (0, 0));
    assert_eq!((settings.cpu_shares, settings.oom_score_adj), (2, 1000));
}

#[test]
fn a_pod_needs_what_its_worst_moment_needs() {
    let limit =
        |memory: &str| json!({"limits": {"memory": memory, "cpu": "1"}, "requests": {"cpu": "1"}});
    let pod = spec(json!({
        "initContainers": [
            {"name": "side", "restartPolicy": "Always", "resources": limit("1Gi")},
            {"name": "init", "resources": limit("4Gi")}],
        "containers": [{"name": "a", "resources": limit("1Gi")}, {"name": "b", "resources": limit("1Gi")}]}));
    let settings = plan_pod_resources(&pod);
    assert_eq!(settings.memory_limit_in_bytes, 5 << 30);
    assert_eq!((settings.cpu_shares, settings.cpu_quota), (3072, 300_000));
    let unlimited = spec(json!({"containers": [
        {"name": "a", "resources": limit("1Gi")}, {"name": "b"}]}));
    let settings = plan_pod_resources(&unlimited);
    assert_eq!(settings.memory_limit_in_bytes, 0);
    assert_eq!((settings.cpu_shares, settings.cpu_quota), (1024, 0));
}

#[test]
fn the_sandboxs_own_cost_comes_on_top() {
    let asks = json!({"limits": {"memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}});
    let pod = spec(json!({
        "containers": [{"name": "a", "resources": asks}],
        "overhead": {"cpu": "500m", "memory": "64Mi"},
    }));
    let settings = plan_pod_resources(&pod);
    assert_eq!(settings.memory_limit_in_bytes, (1 << 30) + (64 << 20));
    assert_eq!((settings.cpu_shares, settings.cpu_quota), (1536, 0));
    let silent = spec(json!({"containers": [{"name": "a"}], "overhead": {"cpu": "500m"}}));
    let settings = plan_pod_resources(&silent);
    assert_eq!((settings.cpu_shares, settings.cpu_quota), (512, 0));
    let overhead = super::plan_overhead(&silent).unwrap();
    assert_eq!((overhead.cpu_shares, overhead.cpu_quota), (512, 50_000));
}
