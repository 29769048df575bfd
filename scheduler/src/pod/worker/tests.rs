//! Pods against a node in memory: order, restarts, probes, ends, faults.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tonic::Status;

use super::{PodWorker, WorkerCommand, WorkerError};
use crate::pod::{
    events::{PodEvent, PodIdentity, PodObserver},
    objects::PodObjects,
    settings::{Backoff, Leftovers, WorkerConfig},
};
use fake::{FakeNode, Program, SANDBOX_MADE_AT};

pub(crate) mod fake;

/// Keeps everything it is told.
#[derive(Default)]
struct Witness {
    events: Mutex<Vec<PodEvent>>,
    statuses: Mutex<Vec<PodStatus>>,
}

impl PodObserver for Witness {
    fn event(&self, event: &PodEvent) {
        self.events.lock().unwrap().push(event.clone());
    }

    fn status(&self, _pod: &PodIdentity, status: &PodStatus) {
        self.statuses.lock().unwrap().push(status.clone());
    }
}

/// A pod that runs on a node in memory.
struct Scene {
    node: Arc<FakeNode>,
    witness: Arc<Witness>,
    commands: mpsc::Sender<WorkerCommand>,
    running: tokio::task::JoinHandle<Result<PodStatus, WorkerError>>,
    directory: tempfile::TempDir,
}

fn pod(spec: Value, told: &PodStatus) -> Pod {
    let mut spec = spec;
    let seconds = &mut spec["terminationGracePeriodSeconds"];
    if seconds.is_null() {
        *seconds = json!(3);
    }
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "u-1"},
        "spec": spec, "status": told}))
    .unwrap()
}

/// Waits of milliseconds, and nothing kept.
pub(in crate::pod) fn config(node: &FakeNode, directory: &tempfile::TempDir) -> WorkerConfig {
    let backoff = Backoff {
        initial: Duration::from_millis(40),
        max: Duration::from_millis(200),
        reset_after: Duration::from_secs(60),
    };
    WorkerConfig {
        poll: Duration::from_millis(5),
        restart_backoff: backoff,
        pull_backoff: backoff,
        changes: Some(node.changes()),
        leftovers: Leftovers::Remove,
        ..WorkerConfig::new(
            directory.path().join("volumes"),
            directory.path().join("logs"),
        )
    }
}

fn begin_on(node: Arc<FakeNode>, spec: Value) -> Scene {
    resume_on(node, spec, &PodStatus::default())
}

/// A worker that knows what an earlier one told.
fn resume_on(node: Arc<FakeNode>, spec: Value, told: &PodStatus) -> Scene {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&node, &directory);
    let worker = PodWorker::new(node.clone(), config, PodObjects::default());
    let witness = Arc::new(Witness::default());
    let (commands, heard) = mpsc::channel(4);
    let observer = witness.clone();
    let pod = pod(spec, told);
    let running = tokio::spawn(async move { worker.run(pod, heard, observer).await });
    Scene {
        node,
        witness,
        commands,
        running,
        directory,
    }
}

impl Scene {
    async fn end(self) -> (PodStatus, Vec<String>) {
        let ended = tokio::time::timeout(Duration::from_secs(20), self.running).await;
        let status = ended.expect("the pod does not end").unwrap().unwrap();
        let left = std::fs::read_dir(self.directory.path().join("volumes"));
        assert_eq!(left.map_or(0, Iterator::count), 0, "volumes are left");
        assert!(self.node.sandboxes().is_empty(), "a sandbox is left");
        (status, self.node.log())
    }

    async fn stop(self, grace: Option<Duration>) -> (PodStatus, Vec<String>) {
        self.commands
            .send(WorkerCommand::Stop { grace })
            .await
            .unwrap();
        self.end().await
    }

    /// Waits until a status was told for which this holds.
    async fn until(&self, holds: impl Fn(&PodStatus) -> bool) -> PodStatus {
        for _ in 0..2000 {
            let seen = self
                .witness
                .statuses
                .lock()
                .unwrap()
                .iter()
                .find(|status| holds(status))
                .cloned();
            if let Some(status) = seen {
                return status;
            }
            assert!(
                !self.running.is_finished(),
                "the pod ended: {:?}",
                self.node.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!(
            "it never was so: {:#?}",
            self.witness.statuses.lock().unwrap().last()
        );
    }

    fn events(&self) -> Vec<(String, String)> {
        let events = self.witness.events.lock().unwrap();
        events
            .iter()
            .map(|event| (event.reason.clone(), event.message.clone()))
            .collect()
    }

    fn reasons(&self) -> Vec<String> {
        self.events()
            .into_iter()
            .map(|(reason, _)| reason)
            .collect()
    }
}

fn container<'a>(status: &'a PodStatus, name: &str) -> &'a ContainerStatus {
    let init = status.init_container_statuses.iter().flatten();
    init.chain(status.container_statuses.iter().flatten())
        .find(|container| container.name == name)
        .unwrap()
}

fn is_ready(status: &PodStatus) -> bool {
    condition(status, "Ready")
}

fn condition(status: &PodStatus, kind: &str) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|condition| condition.type_ == kind && condition.status == "True")
}

fn waits_for(status: &PodStatus, name: &str, reason: &str) -> bool {
    let state = container(status, name).state.as_ref();
    let waiting = state.and_then(|state| state.waiting.as_ref());
    waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some(reason))
}

fn exit_code(status: &PodStatus, name: &str) -> Option<i32> {
    let state = container(status, name).state.as_ref()?;
    Some(state.terminated.as_ref()?.exit_code)
}

fn phase(status: &PodStatus) -> &str {
    status.phase.as_deref().unwrap()
}

fn main() -> Value {
    json!({"name": "main", "image": "main", "imagePullPolicy": "IfNotPresent"})
}

fn named(name: &str, image: &str, more: Value) -> Value {
    let mut container = json!({"name": name, "image": image, "imagePullPolicy": "IfNotPresent"});
    for (key, value) in more.as_object().unwrap() {
        container[key] = value.clone();
    }
    container
}

#[tokio::test]
async fn a_pod_runs_to_its_end_and_leaves_nothing() {
    let node = FakeNode::new();
    node.script("main", &[Program::exits(0)]);
    let scene = begin_on(
        node,
        json!({"restartPolicy": "Never", "containers": [main()]}),
    );
    let witness = scene.witness.clone();
    let (status, log) = scene.end().await;
    assert_eq!(phase(&status), "Succeeded");
    assert_eq!(exit_code(&status, "main"), Some(0));
    assert_eq!(
        log,
        [
            "sandbox 0",
            "create main 0",
            "start main",
            "stop sandbox u-1-0",
            "remove sandbox u-1-0"
        ]
    );
    let reasons: Vec<String> = witness
        .events
        .lock()
        .unwrap()
        .iter()
        .map(|event| event.reason.clone())
        .collect();
    assert_eq!(reasons, ["Pulled", "Created", "Started"]);
    let phases: Vec<String> = witness
        .statuses
        .lock()
        .unwrap()
        .iter()
        .map(|status| phase(status).to_owned())
        .collect();
    assert_eq!(
        (
            phases.first().unwrap().as_str(),
            phases.last().unwrap().as_str()
        ),
        ("Pending", "Succeeded")
    );
    assert!(phases.iter().any(|phase| phase == "Running"));
}

#[tokio::test]
async fn failures_follow_the_restart_policy() {
    let table = [
        ("Never", vec![Program::exits(3)], "Failed", 1),
        (
            "OnFailure",
            vec![Program::exits(3), Program::exits(4), Program::exits(0)],
            "Succeeded",
            3,
        ),
        ("OnFailure", vec![Program::exits(0)], "Succeeded", 1),
    ];
    for (policy, programs, end, starts) in table {
        let node = FakeNode::new();
        node.script("main", &programs);
        let scene = begin_on(
            node.clone(),
            json!({"restartPolicy": policy, "containers": [main()]}),
        );
        let (status, _) = scene.end().await;
        assert_eq!(phase(&status), end, "{policy}");
        assert_eq!(node.calls(&["start main"]).len(), starts, "{policy}");
        assert_eq!(
            container(&status, "main").restart_count,
            i32::try_from(starts).unwrap() - 1
        );
    }
}

#[tokio::test]
async fn restarts_back_off_and_only_the_last_container_is_kept() {
    let node = FakeNode::new();
    node.script("main", &[Program::exits(1)]);
    let spec = json!({"terminationGracePeriodSeconds": 60, "containers": [main()]});
    let scene = begin_on(node.clone(), spec);
    let status = scene
        .until(|status| waits_for(status, "main", "CrashLoopBackOff"))
        .await;
    let last = container(&status, "main").last_state.clone().unwrap();
    assert_eq!(last.terminated.unwrap().exit_code, 1);
    assert_eq!(phase(&status), "Running");
    scene
        .until(|status| container(status, "main").restart_count >= 4)
        .await;
    assert!(scene.reasons().contains(&"BackOff".to_owned()));
    assert!(
        node.container_configs().len() <= 3,
        "dead containers pile up"
    );
    let began = std::time::Instant::now();
    let (status, _) = scene.stop(None).await;
    assert!(began.elapsed() < Duration::from_secs(15));
    assert_eq!(
        (phase(&status), exit_code(&status, "main")),
        ("Failed", Some(1))
    );
}

#[tokio::test]
async fn init_containers_run_in_order_before_the_main_ones() {
    let node = FakeNode::new();
    node.script("one", &[Program::exits(1), Program::exits(0)]);
    node.script("two", &[Program::runs(20, 0)]);
    node.script("main", &[Program::exits(0)]);
    let spec = json!({"restartPolicy": "OnFailure",
        "initContainers": [named("one", "init", json!({})), named("two", "init", json!({}))],
        "containers": [main()]});
    let scene = begin_on(node.clone(), spec);
    let witness = scene.witness.clone();
    let (status, _) = scene.end().await;
    assert_eq!(phase(&status), "Succeeded");
    assert_eq!(
        node.calls(&["start"]),
        ["start one", "start one", "start two", "start main"]
    );
    assert!(container(&status, "one").ready && condition(&status, "Initialized"));
    let first = witness.statuses.lock().unwrap()[0].clone();
    assert!(waits_for(&first, "main", "PodInitializing"));
    assert!(!condition(&first, "Initialized"));
}

#[tokio::test]
async fn an_init_container_that_fails_for_good_fails_the_pod() {
    let node = FakeNode::new();
    node.script("one", &[Program::exits(9)]);
    let spec = json!({"restartPolicy": "Never",
        "initContainers": [named("side", "side", json!({"restartPolicy": "Always"})), named("one", "init", json!({}))],
        "containers": [main()]});
    let (status, log) = begin_on(node, spec).end().await;
    assert_eq!(phase(&status), "Failed");
    assert_eq!(exit_code(&status, "one"), Some(9));
    assert!(!log.contains(&"start main".to_owned()));
    assert!(log.contains(&"ended side 0".to_owned()), "{log:?}");
}

#[tokio::test]
async fn sidecars_come_up_first_and_end_last_in_reverse() {
    let node = FakeNode::new();
    node.script("main", &[Program::runs(30, 0)]);
    node.command("up", &[1, 0]);
    let startup = json!({"exec": {"command": ["up"]}, "periodSeconds": 1});
    let spec = json!({"restartPolicy": "Never",
        "initContainers": [
            named("side-a", "side", json!({"restartPolicy": "Always", "startupProbe": startup})),
            named("side-b", "side", json!({"restartPolicy": "Always"}))],
        "containers": [main()]});
    let (status, log) = begin_on(node.clone(), spec).end().await;
    assert_eq!(phase(&status), "Succeeded");
    let order = node.calls(&["start", "exec", "ended"]);
    assert_eq!(
        order,
        [
            "start side-a",
            "exec side-a up",
            "exec side-a up",
            "start side-b",
            "start main",
            "ended side-b 0",
            "ended side-a 0"
        ],
        "{log:?}"
    );
}

#[tokio::test]
async fn a_sidecar_is_restarted_whatever_its_exit() {
    let node = FakeNode::new();
    node.script("side", &[Program::runs(10, 0), Program::serves()]);
    node.script("main", &[Program::runs(150, 0)]);
    let spec = json!({"restartPolicy": "Never",
        "initContainers": [named("side", "side", json!({"restartPolicy": "Always"}))],
        "containers": [main()]});
    let (status, _) = begin_on(node.clone(), spec).end().await;
    assert_eq!(phase(&status), "Succeeded");
    assert_eq!(node.calls(&["start side"]).len(), 2);
}

#[tokio::test]
async fn a_stop_runs_the_hook_then_signals_within_one_grace() {
    let node = FakeNode::new();
    let hooks = json!({"preStop": {"sleep": {"seconds": 1}}, "postStart": {"exec": {"command": ["hello"]}}});
    let spec = json!({"containers": [named("main", "main", json!({"lifecycle": hooks}))]});
    let scene = begin_on(node.clone(), spec);
    scene.until(is_ready).await;
    let (status, log) = scene.stop(None).await;
    assert_eq!(phase(&status), "Succeeded");
    assert_eq!(
        log[1..6],
        [
            "create main 0",
            "start main",
            "exec main hello",
            "stop main 2",
            "ended main 0"
        ]
    );
}

#[tokio::test]
async fn who_ignores_the_signal_is_killed_after_the_grace_and_a_kill_is_at_once() {
    let deaf = Program {
        stops_after: Duration::from_secs(60),
        ..Program::serves()
    };
    let node = FakeNode::new();
    node.script("main", std::slice::from_ref(&deaf));
    let scene = begin_on(node.clone(), json!({"containers": [main()]}));
    scene.until(is_ready).await;
    let (status, _) = scene.stop(Some(Duration::from_secs(1))).await;
    assert_eq!(
        (phase(&status), exit_code(&status, "main")),
        ("Failed", Some(137))
    );

    let node = FakeNode::new();
    node.script("main", &[deaf]);
    let spec = json!({"terminationGracePeriodSeconds": 60, "containers": [
        named("main", "main", json!({"lifecycle": {"preStop": {"exec": {"command": ["bye"]}}}}))]});
    let scene = begin_on(node.clone(), spec);
    scene.until(is_ready).await;
    scene
        .commands
        .send(WorkerCommand::Stop { grace: None })
        .await
        .unwrap();
    while node.calls(&["stop main"]).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    scene.commands.send(WorkerCommand::Kill).await.unwrap();
    let began = std::time::Instant::now();
    let (_, _) = scene.end().await;
    assert!(began.elapsed() < Duration::from_secs(15));
    assert_eq!(
        node.calls(&["exec", "stop main"]),
        ["exec main bye", "stop main 60", "stop main 0"]
    );
}

#[tokio::test]
async fn liveness_restarts_and_readiness_only_shows() {
    let node = FakeNode::new();
    node.command("alive", &[0, 1, 0]);
    node.command("ready", &[0]);
    let probe = |word: &str, more: Value| {
        let mut probe =
            json!({"exec": {"command": [word]}, "periodSeconds": 1, "failureThreshold": 1});
        probe["terminationGracePeriodSeconds"] = more;
        probe
    };
    let spec = json!({"containers": [named("main", "main", json!({
        "livenessProbe": probe("alive", json!(1)), "readinessProbe": probe("ready", Value::Null)}))]});
    let scene = begin_on(node.clone(), spec);
    scene.until(is_ready).await;
    let status = scene
        .until(|status| container(status, "main").restart_count == 1)
        .await;
    let last = container(&status, "main").last_state.clone().unwrap();
    assert_eq!(last.terminated.unwrap().exit_code, 0);
    let events = scene.events();
    assert!(events.contains(&(
        "Unhealthy".to_owned(),
        "Liveness probe failed: command exited with 1".to_owned()
    )));
    assert!(events.contains(&(
        "Killing".to_owned(),
        "Container main failed liveness probe, will be restarted".to_owned()
    )));
    assert_eq!(node.calls(&["stop main"]), ["stop main 1"]);
    scene.stop(None).await;
}

#[tokio::test]
async fn http_and_tcp_probes_ask_the_pods_address() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Answers 503 once, then redirects to a page that is there.
    let server = tokio::spawn(async move {
        let mut asked = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            if text.is_empty() {
                continue;
            }
            let reply = match (asked.len(), text.contains("GET /there")) {
                (0, _) => "503 Service Unavailable\r\n",
                (_, true) => "200 OK\r\n",
                (_, false) => "302 Found\r\nlocation: /there\r\n",
            };
            asked.push(text);
            let reply = format!("HTTP/1.1 {reply}content-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(reply.as_bytes()).await.unwrap();
            if asked.len() == 3 {
                return asked;
            }
        }
    });
    let node = FakeNode::new();
    let get = json!({"path": "ready", "port": "web", "httpHeaders": [{"name": "X-Who", "value": "probe"}]});
    let spec = json!({"containers": [named("main", "main", json!({
        "ports": [{"name": "web", "containerPort": port}],
        "readinessProbe": {"httpGet": get, "periodSeconds": 1},
        "livenessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1}}))]});
    let scene = begin_on(node, spec);
    scene.until(is_ready).await;
    let asked = tokio::time::timeout(Duration::from_secs(5), server)
        .await
        .unwrap()
        .unwrap();
    assert!(
        asked[1].starts_with("GET /ready HTTP/1.1") && asked[1].contains("x-who: probe"),
        "{asked:?}"
    );
    let refused = format!("Readiness probe failed: GET http://127.0.0.1:{port}/ready: status 503");
    assert!(scene.events().contains(&("Unhealthy".to_owned(), refused)));
    scene.stop(None).await;
}

#[tokio::test]
async fn a_health_service_is_asked_by_its_name() {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("shop", tonic_health::ServingStatus::NotServing)
        .await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(health);
    let server = tokio::spawn(server.serve_with_incoming(incoming));
    let node = FakeNode::new();
    let spec = json!({"containers": [named("main", "main", json!({
        "readinessProbe": {"grpc": {"port": port, "service": "shop"}, "periodSeconds": 1}}))]});
    let scene = begin_on(node, spec);
    let refused = "Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")";
    while !scene
        .events()
        .contains(&("Unhealthy".to_owned(), refused.to_owned()))
    {
        assert!(!scene.running.is_finished());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    reporter
        .set_service_status("shop", tonic_health::ServingStatus::Serving)
        .await;
    scene.until(is_ready).await;
    scene.stop(None).await;
    server.abort();
}

#[tokio::test]
async fn a_probe_without_an_answer_fails_in_time() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap().port();
    let node = FakeNode::new();
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [named("main", "main", json!({
        "startupProbe": {"grpc": {"port": silent}, "timeoutSeconds": 1, "periodSeconds": 1, "failureThreshold": 1}}))]});
    let scene = begin_on(node, spec);
    scene
        .until(|status| container(status, "main").restart_count == 1)
        .await;
    let events = scene.events();
    assert!(
        events.contains(&(
            "Unhealthy".to_owned(),
            "Startup probe failed: no answer within 1 s".to_owned()
        )),
        "{events:?}"
    );
    scene.stop(None).await;
}

#[tokio::test]
async fn a_failed_post_start_hook_kills_the_container() {
    let node = FakeNode::new();
    node.command("hello", &[1, 0]);
    let spec = json!({"containers": [named("main", "main", json!({
        "lifecycle": {"postStart": {"exec": {"command": ["hello"]}}}}))]});
    let scene = begin_on(node.clone(), spec);
    scene
        .until(|status| container(status, "main").restart_count == 1 && is_ready(status))
        .await;
    assert!(scene.reasons().contains(&"FailedPostStartHook".to_owned()));
    scene.stop(None).await;
}

#[tokio::test]
async fn images_are_pulled_by_their_policy_and_failures_back_off() {
    let node = FakeNode::new();
    node.fail(
        "pull",
        &[
            Status::unavailable("the registry is down"),
            Status::unavailable("still down"),
        ],
    );
    let spec = json!({"restartPolicy": "Never", "containers": [
        {"name": "main", "image": "fresh", "imagePullPolicy": "IfNotPresent"},
        {"name": "other", "image": "other", "imagePullPolicy": "Always"}]});
    node.script("main", &[Program::exits(0)]);
    node.script("other", &[Program::exits(0)]);
    let scene = begin_on(node.clone(), spec);
    // One of the two pulls met the faults; both came back.
    scene
        .until(|status| {
            waits_for(status, "main", "ImagePullBackOff")
                || waits_for(status, "other", "ImagePullBackOff")
        })
        .await;
    assert!(scene.reasons().contains(&"BackOff".to_owned()));
    let (status, _) = scene.end().await;
    assert_eq!(phase(&status), "Succeeded");
    assert_eq!(node.calls(&["pull"]).len(), 4);
}

#[tokio::test]
async fn an_image_that_must_not_be_pulled_is_waited_for() {
    let node = FakeNode::new();
    node.remove_image_named("main");
    let spec =
        json!({"containers": [{"name": "main", "image": "main", "imagePullPolicy": "Never"}]});
    let scene = begin_on(node.clone(), spec);
    let status = scene
        .until(|status| waits_for(status, "main", "ErrImageNeverPull"))
        .await;
    assert_eq!(phase(&status), "Pending");
    node.add_image("main", Some(0));
    scene.until(is_ready).await;
    assert!(node.calls(&["pull"]).is_empty());
    scene.stop(None).await;
}

#[tokio::test]
async fn run_as_non_root_is_held_against_the_image() {
    let node = FakeNode::new();
    let spec = json!({"securityContext": {"runAsNonRoot": true}, "containers": [main()]});
    let scene = begin_on(node.clone(), spec);
    let status = scene
        .until(|status| waits_for(status, "main", "CreateContainerConfigError"))
        .await;
    let state = container(&status, "main").state.clone().unwrap();
    assert!(
        state
            .waiting
            .unwrap()
            .message
            .unwrap()
            .contains("image will run as root")
    );
    assert!(node.calls(&["create"]).is_empty());
    scene.stop(None).await;
}

#[tokio::test]
async fn a_program_that_cannot_start_is_an_exit() {
    let node = FakeNode::new();
    node.fail("start", &[Status::internal("exec: no such file")]);
    let spec = json!({"restartPolicy": "Never", "containers": [main()]});
    let (status, _) = begin_on(node, spec).end().await;
    assert_eq!(phase(&status), "Failed");
    let terminated = container(&status, "main")
        .state
        .clone()
        .unwrap()
        .terminated
        .unwrap();
    assert_eq!(
        (terminated.exit_code, terminated.reason.as_deref()),
        (128, Some("StartError"))
    );
    assert_eq!(terminated.message.as_deref(), Some("exec: no such file"));
}

#[tokio::test]
async fn faults_of_the_node_are_tried_again_and_refusals_are_not() {
    let node = FakeNode::new();
    node.fail("sandbox", &[Status::unavailable("busy")]);
    node.fail("create", &[Status::internal("no space")]);
    let scene = begin_on(node.clone(), json!({"containers": [main()]}));
    scene.until(is_ready).await;
    let reasons = scene.reasons();
    assert!(reasons.contains(&"FailedCreatePodSandBox".to_owned()));
    assert!(reasons.contains(&"Failed".to_owned()));
    scene.stop(None).await;

    let node = FakeNode::new();
    node.fail("sandbox", &[Status::invalid_argument("port 80 is taken")]);
    let scene = begin_on(node.clone(), json!({"containers": [main()]}));
    let error = scene.running.await.unwrap().unwrap_err();
    assert!(
        error.to_string().contains("did not make the pod's sandbox"),
        "{error}"
    );
    let left = std::fs::read_dir(scene.directory.path().join("volumes"));
    assert_eq!(left.map_or(0, Iterator::count), 0, "volumes are left");
}

#[tokio::test]
async fn a_lost_sandbox_is_made_anew_with_its_init_containers() {
    let node = FakeNode::new();
    node.script("one", &[Program::exits(0)]);
    let spec = json!({"initContainers": [named("one", "init", json!({}))], "containers": [main()]});
    let scene = begin_on(node.clone(), spec);
    scene.until(is_ready).await;
    node.lose_sandbox();
    scene
        .until(|status| container(status, "main").restart_count == 1 && is_ready(status))
        .await;
    assert_eq!(node.calls(&["sandbox"]), ["sandbox 0", "sandbox 1"]);
    assert_eq!(
        node.calls(&["start"]),
        ["start one", "start main", "start one", "start main"]
    );
    let (status, _) = scene.stop(None).await;
    assert_eq!(phase(&status), "Succeeded");
}

#[tokio::test]
async fn a_deadline_fails_the_pod() {
    let node = FakeNode::new();
    let scene = begin_on(
        node,
        json!({"activeDeadlineSeconds": 1, "containers": [main()]}),
    );
    let (status, _) = scene.end().await;
    assert_eq!(
        (phase(&status), status.reason.as_deref()),
        ("Failed", Some("DeadlineExceeded"))
    );
}

#[tokio::test]
async fn a_new_worker_takes_over_what_runs() {
    let node = FakeNode::new();
    node.script("one", &[Program::exits(0)]);
    node.script("main", &[Program::exits(1), Program::serves()]);
    let spec = json!({"initContainers": [named("one", "init", json!({}))],
        "containers": [main(), named("other", "other", json!({}))]});
    let scene = begin_on(node.clone(), spec.clone());
    scene
        .until(|status| container(status, "main").restart_count == 1 && is_ready(status))
        .await;
    // Lost, as a worker that was killed.
    scene.running.abort();
    let before = node.log();
    let scene = begin_on(node.clone(), spec);
    let status = scene.until(is_ready).await;
    assert_eq!(container(&status, "main").restart_count, 1);
    assert!(condition(&status, "Initialized"));
    assert_eq!(status.start_time, Some(Time(SANDBOX_MADE_AT)));
    assert_eq!(node.log(), before, "the new worker changed something");
    let (status, _) = scene.stop(None).await;
    assert_eq!(phase(&status), "Succeeded");
}

#[tokio::test]
async fn a_pod_keeps_the_start_that_was_told() {
    let node = FakeNode::new();
    let told = PodStatus {
        start_time: Some(Time(Timestamp::constant(900_000_000, 0))),
        ..PodStatus::default()
    };
    let spec = json!({"containers": [main()]});
    // Taken, but lost before there was a sandbox; then with one.
    for _ in 0..2 {
        let scene = resume_on(node.clone(), spec.clone(), &told);
        let status = scene.until(is_ready).await;
        assert_eq!(status.start_time, told.start_time);
        scene.running.abort();
    }
    begin_on(node, spec).stop(None).await;
}

#[tokio::test]
async fn an_edited_container_is_started_anew_and_a_dead_sandbox_is_left_behind() {
    let node = FakeNode::new();
    let scene = begin_on(node.clone(), json!({"containers": [main()]}));
    scene.until(is_ready).await;
    scene.running.abort();
    let edited = json!({"containers": [named("main", "other", json!({}))]});
    let scene = begin_on(node.clone(), edited.clone());
    scene
        .until(|status| container(status, "main").restart_count == 1 && is_ready(status))
        .await;
    scene.running.abort();
    node.lose_sandbox();
    let scene = begin_on(node.clone(), edited);
    let status = scene.until(is_ready).await;
    assert_eq!(container(&status, "main").restart_count, 2);
    assert_eq!(node.sandboxes(), [("u-1-1".to_owned(), true)]);
    scene.stop(None).await;
}

#[tokio::test]
async fn a_missing_object_is_an_error_before_anything_is_made() {
    let node = FakeNode::new();
    let env =
        json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "a"}}}]);
    let spec = json!({"containers": [named("main", "main", json!({"env": env}))]});
    let scene = begin_on(node.clone(), spec);
    let error = scene.running.await.unwrap().unwrap_err().to_string();
    assert_eq!(
        error,
        "pod default/web cannot run: container \"main\": env A: configmap \"none\" not found"
    );
    assert!(node.log().is_empty());
}

#[tokio::test]
async fn a_stop_before_the_start_ends_it_too() {
    let node = FakeNode::new();
    node.fail(
        "pull",
        &[
            Status::unavailable("down"),
            Status::unavailable("down"),
            Status::unavailable("down"),
        ],
    );
    let spec =
        json!({"containers": [{"name": "main", "image": "gone", "imagePullPolicy": "Always"}]});
    let scene = begin_on(node.clone(), spec);
    scene
        .until(|status| waits_for(status, "main", "ImagePullBackOff"))
        .await;
    let (status, log) = scene.stop(None).await;
    assert_eq!(phase(&status), "Failed");
    assert!(!log.iter().any(|line| line.starts_with("create")));
}

#[tokio::test]
async fn nothing_sleeps_between_a_request_and_a_running_pod() {
    let node = FakeNode::new();
    let many: Vec<Value> = (0..8)
        .map(|n| named(&format!("main-{n}"), "main", json!({})))
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(&node, &directory);
    // Whatever waited for a poll or a back-off would wait for a minute.
    config.poll = Duration::from_secs(60);
    config.restart_backoff.initial = Duration::from_secs(60);
    let worker = PodWorker::new(node.clone(), config, PodObjects::default());
    let witness = Arc::new(Witness::default());
    let (commands, heard) = mpsc::channel(1);
    let observer = witness.clone();
    let began = std::time::Instant::now();
    let running = tokio::spawn(async move {
        worker
            .run(
                pod(json!({"containers": many}), &PodStatus::default()),
                heard,
                observer,
            )
            .await
    });
    while !witness.statuses.lock().unwrap().iter().any(is_ready) {
        assert!(began.elapsed() < Duration::from_secs(10), "something waits");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    commands
        .send(WorkerCommand::Stop { grace: None })
        .await
        .unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), running).await;
    assert_eq!(phase(&ended.unwrap().unwrap().unwrap()), "Succeeded");
}
