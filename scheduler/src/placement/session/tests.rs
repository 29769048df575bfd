//! The loop with a real API over a store in a file: what must hold whatever happens.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{
    core::v1::{Event, Node, Pod},
    scheduling::v1::PriorityClass,
};
use kube::{
    Api as Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Api, ApiConfig, Identity, local},
    manifest::quantity,
    placement::{self, PlacementConfig, explain, queue::Patience},
    store::embedded::EmbeddedStore,
};

/// No wait of a test is longer.
const LIMIT: Duration = Duration::from_secs(300);

/// An API whose store is gone with the value.
struct Cluster {
    client: kube::Client,
    _api: Arc<Api>,
    _directory: tempfile::TempDir,
}

/// A loop that can be stopped or killed.
struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Ends it at once, wherever it is. A server that is killed takes its store's thread along;
    /// here that one lives, and writes what it was given already before anybody reads.
    async fn kill(self, cluster: &Cluster) {
        self.task.abort();
        let _ = self.task.await;
        let mut before = None;
        loop {
            let now = bound(&cluster.list().await);
            if before.replace(now) == Some(now) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends it in order.
    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(LIMIT, self.task)
            .await
            .expect("the loop ends when it is told to")
            .expect("the loop does not panic");
    }
}

impl Cluster {
    async fn open() -> Cluster {
        let directory = tempfile::tempdir().expect("a directory");
        let store = EmbeddedStore::open(&directory.path().join("store.redb")).expect("a store");
        let api = Api::open(Arc::new(store), ApiConfig::default())
            .await
            .expect("an API");
        let client = local::client(api.clone(), Identity::master("test"));
        Cluster {
            client,
            _api: api,
            _directory: directory,
        }
    }

    fn pods(&self) -> Client<Pod> {
        Client::namespaced(self.client.clone(), "default")
    }

    async fn add_nodes(&self, count: usize, cpu: &str) {
        let nodes: Client<Node> = Client::all(self.client.clone());
        for number in 0..count {
            let name = format!("node-{number}");
            let all = json!({"cpu": cpu, "memory": "8Gi", "pods": "110"});
            let status = json!({"capacity": all, "allocatable": all});
            let node = json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
                "status": status,
            });
            let node = serde_json::from_value(node).expect("a node");
            nodes
                .create(&PostParams::default(), &node)
                .await
                .expect("the node is made");
            let status = Patch::Merge(json!({"status": status}));
            nodes
                .patch_status(&name, &PatchParams::default(), &status)
                .await
                .expect("the status is written");
        }
    }

    /// A class for each number, as only the API may give priorities.
    async fn add_classes(&self, priorities: &[i32]) {
        let classes: Client<PriorityClass> = Client::all(self.client.clone());
        for priority in priorities {
            let class = json!({
                "metadata": {"name": format!("class-{priority}")}, "value": priority,
            });
            let class = serde_json::from_value(class).expect("a class");
            classes
                .create(&PostParams::default(), &class)
                .await
                .expect("the class is made");
        }
    }

    /// Makes pods, many at once.
    async fn add_pods(&self, manifests: Vec<Value>) {
        let pods = self.pods();
        stream::iter(manifests)
            .map(|manifest| {
                let pods = pods.clone();
                let pod: Pod = serde_json::from_value(manifest).expect("a pod");
                async move { pods.create(&PostParams::default(), &pod).await }
            })
            .buffer_unordered(16)
            .try_for_each(|_| async { Ok(()) })
            .await
            .expect("the pods are made");
    }

    fn start(&self) -> Running {
        let config = PlacementConfig {
            patience: Patience {
                first: Duration::from_millis(50),
                longest: Duration::from_millis(500),
                forgotten: Duration::from_secs(5),
            },
            seed: Some(1),
            ..PlacementConfig::default()
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(placement::run(
            self.client.clone(),
            config,
            shutdown.clone(),
        ));
        Running { shutdown, task }
    }

    async fn list(&self) -> Vec<Pod> {
        let all = self.pods().list(&ListParams::default()).await;
        all.expect("the pods are listed").items
    }

    /// Waits until the pods are as they should be.
    async fn until(&self, what: &str, holds: impl Fn(&[Pod]) -> bool) -> Vec<Pod> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let pods = self.list().await;
            if holds(&pods) {
                return pods;
            }
            assert!(Instant::now() < deadline, "waited in vain until {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn bound(pods: &[Pod]) -> usize {
    pods.iter().filter(|pod| node_of(pod).is_some()).count()
}

fn condition(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|one| one.type_ == "PodScheduled")?;
    (found.status == "False").then(|| found.message.clone())?
}

fn manifest(name: &str, cpu: &str, over: Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": name},
        "spec": {"containers": [
            {"name": "main", "image": "app", "resources": {"requests": {"cpu": cpu}}}]},
    });
    for part in ["metadata", "spec"] {
        let Some(more) = over.get(part).and_then(Value::as_object) else {
            continue;
        };
        let into = pod[part].as_object_mut().expect("an object");
        into.extend(more.clone());
    }
    pod
}

/// Apart by host from pods of the same group.
fn of_group(group: &str) -> Value {
    json!({
        "metadata": {"labels": {"group": group}},
        "spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
            "labelSelector": {"matchLabels": {"group": group}}, "topologyKey": "kubernetes.io/hostname"}]}}},
    })
}

/// No node gives away more than it has, and no two pods of a group share one.
fn assert_sound(pods: &[Pod], cpu_millis: i64) {
    let mut used: HashMap<&str, i64> = HashMap::new();
    let mut groups: HashSet<(&str, &str)> = HashSet::new();
    for pod in pods {
        let Some(node) = node_of(pod) else {
            continue;
        };
        let spec = pod.spec.as_ref().expect("a spec");
        let resources = spec.containers[0].resources.as_ref().expect("resources");
        let requests: &BTreeMap<_, _> = resources.requests.as_ref().expect("requests");
        *used.entry(node).or_default() += quantity::milli(&requests["cpu"]);
        if let Some(group) = pod.labels().get("group") {
            assert!(groups.insert((node, group)), "two of {group} on {node}");
        }
    }
    for (node, used) in used {
        assert!(
            used <= cpu_millis,
            "{node} gave away {used}m of {cpu_millis}m"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_pods_find_places_and_no_promise_is_broken() {
    let cluster = Cluster::open().await;
    cluster.add_nodes(50, "4").await;
    let placement = cluster.start();
    let pods = (0..2000)
        .map(|number| {
            let group = format!("g{}", number / 40);
            manifest(&format!("pod-{number}"), "100m", of_group(&group))
        })
        .collect();
    cluster.add_pods(pods).await;
    let pods = cluster
        .until("all pods have a node", |pods| bound(pods) == 2000)
        .await;
    assert_sound(&pods, 4000);
    placement.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_that_is_killed_is_taken_up_where_it_was() {
    let cluster = Cluster::open().await;
    cluster.add_nodes(20, "4").await;
    let pods = (0..700)
        .map(|number| {
            let group = format!("g{}", number / 15);
            manifest(&format!("pod-{number}"), "100m", of_group(&group))
        })
        .collect();
    cluster.add_pods(pods).await;
    for enough in [50, 200, 400] {
        let placement = cluster.start();
        cluster
            .until("some pods have a node", |pods| bound(pods) >= enough)
            .await;
        placement.kill(&cluster).await;
    }
    let placement = cluster.start();
    let pods = cluster
        .until("all pods have a node", |pods| bound(pods) == 700)
        .await;
    assert_sound(&pods, 4000);
    placement.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_loops_bind_each_pod_once() {
    let cluster = Cluster::open().await;
    cluster.add_nodes(10, "64").await;
    let both = [cluster.start(), cluster.start()];
    let pods = (0..400)
        .map(|number| manifest(&format!("pod-{number}"), "100m", json!({})))
        .collect();
    cluster.add_pods(pods).await;
    let pods = cluster
        .until("all pods have a node", |pods| bound(pods) == 400)
        .await;
    let first: HashMap<String, String> = pods
        .iter()
        .map(|pod| (pod.name_any(), node_of(pod).unwrap_or_default().to_owned()))
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    for pod in cluster.list().await {
        assert_eq!(
            node_of(&pod),
            first.get(&pod.name_any()).map(String::as_str)
        );
    }
    for one in both {
        one.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_a_place_says_why_and_gets_the_first_that_comes() {
    let cluster = Cluster::open().await;
    cluster.add_nodes(2, "1").await;
    let placement = cluster.start();
    cluster
        .add_pods(vec![manifest("large", "2", json!({}))])
        .await;
    let text = "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: \
                2 Preemption is not helpful for scheduling.";
    cluster
        .until("the pod says why", |pods| {
            condition(&pods[0]).as_deref() == Some(text)
        })
        .await;
    let events: Client<Event> = Client::namespaced(cluster.client.clone(), "default");
    let deadline = Instant::now() + LIMIT;
    loop {
        let all = events.list(&ListParams::default()).await.expect("events");
        let failed = all
            .iter()
            .filter(|event| event.reason.as_deref() == Some("FailedScheduling"));
        let messages: Vec<_> = failed
            .filter_map(|event| event.message.as_deref())
            .collect();
        if messages == [text] {
            break;
        }
        assert!(Instant::now() < deadline, "no such event: {messages:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let explanation = explain::load(cluster.client.clone(), "default", "large")
        .await
        .expect("an explanation");
    assert!(
        explanation.to_string().contains("cpu: 2 wanted, 1 free"),
        "{explanation}"
    );
    let nodes: Client<Node> = Client::all(cluster.client.clone());
    let all = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
    let more = Patch::Merge(json!({"status": {"allocatable": all, "capacity": all}}));
    nodes
        .patch_status("node-1", &PatchParams::default(), &more)
        .await
        .expect("the node has more");
    let pods = cluster
        .until("the pod has a node", |pods| bound(pods) == 1)
        .await;
    assert_eq!(node_of(&pods[0]), Some("node-1"));
    let explanation = explain::load(cluster.client.clone(), "default", "large")
        .await
        .expect("an explanation");
    assert_eq!(explanation.bound_to.as_deref(), Some("node-1"));
    assert_eq!(explanation.best, ["node-1"]);
    placement.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn important_pods_take_the_place_of_others() {
    let cluster = Cluster::open().await;
    cluster.add_nodes(2, "1").await;
    cluster.add_classes(&[1, 2, 100]).await;
    let placement = cluster.start();
    let low = |name: &str, priority: i32| {
        let class = format!("class-{priority}");
        manifest(name, "600m", json!({"spec": {"priorityClassName": class}}))
    };
    cluster.add_pods(vec![low("less", 1), low("more", 2)]).await;
    cluster
        .until("both have a node", |pods| bound(pods) == 2)
        .await;
    cluster
        .add_pods(vec![manifest(
            "great",
            "600m",
            json!({"spec": {"priorityClassName": "class-100"}}),
        )])
        .await;
    let nominated = |pod: &Pod| {
        let status = pod.status.as_ref();
        status.and_then(|status| status.nominated_node_name.clone())
    };
    let find = |pods: &[Pod], name: &str| pods.iter().find(|pod| pod.name_any() == name).cloned();
    // Nobody acts as an agent here, so the test takes the victim away.
    let pods = cluster
        .until("the least important is told to go", |pods| {
            let great = find(pods, "great");
            let less = find(pods, "less");
            great.is_some_and(|pod| nominated(&pod).is_some() || node_of(&pod).is_some())
                && less.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
        })
        .await;
    assert!(find(&pods, "more").is_some_and(|pod| pod.metadata.deletion_timestamp.is_none()));
    if find(&pods, "less").is_some() {
        let at_once = DeleteParams::default().grace_period(0);
        cluster
            .pods()
            .delete("less", &at_once)
            .await
            .expect("the victim goes");
    }
    let pods = cluster
        .until("the important pod has a node", |pods| {
            find(pods, "great").is_some_and(|pod| node_of(&pod).is_some())
        })
        .await;
    assert_sound(&pods, 1000);
    placement.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_other_schedulers_and_behind_gates_are_left_alone() {
    let cluster = Cluster::open().await;
    cluster.add_nodes(1, "4").await;
    let placement = cluster.start();
    cluster
        .add_pods(vec![
            manifest("foreign", "1", json!({"spec": {"schedulerName": "other"}})),
            manifest(
                "gated",
                "1",
                json!({"spec": {"schedulingGates": [{"name": "later"}]}}),
            ),
            manifest("plain", "1", json!({})),
        ])
        .await;
    let is_bound = |pods: &[Pod], name: &str| {
        pods.iter()
            .any(|pod| pod.name_any() == name && node_of(pod).is_some())
    };
    cluster
        .until("the plain pod has a node", |pods| is_bound(pods, "plain"))
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let pods = cluster.list().await;
    assert!(!is_bound(&pods, "foreign") && !is_bound(&pods, "gated"));
    let lifted = Patch::Merge(json!({"spec": {"schedulingGates": null}}));
    cluster
        .pods()
        .patch("gated", &PatchParams::default(), &lifted)
        .await
        .expect("the gate is lifted");
    cluster
        .until("the gate was seen to be gone", |pods| {
            is_bound(pods, "gated")
        })
        .await;
    placement.stop().await;
}
