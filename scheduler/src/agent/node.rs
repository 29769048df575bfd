//! The node as the API shows it: what it is, what it has, how it is.
//!
//! ```text
//! /proc, statvfs, CRI ──observe──▶ Observation ──plan──▶ Node, NodeStatus ──keep──▶ API
//! ```
//!
//! Read more: "Nodes" in the Kubernetes documentation.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, Time},
    },
};

use super::settings::AgentConfig;

/// Making the Node, and telling its status.
pub mod keep;
/// What is to be seen of the machine and its runtime.
pub mod observe;

use observe::Observation;

/// Labels by which every node can be chosen.
pub fn plan_labels(config: &AgentConfig) -> BTreeMap<String, String> {
    let own = [
        ("kubernetes.io/hostname", config.node.name.clone()),
        ("kubernetes.io/os", "linux".to_owned()),
        ("kubernetes.io/arch", architecture().to_owned()),
    ];
    let own = own.map(|(key, value)| (key.to_owned(), value));
    own.into_iter().chain(config.labels.clone()).collect()
}

/// The machine's processor, in the words of Go, which Kubernetes uses.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// The Node of an agent that comes for the first time.
pub fn plan_node(config: &AgentConfig, status: NodeStatus) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(config.node.name.clone()),
            labels: Some(plan_labels(config)),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!config.taints.is_empty()).then(|| config.taints.clone()),
            ..NodeSpec::default()
        }),
        status: Some(status),
    }
}

/// The Node as it would be made, for as long as the server does not tell of it.
pub fn plan_unseen(config: &AgentConfig) -> Node {
    let seen = Observation {
        storage_bytes: config.storage_bytes.unwrap_or(u64::MAX / 2),
        ..Observation::default()
    };
    let capacity = plan_capacity(config, &seen);
    let status = NodeStatus {
        allocatable: Some(capacity),
        ..NodeStatus::default()
    };
    plan_node(config, status)
}

/// What the Node's status is to say; `port` is where the agent listens.
///
/// Conditions that are not the agent's are kept, and times of those that did not change.
pub fn plan_status(
    config: &AgentConfig,
    port: Option<u16>,
    seen: &Observation,
    before: &NodeStatus,
) -> NodeStatus {
    let capacity = plan_capacity(config, seen);
    NodeStatus {
        addresses: Some(plan_addresses(config)),
        allocatable: Some(capacity.clone()),
        capacity: Some(capacity),
        conditions: Some(plan_conditions(config, seen, before)),
        daemon_endpoints: port.map(|port| NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(port),
            }),
        }),
        images: Some(seen.images.clone()),
        node_info: Some(seen.info.clone()),
        runtime_handlers: (!seen.handlers.is_empty()).then(|| seen.handlers.clone()),
        ..NodeStatus::default()
    }
}

fn plan_addresses(config: &AgentConfig) -> Vec<NodeAddress> {
    let internal = config.node.addresses.iter().map(|address| NodeAddress {
        address: address.to_string(),
        type_: "InternalIP".to_owned(),
    });
    let hostname = NodeAddress {
        address: config.node.name.clone(),
        type_: "Hostname".to_owned(),
    };
    internal.chain([hostname]).collect()
}

fn plan_capacity(config: &AgentConfig, seen: &Observation) -> BTreeMap<String, Quantity> {
    let cpu = match config.node.cpu_millis {
        whole if whole % 1000 == 0 => (whole / 1000).to_string(),
        millis => format!("{millis}m"),
    };
    [
        ("cpu", cpu),
        ("memory", format!("{}Ki", config.node.memory_bytes / 1024)),
        ("pods", config.max_pods.to_string()),
        (
            "ephemeral-storage",
            format!("{}Ki", seen.storage_bytes / 1024),
        ),
    ]
    .map(|(name, value)| (name.to_owned(), Quantity(value)))
    .into()
}

/// One condition before its times are known.
struct Finding {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    /// The reason that it would have if it held.
    bad: &'static str,
    message: String,
}

fn plan_conditions(
    config: &AgentConfig,
    seen: &Observation,
    before: &NodeStatus,
) -> Vec<NodeCondition> {
    let limits = &config.pressure;
    let findings = [
        pressure(
            "MemoryPressure",
            seen.memory_free_bytes < limits.memory_bytes,
            ["KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"],
            "memory",
        ),
        pressure(
            "DiskPressure",
            seen.disk_free_percent < limits.disk_percent,
            ["KubeletHasDiskPressure", "KubeletHasNoDiskPressure"],
            "disk space",
        ),
        pressure(
            "PIDPressure",
            seen.pid_free_percent < limits.pid_percent,
            ["KubeletHasInsufficientPID", "KubeletHasSufficientPID"],
            "process ids",
        ),
        Finding {
            kind: "Ready",
            holds: seen.trouble.is_none(),
            reason: match seen.trouble {
                None => "KubeletReady",
                Some(_) => "KubeletNotReady",
            },
            bad: "KubeletReady",
            message: seen
                .trouble
                .clone()
                .unwrap_or_else(|| "the agent and its runtime are ready".to_owned()),
        },
    ];
    let earlier = before.conditions.as_deref().unwrap_or_default();
    let findings = findings.map(|finding| hold(finding, earlier, config, seen.at));
    let foreign = earlier
        .iter()
        .filter(|condition| findings.iter().all(|own| own.kind != condition.type_))
        .cloned();
    let own = findings
        .iter()
        .map(|finding| condition(finding, earlier, seen.at));
    foreign.chain(own).collect()
}

/// A condition that is bad when it holds.
fn pressure(
    kind: &'static str,
    holds: bool,
    [bad, good]: [&'static str; 2],
    what: &str,
) -> Finding {
    let (reason, word) = if holds {
        (bad, "too little")
    } else {
        (good, "enough")
    };
    Finding {
        kind,
        holds,
        reason,
        bad,
        message: format!("the node has {word} {what}"),
    }
}

/// A shortage that is over is told of for a while longer.
fn hold(
    finding: Finding,
    earlier: &[NodeCondition],
    config: &AgentConfig,
    now: Timestamp,
) -> Finding {
    let told = earlier
        .iter()
        .find(|told| told.type_ == finding.kind && told.status == "True");
    let since = told.and_then(|told| told.last_transition_time.as_ref());
    let recent = since.is_some_and(|Time(since)| {
        let held = Duration::try_from(now.duration_since(*since)).unwrap_or_default();
        held < config.pressure.holds
    });
    match told {
        Some(told) if recent && !finding.holds && finding.kind != "Ready" => Finding {
            holds: true,
            message: told.message.clone().unwrap_or_default(),
            reason: finding.bad,
            ..finding
        },
        _ => finding,
    }
}

fn condition(finding: &Finding, earlier: &[NodeCondition], now: Timestamp) -> NodeCondition {
    let status = if finding.holds { "True" } else { "False" };
    let same = earlier
        .iter()
        .find(|condition| condition.type_ == finding.kind && condition.status == status);
    NodeCondition {
        type_: finding.kind.to_owned(),
        status: status.to_owned(),
        reason: Some(finding.reason.to_owned()),
        message: Some(finding.message.clone()),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: match same {
            Some(same) => same.last_transition_time.clone(),
            None => Some(Time(now)),
        },
    }
}

/// Whether two statuses differ in more than when they were written.
pub fn differs(one: &NodeStatus, other: &NodeStatus) -> bool {
    let timeless = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    timeless(one) != timeless(other)
}

/// Whether a Node says that nothing is known of it.
pub fn is_doubted(node: &Node) -> bool {
    let status = node.status.as_ref();
    let mut conditions = status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "Unknown")
}

#[cfg(test)]
mod tests;
