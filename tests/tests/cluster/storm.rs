//! A thousand pods at once, and the server killed in the middle.
//!
//! Most are on hollow nodes, for a thousand containers say nothing about the server that
//! a thousand promises do not; the others are real, and fill three hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_scheduler::hollow::{self, HollowConfig};
use berth_tests::chance::{self, Chance};
use berth_tests::sweep::Sweep;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::parts::{Part, Parts};
use crate::pods::{assert_empty, assert_nodes_agree};
use crate::world::Cluster;

/// Not a measure: a machine that has other work too takes three times as long as an idle one.
const PATIENCE: Duration = Duration::from_secs(600);

/// On hollow nodes.
const PROMISED: usize = 1000;

/// On hosts, as containers.
const REAL: usize = 45;

/// A hollow node is known by its zone.
fn manifest() -> String {
    let deployment = |name: &str, replicas: usize, zone: &str| {
        format!(
            "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: storm}}
spec:
  replicas: {replicas}
  progressDeadlineSeconds: 600
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 0
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms:
            - matchExpressions: [{{key: topology.kubernetes.io/zone, operator: {zone}}}]
      containers:
      - {{name: main, image: busybox, command: [sleep, '100000']}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: storm}}
spec: {{selector: {{app: {name}}}, ports: [{{port: 80}}]}}
---"
        )
    };
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: storm}\n---";
    let (promised, real) = (
        deployment("promised", PROMISED, "Exists"),
        deployment("real", REAL, "DoesNotExist"),
    );
    format!("{namespace}{promised}{real}")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| &status.conditions);
    let mut conditions = conditions.flatten();
    conditions.any(|one| one.type_ == "Ready" && one.status == "True")
}

/// Asserts that all pods are there, each once, ready, on a node that has room.
async fn assert_all_run(client: &kube::Client) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "storm");
    let pods = pods.list(&Default::default()).await?.items;
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    ensure!(
        ready == PROMISED + REAL && pods.len() == ready,
        "{ready} of {} pods are ready",
        pods.len()
    );
    let mut of_node: BTreeMap<&str, usize> = BTreeMap::new();
    let mut addresses = BTreeSet::new();
    for pod in &pods {
        let spec = pod.spec.as_ref().context("a spec")?;
        let node = spec.node_name.as_deref().context("a node")?;
        *of_node.entry(node).or_default() += 1;
        let of_hollow = pod.labels().get("app").is_some_and(|app| app == "promised");
        ensure!(node.starts_with("hollow-") == of_hollow, "{node}");
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
        if !of_hollow {
            let address = address.context("an address")?;
            ensure!(addresses.insert(address.clone()), "{address} twice");
        }
    }
    ensure!(of_node.values().all(|count| *count <= 110), "{of_node:?}");
    let nodes: Api<Node> = Api::all(client.clone());
    let nodes = nodes.list(&Default::default()).await?.items;
    let ranges = nodes.iter().map(|node| {
        let spec = node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone());
        spec.context("a range")
    });
    let ranges: BTreeSet<String> = ranges.collect::<Result<_>>()?;
    ensure!(ranges.len() == nodes.len(), "{ranges:?}");
    Ok(())
}

/// Asserts that nothing of the storm is left in the API.
async fn assert_nothing_left(client: &kube::Client) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "storm");
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), "storm");
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "storm");
    let left = [
        pods.list(&Default::default()).await?.items.len(),
        sets.list(&Default::default()).await?.items.len(),
        slices.list(&Default::default()).await?.items.len(),
    ];
    ensure!(left == [0; 3], "pods, sets and slices are left: {left:?}");
    let namespaces: Api<Namespace> = Api::all(client.clone());
    ensure!(
        namespaces.get_opt("storm").await?.is_none(),
        "the namespace is left"
    );
    Ok(())
}

fn until_empty(cluster: &Cluster) {
    for index in 0..3 {
        cluster.until("the host is empty", PATIENCE, || {
            assert_empty(cluster, index)
        });
    }
}

#[test]
fn a_thousand_pods_come_and_go_though_the_server_is_killed() {
    let mut cluster = Cluster::start(3);
    let client = cluster.client();
    let cluster = cluster;
    let mut first = Parts::take_apart(&cluster, 0);
    cluster.until_ready(0, "True", PATIENCE);
    // The image is here before, and the sweep knows its files.
    cluster.kubectl_with(&["apply", "-f", "-"], FIRST);
    cluster.kubectl(&["rollout", "status", "daemonset/first", "--timeout=100s"]);
    cluster.kubectl(&["delete", "daemonset/first"]);
    until_empty(&cluster);
    // The network writes what it knows some time after it learned it.
    for index in [1, 2] {
        let known = cluster.host(index).data_dir();
        let known = known.join("node/network/cluster.json");
        cluster.until("the network has written its state", PATIENCE, || {
            ensure!(known.exists(), "{} is missing", known.display());
            Ok(())
        });
    }
    let sweeps = [1, 2].map(|index| {
        let host = cluster.host(index);
        (host, Sweep::before(host).unwrap())
    });
    let shutdown = CancellationToken::new();
    let hollow = {
        let (client, shutdown) = (client.clone(), shutdown.clone());
        let config = HollowConfig {
            nodes: 10,
            ..HollowConfig::default()
        };
        cluster.spawn(hollow::run(client, config, shutdown))
    };

    let begun = Instant::now();
    cluster.kubectl_with(&["apply", "-f", "-"], &manifest());
    let mut chance = Chance::new(chance::told_seed());
    for _ in 0..3 {
        std::thread::sleep(chance.pause(500, 4000));
        first.kill_for(Part::Server, chance.pause(0, 1000));
    }
    cluster.until("all pods run", PATIENCE, || {
        cluster.block_on(assert_all_run(&client))
    });
    let up = begun.elapsed();
    cluster.until("nodes agree", PATIENCE, || assert_nodes_agree(&cluster));

    let begun = Instant::now();
    cluster.kubectl(&["delete", "namespace", "storm", "--wait=false"]);
    std::thread::sleep(chance.pause(500, 4000));
    first.kill_for(Part::Server, chance.pause(0, 1000));
    cluster.until("all are gone", PATIENCE, || {
        cluster.block_on(assert_nothing_left(&client))
    });
    println!(
        "{} pods ran after {up:?}, and were gone after {:?}",
        PROMISED + REAL,
        begun.elapsed()
    );
    until_empty(&cluster);
    for (host, before) in sweeps {
        before.assert_clean(host).unwrap();
    }
    shutdown.cancel();
    cluster.block_on(hollow).unwrap().unwrap();
}

const FIRST: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: first}
spec:
  selector: {matchLabels: {app: first}}
  template:
    metadata: {labels: {app: first}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: main, image: busybox, command: [sleep, '100000']}
";
