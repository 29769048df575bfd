//! A server that lives and leads, and reaches nobody: without its cable, or without its store.
//!
//! ```text
//!   no cable:   host 0 ─╳─ wire      its etcd member too: nobody answers it, nobody hears it
//!   no store:   host 0 ─╳─ etcd      nodes still reach it, and get only refusals
//! ```

use std::time::Instant;

use anyhow::ensure;
use rustix::process::{Pid, test_kill_process};

use super::{NODE, PATIENCE, Wire, World, web};

/// Pods that fit nowhere: work that a leader is in the middle of.
fn storm(replicas: usize) -> String {
    format!(
        "
apiVersion: apps/v1
kind: ReplicaSet
metadata: {{name: storm}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: storm}}}}
  template:
    metadata: {{labels: {{app: storm}}}}
    spec:
      nodeSelector: {{nowhere: 'true'}}
      containers: [{{name: main, image: busybox}}]
"
    )
}

fn note(name: &str) -> String {
    format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}}}")
}

/// Waits until what a host's node process said holds a text.
fn until_says(world: &World, index: usize, text: &str) {
    let log = world.cluster.host(index).data_dir().join("node/berth.log");
    world.cluster.until("it says so", PATIENCE, || {
        let log = std::fs::read_to_string(&log)?;
        ensure!(log.contains(text), "it does not say {text:?}");
        Ok(())
    });
}

/// Who leads, with a pod running that it placed; and the two that do not lead.
fn a_leader_at_work(world: &World) -> (usize, Vec<usize>) {
    let leader = world.until_somebody_leads(0, &[]);
    let others: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    world.apply(others[0], &web(1)).unwrap();
    world.until_running(others[0], "app=web", 1);
    world.lead_to(NODE, leader);
    (leader, others)
}

#[test]
fn a_leader_without_its_cable_writes_nothing_and_follows_when_it_is_back() {
    let world = World::with_servers(Wire::Plain);
    let cluster = &world.cluster;
    let (cut, others) = a_leader_at_work(&world);
    let by = others[0];
    let pid = cluster.process(cut).unwrap();
    // In the middle of its work.
    world.apply(by, &storm(400)).unwrap();
    cluster.until("the storm begins", PATIENCE, || {
        let (names, _) = world.pods(by, "app=storm")?;
        ensure!(!names.is_empty(), "no pod yet");
        Ok(())
    });

    cluster.fabric().cut_off(cut).unwrap();
    let began = Instant::now();
    let next = world.until_somebody_leads(by, &[cut]);
    eprintln!("another leads after {:?}", began.elapsed());
    world.until_servers_are(next, &others);
    until_says(&world, cut, "leads no longer");
    // Whoever sits on its side of the cut is told, and not lied to.
    let refused = world.apply(cut, &note("lost")).unwrap_err().to_string();
    assert!(refused.contains("store is not available"), "{refused}");
    let refused = world.pods(cut, "app=web").unwrap_err().to_string();
    assert!(refused.contains("store is not available"), "{refused}");
    // What the other leader does is what it was in the middle of, and more.
    let all_there = |wanted: usize| {
        cluster.until("all pods are there", PATIENCE, || {
            let (names, _) = world.pods(by, "app=storm")?;
            ensure!(names.len() == wanted, "{}", names.len());
            Ok(())
        });
    };
    all_there(400);
    world.apply(by, &storm(300)).unwrap();
    all_there(300);
    world.apply(by, &web(2)).unwrap();
    world.until_running(by, "app=web", 2);
    world.until_ready(by, NODE);
    cluster.until("its own node counts as dead", PATIENCE, || {
        let state = world.state_of(by, cut)?;
        ensure!(state != "Ready", "host {cut} is {state}");
        Ok(())
    });
    test_kill_process(Pid::from_raw(pid).unwrap()).expect("it lives all the while");
    let refused = world.apply(cut, &note("lost")).unwrap_err().to_string();
    assert!(refused.contains("store is not available"), "{refused}");

    cluster.fabric().restore(cut).unwrap();
    world.until_servers_are(next, &[0, 1, 2]);
    world.until_ready(by, cut);
    cluster.until("it knows who leads", PATIENCE, || {
        let leader = world.leader(cut)?;
        ensure!(leader == next, "host {leader} leads for host {cut}");
        Ok(())
    });
    assert_eq!(cluster.process(cut), Some(pid), "it was not started anew");
    // It serves again what the others wrote, and nothing came of what it was refused.
    let (names, _) = world.pods(cut, "app=storm").unwrap();
    assert_eq!(names.len(), 300);
    world.apply(cut, &note("kept")).unwrap();
    let maps = cluster.berth(by, &["get", "configmaps"]);
    assert!(maps.contains("kept") && !maps.contains("lost"), "{maps}");
}

/// Nodes reach a server that cannot reach the store: it lives, and is of no use to them.
#[test]
fn a_server_without_its_store_is_left_by_its_nodes() {
    let world = World::with_servers(Wire::Plain);
    let cluster = &world.cluster;
    let (lost, others) = a_leader_at_work(&world);
    let by = others[0];
    let (before, _) = world.pods(by, "app=web").unwrap();
    let rules = "add table inet cut; \
         add chain inet cut out { type filter hook output priority 0; }; \
         add rule inet cut out tcp dport 2379 drop";
    world.rule(lost, rules);
    let began = Instant::now();
    let next = world.until_somebody_leads(by, &[lost]);
    world.until_servers_are(next, &others);
    for index in [NODE, lost] {
        cluster.until("the node goes to another server", PATIENCE, || {
            let connected = world.connected_to(index);
            ensure!(
                connected.iter().any(|server| *server != lost),
                "host {index} speaks to {connected:?}"
            );
            Ok(())
        });
    }
    eprintln!("nodes have left it after {:?}", began.elapsed());
    world.apply(by, &web(2)).unwrap();
    world.until_running(by, "app=web", 2);
    for index in 0..4 {
        world.until_ready(by, index);
    }
    let refused = world.apply(lost, &note("lost")).unwrap_err().to_string();
    assert!(refused.contains("store is not available"), "{refused}");
    let (after, _) = world.pods(by, "app=web").unwrap();
    assert!(after.contains(&before[0]), "{before:?} became {after:?}");

    world.rule(lost, "delete table inet cut");
    world.until_servers_are(next, &[0, 1, 2]);
    cluster.until("it serves again", PATIENCE, || {
        world.apply(lost, &note("kept"))
    });
}
