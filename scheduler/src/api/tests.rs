//! The API as its clients see it: `kube::Client` in one process, over a store in a file.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Event, Namespace, Node, Pod, Service},
    node::v1::RuntimeClass,
};
use kube::{
    Api as Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::{Value, json};

use crate::{
    api::{Api, ApiConfig, Identity, local},
    store::embedded::EmbeddedStore,
};

/// An API over a store that is gone with the value.
pub(super) struct Fixture {
    pub api: Arc<Api>,
    pub client: kube::Client,
    _directory: tempfile::TempDir,
}

pub(super) async fn fixture() -> Fixture {
    fixture_with(ApiConfig::default()).await
}

pub(super) async fn fixture_with(config: ApiConfig) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&directory.path().join("store.redb")).unwrap();
    let api = Api::open(Arc::new(store), config).await.unwrap();
    let client = local::client(api.clone(), Identity::master("test"));
    Fixture {
        api,
        client,
        _directory: directory,
    }
}

fn config_map(name: &str, color: &str) -> ConfigMap {
    serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "color": color } }, "data": { "a": "1" },
    }))
    .unwrap()
}

pub(super) fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    }))
    .unwrap()
}

fn api_error(outcome: Result<impl std::fmt::Debug, kube::Error>) -> (u16, String, String) {
    match outcome {
        Err(kube::Error::Api(status)) => {
            (status.code, status.reason.clone(), status.message.clone())
        }
        other => panic!("expected a Status, found {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_made_read_changed_and_deleted() {
    let fixture = fixture().await;
    let maps: Client<ConfigMap> = Client::namespaced(fixture.client.clone(), "default");
    let made = maps
        .create(&PostParams::default(), &config_map("a", "red"))
        .await
        .unwrap();
    assert_eq!(made.uid().unwrap().len(), 36);
    assert!(made.creation_timestamp().is_some());
    let read = maps.get("a").await.unwrap();
    assert_eq!(read, made);
    let again = api_error(
        maps.create(&PostParams::default(), &config_map("a", "red"))
            .await,
    );
    assert_eq!(
        again,
        (
            409,
            "AlreadyExists".into(),
            "configmaps \"a\" already exists".into()
        )
    );

    let patch = json!({ "data": { "b": "2" } });
    let patched = maps
        .patch("a", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    assert_eq!(patched.data.as_ref().unwrap().len(), 2);
    assert_ne!(patched.resource_version(), made.resource_version());

    let stale = api_error(maps.replace("a", &PostParams::default(), &made).await);
    assert_eq!((stale.0, stale.1.as_str()), (409, "Conflict"));
    let replaced = maps
        .replace("a", &PostParams::default(), &patched)
        .await
        .unwrap();
    assert_eq!(
        replaced.resource_version(),
        patched.resource_version(),
        "nothing changed, nothing is written"
    );

    let gone = maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(gone.is_right());
    assert_eq!(
        api_error(maps.get("a").await).2,
        "configmaps \"a\" not found"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_select_and_come_in_pages_of_one_moment() {
    let fixture = fixture().await;
    let maps: Client<ConfigMap> = Client::namespaced(fixture.client.clone(), "default");
    for number in 0..7 {
        let color = if number % 2 == 0 { "red" } else { "blue" };
        maps.create(
            &PostParams::default(),
            &config_map(&format!("m{number}"), color),
        )
        .await
        .unwrap();
    }
    let red = maps
        .list(&ListParams::default().labels("color in (red),!size"))
        .await
        .unwrap();
    assert_eq!(red.items.len(), 4);
    let one = maps
        .list(&ListParams::default().fields("metadata.name=m3"))
        .await
        .unwrap();
    assert_eq!(one.items.len(), 1);

    let first = maps.list(&ListParams::default().limit(3)).await.unwrap();
    assert_eq!(first.metadata.remaining_item_count, Some(4));
    maps.delete("m5", &DeleteParams::default()).await.unwrap();
    let token = first.metadata.continue_.unwrap();
    let rest = maps
        .list(&ListParams::default().continue_token(&token))
        .await
        .unwrap();
    assert_eq!(
        rest.metadata.resource_version,
        first.metadata.resource_version
    );
    let names: Vec<String> = rest.items.iter().map(ResourceExt::name_any).collect();
    assert_eq!(
        names,
        ["m3", "m4", "m5", "m6"],
        "the object that was deleted since is still in the picture"
    );
    assert_eq!(
        maps.list(&ListParams::default()).await.unwrap().items.len(),
        6
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_what_enters_and_leaves_its_selection() {
    let fixture = fixture().await;
    let maps: Client<ConfigMap> = Client::namespaced(fixture.client.clone(), "default");
    let start = maps
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    let parameters = WatchParams::default().labels("color=red").timeout(20);
    let seen = maps.watch(&parameters, &start).await.unwrap();
    maps.create(&PostParams::default(), &config_map("a", "blue"))
        .await
        .unwrap();
    maps.create(&PostParams::default(), &config_map("b", "red"))
        .await
        .unwrap();
    let paint = |color: &str| json!({ "metadata": { "labels": { "color": color } } });
    for color in ["red", "blue"] {
        maps.patch("a", &PatchParams::default(), &Patch::Merge(paint(color)))
            .await
            .unwrap();
    }
    maps.delete("b", &DeleteParams::default()).await.unwrap();
    let told: Vec<String> = seen
        .map_ok(|event| match event {
            WatchEvent::Added(map) => format!("+{}", map.name_any()),
            WatchEvent::Modified(map) => format!("~{}", map.name_any()),
            WatchEvent::Deleted(map) => format!("-{}", map.name_any()),
            other => format!("{other:?}"),
        })
        .take(4)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(told, ["+b", "+a", "-a", "-b"]);
    // The same again from the beginning, as a client that was away.
    let again = maps.watch(&parameters, &start).await.unwrap();
    assert_eq!(again.take(4).count().await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_list_ends_with_a_marked_bookmark() {
    let fixture = fixture().await;
    let maps: Client<ConfigMap> = Client::namespaced(fixture.client.clone(), "default");
    let made = maps
        .create(&PostParams::default(), &config_map("a", "red"))
        .await
        .unwrap();
    let parameters = WatchParams::default().initial_events().timeout(20);
    // From 0 on it would be the state of any time.
    let start = made.resource_version().unwrap();
    let mut seen = maps.watch(&parameters, &start).await.unwrap().boxed();
    assert!(matches!(seen.next().await, Some(Ok(WatchEvent::Added(map))) if map.name_any() == "a"));
    match seen.next().await {
        Some(Ok(WatchEvent::Bookmark(mark))) => {
            assert_eq!(
                mark.metadata.annotations["k8s.io/initial-events-end"],
                "true"
            );
        }
        other => panic!("expected a bookmark, found {other:?}"),
    }
    let configured = kube::runtime::watcher::Config::default().streaming_lists();
    let applied = kube::runtime::watcher(maps.clone(), configured);
    let mut applied = std::pin::pin!(kube::runtime::WatchStreamExt::applied_objects(applied));
    assert_eq!(applied.next().await.unwrap().unwrap().name_any(), "a");
    maps.create(&PostParams::default(), &config_map("b", "red"))
        .await
        .unwrap();
    assert_eq!(applied.next().await.unwrap().unwrap().name_any(), "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_watches_are_told_how_far_they_are() {
    let config = ApiConfig {
        bookmark_period: Duration::from_millis(50),
        ..ApiConfig::default()
    };
    let fixture = fixture_with(config).await;
    let maps: Client<ConfigMap> = Client::namespaced(fixture.client.clone(), "default");
    let start = maps
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    let seen = maps
        .watch(&WatchParams::default().timeout(20), &start)
        .await
        .unwrap();
    let nodes: Client<Node> = Client::all(fixture.client.clone());
    let node: Node = serde_json::from_value(json!({ "metadata": { "name": "n" } })).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let start: u64 = start.parse().unwrap();
    let mut seen = seen.boxed();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let event = tokio::time::timeout_at(deadline, seen.next())
            .await
            .unwrap();
        let Some(Ok(WatchEvent::Bookmark(mark))) = event else {
            panic!("expected bookmarks, found {event:?}")
        };
        if mark.metadata.resource_version.parse::<u64>().unwrap() > start {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_bound_once_and_leaves_in_grace() {
    let fixture = fixture().await;
    let pods: Client<Pod> = Client::namespaced(fixture.client.clone(), "default");
    pods.create(&PostParams::default(), &pod("p"))
        .await
        .unwrap();
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": { "name": "p" },
        "target": { "apiVersion": "v1", "kind": "Node", "name": "n1" },
    });
    let bind = || async {
        pods.create_subresource::<Value, Value>("binding", "p", &PostParams::default(), &binding)
            .await
    };
    assert_eq!(bind().await.unwrap()["status"], "Success");
    let (code, _, message) = api_error(bind().await);
    assert_eq!(code, 409);
    assert!(
        message.ends_with("pod p is already assigned to node \"n1\""),
        "{message}"
    );
    let bound = pods.get("p").await.unwrap();
    assert_eq!(
        bound.spec.as_ref().unwrap().node_name.as_deref(),
        Some("n1")
    );
    assert_eq!(
        pods.list(&ListParams::default().fields("spec.nodeName=n1"))
            .await
            .unwrap()
            .items
            .len(),
        1
    );

    let leaving = pods
        .delete("p", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .unwrap();
    assert_eq!(leaving.metadata.deletion_grace_period_seconds, Some(30));
    assert!(pods.get("p").await.is_ok());
    let shorter = pods
        .delete("p", &DeleteParams::default().grace_period(5))
        .await
        .unwrap()
        .left()
        .unwrap();
    assert_eq!(shorter.metadata.deletion_grace_period_seconds, Some(5));
    pods.delete("p", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    assert_eq!(api_error(pods.get("p").await).0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_spec_are_two_halves_and_generation_counts_the_wanted_one() {
    let fixture = fixture().await;
    let deployments: Client<Deployment> = Client::namespaced(fixture.client.clone(), "default");
    let made: Deployment = serde_json::from_value(json!({
        "metadata": { "name": "d" },
        "spec": {
            "replicas": 2, "selector": { "matchLabels": { "a": "b" } },
            "template": {
                "metadata": { "labels": { "a": "b" } },
                "spec": { "containers": [{ "name": "c", "image": "i" }] },
            },
        },
        "status": { "replicas": 7 },
    }))
    .unwrap();
    let made = deployments
        .create(&PostParams::default(), &made)
        .await
        .unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    assert_eq!(
        made.status.as_ref().and_then(|status| status.replicas),
        None
    );
    let status = json!({ "status": { "replicas": 2 }, "spec": { "replicas": 9 } });
    let observed = deployments
        .patch_status("d", &PatchParams::default(), &Patch::Merge(&status))
        .await
        .unwrap();
    assert_eq!(observed.metadata.generation, Some(1));
    assert_eq!(observed.spec.replicas, Some(2));
    assert_eq!(observed.status.as_ref().unwrap().replicas, Some(2));
    let scale = deployments.get_scale("d").await.unwrap();
    assert_eq!(scale.status.unwrap().selector.as_deref(), Some("a=b"));
    let scaled = json!({ "spec": { "replicas": 5 } });
    let scale = deployments
        .patch_scale("d", &PatchParams::default(), &Patch::Merge(&scaled))
        .await
        .unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(5));
    let now = deployments.get("d").await.unwrap();
    assert_eq!(
        (now.metadata.generation, now.spec.replicas),
        (Some(2), Some(5))
    );
    assert_eq!(now.status.unwrap().replicas, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn finalizers_hold_an_object_until_the_last_one_lets_go() {
    let fixture = fixture().await;
    let maps: Client<ConfigMap> = Client::namespaced(fixture.client.clone(), "default");
    maps.create(&PostParams::default(), &config_map("a", "red"))
        .await
        .unwrap();
    let held = maps
        .delete("a", &DeleteParams::foreground())
        .await
        .unwrap()
        .left()
        .unwrap();
    assert_eq!(held.finalizers(), ["foregroundDeletion"]);
    assert!(held.metadata.deletion_timestamp.is_some());
    let more = json!({ "metadata": { "finalizers": ["foregroundDeletion", "other/one"] } });
    assert_eq!(
        api_error(
            maps.patch("a", &PatchParams::default(), &Patch::Merge(&more))
                .await
        )
        .0,
        422
    );
    let none = json!({ "metadata": { "finalizers": null } });
    maps.patch("a", &PatchParams::default(), &Patch::Merge(&none))
        .await
        .unwrap();
    assert_eq!(api_error(maps.get("a").await).0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_must_be_there_and_ends_with_finalize() {
    let fixture = fixture().await;
    let client = &fixture.client;
    let elsewhere: Client<ConfigMap> = Client::namespaced(client.clone(), "n");
    let missing = api_error(
        elsewhere
            .create(&PostParams::default(), &config_map("a", "red"))
            .await,
    );
    assert_eq!(
        (missing.0, missing.2.as_str()),
        (404, "namespaces \"n\" not found")
    );
    let namespaces: Client<Namespace> = Client::all(client.clone());
    let namespace: Namespace =
        serde_json::from_value(json!({ "metadata": { "name": "n" } })).unwrap();
    let made = namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    assert_eq!(made.spec.unwrap().finalizers.unwrap(), ["kubernetes"]);
    elsewhere
        .create(&PostParams::default(), &config_map("a", "red"))
        .await
        .unwrap();
    let ending = namespaces
        .delete("n", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .unwrap();
    assert_eq!(ending.status.unwrap().phase.as_deref(), Some("Terminating"));
    let late = api_error(
        elsewhere
            .create(&PostParams::default(), &config_map("b", "red"))
            .await,
    );
    assert_eq!((late.0, late.1.as_str()), (403, "Forbidden"));
    let done = json!({ "metadata": { "name": "n" }, "spec": { "finalizers": [] } });
    namespaces
        .replace_subresource("finalize", "n", &PostParams::default(), &done)
        .await
        .unwrap();
    assert_eq!(api_error(namespaces.get("n").await).0, 404);
}

fn service(name: &str) -> Service {
    serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": { "type": "NodePort", "selector": { "a": "b" }, "ports": [{ "port": 80 }] },
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_and_ports_are_given_once_and_given_back() {
    let fixture = fixture().await;
    let services: Client<Service> = Client::namespaced(fixture.client.clone(), "default");
    let makers = (0..20).map(|number| {
        let services = services.clone();
        async move {
            services
                .create(&PostParams::default(), &service(&format!("s{number}")))
                .await
                .unwrap()
        }
    });
    let made = futures::future::join_all(makers).await;
    let address = |service: &Service| service.spec.clone().unwrap().cluster_ip.unwrap();
    let port = |service: &Service| {
        service.spec.clone().unwrap().ports.unwrap()[0]
            .node_port
            .unwrap()
    };
    let addresses: std::collections::BTreeSet<String> = made.iter().map(address).collect();
    let ports: std::collections::BTreeSet<i32> = made.iter().map(port).collect();
    assert_eq!((addresses.len(), ports.len()), (20, 20));

    let wanted: Service = {
        let mut wanted = service("wanted");
        wanted.spec.as_mut().unwrap().cluster_ip = Some(address(&made[0]));
        wanted
    };
    assert_eq!(
        api_error(services.create(&PostParams::default(), &wanted).await).0,
        422
    );
    services
        .delete("s0", &DeleteParams::default())
        .await
        .unwrap();
    let taken = services
        .create(&PostParams::default(), &wanted)
        .await
        .unwrap();
    assert_eq!(address(&taken), address(&made[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_completed_and_dry_runs_leave_nothing() {
    let fixture = fixture().await;
    let maps: Client<ConfigMap> = Client::namespaced(fixture.client.clone(), "default");
    let mut map = config_map("", "red");
    map.metadata.name = None;
    map.metadata.generate_name = Some("made-".into());
    let made = maps.create(&PostParams::default(), &map).await.unwrap();
    assert!(
        made.name_any().starts_with("made-") && made.name_any().len() == 10,
        "{}",
        made.name_any()
    );
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    maps.create(&dry, &config_map("dry", "red")).await.unwrap();
    assert_eq!(api_error(maps.get("dry").await).0, 404);
    let deleted = maps
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .unwrap();
    assert_eq!(deleted.left().unwrap().items.len(), 1);
    assert!(
        maps.list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_the_same_in_both_groups() {
    let fixture = fixture().await;
    let events: Client<Event> = Client::namespaced(fixture.client.clone(), "default");
    let newer: Client<k8s_openapi::api::events::v1::Event> =
        Client::namespaced(fixture.client.clone(), "default");
    let event: k8s_openapi::api::events::v1::Event = serde_json::from_value(json!({
        "metadata": { "name": "e" }, "reason": "Pulled", "note": "there", "type": "Normal", "action": "Pulling",
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "berth.dev/agent",
        "reportingInstance": "n", "regarding": { "kind": "Pod", "name": "p", "namespace": "default" },
    }))
    .unwrap();
    newer.create(&PostParams::default(), &event).await.unwrap();
    let old = events.get("e").await.unwrap();
    assert_eq!(old.message.as_deref(), Some("there"));
    assert_eq!(old.involved_object.name.as_deref(), Some("p"));
    let patch = json!({ "note": "gone" });
    let patched = newer
        .patch("e", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    assert_eq!(patched.note.as_deref(), Some("gone"));
    assert_eq!(
        newer
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_names_what_is_served() {
    let fixture = fixture().await;
    let groups = fixture.client.list_api_groups().await.unwrap();
    assert!(groups.groups.iter().any(|group| group.name == "apps"));
    let core = fixture.client.list_core_api_resources("v1").await.unwrap();
    let by_name: BTreeMap<_, _> = core
        .resources
        .iter()
        .map(|one| (one.name.as_str(), one))
        .collect();
    assert!(by_name.contains_key("pods") && by_name.contains_key("pods/log"));
    assert_eq!(fixture.client.apiserver_version().await.unwrap().major, "1");
    assert!(fixture.api.is_current().await.unwrap());
}

/// `pods/NAME/resize` is about resources, whatever else its body says.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_resized_by_a_path_of_its_own() {
    let fixture = fixture().await;
    let pods: Client<Pod> = Client::namespaced(fixture.client.clone(), "default");
    let mut pod = pod("a");
    let asks = json!({"requests": {"cpu": "1"}});
    pod.spec.as_mut().unwrap().containers[0].resources = serde_json::from_value(asks).unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let path = "/api/v1/namespaces/default/pods/a/resize";
    let ask = |patch: Value, kind: &str, query: &str| {
        http::Request::patch(format!("{path}{query}"))
            .header("content-type", format!("application/{kind}"))
            .body(patch.to_string().into_bytes())
            .unwrap()
    };
    let patch = json!({
        "metadata": {"labels": {"a": "b"}},
        "spec": {"nodeName": "n", "containers": [
            {"name": "c", "image": "other", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "2500m"}}}]},
    });
    let request = ask(patch, "strategic-merge-patch+json", "?fieldManager=me");
    let resized: Pod = fixture.client.request(request).await.unwrap();
    let spec = resized.spec.as_ref().unwrap();
    assert_eq!(spec.containers[0].image.as_deref(), Some("i"));
    assert_eq!((&spec.node_name, resized.labels().len()), (&None, 0));
    let resources = serde_json::to_value(&spec.containers[0].resources).unwrap();
    assert_eq!(
        resources,
        json!({"requests": {"cpu": "2"}, "limits": {"cpu": "2500m"}})
    );
    assert_eq!(resized.metadata.generation, Some(2));
    let managers = resized.metadata.managed_fields.as_ref().unwrap();
    let mine = managers
        .iter()
        .find(|one| one.manager.as_deref() == Some("me"));
    assert_eq!(mine.unwrap().subresource.as_deref(), Some("resize"));

    let config = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1500m"}}}]},
    });
    let request = ask(config, "apply-patch+yaml", "?fieldManager=you&force=true");
    let applied: Pod = fixture.client.request(request).await.unwrap();
    let containers = &applied.spec.as_ref().unwrap().containers;
    let resources = serde_json::to_value(&containers[0].resources).unwrap();
    assert_eq!(
        resources,
        json!({"requests": {"cpu": "1500m"}, "limits": {"cpu": "2500m"}})
    );

    // As a whole object too; and what is wrong is told.
    let mut whole = applied.clone();
    whole.spec.as_mut().unwrap().containers[0].resources = None;
    let put = http::Request::put(path)
        .body(serde_json::to_vec(&whole).unwrap())
        .unwrap();
    let (code, reason, message) = api_error(fixture.client.request::<Pod>(put).await);
    assert_eq!((code, reason.as_str()), (422, "Invalid"), "{message}");
    assert!(message.contains("cannot be removed"), "{message}");
    let read = http::Request::get(path).body(Vec::new()).unwrap();
    let read: Pod = fixture.client.request(read).await.unwrap();
    assert_eq!(read.spec, applied.spec);
}

/// A pod of a class that nobody made is refused; one of a class has what the class says.
#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_class_completes_its_pods() {
    let fixture = fixture().await;
    let pods: Client<Pod> = Client::namespaced(fixture.client.clone(), "default");
    let classes: Client<RuntimeClass> = Client::all(fixture.client.clone());
    let mut pod = pod("a");
    pod.spec.as_mut().unwrap().runtime_class_name = Some("sandboxed".to_owned());
    let (code, _, message) = api_error(pods.create(&PostParams::default(), &pod).await);
    assert_eq!(code, 403);
    assert_eq!(
        message,
        "pods \"a\" is forbidden: pod rejected: RuntimeClass \"sandboxed\" not found"
    );
    let class = serde_json::from_value(json!({
        "metadata": {"name": "sandboxed"}, "handler": "runsc",
        "overhead": {"podFixed": {"memory": "64Mi"}},
        "scheduling": {"nodeSelector": {"has": "runsc"}},
    }))
    .unwrap();
    classes
        .create(&PostParams::default(), &class)
        .await
        .unwrap();
    let made = pods.create(&PostParams::default(), &pod).await.unwrap();
    let spec = serde_json::to_value(&made.spec).unwrap();
    assert_eq!(spec["overhead"], json!({"memory": "64Mi"}));
    assert_eq!(spec["nodeSelector"], json!({"has": "runsc"}));
}
