//! What a node may do, tried by one, and what its neighbour may not.

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Node, Pod, Secret, Service},
    node::v1::RuntimeClass,
    storage::v1::CSINode,
};
use kube::{
    Api as Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::api::{
    Identity, local,
    tests::{Fixture, fixture},
};

fn node_client(fixture: &Fixture, name: &str) -> kube::Client {
    let identity = Identity {
        user: format!("system:node:{name}"),
        groups: vec!["system:nodes".into()],
    };
    local::client(fixture.api.clone(), identity)
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, kube::Error>) -> String {
    match outcome {
        Err(kube::Error::Api(status)) if status.code == 403 => status.message.clone(),
        other => panic!("expected 403, found {other:?}"),
    }
}

async fn make_pod(fixture: &Fixture, name: &str, node: &str) {
    let pods: Client<Pod> = Client::namespaced(fixture.client.clone(), "default");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "nodeName": node,
            "containers": [{ "name": "c", "image": "i", "envFrom": [{ "configMapRef": { "name": "settings" } }] }],
            "volumes": [{ "name": "v", "secret": { "secretName": "key" } }],
        },
    }))
    .unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_writes_itself_and_its_pods_only() {
    let fixture = fixture().await;
    make_pod(&fixture, "mine", "a").await;
    make_pod(&fixture, "theirs", "b").await;
    let client = node_client(&fixture, "a");
    let nodes: Client<Node> = Client::all(client.clone());
    let node = |name: &str| -> Node {
        serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap()
    };
    nodes
        .create(&PostParams::default(), &node("a"))
        .await
        .unwrap();
    let message = refused(nodes.create(&PostParams::default(), &node("c")).await);
    assert!(
        message.contains("system:node:a") && message.contains("create"),
        "{message}"
    );
    let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
    nodes
        .patch_status("a", &PatchParams::default(), &Patch::Merge(&ready))
        .await
        .unwrap();
    refused(
        nodes
            .patch_status("b", &PatchParams::default(), &Patch::Merge(&ready))
            .await,
    );
    refused(nodes.delete("a", &DeleteParams::default()).await);

    let leases: Client<Lease> = Client::namespaced(client.clone(), "kube-node-lease");
    let lease = |name: &str| -> Lease {
        serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap()
    };
    leases
        .create(&PostParams::default(), &lease("a"))
        .await
        .unwrap();
    refused(leases.create(&PostParams::default(), &lease("b")).await);

    let classes: Client<RuntimeClass> = Client::all(client.clone());
    classes.list(&ListParams::default()).await.unwrap();
    refused(classes.delete("any", &DeleteParams::default()).await);

    // What a kubelet in the agent's place says of its storage.
    let drivers: Client<CSINode> = Client::all(client.clone());
    let of_node = |name: &str| -> CSINode {
        serde_json::from_value(json!({ "metadata": { "name": name }, "spec": { "drivers": [] } }))
            .unwrap()
    };
    drivers
        .create(&PostParams::default(), &of_node("a"))
        .await
        .unwrap();
    drivers.get("a").await.unwrap();
    refused(drivers.create(&PostParams::default(), &of_node("b")).await);
    refused(drivers.get("b").await);

    let pods: Client<Pod> = Client::namespaced(client.clone(), "default");
    assert_eq!(
        pods.list(&ListParams::default()).await.unwrap().items.len(),
        2
    );
    let running = json!({ "status": { "phase": "Running" } });
    pods.patch_status("mine", &PatchParams::default(), &Patch::Merge(&running))
        .await
        .unwrap();
    refused(
        pods.patch_status("theirs", &PatchParams::default(), &Patch::Merge(&running))
            .await,
    );
    refused(
        pods.patch("mine", &PatchParams::default(), &Patch::Merge(&running))
            .await,
    );
    refused(pods.delete("theirs", &DeleteParams::default()).await);
    pods.delete("mine", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reads_what_its_pods_name() {
    let fixture = fixture().await;
    let maps: Client<ConfigMap> = Client::namespaced(fixture.client.clone(), "default");
    let secrets: Client<Secret> = Client::namespaced(fixture.client.clone(), "default");
    for name in ["settings", "others"] {
        let map = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        maps.create(&PostParams::default(), &map).await.unwrap();
    }
    for name in ["key", "others"] {
        let secret = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        secrets
            .create(&PostParams::default(), &secret)
            .await
            .unwrap();
    }
    make_pod(&fixture, "mine", "a").await;
    let mine = node_client(&fixture, "a");
    let maps: Client<ConfigMap> = Client::namespaced(mine.clone(), "default");
    let secrets: Client<Secret> = Client::namespaced(mine.clone(), "default");
    let services: Client<Service> = Client::all(mine);
    // The picture of the pods follows the write within moments.
    assert!(fixture.api.is_current().await.unwrap());
    maps.get("settings").await.unwrap();
    refused(maps.get("others").await);
    secrets.get("key").await.unwrap();
    secrets
        .list(&ListParams::default().fields("metadata.name=key"))
        .await
        .unwrap();
    refused(secrets.get("others").await);
    refused(secrets.list(&ListParams::default()).await);
    services.list(&ListParams::default()).await.unwrap();
    let theirs: Client<Secret> = Client::namespaced(node_client(&fixture, "b"), "default");
    refused(theirs.get("key").await);
    let stranger = Identity {
        user: "somebody".into(),
        groups: Vec::new(),
    };
    let pods: Client<Pod> = Client::all(local::client(fixture.api.clone(), stranger));
    refused(pods.list(&ListParams::default()).await);
}
