//! A node is drained, and a disruption budget is kept to.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use berth_tests::load::Load;

use crate::pods::{WEB, until_pods};
use crate::world::{Cluster, text};

const PATIENCE: Duration = Duration::from_secs(60);

const BUDGET: &str = "
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 2, selector: {matchLabels: {app: web}}}
";

fn until_allowed(cluster: &Cluster, wanted: &str) {
    let path = "-o=jsonpath={.status.disruptionsAllowed}";
    cluster.until("disruptions are counted", PATIENCE, || {
        let output = cluster.kubectl_output(&["get", "pdb", "web", path], "")?;
        let found = text(&output.stdout);
        ensure!(
            found == wanted,
            "{found:?} disruptions are allowed, not {wanted}"
        );
        Ok(())
    });
}

#[test]
fn a_drain_takes_no_more_pods_away_than_the_budget_allows() {
    let cluster = Cluster::start(2);
    // All replicas on the node that is to be drained.
    cluster.kubectl(&["cordon", "host-0"]);
    let web = WEB.replace("replicas: 3", "replicas: 2");
    // Who was asked to end serves on until every node has heard of it.
    let web = web.replace(
        "readinessProbe:",
        "lifecycle: {preStop: {sleep: {seconds: 2}}}\n        readinessProbe:",
    );
    let web = web.replace(
        "terminationGracePeriodSeconds: 1",
        "terminationGracePeriodSeconds: 5",
    );
    cluster.kubectl_with(&["apply", "-f", "-"], &web);
    until_pods(&cluster, "web", 2);
    cluster.kubectl_with(&["apply", "-f", "-"], BUDGET);
    until_allowed(&cluster, "0");
    cluster.kubectl(&["uncordon", "host-0"]);
    // Both are needed, so the drain waits, and says for what.
    let drain = ["drain", "host-1", "--ignore-daemonsets", "--timeout=2s"];
    let output = cluster.kubectl_output(&drain, "").unwrap();
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(
        !output.status.success() && said.contains("disruption budget"),
        "{said}"
    );
    until_pods(&cluster, "web", 2);

    // With one more than is needed they go one after another.
    cluster.kubectl(&["uncordon", "host-1"]);
    cluster.kubectl(&[
        "patch",
        "pdb",
        "web",
        "--type=merge",
        "-p",
        "{\"spec\":{\"minAvailable\":1}}",
    ]);
    until_allowed(&cluster, "1");
    let target = SocketAddr::from((cluster.fabric().address(0), 30080));
    let outside = cluster.fabric().outside();
    outside.get_within(PATIENCE, target, "/").unwrap();
    let load = Load::start(outside, &[target], Duration::from_millis(20));
    cluster.kubectl(&["drain", "host-1", "--ignore-daemonsets", "--timeout=100s"]);
    until_pods(&cluster, "web", 2);
    until_allowed(&cluster, "1");
    load.stop().unwrap().assert_all_answered().unwrap();
}
