//! Deployments, Jobs and mistakes in manifests.

use serde_json::Value;

use super::world::World;

#[test]
fn a_deployment_is_pods_that_are_begun_again() {
    let world = World::new();
    world.detach(
        r"
apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {word: ahoy}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: fleet}
spec:
  replicas: 2
  selector: {matchLabels: {app: fleet}}
  template:
    metadata: {labels: {app: fleet}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: busybox
        command: [sh, -c, 'trap `exit 0` TERM; while :; do sleep 0.1; done']
        env: [{name: WORD, valueFrom: {configMapKeyRef: {name: words, key: word}}}]
"
        .replace('`', "\"")
        .as_str(),
    );
    for pod in ["fleet-0", "fleet-1"] {
        world.status_when(pod, "running", |status| status["phase"] == "Running");
        assert_eq!(
            world.shell(pod, "main", "echo $WORD $(hostname)"),
            format!("ahoy {pod}\n")
        );
    }
    let text = world
        .machine
        .berth(&["ps", "-o", "json", "-l", "app=fleet"])
        .unwrap();
    let rows: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(rows.as_array().map(Vec::len), Some(2), "{rows:#}");
    world
        .machine
        .berth(&["stop", "fleet-0", "fleet-1"])
        .unwrap();
    for pod in ["fleet-0", "fleet-1"] {
        world
            .machine
            .berth(&["wait", "--for", "removed", pod])
            .unwrap();
    }
    world.end();
}

#[test]
fn a_job_runs_until_enough_succeeded_or_too_many_failed() {
    let world = World::new();
    let shared = world.host().directory().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let job = |spec: &str, script: &str| {
        format!(
            r"
apiVersion: batch/v1
kind: Job
metadata: {{name: work}}
spec:
  {spec}
  template:
    spec:
      restartPolicy: Never
      volumes: [{{name: shared, hostPath: {{path: {}}}}}]
      containers:
      - name: main
        image: busybox
        command: [sh, -c, '{script}']
        volumeMounts: [{{name: shared, mountPath: /shared}}]
",
            shared.display()
        )
    };
    world.succeeds(&job(
        "completions: 3\n  parallelism: 2\n  completionMode: Indexed",
        "touch /shared/index-$JOB_COMPLETION_INDEX",
    ));
    let mut names: Vec<String> = std::fs::read_dir(&shared)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["index-0", "index-1", "index-2"]);
    let ended = world.run(&job(
        "backoffLimit: 0",
        "echo tried >> /shared/tries; exit 4",
    ));
    assert_ne!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.stderr.contains("BackoffLimitExceeded"), "{ended:#?}");
    let tries = std::fs::read_to_string(shared.join("tries")).unwrap();
    assert_eq!(tries, "tried\n");
    let ended = world.run(&job("activeDeadlineSeconds: 1", "exec sleep 60"));
    assert_ne!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.stderr.contains("DeadlineExceeded"), "{ended:#?}");
    world.end();
}

#[test]
fn mistakes_are_all_named_by_line_and_nothing_is_made() {
    let world = World::new();
    // What cannot be read comes first, then what is read and cannot be.
    let message = world.refused(
        r"apiVersion: v1
kind: Pod
metadata: {name: wrong}
spec:
  containers:
  - name: main
    image: busybox
    comand: [sh]
    resources: {limits: {memory: lots}}
",
    );
    for part in [
        "run.yaml:8:",
        "comand",
        "did you mean command?",
        "run.yaml:9:",
        "lots",
    ] {
        assert!(message.contains(part), "{part} is not named:\n{message}");
    }
    let message = world.refused(
        r"apiVersion: v1
kind: Pod
metadata: {name: wrong}
spec:
  restartPolicy: Sometimes
  containers:
  - name: main
    image: busybox
    volumeMounts: [{name: nowhere, mountPath: /x}]
  - {name: main, image: busybox}
",
    );
    for part in [
        "run.yaml:5:",
        "Sometimes",
        "run.yaml:9:",
        "nowhere",
        "run.yaml:10:",
    ] {
        assert!(message.contains(part), "{part} is not named:\n{message}");
    }
    let message = world.refused(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: wrong}\nspec:\n  volumes: [{name: a, persistentVolumeClaim: {claimName: b}}]\n  containers: [{name: main, image: busybox}]\n",
    );
    assert!(message.contains("persistentVolumeClaim"), "{message}");
    for text in [
        "",
        "kind: Pod\n",
        "a: [\n",
        "apiVersion: v1\nkind: Ship\nmetadata: {name: a}\n",
    ] {
        assert!(world.refused(text).contains("run.yaml"), "{text:?}");
    }
    let ended = world.run(
        r"
apiVersion: v1
kind: Pod
metadata: {name: warned}
spec:
  restartPolicy: Never
  priorityClassName: high
  nodeSelector: {disk: ssd}
  containers: [{name: main, image: busybox, command: ['true']}]
",
    );
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(
        ended.stderr.contains("priorityClassName") && ended.stderr.contains("nodeSelector"),
        "{ended:#?}"
    );
    world.end();
}
