//! A node that is short of disk evicts who uses most of it.
//!
//! The kubelet's volumes are on a small disk of their own, so nothing of the machine
//! becomes short.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::cluster::{Member, PATIENCE, condition, object};
use crate::node::{Disk, container_status, is_missing, shell_with};
use crate::world::Cluster;

#[test]
fn who_fills_the_disk_is_evicted_and_nobody_else() -> Result<()> {
    if is_missing() {
        return Ok(());
    }
    let cluster = Cluster::start(2);
    let settings = json!({
        "evictionHard": {"nodefs.available": "32Mi", "memory.available": "1Mi"},
        // Longer than the ten seconds from one look at the node's conditions to the next, or
        // the kubelet may never tell of the pressure.
        "evictionPressureTransitionPeriod": "15s",
        "volumeStatsAggPeriod": "1s",
    });
    let member = Member::take_over(&cluster, settings, Disk::OfMib(64))?;
    let outcome = evicted(&cluster);
    outcome.map_err(|error| error.context(member.told()))?;
    cluster.kubectl(&["delete", "pods", "--all", "--timeout=60s"]);
    member.end(&cluster)
}

fn evicted(cluster: &Cluster) -> Result<()> {
    // Deaf to SIGTERM: of a pod that ends with 0 the kubelet says that it succeeded, evicted
    // or not.
    let writes = |first: u32, then: u32| {
        format!(
            "dd if=/dev/zero of=/scratch/a bs=1M count={first} 2>/dev/null; sleep 5
            dd if=/dev/zero of=/scratch/b bs=1M count={then} 2>/dev/null; exec sleep 1000"
        )
    };
    // Who uses most is known by the time when it becomes too much: volumes are not measured
    // for the decision.
    for (name, first, then) in [("modest", 1, 0), ("hungry", 24, 16)] {
        let mounts = json!({"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]});
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": "host-1"},
                "terminationGracePeriodSeconds": 1,
                "containers": [shell_with("main", &writes(first, then), mounts)],
                "volumes": [{"name": "scratch", "emptyDir": {}}],
            },
        });
        cluster.kubectl_with(&["create", "-f", "-"], &pod.to_string());
    }
    cluster.until("the hungry one is evicted", PATIENCE, || {
        let status = object(cluster, &["pod", "hungry"])?["status"].take();
        ensure!(
            status["phase"] == "Failed" && status["reason"] == "Evicted",
            "{status}"
        );
        let message = status["message"].as_str().unwrap_or_default();
        ensure!(message.contains("low on resource"), "{message}");
        Ok(())
    });
    let pod = object(cluster, &["pod", "hungry"])?;
    ensure!(condition(&pod, "DisruptionTarget") == "True", "{pod}");
    cluster.until("it is told of", PATIENCE, || {
        let events = cluster.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]);
        for reason in ["Evicted", "EvictionThresholdMet", "NodeHasDiskPressure"] {
            ensure!(events.contains(reason), "no {reason} in {events}");
        }
        Ok(())
    });
    // What it wrote went with it, so the node is well again and takes pods.
    cluster.until("the node is short no more", PATIENCE, || {
        let node = object(cluster, &["node", "host-1"])?;
        let conditions = &node["status"]["conditions"];
        ensure!(condition(&node, "DiskPressure") == "False", "{conditions}");
        let taints = &node["spec"]["taints"];
        ensure!(taints.as_array().is_none_or(Vec::is_empty), "{taints}");
        Ok(())
    });
    let modest = object(cluster, &["pod", "modest"])?;
    let status = container_status(&modest, "main");
    ensure!(status["restartCount"] == 0, "{status}");
    ensure!(status["state"]["running"].is_object(), "{status}");
    Ok(())
}
