//! Init containers and sidecars: their order and their failures.

use std::time::Duration;

use super::world::{World, assert_order, container, holds};

#[test]
fn init_containers_run_one_after_the_other_and_main_containers_after_them() {
    let world = World::new();
    let output = world.succeeds(
        r"
apiVersion: v1
kind: Pod
metadata: {name: order}
spec:
  restartPolicy: Never
  volumes: [{name: log, emptyDir: {}}]
  initContainers:
  - &step
    name: first
    image: busybox
    command: [sh, -c, 'sleep 0.3; echo $(ME) >> /log/lines']
    env: [{name: ME, value: first}]
    volumeMounts: [{name: log, mountPath: /log}]
  - <<: *step
    name: second
    env: [{name: ME, value: second}]
  containers:
  - <<: *step
    name: third
    command: [sh, -c, 'echo third >> /log/lines; cat /log/lines']
",
    );
    assert_order(&output, &["first", "second", "third"]);
    world.end();
}

#[test]
fn an_init_container_that_fails_ends_the_pod_or_is_tried_again() {
    let world = World::new();
    let pod = |policy: &str| {
        format!(
            r"
apiVersion: v1
kind: Pod
metadata: {{name: init}}
spec:
  restartPolicy: {policy}
  volumes: [{{name: count, emptyDir: {{}}}}]
  initContainers:
  - name: tries
    image: busybox
    command: [sh, -c, 'echo x >> /count/tries; test $(wc -l < /count/tries) -ge 2 || exit 9']
    volumeMounts: [{{name: count, mountPath: /count}}]
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'echo main ran after $(wc -l < /count/tries) tries']
    volumeMounts: [{{name: count, mountPath: /count}}]
"
        )
    };
    let ended = world.run(&pod("Never"));
    assert_ne!(ended.code, Some(0), "{ended:#?}");
    assert!(!ended.stdout.contains("main ran"), "{ended:#?}");
    assert!(ended.stderr.contains("tries"), "{ended:#?}");
    let output = world.succeeds(&pod("OnFailure"));
    assert!(output.contains("main ran after 2 tries"), "{output}");
    world.end();
}

#[test]
fn a_sidecar_starts_before_the_next_and_ends_after_all_others() {
    let world = World::new();
    let output = world.succeeds(
        r"
apiVersion: v1
kind: Pod
metadata: {name: sidecars}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 10
  volumes: [{name: log, emptyDir: {}}]
  initContainers:
  - &sidecar
    name: outer
    image: busybox
    restartPolicy: Always
    command: [sh, -c, 'trap `echo outer ends >> /log/lines; cat /log/lines; exit 0` TERM; sleep 0.5; echo outer is up >> /log/lines; while :; do sleep 0.1; done']
    startupProbe: {exec: {command: [grep, outer is up, /log/lines]}, periodSeconds: 1}
    volumeMounts: [{name: log, mountPath: /log}]
  - <<: *sidecar
    name: inner
    command: [sh, -c, 'trap `echo inner ends >> /log/lines; exit 0` TERM; echo inner is up >> /log/lines; while :; do sleep 0.1; done']
    startupProbe: {exec: {command: [grep, inner is up, /log/lines]}, periodSeconds: 1}
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'echo main is up >> /log/lines; sleep 0.3; echo main ends >> /log/lines']
    volumeMounts: [{name: log, mountPath: /log}]
"
        .replace('`', "\"")
        .as_str(),
    );
    assert_order(
        &output,
        &[
            "outer is up",
            "inner is up",
            "main is up",
            "main ends",
            "inner ends",
            "outer ends",
        ],
    );
    world.end();
}

#[test]
fn a_sidecar_that_ends_is_started_again_while_the_pod_says_never() {
    let world = World::new();
    world.detach(
        r"
apiVersion: v1
kind: Pod
metadata: {name: again}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  initContainers:
  - name: sidecar
    image: busybox
    restartPolicy: Always
    command: [sh, -c, 'test -e /tmp/no; exec sleep 2']
  containers:
  - {name: main, image: busybox, command: [sleep, '60']}
",
    );
    let status = world.status_when("again", "restarted", |status| {
        container(status, "sidecar")["restartCount"] == 1
    });
    assert_eq!(container(&status, "main")["restartCount"], 0, "{status:#}");
    assert!(holds(&status, "Initialized"), "{status:#}");
    std::thread::sleep(Duration::from_millis(100));
    world.stop("again");
    world.end();
}
