//! Nodes, namespaces, garbage and endpoints with the real API in one process.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::nodes::NodesConfig;
use super::{ControllersConfig, run};
use crate::api::{ApiConfig, Identity, local};
use crate::store::embedded::EmbeddedStore;

/// An API with all controllers, gone with the value.
struct World {
    client: kube::Client,
    shutdown: CancellationToken,
    _directory: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn world() -> World {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&directory.path().join("state.redb")).unwrap();
    let api = crate::api::Api::open(Arc::new(store), ApiConfig::default())
        .await
        .unwrap();
    let client = local::client(api, Identity::master("test"));
    let shutdown = CancellationToken::new();
    let config = ControllersConfig {
        nodes: NodesConfig {
            silence: Duration::from_millis(1500),
            toleration: Duration::from_millis(500),
            ..NodesConfig::default()
        },
        ..ControllersConfig::default()
    };
    tokio::spawn(run(client.clone(), config, shutdown.clone()));
    World {
        client,
        shutdown,
        _directory: directory,
    }
}

impl World {
    fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    fn of<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Makes an object; its status too, if there is one.
    async fn make<K>(&self, api: &Api<K>, object: Value) -> K
    where
        K: Resource + Clone + Debug + DeserializeOwned + Serialize,
    {
        let typed: K = serde_json::from_value(object.clone()).unwrap();
        let made = api.create(&PostParams::default(), &typed).await.unwrap();
        if object["status"].is_null() {
            return made;
        }
        let status = Patch::Merge(json!({ "status": object["status"] }));
        api.patch_status(&made.name_any(), &PatchParams::default(), &status)
            .await
            .unwrap()
    }

    async fn node(&self, name: &str) -> Node {
        let object = json!({"metadata": {"name": name},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let node = self.make(&self.all::<Node>(), object).await;
        let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.uid()}]);
        let lease = json!({"metadata": {"name": name, "ownerReferences": owner}, "spec": {}});
        self.make(&self.of::<Lease>("kube-node-lease"), lease).await;
        node
    }

    /// Renews a node's lease until the token is cancelled.
    fn beat(&self, name: &'static str) -> CancellationToken {
        let stop = CancellationToken::new();
        let (leases, stopped) = (self.of::<Lease>("kube-node-lease"), stop.clone());
        tokio::spawn(stopped.run_until_cancelled_owned(async move {
            loop {
                let now = jiff::Timestamp::now().to_string();
                let renewal = Patch::Merge(json!({"spec": {"renewTime": now}}));
                leases
                    .patch(name, &PatchParams::default(), &renewal)
                    .await
                    .ok();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }));
        stop
    }

    /// A pod that runs on a node.
    async fn pod(&self, name: &str, node: &str, change: Value) -> Pod {
        let mut object = json!({
            "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i",
                "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": "10.210.0.7", "podIPs": [{"ip": "10.210.0.7"}],
                "conditions": [{"type": "Ready", "status": "True"}]},
        });
        json_patch::merge(&mut object, &change);
        self.make(&self.of::<Pod>("default"), object).await
    }
}

/// Asks again and again until an answer is there.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within 30 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until_gone<K>(api: &Api<K>, name: &str)
where
    K: Clone + Debug + DeserializeOwned,
{
    until(&format!("{name} gone"), || async {
        api.get_opt(name).await.unwrap().is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cluster_has_its_namespaces_with_an_account() {
    let world = world().await;
    for name in super::namespaces::BUILT_IN {
        let accounts = world.of::<ServiceAccount>(name);
        until(name, || async {
            accounts.get_opt("default").await.unwrap()
        })
        .await;
        let namespace = world.all::<Namespace>().get(name).await.unwrap();
        assert_eq!(namespace.spec.unwrap().finalizers.unwrap(), ["kubernetes"]);
    }
    // One that is deleted by mistake comes back.
    world
        .all::<Namespace>()
        .delete("kube-public", &DeleteParams::default())
        .await
        .ok();
    let accounts = world.of::<ServiceAccount>("kube-public");
    until("kube-public", || async {
        accounts.get_opt("default").await.unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_namespace_goes_after_all_that_is_in_it() {
    let world = world().await;
    let namespaces = world.all::<Namespace>();
    world
        .make(&namespaces, json!({"metadata": {"name": "shop"}}))
        .await;
    let maps = world.of::<ConfigMap>("shop");
    world
        .make(&maps, json!({"metadata": {"name": "plain"}}))
        .await;
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.org/hold"]}});
    world.make(&maps, held).await;
    let set = json!({"metadata": {"name": "web"}, "spec": {"replicas": 3,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    world.make(&world.of::<ReplicaSet>("shop"), set).await;
    let pods = world.of::<Pod>("shop");
    let three = || async {
        (pods.list(&ListParams::default()).await.unwrap().items.len() == 3).then_some(())
    };
    until("three pods", three).await;
    namespaces
        .delete("shop", &DeleteParams::default())
        .await
        .unwrap();
    until_gone(&maps, "plain").await;
    let empty = || async {
        pods.list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
            .then_some(())
    };
    until("no pods", empty).await;
    let says = || async {
        let namespace = namespaces.get("shop").await.unwrap();
        let conditions = namespace.status?.conditions?;
        conditions
            .iter()
            .find_map(|one| one.message.clone())
            .filter(|text| text.contains("1 configmaps"))
    };
    until("the status says what is left", says).await;
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("held", &PatchParams::default(), &release)
        .await
        .unwrap();
    until_gone(&namespaces, "shop").await;
}

fn owned_by(owner: &ConfigMap, name: &str) -> Value {
    json!({"metadata": {"name": name, "ownerReferences": [{"apiVersion": "v1",
        "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid(),
        "blockOwnerDeletion": true}]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_owned_follows_its_owner_as_the_policy_says() {
    let world = world().await;
    let maps = world.of::<ConfigMap>("default");
    let chain = async |prefix: &str| {
        let name = |part: &str| format!("{prefix}-{part}");
        let top = world
            .make(&maps, json!({"metadata": {"name": name("top")}}))
            .await;
        let middle = world.make(&maps, owned_by(&top, &name("middle"))).await;
        world.make(&maps, owned_by(&middle, &name("leaf"))).await;
    };
    chain("back").await;
    maps.delete("back-top", &DeleteParams::background())
        .await
        .unwrap();
    until_gone(&maps, "back-leaf").await;
    assert!(maps.get_opt("back-middle").await.unwrap().is_none());

    chain("fore").await;
    let hold = Patch::Merge(json!({"metadata": {"finalizers": ["example.org/hold"]}}));
    maps.patch("fore-leaf", &PatchParams::default(), &hold)
        .await
        .unwrap();
    maps.delete("fore-top", &DeleteParams::foreground())
        .await
        .unwrap();
    let leaf_ends = || async {
        maps.get("fore-leaf")
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
    };
    until("the leaf ends", leaf_ends).await;
    assert!(
        maps.get_opt("fore-top").await.unwrap().is_some(),
        "the owner goes last"
    );
    assert!(maps.get_opt("fore-middle").await.unwrap().is_some());
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("fore-leaf", &PatchParams::default(), &release)
        .await
        .unwrap();
    until_gone(&maps, "fore-top").await;
    assert!(maps.get_opt("fore-middle").await.unwrap().is_none());

    chain("free").await;
    maps.delete("free-top", &DeleteParams::orphan())
        .await
        .unwrap();
    until_gone(&maps, "free-top").await;
    let middle = maps.get("free-middle").await.unwrap();
    assert!(middle.owner_references().is_empty());
    assert_eq!(
        maps.get("free-leaf")
            .await
            .unwrap()
            .owner_references()
            .len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_of_another_uid_is_no_owner() {
    let world = world().await;
    let maps = world.of::<ConfigMap>("default");
    let owner = world
        .make(&maps, json!({"metadata": {"name": "owner"}}))
        .await;
    let mut stale = owner.clone();
    stale.metadata.uid = Some("00000000-0000-0000-0000-000000000000".to_owned());
    world.make(&maps, owned_by(&stale, "of-the-past")).await;
    let mut both = owned_by(&owner, "of-both");
    let second = owned_by(&stale, "x")["metadata"]["ownerReferences"][0].clone();
    both["metadata"]["ownerReferences"]
        .as_array_mut()
        .unwrap()
        .push(second);
    world.make(&maps, both).await;
    until_gone(&maps, "of-the-past").await;
    let kept = || async {
        (maps.get("of-both").await.unwrap().owner_references().len() == 1).then_some(())
    };
    until("the stale owner is forgotten", kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_follow_pods_and_go_with_their_service() {
    let world = world().await;
    let stop = {
        world.node("n1").await;
        world.beat("n1")
    };
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}});
    world.make(&world.of::<Service>("default"), service).await;
    world.pod("web-1", "n1", json!({})).await;
    let slices = world.of::<EndpointSlice>("default");
    let one = ListParams::default().labels("kubernetes.io/service-name=web");
    let ready = || async {
        let found = slices.list(&one).await.unwrap().items;
        let endpoint = found.first()?.endpoints.as_ref()?.first()?.clone();
        assert_eq!(found[0].ports.as_ref().unwrap()[0].port, Some(8080));
        assert_eq!(endpoint.addresses, ["10.210.0.7"]);
        endpoint.conditions?.ready
    };
    assert!(until("an endpoint", ready).await);
    let pods = world.of::<Pod>("default");
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    pods.patch_status("web-1", &PatchParams::default(), &Patch::Merge(unready))
        .await
        .unwrap();
    until("not ready", || async {
        ready().await.filter(|ready| !ready)
    })
    .await;
    world
        .of::<Service>("default")
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    let none = || async {
        slices
            .list(&one)
            .await
            .unwrap()
            .items
            .is_empty()
            .then_some(())
    };
    until("no slices", none).await;
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_found_and_its_pods_run_out() {
    let world = world().await;
    let nodes = world.all::<Node>();
    world.node("alive").await;
    world.node("dying").await;
    let (_alive, dying) = (world.beat("alive"), world.beat("dying"));
    let mut ranges = BTreeSet::new();
    for name in ["alive", "dying"] {
        let range = || async { nodes.get(name).await.unwrap().spec?.pod_cidr };
        ranges.insert(until("a range", range).await);
    }
    let expected = ["10.210.0.0/24", "10.210.1.0/24"].map(str::to_owned);
    assert_eq!(ranges, BTreeSet::from(expected));
    let pods = world.of::<Pod>("default");
    world.pod("stays", "alive", json!({})).await;
    world
        .pod(
            "goes",
            "dying",
            json!({"spec": {"terminationGracePeriodSeconds": 1}}),
        )
        .await;
    let tolerates = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
    world.pod("endures", "dying", tolerates).await;

    let killed = Instant::now();
    dying.cancel();
    let unknown = || async {
        let taints = nodes.get("dying").await.unwrap().spec?.taints?;
        taints
            .iter()
            .any(|taint| taint.key.ends_with("unreachable") && taint.effect == "NoExecute")
            .then_some(())
    };
    until("the taint", unknown).await;
    assert!(killed.elapsed() > Duration::from_secs(1), "it had its time");
    until_gone(&pods, "goes").await;
    let lost = || async {
        let conditions = pods.get("endures").await.unwrap().status?.conditions?;
        conditions
            .iter()
            .any(|one| one.type_ == "Ready" && one.status == "False")
            .then_some(())
    };
    until("not ready", lost).await;
    assert!(
        pods.get("endures")
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_none()
    );
    assert!(
        pods.get("stays")
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_none()
    );

    // It comes back: its agent says so until it is believed (what it says before a renewal of its
    // lease was seen does not count), and the taint goes.
    let beat = world.beat("dying");
    let clean = || async {
        let back = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let told = nodes
            .patch_status("dying", &PatchParams::default(), &Patch::Merge(back))
            .await;
        let taints = told.unwrap().spec?.taints.unwrap_or_default();
        taints.is_empty().then_some(())
    };
    until("no taint", clean).await;

    // It is deleted: its pods and its lease go, and its range is free.
    let range = nodes.get("dying").await.unwrap().spec.unwrap().pod_cidr;
    beat.cancel();
    nodes
        .delete("dying", &DeleteParams::default())
        .await
        .unwrap();
    until_gone(&pods, "endures").await;
    until_gone(&world.of::<Lease>("kube-node-lease"), "dying").await;
    world.node("next").await;
    until("the range again", || async {
        nodes
            .get("next")
            .await
            .unwrap()
            .spec?
            .pod_cidr
            .filter(|found| Some(found) == range.as_ref())
    })
    .await;
}

/// When all nodes fall silent at once it is most likely the server that is cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_no_node_is_ready_nobody_is_evicted() {
    let world = world().await;
    for name in ["n1", "n2"] {
        world.node(name).await;
    }
    world.pod("web", "n1", json!({})).await;
    let tainted = async |name: &str| {
        let spec = world.all::<Node>().get(name).await.unwrap().spec?;
        spec.taints?
            .iter()
            .any(|taint| taint.key.ends_with("unreachable"))
            .then_some(())
    };
    until("the taints", || tainted("n1")).await;
    until("the taints", || tainted("n2")).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let pod = world.of::<Pod>("default").get("web").await.unwrap();
    assert!(pod.metadata.deletion_timestamp.is_none());
}
