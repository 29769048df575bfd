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

use anyhow::ensure;
use berth_tests::chance::{self, Chance};
use berth_tests::load::Load;

use crate::parts::{Part, Parts};
use crate::pods::{WEB, assert_nodes_agree, lives, until_pods};
use crate::world::{Cluster, text};
use journal::Journal;

/// A host without its cable.
#[path = "faults/cable.rs"]
mod cable;
/// The server's disk is full.
#[path = "faults/disk.rs"]
mod disk;
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
        let (name, victim, part) = match chance.below(8) {
            7 => {
                // Everything of a node at once, its runtime too.
                *kills.entry("node").or_default() += 1;
                cluster.kill(2);
                cluster.restart(2);
                continue;
            }
            0..=2 => ("server", &mut first, Part::Server),
            3 => ("agent", &mut first, Part::Agent),
            4 => ("agent", &mut second, Part::Agent),
            5 => ("network", &mut first, Part::Network),
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
    cluster.until("nodes run what they should", PATIENCE, || {
        assert_nodes_agree(&cluster)
    });
    let report = load.stop().unwrap();
    assert_eq!(lives(&cluster, "web").unwrap(), before);
    println!(
        "{kills:?} killed; {} requests; {} writes acknowledged",
        report.attempts.len(),
        journal.acknowledged()
    );
    report.assert_all_answered().unwrap();
}
