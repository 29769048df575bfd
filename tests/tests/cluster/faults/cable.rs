//! A host whose cable is pulled, and put back after its pods were placed elsewhere.

use std::net::SocketAddr;

use anyhow::ensure;

use super::{PATIENCE, PORT, tables};
use crate::pods::{WEB, assert_nodes_agree, lives, of_runtime, pods, until_pods};
use crate::world::Cluster;

/// One on each node, wherever it is.
const EVERYWHERE: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: main, image: busybox, command: [sleep, '100000']}
---
apiVersion: v1
kind: Service
metadata: {name: old}
spec: {selector: {app: everywhere}, ports: [{port: 80}]}
";

const NEW: &str = "
apiVersion: v1
kind: Service
metadata: {name: new}
spec: {selector: {app: web}, ports: [{port: 80}]}
";

fn places(cluster: &Cluster, app: &str) -> anyhow::Result<Vec<String>> {
    let node = |pod: &serde_json::Value| {
        let node = pod["spec"]["nodeName"].as_str();
        node.unwrap_or_default().to_owned()
    };
    let mut places: Vec<String> = pods(cluster, app)?.iter().map(node).collect();
    places.sort();
    Ok(places)
}

#[test]
fn a_host_comes_back_after_its_pods_were_placed_elsewhere() {
    let cluster = Cluster::start(3);
    cluster.kubectl_with(&["apply", "-f", "-"], WEB);
    cluster.kubectl_with(&["apply", "-f", "-"], EVERYWHERE);
    until_pods(&cluster, "web", 3);
    until_pods(&cluster, "everywhere", 3);
    let all = ["host-0", "host-1", "host-2"];
    assert_eq!(places(&cluster, "web").unwrap(), all);
    let before = lives(&cluster, "everywhere").unwrap();
    let held = of_runtime(&cluster, 2).unwrap();

    cluster.fabric().cut_off(2).unwrap();
    cluster.until("its pods are placed elsewhere", PATIENCE, || {
        let found = places(&cluster, "web")?;
        ensure!(
            found.len() == 3 && !found.contains(&"host-2".to_owned()),
            "{found:?}"
        );
        Ok(())
    });
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    // Nobody told the host to end anything: whoever sits on its side is served on.
    assert_eq!(of_runtime(&cluster, 2).unwrap(), held);
    // What the host does not hear of.
    cluster.kubectl(&["delete", "service", "old"]);
    cluster.kubectl_with(&["apply", "-f", "-"], NEW);
    for index in [0, 1] {
        cluster.until("the others know", PATIENCE, || {
            tables::assert_doors(&cluster, index)
        });
    }

    cluster.fabric().restore(2).unwrap();
    cluster.until_ready(2, "True", PATIENCE);
    until_pods(&cluster, "web", 3);
    until_pods(&cluster, "everywhere", 3);
    cluster.until("nodes run what they should", PATIENCE, || {
        assert_nodes_agree(&cluster)
    });
    for index in 0..3 {
        cluster.until("services are right", PATIENCE, || {
            tables::assert_doors(&cluster, index)
        });
        let target = SocketAddr::from((cluster.fabric().address(index), PORT));
        let outside = cluster.fabric().outside();
        outside.get_within(PATIENCE, target, "/").unwrap();
    }
    let taints = "-o=jsonpath={.spec.taints}";
    cluster.until("its taints are gone", PATIENCE, || {
        let taints = cluster.kubectl(&["get", "node", "host-2", taints]);
        ensure!(taints.is_empty(), "{taints}");
        Ok(())
    });
    // A DaemonSet's pod tolerates a node that is away, and is the one that it was.
    assert_eq!(lives(&cluster, "everywhere").unwrap(), before);
    // And the node is one among others again.
    cluster.kubectl(&["scale", "deployment/web", "--replicas=6"]);
    until_pods(&cluster, "web", 6);
    assert!(
        places(&cluster, "web")
            .unwrap()
            .contains(&"host-2".to_owned())
    );
}
