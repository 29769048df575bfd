//! Restart policies and their back-off.

use super::world::{World, assert_lines, container};

#[test]
fn a_container_that_fails_is_started_again_at_once_and_then_waits() {
    let world = World::new();
    let _running = world.start(
        r"
apiVersion: v1
kind: Pod
metadata: {name: crash}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: busybox, command: [sh, -c, 'sleep 0.3; echo last words > /dev/termination-log; exit 3']}
  - {name: done, image: busybox, command: [sh, -c, 'sleep 0.3'], restartPolicy: OnFailure}
",
    );
    let status = world.status_when("crash", "in its back-off", |status| {
        container(status, "main")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
            && !container(status, "done")["state"]["terminated"].is_null()
    });
    let main = container(&status, "main");
    assert_eq!(main["restartCount"], 1, "{status:#}");
    assert_eq!(main["lastState"]["terminated"]["exitCode"], 3, "{status:#}");
    assert_eq!(
        main["lastState"]["terminated"]["message"], "last words\n",
        "{status:#}"
    );
    let done = container(&status, "done");
    assert_eq!(
        done["state"]["terminated"]["reason"], "Completed",
        "{status:#}"
    );
    assert_eq!(done["restartCount"], 0, "{status:#}");
    assert_eq!(status["phase"], "Running", "{status:#}");
    let table = world.machine.berth(&["ps", "-a"]).unwrap();
    assert!(table.contains("CrashLoopBackOff"), "{table}");
    world.stop("crash");
    world.end();
}

#[test]
fn on_failure_goes_on_until_success_and_never_ends_at_once() {
    let world = World::new();
    let pod = |policy: &str| {
        format!(
            r"
apiVersion: v1
kind: Pod
metadata: {{name: tries}}
spec:
  restartPolicy: {policy}
  volumes: [{{name: count, emptyDir: {{}}}}]
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'echo x >> /count/tries; n=$(wc -l < /count/tries); echo try $n; test $n -ge 2 || exit 5']
    volumeMounts: [{{name: count, mountPath: /count}}]
"
        )
    };
    assert_lines(&world.succeeds(&pod("OnFailure")), &["try 1", "try 2"]);
    let ended = world.run(&pod("Never"));
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.stderr.contains("main ended with 5"), "{ended:#?}");
    assert!(!ended.stdout.contains("try 2"), "{ended:#?}");
    world.end();
}

#[test]
fn images_are_pulled_by_their_policy() {
    let world = World::new();
    let pod = |image: &str, policy: &str| {
        format!(
            r"
apiVersion: v1
kind: Pod
metadata: {{name: pull}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: main, image: {image}, imagePullPolicy: {policy}, command: [echo, ran]}}
"
        )
    };
    let path = world
        .machine
        .write("never.yaml", &pod("busybox:1.37", "Never"))
        .unwrap();
    let mut running = world
        .machine
        .start(&["run", "--rm", path.to_str().unwrap()])
        .unwrap();
    running
        .wait_for("ErrImageNeverPull", berth_tests::machine::LIMIT)
        .unwrap();
    // What somebody else pulls meanwhile is found.
    world.machine.berth(&["pull", "busybox:1.37"]).unwrap();
    assert_eq!(
        running.wait(berth_tests::machine::LIMIT).unwrap(),
        0,
        "{}",
        running.text()
    );
    assert_lines(&running.text(), &["ran"]);
    let ended = world.run(&pod("busybox:1.37", "IfNotPresent"));
    assert!(!ended.stderr.contains("pulling"), "{ended:#?}");
    let ended = world.run(&pod("busybox:1.37", "Always"));
    assert!(ended.stderr.contains("pulling"), "{ended:#?}");
    world.end();
}
