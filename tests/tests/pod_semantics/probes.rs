//! Startup, liveness and readiness.

use super::world::{World, assert_lines, container, holds};

#[test]
fn startup_holds_back_liveness_restarts_and_readiness_is_told() {
    let world = World::new();
    let _running = world.start(
        r"
apiVersion: v1
kind: Pod
metadata: {name: probed}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: data, emptyDir: {}}]
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'rm -f /data/*; trap `exit 0` TERM; sleep 0.5; touch /data/up /data/alive; while :; do sleep 0.1; done']
    volumeMounts: [{name: data, mountPath: /data}]
    startupProbe: {exec: {command: [test, -e, /data/up]}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 20}
    livenessProbe: {exec: {command: [test, -e, /data/alive]}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 1}
    readinessProbe: {exec: {command: [test, -e, /data/ready]}, periodSeconds: 1, timeoutSeconds: 10}
"
        .replace('`', "\"")
        .as_str(),
    );
    let status = world.status_when("probed", "started", |status| {
        container(status, "main")["started"] == true
    });
    assert_eq!(container(&status, "main")["ready"], false, "{status:#}");
    assert!(!holds(&status, "Ready"), "{status:#}");
    world.shell("probed", "main", "touch /data/ready");
    let status = world.status_when("probed", "ready", |status| holds(status, "Ready"));
    assert_eq!(container(&status, "main")["ready"], true, "{status:#}");
    assert_eq!(container(&status, "main")["restartCount"], 0, "{status:#}");
    world.shell("probed", "main", "rm /data/ready");
    world.status_when("probed", "unready", |status| !holds(status, "Ready"));
    world.shell("probed", "main", "rm /data/alive");
    let status = world.status_when("probed", "restarted", |status| {
        let main = container(status, "main");
        main["restartCount"] == 1 && main["started"] == true
    });
    assert_eq!(status["phase"], "Running", "{status:#}");
    assert!(
        world.machine.berth(&["ps"]).unwrap().contains(" 1 "),
        "restarts are not listed"
    );
    world.stop("probed");
    world.end();
}

#[test]
fn http_tcp_and_grpc_probes_ask_the_pod_s_address() {
    let world = World::new();
    let _running = world.start(
        r"
apiVersion: v1
kind: Pod
metadata: {name: asked}
spec:
  terminationGracePeriodSeconds: 3
  containers:
  - name: good
    image: nginx
    ports: [{name: web, containerPort: 80}]
    startupProbe: {tcpSocket: {port: web}, periodSeconds: 1, timeoutSeconds: 10}
    livenessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1, timeoutSeconds: 10}
    readinessProbe: {httpGet: {path: /index.html, port: web, httpHeaders: [{name: X-Sail, value: up}]}, periodSeconds: 1, timeoutSeconds: 10}
  - name: missing
    image: busybox
    command: [sleep, '60']
    readinessProbe: {httpGet: {path: /no-such-page, port: 80}, periodSeconds: 1, timeoutSeconds: 10}
  - name: closed
    image: busybox
    command: [sleep, '60']
    readinessProbe: {tcpSocket: {port: 81}, periodSeconds: 1, timeoutSeconds: 10}
  - name: silent
    image: busybox
    command: [sleep, '60']
    readinessProbe: {grpc: {port: 80}, periodSeconds: 1, timeoutSeconds: 10}
",
    );
    world.status_when("asked", "ready", |status| {
        container(status, "good")["ready"] == true
    });
    std::thread::sleep(std::time::Duration::from_millis(1200));
    let status = world.status("asked");
    for name in ["missing", "closed", "silent"] {
        assert_eq!(
            container(&status, name)["ready"],
            false,
            "{name}: {status:#}"
        );
        assert_eq!(
            container(&status, name)["restartCount"],
            0,
            "{name}: {status:#}"
        );
    }
    assert_eq!(container(&status, "good")["restartCount"], 0, "{status:#}");
    assert!(
        holds(&status, "Initialized") && !holds(&status, "Ready"),
        "{status:#}"
    );
    world.stop("asked");
    world.end();
}

#[test]
fn hooks_run_after_the_start_and_before_the_stop() {
    let world = World::new();
    let mut running = world.start(
        r"
apiVersion: v1
kind: Pod
metadata: {name: hooks}
spec:
  terminationGracePeriodSeconds: 10
  volumes: [{name: data, emptyDir: {}}]
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'trap `cat /data/lines; exit 0` TERM; echo started; while :; do sleep 0.1; done']
    volumeMounts: [{name: data, mountPath: /data}]
    lifecycle:
      postStart: {exec: {command: [sh, -c, 'sleep 0.2; echo postStart ran >> /data/lines']}}
      preStop: {exec: {command: [sh, -c, 'echo preStop ran >> /data/lines']}}
  - name: web
    image: nginx
    lifecycle:
      postStart: {sleep: {seconds: 1}}
      preStop: {httpGet: {port: 80, path: /farewell}}
"
        .replace('`', "\"")
        .as_str(),
    );
    running
        .wait_for("pod hooks is ready", berth_tests::machine::LIMIT)
        .unwrap();
    world.machine.berth(&["stop", "hooks"]).unwrap();
    running.wait(berth_tests::machine::LIMIT).unwrap();
    let text = running.text();
    assert_lines(&text, &["postStart ran", "preStop ran"]);
    assert!(text.contains("GET /farewell"), "{text}");
    world.end();
}

#[test]
fn a_failing_post_start_hook_ends_the_container() {
    let world = World::new();
    let ended = world.run(
        r"
apiVersion: v1
kind: Pod
metadata: {name: hook}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox
    command: [sleep, '60']
    lifecycle: {postStart: {exec: {command: [sh, -c, 'exit 3']}}}
",
    );
    assert_ne!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.stderr.contains("PostStartHook failed"), "{ended:#?}");
    world.end();
}
