//! Pods on nodes that joined, with berth's own commands.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::world::Cluster;

const PATIENCE: Duration = Duration::from_secs(60);

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: busybox
        command: [sh, -c, 'echo hello from $(hostname); exec sleep 100000']
";

const FAR: &str = "
apiVersion: v1
kind: Pod
metadata: {name: far}
spec:
  nodeName: host-1
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: busybox, command: [sh, -c, 'echo far away; exec sleep 100000']}
";

fn running(cluster: &Cluster, selector: &str) -> usize {
    let words = ["get", "pods", "-l", selector, "--no-headers"];
    let rows = cluster.kubectl(&words);
    rows.lines().filter(|row| row.contains("Running")).count()
}

#[test]
fn a_pod_runs_on_the_second_node_and_is_looked_into() {
    let begun = Instant::now();
    let cluster = Cluster::start(2);
    let file = cluster.host(0).work_dir().join("far.yaml");
    // By the registry's own address, as a company's images are named.
    let image = cluster.registry().reference("library/busybox", "1.37");
    std::fs::write(
        &file,
        FAR.replace("image: busybox", &format!("image: {image}")),
    )
    .unwrap();
    let said = cluster.berth(0, &["apply", "-f", &file.display().to_string()]);
    assert_eq!(said, "pod/far created\n");
    cluster.until("the pod runs", PATIENCE, || {
        let pods = cluster.berth(0, &["get", "pods"]);
        ensure!(pods.contains("Running"), "{pods}");
        Ok(())
    });
    eprintln!(
        "from init to a running pod on the second node: {:?}",
        begun.elapsed()
    );
    let said = cluster.berth(0, &["apply", "-f", &file.display().to_string()]);
    assert_eq!(said, "pod/far unchanged\n");
    cluster.until("its words are read", PATIENCE, || {
        let logs = cluster.berth(0, &["logs", "--cluster", "far"]);
        ensure!(logs == "far away\n", "{logs:?}");
        Ok(())
    });
    let said = cluster.berth(
        0,
        &["exec", "--cluster", "far", "sh", "-c", "echo $((6*7))"],
    );
    assert_eq!(said, "42\n");
    let failed = cluster.output(0, &["exec", "--cluster", "far", "sh", "-c", "exit 7"]);
    assert_eq!(failed.status.code(), Some(7));
    let described = cluster.berth(0, &["describe", "pod/far"]);
    assert!(described.contains("Events:"), "{described}");
    cluster.berth(0, &["explain", "pod/far"]);
    cluster.berth(0, &["delete", "pod/far"]);
    let said = cluster.berth_fails(0, &["get", "pod/far"]);
    assert!(said.contains("not found"), "{said}");
}

#[test]
fn a_deployment_is_scaled_updated_taken_back_and_drained() {
    let cluster = Cluster::start(2);
    let file = cluster.host(0).work_dir().join("web.yaml");
    std::fs::write(&file, WEB).unwrap();
    cluster.berth(0, &["apply", "-f", &file.display().to_string()]);
    cluster.berth(0, &["rollout", "status", "deployment/web"]);
    cluster.berth(0, &["scale", "deployment/web", "--replicas", "3"]);
    cluster.until("three run", PATIENCE, || {
        ensure!(running(&cluster, "app=web") == 3, "not yet");
        Ok(())
    });
    cluster.berth(0, &["rollout", "restart", "deployment/web"]);
    cluster.berth(0, &["rollout", "status", "deployment/web"]);
    cluster.berth(0, &["rollout", "undo", "deployment/web"]);
    cluster.berth(0, &["rollout", "status", "deployment/web"]);
    cluster.berth(0, &["drain", "host-1"]);
    cluster.until("all run on the first", PATIENCE, || {
        let rows = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "wide", "--no-headers"]);
        let here = |row: &&str| row.contains("Running") && row.contains("host-0");
        ensure!(rows.lines().filter(here).count() == 3, "{rows}");
        Ok(())
    });
    cluster.berth(0, &["uncordon", "host-1"]);
    cluster.berth(0, &["delete", "-f", &file.display().to_string()]);
}
