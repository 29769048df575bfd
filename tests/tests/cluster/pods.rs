//! Pods, as the API tells and as each node's runtime has them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_cri::service::CriService as _;
use berth_cri::service::socket::CriSocket;
use berth_cri::v1;
use serde_json::Value;

use crate::world::{Cluster, text};

const PATIENCE: Duration = Duration::from_secs(60);

/// Three replicas, one a node where that can be, asked at port 30080 of every node.
pub const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {matchLabels: {app: web}}
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: busybox
        command: [sh, -c, 'echo here > /index.html; exec httpd -f -p 80 -h /']
        readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, nodePort: 30080}]
";

/// A pod's name, and what changes when it is begun anew.
pub type Lives = BTreeMap<String, String>;

/// Pods of an application that are not ending, with what must stay as it is.
pub fn lives(cluster: &Cluster, app: &str) -> Result<Lives> {
    let mut lives = Lives::new();
    for pod in pods(cluster, app)? {
        let name = pod["metadata"]["name"].as_str().context("a name")?;
        let status = &pod["status"]["containerStatuses"][0];
        let life = format!(
            "{} on {} at {}, container {}, restarts {}",
            pod["metadata"]["uid"],
            pod["spec"]["nodeName"],
            pod["status"]["podIP"],
            status["containerID"],
            status["restartCount"]
        );
        lives.insert(name.to_owned(), life);
    }
    Ok(lives)
}

/// Pods of an application that are not ending, as the API tells.
pub fn pods(cluster: &Cluster, app: &str) -> Result<Vec<Value>> {
    let label = format!("app={app}");
    let output = cluster.kubectl_output(&["get", "pods", "-l", &label, "-o", "json"], "")?;
    ensure!(output.status.success(), "{}", text(&output.stderr));
    let list: Value = serde_json::from_slice(&output.stdout)?;
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    let stays = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null();
    Ok(pods.into_iter().filter(stays).collect())
}

/// Waits until an application has so many pods, all running, and no others.
pub fn until_pods(cluster: &Cluster, app: &str, count: usize) {
    cluster.until(&format!("{count} pods of {app}"), PATIENCE, || {
        let label = format!("app={app}");
        let rows = cluster.kubectl_output(&["get", "pods", "-l", &label, "--no-headers"], "")?;
        let rows = text(&rows.stdout);
        let running = rows.lines().filter(|row| row.contains(" Running "));
        ensure!(
            running.count() == count && rows.lines().count() == count,
            "{rows}"
        );
        Ok(())
    });
}

/// What a node's runtime has of the cluster: `NAMESPACE/NAME UID` of each sandbox that is
/// ready, and of each container that runs, one line each.
pub fn of_runtime(cluster: &Cluster, index: usize) -> Result<Vec<String>> {
    let of = |kind: &str, labels: &std::collections::HashMap<String, String>| {
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        format!(
            "{kind} of {}/{} {}",
            label("io.kubernetes.pod.namespace"),
            label("io.kubernetes.pod.name"),
            label("io.kubernetes.pod.uid")
        )
    };
    let (sandboxes, containers) = list(cluster, index)?;
    let ready = v1::PodSandboxState::SandboxReady as i32;
    let sandboxes = sandboxes.iter().filter(|one| one.state == ready);
    let running = v1::ContainerState::ContainerRunning as i32;
    let containers = containers.iter();
    let containers = containers.filter(|one| one.state == running);
    Ok(sandboxes
        .map(|one| of("sandbox", &one.labels))
        .chain(containers.map(|one| of("container", &one.labels)))
        .collect())
}

/// Asserts that a node's runtime has no sandbox and no container, in no state.
///
/// # Errors
///
/// How many it has.
pub fn assert_empty(cluster: &Cluster, index: usize) -> Result<()> {
    let (sandboxes, containers) = list(cluster, index)?;
    let left = [sandboxes.len(), containers.len()];
    ensure!(
        left == [0; 2],
        "host {index} has sandboxes and containers: {left:?}"
    );
    Ok(())
}

/// Asserts that each node runs what the API says is there, each pod once, and nothing else.
/// For pods of one container that runs.
///
/// # Errors
///
/// What is more, what is less.
pub fn assert_nodes_agree(cluster: &Cluster) -> Result<()> {
    let output = cluster.kubectl_output(&["get", "pods", "-A", "-o", "json"], "")?;
    ensure!(output.status.success(), "{}", text(&output.stderr));
    let list: Value = serde_json::from_slice(&output.stdout)?;
    for index in 0..cluster.fabric().hosts().len() {
        let node = cluster.node(index);
        let mut wanted = BTreeSet::new();
        for pod in list["items"].as_array().into_iter().flatten() {
            if pod["spec"]["nodeName"] != node.as_str() {
                continue;
            }
            let meta = &pod["metadata"];
            let word = |name: &str| meta[name].as_str().unwrap_or_default();
            let words = format!("{}/{} {}", word("namespace"), word("name"), word("uid"));
            wanted.insert(format!("sandbox of {words}"));
            wanted.insert(format!("container of {words}"));
        }
        let found = of_runtime(cluster, index)?;
        let distinct: BTreeSet<String> = found.iter().cloned().collect();
        ensure!(
            found.len() == distinct.len(),
            "{node} has twice: {found:#?}"
        );
        let more: Vec<_> = distinct.difference(&wanted).collect();
        let less: Vec<_> = wanted.difference(&distinct).collect();
        ensure!(
            more.is_empty() && less.is_empty(),
            "{node} has {more:#?} too much, and lacks {less:#?}"
        );
    }
    Ok(())
}

fn list(cluster: &Cluster, index: usize) -> Result<(Vec<v1::PodSandbox>, Vec<v1::Container>)> {
    let path = cluster.host(index).run_dir().join("berth.sock");
    let (sandboxes, containers) = cluster.block_on(async {
        let socket = CriSocket::at(&path)?;
        let sandboxes = socket.list_pod_sandbox(v1::ListPodSandboxRequest::default());
        let containers = socket.list_containers(v1::ListContainersRequest::default());
        anyhow::Ok(futures::future::try_join(sandboxes, containers).await?)
    })?;
    Ok((sandboxes.items, containers.containers))
}
