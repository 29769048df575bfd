//! Tests of what hollow nodes pretend.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{HollowConfig, Pretence, agents, plan_pretence};
use crate::api::{Api, ApiConfig, Identity, local};
use crate::store::embedded::EmbeddedStore;

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

/// Agents on runtimes that pretend take their pods, say that they run, and end them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_run_and_end_pods_that_are_none() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&directory.path().join("state.redb")).unwrap();
    let api = Api::open(Arc::new(store), ApiConfig::default()).await;
    let client = local::client(api.unwrap(), Identity::master("test"));
    let shutdown = CancellationToken::new();
    let config = HollowConfig {
        nodes: 3,
        ..HollowConfig::default()
    };
    let (ours, places) = (client.clone(), directory.path().join("nodes"));
    let stop = shutdown.clone();
    let running = tokio::spawn(async move { agents::run(ours, config, &places, stop).await });

    let nodes: kube::Api<Node> = kube::Api::all(client.clone());
    let count = async || {
        nodes
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len()
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while count().await < 3 {
        assert!(Instant::now() < deadline, "three nodes");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let pods: kube::Api<Pod> = kube::Api::namespaced(client.clone(), "default");
    for number in 0..6 {
        let pod = json!({"metadata": {"name": format!("p{number}")}, "spec": {
            "nodeName": format!("hollow-{}", number % 3),
            "containers": [{"name": "c", "image": "i"}]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        pods.create(&PostParams::default(), &pod).await.unwrap();
    }
    let ready = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|status| &status.conditions);
        let mut conditions = conditions.flatten();
        conditions.any(|one| one.type_ == "Ready" && one.status == "True")
    };
    loop {
        let all = pods.list(&ListParams::default()).await.unwrap().items;
        if all.iter().filter(|pod| ready(pod)).count() == 6 {
            let addresses: std::collections::BTreeSet<_> = all
                .iter()
                .filter_map(|pod| pod.status.as_ref()?.pod_ip.clone())
                .collect();
            assert_eq!(addresses.len(), 6, "{addresses:?}");
            break;
        }
        assert!(Instant::now() < deadline, "six pods run: {all:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let all = ListParams::default();
    pods.delete_collection(&DeleteParams::default(), &all)
        .await
        .unwrap();
    while !pods.list(&all).await.unwrap().items.is_empty() {
        assert!(Instant::now() < deadline, "the agents end them");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    shutdown.cancel();
    running.await.unwrap().unwrap();
}
