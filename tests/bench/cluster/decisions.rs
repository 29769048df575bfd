//! Decisions alone: no API, no watch, no binding.
//!
//! A snapshot of thousands of nodes that already hold many pods is asked for
//! places, and each pod is put where it was sent, so that what is kept up to date
//! for the next is in the time.

use std::time::Instant;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, Pod};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use berth_scheduler::placement::{
    cycle::{self, Breadth, Draw},
    facts::Extent,
    snapshot::Snapshot,
};

use crate::report::Section;

/// Decisions of a row.
const DECISIONS: usize = 5000;

/// What the pods of a row want.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Room,
    Apart,
    Spread,
}

impl Want {
    fn name(self) -> &'static str {
        match self {
            Want::Room => "plain",
            Want::Apart => "anti-affinity by host",
            Want::Spread => "even spread over zones and hosts",
        }
    }
}

/// Measures decisions in clusters of two sizes.
///
/// # Errors
///
/// A manifest of ours is none, or a pod finds no node.
pub fn run(section: &mut Section) -> Result<()> {
    let mut rows = Vec::new();
    for (nodes, running) in [(1000, 20_000), (5000, 100_000)] {
        for want in [Want::Room, Want::Apart, Want::Spread] {
            for breadth in [Breadth::Enough, Breadth::All] {
                let rate = decisions_a_second(nodes, running, want, breadth)?;
                let looked_at = match breadth {
                    Breadth::All => nodes,
                    Breadth::Enough => cycle::enough(nodes),
                };
                rows.push(vec![
                    format!("{nodes} nodes, {running} pods, {}", want.name()),
                    looked_at.to_string(),
                    format!("{rate:.0}"),
                ]);
            }
        }
    }
    section.rows(
        "Decisions alone, on one processor",
        &["nodes that must fit", "decisions a second"],
        rows,
    );
    Ok(())
}

fn decisions_a_second(nodes: usize, running: usize, want: Want, breadth: Breadth) -> Result<f64> {
    let mut snapshot = Snapshot::default();
    for number in 0..nodes {
        snapshot.set_node(&node(number)?);
    }
    for number in 0..running {
        // The pods of a group stand on different nodes, and all nodes get alike many.
        let pod = pod(number, want, Some((number + number / nodes) % nodes))?;
        let facts = snapshot.read_pod(&pod, Extent::Running);
        let node = facts.bound_to.context("the pod has a node")?;
        snapshot.place(facts, node);
    }
    let mut waiting = Vec::with_capacity(DECISIONS);
    for number in running..running + DECISIONS {
        waiting.push(snapshot.read_pod(&pod(number, want, None)?, Extent::Waiting));
    }
    let mut draw = Draw::new(StdRng::seed_from_u64(1), breadth);
    let begun = Instant::now();
    for pod in waiting {
        let decision = cycle::decide(&mut snapshot, &pod, &mut draw);
        let slot = decision.node.context("a pod found no node")?;
        let name = snapshot.node(slot).name;
        snapshot.place(pod, name);
    }
    Ok(DECISIONS as f64 / begun.elapsed().as_secs_f64())
}

/// A node of sixteen processors in one of ten zones.
pub fn node(number: usize) -> Result<Node> {
    let name = format!("node-{number}");
    let all = json!({"cpu": "16", "memory": "64Gi", "pods": "110"});
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name,
            "topology.kubernetes.io/zone": format!("zone-{}", number % 10),
        }},
        "status": {"capacity": all, "allocatable": all},
    }))?)
}

/// A pod of one of a thousand groups; pods that want to be apart want it of their group.
fn pod(number: usize, want: Want, node: Option<usize>) -> Result<Pod> {
    let group = format!("group-{}", number % 1000);
    let selector = json!({"matchLabels": {"group": group}});
    let mut spec = json!({"containers": [{"name": "main", "image": "app",
        "resources": {"requests": {"cpu": "100m", "memory": "200Mi"}}}]});
    if let Some(node) = node {
        spec["nodeName"] = Value::String(format!("node-{node}"));
    }
    match want {
        Want::Room => {}
        Want::Apart => spec["affinity"] = apart(&selector),
        Want::Spread => {
            spec["topologySpreadConstraints"] = json!([
                {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
                 "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector},
                {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                 "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": selector},
            ]);
        }
    }
    Ok(serde_json::from_value(json!({
        "metadata": {"name": format!("pod-{number}"), "namespace": "default",
            "uid": format!("uid-{number}"), "labels": {"group": group}},
        "spec": spec,
    }))?)
}

/// Not on a host with a pod of the selector.
pub fn apart(selector: &Value) -> Value {
    json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"}]}})
}
