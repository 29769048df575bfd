//! What a DaemonSet was: kubectl lists it and brings it back. The controllers run here; no
//! node does, so no pod does.

use std::time::{Duration, Instant};

use berth_scheduler::controllers::{self, ControllersConfig};
use berth_tests::patience::stretched;
use tokio_util::sync::CancellationToken;

use crate::Server;

const SET: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: log}
spec:
  selector: {matchLabels: {app: log}}
  template:
    metadata: {labels: {app: log}}
    spec:
      containers:
      - {name: log, image: 'registry.example/log:1'}
";

const IMAGE: &str = "jsonpath={.spec.template.spec.containers[0].image}";

/// The numbers that `rollout history` lists.
fn numbers(server: &Server) -> String {
    let listed = server.prints(&["rollout", "history", "ds/log"]);
    let rows = listed.lines().skip(2);
    let first = rows.filter_map(|row| row.split_whitespace().next());
    first.collect::<Vec<_>>().join(" ")
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + stretched(Duration::from_secs(60));
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within the time");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_daemon_sets_templates_are_listed_and_brought_back() {
    let server = Server::start();
    let shutdown = CancellationToken::new();
    let _ends = shutdown.clone().drop_guard();
    let running = controllers::run(
        server.client.clone(),
        ControllersConfig::default(),
        shutdown,
    );
    server.runtime.spawn(running);
    let file = server.file("log.yaml", SET);
    server.prints(&["apply", "-f", &file]);
    until("the first template is kept", || numbers(&server) == "1");
    server.prints(&["set", "image", "ds/log", "log=registry.example/log:2"]);
    server.prints(&["set", "env", "ds/log", "A=b"]);
    until("three templates are kept", || numbers(&server) == "1 2 3");
    let second = server.prints(&["rollout", "history", "ds/log", "--revision=2"]);
    assert!(second.contains("registry.example/log:2"), "{second}");
    assert!(!second.contains("A:"), "{second}");

    // One back: the variable goes, as the template of then did not have it.
    let undone = server.prints(&["rollout", "undo", "ds/log"]);
    assert_eq!(undone, "daemonset.apps/log rolled back\n");
    until("the second is the fourth", || numbers(&server) == "1 3 4");
    let env = "jsonpath={.spec.template.spec.containers[0].env}";
    assert_eq!(server.prints(&["get", "ds", "log", "-o", env]), "");
    server.prints(&["rollout", "undo", "ds/log", "--to-revision=1"]);
    until("the first is the fifth", || numbers(&server) == "3 4 5");
    assert_eq!(
        server.prints(&["get", "ds", "log", "-o", IMAGE]),
        "registry.example/log:1"
    );
    let told = server.complains(&["rollout", "undo", "ds/log", "--to-revision=9"]);
    assert!(
        told.contains("unable to find specified revision 9"),
        "{told}"
    );
    // The template that is there needs no rollback.
    let same = server.prints(&["rollout", "undo", "ds/log", "--to-revision=5"]);
    assert!(same.contains("skipped rollback"), "{same}");

    // They go with their set.
    server.prints(&["delete", "ds", "log"]);
    until("no revision is left", || {
        let left = server.prints(&["get", "controllerrevisions", "-o", "name"]);
        left.is_empty()
    });
}
