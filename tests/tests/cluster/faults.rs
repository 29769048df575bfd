//! Server, agent and network killed at any moment while people write and ask.
//!
//! ```text
//!   clients ─▶ node ports of three nodes ─▶ web        never refused
//!   journal ─▶ notes and Services, by five writers     nothing acknowledged is lost
//!   people  ─▶ scale a Deployment                      it comes to be as it was last asked for
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_tests::chance::{self, Chance};
use berth_tests::load::Load;
use serde_json::Value;

use crate::parts::{Part, Parts};
use crate::world::{Cluster, text};
use journal::Journal;

/// Writers that remember what was acknowledged.
#[path = "faults/journal.rs"]
mod journal;
/// What nftables hold.
#[path = "faults/tables.rs"]
mod tables;

const PATIENCE: Duration = Duration::from_secs(60);

/// On all nodes, the port of the Service `web`.
const PORT: u16 = 30080;

/// How long things are killed for.
const STORM: Duration = Duration::from_secs(22);

/// Scaled up and down all the while.
const MOVING: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: moving}
spec:
  replicas: 1
  selector: {matchLabels: {app: moving}}
  template:
    metadata: {labels: {app: moving}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: main, image: busybox, command: [sleep, '100000']}
---
apiVersion: v1
kind: Service
metadata: {name: moving}
spec:
  selector: {app: moving}
  ports: [{port: 80}]
";

const WEB: &str = "
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
        whenUnsatisfiable: DoNotSchedule
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
type Lives = BTreeMap<String, String>;

/// Pods of an application that are not ending, with what must stay as it is.
fn lives(cluster: &Cluster, app: &str) -> Result<Lives> {
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

fn pods(cluster: &Cluster, app: &str) -> Result<Vec<Value>> {
    let label = format!("app={app}");
    let output = cluster.kubectl_output(&["get", "pods", "-l", &label, "-o", "json"], "")?;
    ensure!(output.status.success(), "{}", text(&output.stderr));
    let list: Value = serde_json::from_slice(&output.stdout)?;
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    let stays = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null();
    Ok(pods.into_iter().filter(stays).collect())
}

/// Waits until an application has so many pods, all running, and no others.
fn until_pods(cluster: &Cluster, app: &str, count: usize) {
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

/// The containers that live on a host, as its runtime tells: `pod/container`.
fn containers(cluster: &Cluster, index: usize) -> Result<Vec<String>> {
    let output = cluster.output(index, &["-o", "json", "ps"]);
    ensure!(output.status.success(), "{}", text(&output.stderr));
    let list: Value = serde_json::from_slice(&output.stdout)?;
    let names = list.as_array().into_iter().flatten();
    Ok(names.map(|one| one["pod"].to_string()).collect())
}

#[test]
fn parts_that_are_killed_lose_nothing_and_nobody_notices() {
    let mut cluster = Cluster::start(3);
    let client = cluster.client();
    let cluster = cluster;
    let mut first = Parts::take_apart(&cluster, 0);
    let mut second = Parts::take_apart(&cluster, 1);
    for index in 0..3 {
        cluster.until_ready(index, "True", PATIENCE);
    }
    cluster.kubectl_with(&["apply", "-f", "-"], WEB);
    cluster.kubectl_with(&["apply", "-f", "-"], MOVING);
    until_pods(&cluster, "web", 3);
    let targets: Vec<SocketAddr> = (0..3)
        .map(|index| SocketAddr::from((cluster.fabric().address(index), PORT)))
        .collect();
    for target in &targets {
        let outside = cluster.fabric().outside();
        outside.get_within(PATIENCE, *target, "/").unwrap();
    }
    let before = lives(&cluster, "web").unwrap();

    let load = Load::start(
        cluster.fabric().outside(),
        &targets,
        Duration::from_millis(20),
    );
    let journal = cluster.block_on(Journal::start(&client, 4)).unwrap();
    let mut chance = Chance::new(chance::told_seed());
    let (mut kills, mut wanted) = (BTreeMap::<&str, usize>::new(), 1);
    let end = Instant::now() + STORM;
    while Instant::now() < end {
        let (name, victim, part) = match chance.below(6) {
            0 | 1 => ("server", &mut first, Part::Server),
            2 => ("agent", &mut first, Part::Agent),
            3 => ("agent", &mut second, Part::Agent),
            4 => ("network", &mut first, Part::Network),
            _ => ("network", &mut second, Part::Network),
        };
        *kills.entry(name).or_default() += 1;
        victim.kill_for(part, chance.pause(0, 800));
        std::thread::sleep(chance.pause(50, 1000));
        // Whoever asks again until it is taken has asked once.
        let count = (1 + chance.below(5)).to_string();
        let scale = ["scale", "deployment/moving", "--replicas", &count];
        if cluster.kubectl_output(&scale, "").unwrap().status.success() {
            wanted = count.parse().unwrap();
        }
    }
    // Longer than a node may be silent: nobody is taken for dead because nobody heard.
    first.kill_for(Part::Server, Duration::from_secs(10));
    let written = journal.acknowledged();
    cluster.until("writers go on", PATIENCE, || {
        ensure!(journal.acknowledged() > written + 20, "not yet");
        Ok(())
    });
    // One that a kill left in doubt is asked for once more.
    cluster.until("it is scaled", PATIENCE, || {
        let count = wanted.to_string();
        let scale = ["scale", "deployment/moving", "--replicas", &count];
        let output = cluster.kubectl_output(&scale, "")?;
        ensure!(output.status.success(), "{}", text(&output.stderr));
        Ok(())
    });
    journal.stop();
    until_pods(&cluster, "moving", wanted);
    until_pods(&cluster, "web", 3);
    std::thread::sleep(Duration::from_millis(500));
    cluster.until("nothing is lost", PATIENCE, || {
        cluster.block_on(journal.assert_kept(&client))
    });
    cluster.until("the reader saw all", PATIENCE, || journal.assert_seen());
    for index in 0..3 {
        cluster.until("services are right", PATIENCE, || {
            tables::assert_doors(&cluster, index)
        });
    }
    let report = load.stop().unwrap();
    assert_eq!(lives(&cluster, "web").unwrap(), before);
    println!(
        "{kills:?} killed; {} requests; {} writes acknowledged",
        report.attempts.len(),
        journal.acknowledged()
    );
    report.assert_all_answered().unwrap();
}
