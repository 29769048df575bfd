//! Jobs by command, in the foreground and in the background.

use berth_tests::machine::{LIMIT, Machine};
use serde_json::Value;

const JOB: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: sum}
spec:
  completions: 3
  parallelism: 2
  completionMode: Indexed
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: main
          image: busybox
          command: [sh, -c, 'echo part $JOB_COMPLETION_INDEX; exit CODE']
";

#[test]
fn a_job_runs_its_pods_and_says_how_it_ended() {
    let machine = Machine::new().unwrap();
    machine
        .write("job.yaml", &JOB.replace("CODE", "0"))
        .unwrap();
    let mut running = machine.start(&["run", "job.yaml"]).unwrap();
    assert_eq!(running.wait(LIMIT).unwrap(), 0, "{}", running.text());
    let text = running.text();
    assert!(text.contains("job sum is complete: 3 succeeded"), "{text}");
    for part in ["part 0", "part 1", "part 2"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    machine.assert_clean().unwrap();
    machine
        .write("bad.yaml", &JOB.replace("CODE", "3"))
        .unwrap();
    let message = machine.berth_fails(1, &["run", "bad.yaml"]).unwrap();
    assert!(
        message.contains("job sum: BackoffLimitExceeded: container main ended with 3"),
        "{message}"
    );
    machine.assert_clean().unwrap();
}

#[test]
fn a_job_in_the_background_is_listed_and_removed_pod_by_pod() {
    let machine = Machine::new().unwrap();
    machine
        .write("job.yaml", &JOB.replace("CODE", "0"))
        .unwrap();
    machine.berth(&["run", "job.yaml", "-d"]).unwrap();
    let deadline = std::time::Instant::now() + berth_tests::patience::stretched(LIMIT);
    let ended = loop {
        let shown = machine.berth(&["ps", "-a", "-o", "json"]).unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let ended = shown.as_array().unwrap().iter();
        let ended = ended.filter(|one| one["exitCode"] == 0).count();
        if ended == 3 || std::time::Instant::now() > deadline {
            break ended;
        }
    };
    assert_eq!(ended, 3);
    let said = machine.berth(&["logs", "sum-2"]).unwrap();
    assert_eq!(said, "part 2\n");
    machine.berth(&["rm", "-f", "--all"]).unwrap();
    // That nothing of it can begin is told to the one who waits.
    let missing = JOB.replace("image: busybox", "image: nosuch");
    machine.write("missing.yaml", &missing).unwrap();
    let message = machine
        .berth_fails(125, &["run", "-d", "missing.yaml"])
        .unwrap();
    assert!(message.contains("nosuch"), "{message}");
    machine.assert_clean().unwrap();
}

const SHOP: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data:
  greeting: hello
  page: |
    from a file
---
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {word: swordfish}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      terminationGracePeriodSeconds: 1
      volumes: [{name: settings, configMap: {name: settings}}]
      containers:
        - name: main
          image: busybox
          command: [sh, -c, 'echo $GREETING $WORD; cat /settings/page; sleep 1000']
          env:
            - {name: GREETING, valueFrom: {configMapKeyRef: {name: settings, key: greeting}}}
            - {name: WORD, valueFrom: {secretKeyRef: {name: password, key: word}}}
          volumeMounts: [{name: settings, mountPath: /settings}]
";

#[test]
fn a_deployment_s_pods_read_the_objects_beside_it() {
    let machine = Machine::new().unwrap();
    machine.write("shop.yaml", SHOP).unwrap();
    let names = machine.berth(&["run", "-d", "shop.yaml"]).unwrap();
    assert_eq!(names, "shop-0\nshop-1\n");
    for name in ["shop-0", "shop-1"] {
        let mut following = machine.start(&["logs", "-f", name]).unwrap();
        following
            .wait_for("hello swordfish\nfrom a file", LIMIT)
            .unwrap();
        following.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
        following.wait(LIMIT).unwrap();
    }
    let shown = machine
        .berth(&["ps", "--pods", "-l", "app=shop", "-q"])
        .unwrap();
    assert_eq!(shown.lines().count(), 2, "{shown}");
    machine.berth(&["rm", "-f", "shop-0", "shop-1"]).unwrap();
    machine.assert_clean().unwrap();
    let missing = SHOP.replace("name: settings, key: greeting", "name: nosuch, key: a");
    machine.write("missing.yaml", &missing).unwrap();
    let message = machine
        .berth_fails(125, &["run", "-d", "missing.yaml"])
        .unwrap();
    assert!(message.contains("nosuch"), "{message}");
    machine.assert_clean().unwrap();
}
