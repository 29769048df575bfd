//! What Swarm is known for, with a client that asks all the while: a service of three
//! replicas on three nodes, an update, a node drained, a node lost.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use berth_tests::load::{Load, Report};

use crate::world::Cluster;

/// Any node's address, with the port that the example's Service has on all nodes.
const PORT: u16 = 30080;

/// Between two requests of a client to one node.
const PAUSE: Duration = Duration::from_millis(20);

/// Until a lost node is found, its pods are no longer asked, and a client that waited
/// for one of them has given up.
const NODE_LOST: Duration = Duration::from_secs(20);

/// The longest time in which no client at all is answered.
const SILENCE: Duration = Duration::from_secs(10);

fn manifest(version: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/cluster.yaml");
    let text = std::fs::read_to_string(path).expect("the example is in the tree");
    let wanted = "value: \"1\"";
    assert!(text.contains(wanted), "the example states its version");
    text.replace(wanted, &format!("value: \"{version}\""))
}

fn roll_out(cluster: &Cluster, version: &str) {
    cluster.kubectl_with(&["apply", "-f", "-"], &manifest(version));
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
}

/// The nodes that replicas of the service are on, one word a pod that is not ending.
fn places(cluster: &Cluster) -> Vec<String> {
    let template = "{range .items[?(@.status.phase=='Running')]}{.spec.nodeName} \
                    {.metadata.deletionTimestamp}{'\\n'}{end}";
    let path = format!("-o=jsonpath={template}");
    let said = cluster.kubectl(&["get", "pods", "-l", "app=web", &path]);
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .filter(|line| !line.contains(' '))
        .map(str::to_owned)
        .collect()
}

fn until_only_version(cluster: &Cluster, target: SocketAddr, version: &str) {
    let wanted = format!("version {version} ");
    cluster.until("only new pods answer", Duration::from_secs(60), || {
        for _ in 0..10 {
            let page = cluster.fabric().outside().get(target, "/")?.text();
            ensure!(page.starts_with(&wanted), "{page:?}");
        }
        Ok(())
    });
}

fn of(report: &Report, targets: &[SocketAddr]) -> Report {
    let attempts = report.attempts.iter();
    Report {
        attempts: attempts
            .filter(|attempt| targets.contains(&attempt.target))
            .cloned()
            .collect(),
    }
}

#[test]
fn a_service_answers_through_an_update_a_drain_and_a_lost_node() {
    let cluster = Cluster::start(3);
    let targets: Vec<SocketAddr> = (0..3)
        .map(|index| SocketAddr::from((cluster.fabric().address(index), PORT)))
        .collect();
    roll_out(&cluster, "1");
    let mut nodes = places(&cluster);
    nodes.sort();
    assert_eq!(nodes, ["host-0", "host-1", "host-2"], "a replica a node");
    for target in &targets {
        let limit = Duration::from_secs(20);
        let page = cluster.fabric().outside().get_within(limit, *target, "/");
        assert!(page.unwrap().text().starts_with("version 1 on host-"));
    }

    let load = Load::start(cluster.fabric().outside(), &targets, PAUSE);
    std::thread::sleep(Duration::from_secs(2));
    roll_out(&cluster, "2");
    until_only_version(&cluster, targets[0], "2");
    let updated = load.now();

    cluster.kubectl(&[
        "drain",
        "host-2",
        "--delete-emptydir-data",
        "--timeout=120s",
    ]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    cluster.until("three run elsewhere", Duration::from_secs(60), || {
        let nodes = places(&cluster);
        ensure!(
            nodes.len() == 3 && !nodes.contains(&"host-2".to_owned()),
            "{nodes:?}"
        );
        Ok(())
    });
    std::thread::sleep(Duration::from_secs(1));
    let drained = load.now();

    cluster.fabric().cut_off(1).unwrap();
    cluster.until("all run on the first", Duration::from_secs(60), || {
        let nodes = places(&cluster);
        let first = nodes.iter().filter(|node| *node == "host-0").count();
        ensure!(first == 3, "{nodes:?}");
        Ok(())
    });
    let elsewhere = load.now();
    let rest = (drained + NODE_LOST).saturating_sub(load.now());
    std::thread::sleep(rest + Duration::from_secs(5));
    let end = load.now();

    cluster.fabric().restore(1).unwrap();
    cluster.until_ready(1, "True", Duration::from_secs(60));
    cluster.kubectl(&["uncordon", "host-2"]);
    let report = load.stop().unwrap();

    // Nothing is lost while people change things in order.
    let in_order = report.between(Duration::ZERO, drained);
    if let Err(error) = in_order.assert_all_answered() {
        panic!("updated {updated:?}, drained {drained:?}: {error:#}");
    }
    let pages = in_order.pages();
    assert!(pages.keys().any(|page| page.starts_with("version 1 ")));
    assert!(pages.keys().any(|page| page.starts_with("version 2 ")));
    // A client of a node that is left may come upon a pod of the lost one and wait in
    // vain; but somebody is always answered, and all when the node is known to be lost.
    let left = of(&report, &[targets[0], targets[2]]).between(drained, end);
    let answered = left.attempts.iter().filter(|one| one.answer.is_ok());
    let mut last = drained;
    for answer in answered {
        let gap = answer.at.saturating_sub(last);
        assert!(gap < SILENCE, "nobody was answered for {gap:?}");
        last = answer.at;
    }
    left.between(drained + NODE_LOST, end)
        .assert_all_answered()
        .unwrap();
    println!(
        "{} requests; an update took {updated:?}, three replicas ran again {:?} after a node was lost",
        report.attempts.len(),
        elsewhere.saturating_sub(drained)
    );
}
