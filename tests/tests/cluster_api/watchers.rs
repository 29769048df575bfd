//! Watchers that do not read, and Events that are old: what is let go of, and how.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use berth_scheduler::{
    api::{ApiConfig, cache::RingLimits},
    server::{self, ServerConfig},
};
use berth_tests::patience::stretched;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Event};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{Server, kubectl_program};

const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of one change: far more of them than sockets and the ring take.
const CHANGE: usize = 200_000;
const CHANGES: usize = 40;

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + stretched(PATIENCE);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within the time");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Changes one ConfigMap again and again; its numbers are those of the changes.
async fn change_often(maps: &Api<ConfigMap>, numbers: std::ops::RangeInclusive<usize>) {
    for number in numbers {
        let content = format!("{number} {}", "x".repeat(CHANGE));
        let map = json!({"metadata": {"name": "big"}, "data": {"content": content}});
        if number == 1 {
            let map = serde_json::from_value(map).unwrap();
            maps.create(&PostParams::default(), &map).await.unwrap();
        } else {
            let map = Patch::Merge(&map);
            maps.patch("big", &PatchParams::default(), &map)
                .await
                .unwrap();
        }
    }
}

fn number_of(content: Option<&str>) -> usize {
    let number = content.and_then(|content| content.split(' ').next());
    number.unwrap().parse().unwrap()
}

/// A watch whose client asks and then reads nothing.
fn watch_without_reading(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).unwrap();
    let path = "/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=0";
    let request = format!("GET {path} HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// Who does not read has no queue that grows: it falls behind what is remembered, and is told
/// so when it reads again. Nobody waits for it.
#[test]
fn a_watcher_that_does_not_read_is_told_that_it_missed_something() {
    let ring = RingLimits {
        events: 8,
        bytes: 8 << 20,
    };
    let server = Server::start_with(ApiConfig {
        ring,
        ..ApiConfig::default()
    });
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client.clone());
    let mut sleepers: Vec<TcpStream> = (0..4).map(|_| watch_without_reading(&server)).collect();
    let seen = server.runtime.block_on(async {
        let from = maps.list(&ListParams::default()).await.unwrap();
        let from = from.metadata.resource_version.unwrap();
        // One that reads, beside them.
        let reader = maps.clone();
        let reading = tokio::spawn(async move {
            let watch = reader.watch(&WatchParams::default(), &from).await.unwrap();
            let mut watch = std::pin::pin!(watch);
            let mut seen = Vec::new();
            while seen.last() != Some(&CHANGES) {
                match watch.try_next().await.unwrap().unwrap() {
                    WatchEvent::Added(map) | WatchEvent::Modified(map) => {
                        let content = map.data.as_ref().and_then(|data| data.get("content"));
                        seen.push(number_of(content.map(String::as_str)));
                    }
                    other => panic!("{other:?}"),
                }
            }
            seen
        });
        change_often(&maps, 1..=CHANGES).await;
        tokio::time::timeout(stretched(PATIENCE), reading).await
    });
    let seen = seen.expect("the reader is not held up").unwrap();
    assert_eq!(seen, (1..=CHANGES).collect::<Vec<_>>());

    // Now they read: what was under way, in order, then the reason and the end.
    let mut sleeper = sleepers.pop().unwrap();
    sleeper.set_read_timeout(Some(stretched(PATIENCE))).unwrap();
    let mut told = Vec::new();
    sleeper.read_to_end(&mut told).unwrap();
    let told = String::from_utf8(told).unwrap();
    assert!(told.starts_with("HTTP/1.1 200"), "{}", &told[..100]);
    assert!(told.ends_with("\r\n0\r\n\r\n"), "the answer is whole");
    let lines: Vec<Value> = told
        .split("\r\n")
        .filter_map(|line| serde_json::from_str(line.trim()).ok())
        .filter(Value::is_object)
        .collect();
    let (last, events) = lines.split_last().unwrap();
    let numbers: Vec<usize> = events
        .iter()
        .map(|event| number_of(event["object"]["data"]["content"].as_str()))
        .collect();
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>());
    assert!(numbers.len() < CHANGES, "it missed nothing");
    let end = (
        &last["type"],
        &last["object"]["reason"],
        &last["object"]["code"],
    );
    assert_eq!(
        end,
        (&json!("ERROR"), &json!("Expired"), &json!(410)),
        "{last}"
    );
}

/// A whole server, with TLS and all, on the loopback.
struct Whole {
    runtime: tokio::runtime::Runtime,
    directory: tempfile::TempDir,
    shutdown: CancellationToken,
    running: Option<tokio::task::JoinHandle<Result<(), server::ServerError>>>,
}

impl Whole {
    fn start(silence: Duration) -> Whole {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = ServerConfig::new(directory.path().to_owned(), address.ip());
        config.listen = address;
        config.limits.silence = silence;
        let shutdown = CancellationToken::new();
        let (tell, told) = tokio::sync::oneshot::channel();
        let ready = |_| tell.send(()).unwrap();
        let running = runtime.spawn(server::run(config, ready, shutdown.clone()));
        runtime.block_on(told).expect("the server begins");
        Whole {
            runtime,
            directory,
            shutdown,
            running: Some(running),
        }
    }

    fn kubeconfig(&self) -> Kubeconfig {
        Kubeconfig::read_from(self.directory.path().join("admin.kubeconfig")).unwrap()
    }

    fn client(&self) -> kube::Client {
        let options = KubeConfigOptions::default();
        self.runtime.block_on(async {
            let config = kube::Config::from_custom_kubeconfig(self.kubeconfig(), &options).await;
            kube::Client::try_from(config.unwrap()).unwrap()
        })
    }

    /// The connections to it, as `ss` shows them: both ends, with the processes.
    fn connections(&self) -> Vec<String> {
        let server = self.kubeconfig().clusters.remove(0).cluster.unwrap().server;
        let server = server.unwrap();
        let port = format!(":{}", server.rsplit_once(':').unwrap().1);
        let mut ss = Command::new("ss");
        ss.args(["-Htnp", "state", "established", "dport", "=", &port]);
        let output = ss.output().unwrap();
        let rows = String::from_utf8(output.stdout).unwrap();
        rows.lines().map(str::to_owned).collect()
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(running) = self.running.take() {
            let _ = self.runtime.block_on(running);
        }
    }
}

/// A client that is killed with the value.
struct Kubectl(Child);

impl Drop for Kubectl {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A frozen client's kernel answers for it, and takes nothing more.
#[test]
fn a_client_that_is_frozen_loses_its_connection() {
    let server = Whole::start(Duration::from_secs(3));
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    server.runtime.block_on(change_often(&maps, 1..=1));
    let mut command = Command::new(kubectl_program());
    command
        .arg("--kubeconfig")
        .arg(server.directory.path().join("admin.kubeconfig"))
        .args(["get", "configmaps", "big", "--watch", "-o", "name"])
        .env("HOME", server.directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut kubectl = Kubectl(command.spawn().unwrap());
    let mut first = [0; 13];
    let stdout = kubectl.0.stdout.as_mut().unwrap();
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"configmap/big");
    let mark = format!("pid={},", kubectl.0.id());
    let theirs = || {
        let rows = server.connections();
        rows.iter().filter(|row| row.contains(&mark)).count()
    };
    assert_eq!(theirs(), 1, "{:?}", server.connections());
    kill_process(Pid::from_child(&kubectl.0), Signal::STOP).unwrap();
    // Nobody else waits for it.
    server.runtime.block_on(change_often(&maps, 2..=CHANGES));
    until("its connection is ended", || theirs() == 0);
}

fn event(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Test", "message": "told", "type": "Normal",
        "firstTimestamp": "2020-01-01T00:00:00Z", "lastTimestamp": jiff::Timestamp::now().to_string()})
}

#[test]
fn events_go_when_their_time_is_over_and_those_that_happen_again_stay() {
    let server = Server::start_with(ApiConfig {
        event_ttl: Duration::from_secs(3),
        ..ApiConfig::default()
    });
    let file = server.file(
        "map.yaml",
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: kept}}",
    );
    server.prints(&["create", "-f", &file]);
    let events: Api<Event> = Api::default_namespaced(server.client.clone());
    let (gone, after) = server.runtime.block_on(async {
        let from = events.list(&ListParams::default()).await.unwrap();
        let from = from.metadata.resource_version.unwrap();
        for name in ["once", "again"] {
            let event = serde_json::from_value(event(name)).unwrap();
            events.create(&PostParams::default(), &event).await.unwrap();
        }
        let watch = events.watch(&WatchParams::default(), &from).await.unwrap();
        let mut watch = std::pin::pin!(watch);
        let began = Instant::now();
        let gone = async {
            loop {
                if let WatchEvent::Deleted(event) = watch.try_next().await.unwrap().unwrap() {
                    return event.name_any();
                }
            }
        };
        let happening = async {
            loop {
                let now = json!({"lastTimestamp": jiff::Timestamp::now().to_string()});
                let by = PatchParams::default();
                events
                    .patch("again", &by, &Patch::Merge(&now))
                    .await
                    .unwrap();
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        let gone = tokio::time::timeout(stretched(PATIENCE), async {
            tokio::select! {
                gone = gone => gone,
                () = happening => unreachable!("it happens for ever"),
            }
        });
        (gone.await.expect("an old event goes"), began.elapsed())
    });
    assert_eq!(gone, "once");
    assert!(after >= Duration::from_secs(2), "it went after {after:?}");
    // It happens no more: then it goes as well, and nothing else does.
    until("the other one goes", || {
        server.prints(&["get", "events", "-o", "name"]).is_empty()
    });
    let left = server.prints(&["get", "configmaps", "-o", "name"]);
    assert_eq!(left, "configmap/kept\n");
}
