//! A cluster without machines: a real API in this process, and nodes that only say that they run pods.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Binding, Node, Pod},
    apimachinery::pkg::apis::meta::v1::Status,
};
use kube::{
    Api as Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Api, ApiConfig, Identity, local},
    controllers::{
        ControllersConfig, daemon_set::plan::node_of, nodes::NodesConfig, pods, queue::Backoff, run,
    },
    store::embedded::EmbeddedStore,
};

/// Longer than any wait here that is to end, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// An API over a store that is gone with the value, and nodes that pretend.
pub(super) struct World {
    client: kube::Client,
    nodes: JoinHandle<()>,
    made: Arc<Mutex<BTreeSet<String>>>,
    _directory: tempfile::TempDir,
}

impl World {
    pub(super) async fn new(nodes: usize) -> World {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&directory.path().join("store.redb")).unwrap();
        let api = Api::open(Arc::new(store), ApiConfig::default())
            .await
            .unwrap();
        let client = local::client(api, Identity::master("test"));
        for at in 0..nodes {
            // One that is not ready gets a taint, and no pod of a DaemonSet.
            let ready = json!([{"type": "Ready", "status": "True"}]);
            let node =
                json!({"metadata": {"name": format!("n{at}")}, "status": {"conditions": ready}});
            let node: Node = serde_json::from_value(node).unwrap();
            let nodes: Client<Node> = Client::all(client.clone());
            nodes.create(&PostParams::default(), &node).await.unwrap();
        }
        let made: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let nodes = tokio::spawn(pretend(client.clone(), nodes, Arc::clone(&made)));
        World {
            client,
            nodes,
            made,
            _directory: directory,
        }
    }

    pub(super) fn client(&self) -> kube::Client {
        self.client.clone()
    }

    pub(super) fn api<K>(&self) -> Client<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned,
    {
        Client::namespaced(self.client.clone(), "default")
    }

    /// The names of all pods that the nodes ever saw.
    pub(super) fn ever_made(&self) -> BTreeSet<String> {
        self.made.lock().unwrap().clone()
    }

    pub(super) fn start(&self) -> Running {
        let shutdown = CancellationToken::new();
        Running {
            task: tokio::spawn(run(self.client(), config(), shutdown.clone())),
            shutdown,
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.nodes.abort();
    }
}

/// Controllers that run.
pub(super) struct Running {
    task: JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Running {
    /// Ends them wherever they are: every task is dropped at its next wait, in the
    /// middle of a request too.
    pub(super) async fn kill(mut self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, &mut self.task)
            .await
            .unwrap()
            .unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub(super) fn config() -> ControllersConfig {
    let quick = Backoff {
        first: Duration::from_millis(5),
        longest: Duration::from_millis(200),
    };
    ControllersConfig {
        backoff: quick,
        job_backoff: quick,
        confirm_after: Duration::from_millis(500),
        // These nodes have no leases, and nobody shall look for them.
        nodes: NodesConfig {
            silence: Duration::from_hours(1),
            toleration: Duration::from_hours(1),
            ..NodesConfig::default()
        },
        ..ControllersConfig::default()
    }
}

/// Asks until it is so.
pub(super) async fn within(world: &World, what: &str, mut is: impl AsyncFnMut(&World) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is(world).await {
        if Instant::now() >= deadline {
            let pods = world
                .api::<Pod>()
                .list(&ListParams::default())
                .await
                .unwrap();
            let pods: Vec<_> = pods
                .iter()
                .map(|pod| (pod.name_any(), pods::phase(pod).to_owned()))
                .collect();
            panic!("not within {PATIENCE:?}: {what}; pods: {pods:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Binds pods and runs them, as far as their image lets them.
async fn pretend(client: kube::Client, nodes: usize, made: Arc<Mutex<BTreeSet<String>>>) {
    let api: Client<Pod> = Client::namespaced(client, "default");
    loop {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let Ok(pods) = api.list(&ListParams::default()).await else {
            continue;
        };
        for (at, pod) in pods.into_iter().enumerate() {
            made.lock().unwrap().insert(pod.name_any());
            // Whoever is beaten by a controller finds another state next time.
            let _ = live(&api, &pod, at % nodes.max(1)).await;
        }
    }
}

async fn live(api: &Client<Pod>, pod: &Pod, turn: usize) -> kube::Result<()> {
    let name = pod.name_any();
    if pods::is_terminating(pod) {
        let end = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: pod.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        return api.delete(&name, &end).await.map(|_| ());
    }
    if pods::node(pod).is_none() {
        let node = node_of(pod).map_or_else(|| format!("n{turn}"), str::to_owned);
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"kind": "Node", "name": node}});
        let binding: Binding = serde_json::from_value(binding).unwrap();
        return api
            .create_subresource::<Binding, Status>(
                "binding",
                &name,
                &PostParams::default(),
                &binding,
            )
            .await
            .map(|_| ());
    }
    if pods::phase(pod) != "Pending" {
        return Ok(());
    }
    let image = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.containers[0].image.as_deref());
    let now = Timestamp::now().to_string();
    let ended = |code: i32| {
        json!([{"name": "main", "image": "a", "imageID": "a", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": code, "finishedAt": now}}}])
    };
    let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": now}]);
    let status = match image.unwrap_or_default() {
        "succeeds" => json!({"phase": "Succeeded", "containerStatuses": ended(0)}),
        "fails" => json!({"phase": "Failed", "containerStatuses": ended(1)}),
        "broken" => json!({"phase": "Running"}),
        _ => json!({"phase": "Running", "conditions": ready}),
    };
    let patch = Patch::Merge(json!({ "status": status }));
    api.patch_status(&name, &PatchParams::default(), &patch)
        .await
        .map(|_| ())
}
