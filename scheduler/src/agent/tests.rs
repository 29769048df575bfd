//! An agent between a server in memory and a node in memory.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    run,
    settings::{AgentConfig, Periods, Pressure},
};
use crate::pod::{
    settings::Backoff,
    worker::tests::fake::{FakeNode, Program},
};
use stand_in::{StandIn, eventually};

mod stand_in;

const NODE: &str = "/api/v1/nodes/n1";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
const POD: &str = "/api/v1/namespaces/shop/pods/web";

/// An agent, its server and its node.
struct Scene {
    server: Arc<StandIn>,
    node: Arc<FakeNode>,
    directory: tempfile::TempDir,
    shutdown: CancellationToken,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl Scene {
    fn new() -> Scene {
        let node = FakeNode::new();
        node.script("main", &[Program::serves()]);
        let mut scene = Scene {
            server: StandIn::new(),
            node,
            directory: tempfile::tempdir().unwrap(),
            shutdown: CancellationToken::new(),
            running: None,
        };
        scene.start();
        scene
    }

    fn config(&self) -> AgentConfig {
        let millis = Duration::from_millis;
        let mut config = AgentConfig::new(self.directory.path().join("data"));
        config.node.name = "n1".to_owned();
        config.node.cpu_millis = 2000;
        config.node.memory_bytes = 1 << 30;
        config.listen = None;
        // The machine's own disk and memory are no matter of these tests.
        config.pressure = Pressure {
            memory_bytes: 0,
            disk_percent: 0,
            pid_percent: 0,
            ..Pressure::default()
        };
        config.logs_dir = self.directory.path().join("logs");
        config.log_links_dir = None;
        config.restart_backoff = Backoff {
            initial: millis(50),
            max: millis(200),
            reset_after: Duration::from_secs(60),
        };
        config.pull_backoff = config.restart_backoff;
        let periods = &mut config.periods;
        periods.lease = millis(100);
        periods.node = millis(200);
        periods.objects = millis(200);
        periods.missing = millis(100);
        periods.gather = millis(10);
        periods.retry = (millis(50), millis(200));
        periods.relist = millis(50);
        periods.look = millis(100);
        periods.sweep = millis(500);
        config
    }

    fn start(&mut self) {
        self.begin(|_| {});
    }

    /// Starts the agent with other periods.
    fn begin(&mut self, change: impl FnOnce(&mut Periods)) {
        self.shutdown = CancellationToken::new();
        let (client, mut config) = (self.server.client(), self.config());
        change(&mut config.periods);
        let (node, shutdown) = (self.node.clone(), self.shutdown.clone());
        self.running = Some(tokio::spawn(async move {
            run(client, node, config, shutdown).await.unwrap();
        }));
    }

    /// As though it was killed: nothing is written on the way out.
    async fn kill(&mut self) {
        let running = self.running.take().unwrap();
        running.abort();
        let _ = running.await;
    }

    fn bind(&self, uid: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        if spec["containers"].is_null() {
            spec["containers"] = json!([{"name": "main", "image": "main"}]);
        }
        self.server.put(
            POD,
            json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "namespace": "shop", "uid": uid},
            "spec": spec, "status": {"phase": "Pending"}}),
        );
    }

    fn phase(&self) -> String {
        let pod = self.server.get(POD).unwrap_or_default();
        pod["status"]["phase"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    async fn until_phase(&self, phase: &str) {
        eventually(phase, || (self.phase() == phase).then_some(())).await;
    }

    /// The deletion that a person asks for.
    fn ask_to_delete(&self) {
        self.server.merge(
            POD,
            &json!({"metadata": {
            "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 2}}),
        );
    }

    fn events(&self) -> Vec<String> {
        let events = self.server.list("/api/v1/namespaces/shop/events/");
        events
            .iter()
            .map(|event| event["reason"].as_str().unwrap().to_owned())
            .collect()
    }

    fn starts(&self) -> usize {
        self.node.calls(&["start"]).len()
    }
}

#[tokio::test]
async fn a_pod_runs_is_told_of_and_goes() {
    let scene = Scene::new();
    eventually("a lease", || scene.server.get(LEASE)).await;
    let node = eventually("a node", || scene.server.get(NODE)).await;
    assert_eq!(node["status"]["capacity"]["cpu"], "2");
    scene.bind("u-1", json!({"terminationGracePeriodSeconds": 2}));
    scene.until_phase("Running").await;
    let status = scene.server.get(POD).unwrap()["status"].clone();
    assert_eq!(status["qosClass"], "BestEffort");
    assert_eq!(status["containerStatuses"][0]["ready"], true, "{status}");
    for reason in ["Pulled", "Created", "Started"] {
        eventually(reason, || {
            scene.events().contains(&reason.to_owned()).then_some(())
        })
        .await;
    }
    scene.ask_to_delete();
    eventually("deletion", || scene.server.get(POD).is_none().then_some(())).await;
    eventually("no sandbox", || {
        scene.node.sandboxes().is_empty().then_some(())
    })
    .await;
    let saved = scene.directory.path().join("data/pods/u-1.json");
    eventually("no checkpoint", || (!saved.exists()).then_some(())).await;
}

#[tokio::test]
async fn a_pod_that_ends_is_not_begun_anew_by_the_next_agent() {
    let mut scene = Scene::new();
    scene.node.script("main", &[Program::exits(0)]);
    scene.bind("u-1", json!({"restartPolicy": "Never"}));
    scene.until_phase("Succeeded").await;
    scene.kill().await;
    // The server never heard of it.
    scene
        .server
        .merge(POD, &json!({"status": {"phase": "Running"}}));
    scene.start();
    scene.until_phase("Succeeded").await;
    assert_eq!(scene.starts(), 1);
}

#[tokio::test]
async fn pods_run_on_without_agent_and_server() {
    let mut scene = Scene::new();
    scene.bind("u-1", json!({"terminationGracePeriodSeconds": 1}));
    scene.until_phase("Running").await;
    let before = scene.server.get(POD).unwrap()["status"].clone();
    scene.server.set_away(true);
    // At once: what is known of the pod was saved before its status was.
    scene.kill().await;
    scene.start();
    // An agent without a server still restarts what ends.
    scene.node.end_container("main", 3);
    eventually("a second start", || (scene.starts() == 2).then_some(())).await;
    scene.server.set_away(false);
    eventually("the restart told", || {
        let pod = scene.server.get(POD)?;
        (pod["status"]["containerStatuses"][0]["restartCount"] == 1).then_some(())
    })
    .await;
    let after = scene.server.get(POD).unwrap()["status"].clone();
    assert_eq!(after["startTime"], before["startTime"]);
    assert_eq!(scene.node.sandboxes().len(), 1);
    // What the server no longer has is ended, once it says so.
    scene.server.set_away(true);
    scene.server.delete(POD);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(scene.node.sandboxes().len(), 1);
    scene.server.set_away(false);
    eventually("its end", || {
        scene.node.sandboxes().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_others_say_of_a_pod_is_put_right() {
    let scene = Scene::new();
    scene.bind("u-1", json!({}));
    scene.until_phase("Running").await;
    let ready = |status: &Value| {
        let conditions = status["conditions"].as_array().unwrap();
        let ready = conditions
            .iter()
            .find(|one| one["type"] == "Ready")
            .unwrap();
        ready["status"].clone()
    };
    let mut conditions = scene.server.get(POD).unwrap()["status"]["conditions"].clone();
    for condition in conditions.as_array_mut().unwrap() {
        condition["status"] = json!("False");
    }
    let patch = json!({"status": {"conditions": conditions}});
    scene.server.merge(POD, &patch);
    eventually("Ready again", || {
        let pod = scene.server.get(POD)?;
        (ready(&pod["status"]) == "True").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_doubt_of_the_node_is_answered_at_once() {
    let mut scene = Scene::new();
    scene.kill().await;
    scene.server.delete(NODE);
    scene.begin(|periods| periods.node = Duration::from_secs(3600));
    let ready = || {
        let node = scene.server.get(NODE)?;
        let conditions = node["status"]["conditions"].as_array()?.clone();
        let ready = conditions.iter().find(|one| one["type"] == "Ready")?;
        (ready["status"] == "True").then_some(())
    };
    eventually("the node is ready", ready).await;
    let doubt = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    scene.server.merge(NODE, &doubt);
    eventually("the node is ready again", ready).await;
}

#[tokio::test]
async fn a_pod_is_taken_over_without_a_flicker() {
    let mut scene = Scene::new();
    scene.bind("u-1", json!({}));
    scene.until_phase("Running").await;
    scene.kill().await;
    let before = scene.server.get(POD).unwrap();
    scene.start();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let after = scene.server.get(POD).unwrap();
    assert_eq!(
        after["status"]["conditions"],
        before["status"]["conditions"]
    );
    assert_eq!(after["status"]["phase"], "Running");
    assert_eq!(scene.starts(), 1);
}

#[tokio::test]
async fn what_a_pod_lacks_is_waited_for_and_then_followed() {
    let scene = Scene::new();
    scene.bind(
        "u-1",
        json!({
        "volumes": [{"name": "v", "configMap": {"name": "settings"}}],
        "containers": [{"name": "main", "image": "main",
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}),
    );
    eventually("FailedMount", || {
        scene
            .events()
            .contains(&"FailedMount".to_owned())
            .then_some(())
    })
    .await;
    assert_eq!(scene.phase(), "Pending");
    let map = "/api/v1/namespaces/shop/configmaps/settings";
    scene.server.put(
        map,
        json!({"metadata": {"name": "settings", "namespace": "shop"},
        "data": {"k": "one"}}),
    );
    scene.until_phase("Running").await;
    let file = scene.directory.path().join("data/volumes/u-1/v/k");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "one");
    scene.server.merge(map, &json!({"data": {"k": "two"}}));
    eventually("the new value", || {
        (std::fs::read_to_string(&file).ok()? == "two").then_some(())
    })
    .await;
    assert_eq!(scene.starts(), 1);
}

#[tokio::test]
async fn a_pod_that_does_not_fit_is_refused() {
    let scene = Scene::new();
    eventually("a node", || scene.server.get(NODE)).await;
    scene.bind(
        "u-1",
        json!({"containers": [{"name": "main", "image": "main",
        "resources": {"requests": {"cpu": "3"}}}]}),
    );
    scene.until_phase("Failed").await;
    assert_eq!(
        scene.server.get(POD).unwrap()["status"]["reason"],
        "OutOfcpu"
    );
    assert_eq!(scene.starts(), 0);
    scene.ask_to_delete();
    eventually("deletion", || scene.server.get(POD).is_none().then_some(())).await;
}

#[tokio::test]
async fn another_pod_of_the_same_name_is_another_pod() {
    let scene = Scene::new();
    scene.bind("u-1", json!({"terminationGracePeriodSeconds": 1}));
    scene.until_phase("Running").await;
    scene.server.delete(POD);
    scene.bind("u-2", json!({}));
    scene.until_phase("Running").await;
    eventually("one sandbox", || {
        let sandboxes = scene.node.sandboxes();
        (sandboxes.len() == 1).then_some(())
    })
    .await;
    assert_eq!(scene.starts(), 2);
}

#[tokio::test]
async fn a_new_image_restarts_its_container_in_place() {
    let scene = Scene::new();
    scene.bind("u-1", json!({"terminationGracePeriodSeconds": 1}));
    scene.until_phase("Running").await;
    scene.server.merge(
        POD,
        &json!({"spec": {
        "containers": [{"name": "main", "image": "other"}]}}),
    );
    eventually("a second start", || (scene.starts() == 2).then_some(())).await;
    assert_eq!(scene.node.sandboxes().len(), 1);
}
