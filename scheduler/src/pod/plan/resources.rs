//! Requests and limits as the kernel's cgroup settings.
//!
//! A request of processor time becomes a weight (shares), a limit a quota in
//! each period of 100 ms. Memory has a limit only. Under pressure the kernel
//! kills by `oom_score_adj`, which the class of service decides: who promised
//! most precisely how much it needs goes last.
//!
//! Read more: cgroup v2 documentation, "CPU" and "Memory"; "Pod Quality of
//! Service Classes" in the Kubernetes documentation; proc_pid_oom_score_adj(5).

use std::collections::BTreeMap;

use berth_cri::v1;
use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{manifest::quantity, pod::settings::NodeFacts};

/// One period of the CPU controller, in microseconds.
const CPU_PERIOD_USEC: i64 = 100_000;
/// The kernel refuses a smaller quota.
const MIN_CPU_QUOTA_USEC: i64 = 1000;
/// The kernel's smallest weight.
const MIN_CPU_SHARES: i64 = 2;
/// The kernel's largest weight in version 1 of cgroups.
const MAX_CPU_SHARES: i64 = 262_144;

/// How precisely a pod says what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    /// Every container has equal requests and limits of processor and memory.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl QosClass {
    /// As the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }
}

/// The class of a pod.
pub fn plan_qos(spec: &PodSpec) -> QosClass {
    // What is said of the pod as a whole counts instead of its containers'.
    let all: Vec<Option<&ResourceRequirements>> = match &spec.resources {
        Some(resources) => vec![Some(resources)],
        None => spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
            .map(|container| container.resources.as_ref())
            .collect(),
    };
    let amounts = |resources: Option<&ResourceRequirements>, name: &str| {
        let limit = resources.map_or(0, |resources| amount(&resources.limits, name));
        let request = resources.map_or(0, |resources| amount(&resources.requests, name));
        // A limit without a request is its own request.
        (if request == 0 { limit } else { request }, limit)
    };
    let named = ["cpu", "memory"];
    let nothing = all
        .iter()
        .all(|resources| named.iter().all(|name| amounts(*resources, name) == (0, 0)));
    if nothing {
        return QosClass::BestEffort;
    }
    let exact = all.iter().all(|resources| {
        named.iter().all(|name| {
            let (request, limit) = amounts(*resources, name);
            limit > 0 && request == limit
        })
    });
    if exact {
        QosClass::Guaranteed
    } else {
        QosClass::Burstable
    }
}

/// A container's settings.
pub fn plan_resources(
    container: &Container,
    qos: QosClass,
    node: &NodeFacts,
) -> v1::LinuxContainerResources {
    let mut settings = settings_of(container.resources.as_ref());
    let requested = container
        .resources
        .as_ref()
        .map_or(0, |resources| amount(&resources.requests, "memory"));
    settings.oom_score_adj = oom_score_adj(qos, requested, node.memory_bytes);
    settings
}

/// The settings of the pod as a whole: its own, or what its containers add up to.
///
/// A limit is set only where every container has one: the sum of the others
/// would choke the one without. What the sandbox itself costs (`overhead`) comes on top.
pub fn plan_pod_resources(spec: &PodSpec) -> v1::LinuxContainerResources {
    let mut needs = match &spec.resources {
        Some(resources) => resources.clone(),
        None => effective(spec),
    };
    for (name, amount) in spec.overhead.iter().flatten() {
        add(&mut needs.limits, name, amount);
        if raw(&needs.limits, name) == 0 && raw(&needs.requests, name) == 0 {
            let requests = needs.requests.get_or_insert_default();
            requests.insert(name.clone(), amount.clone());
        } else {
            add(&mut needs.requests, name, amount);
        }
    }
    settings_of(Some(&needs))
}

/// What the sandbox itself costs.
pub fn plan_overhead(spec: &PodSpec) -> Option<v1::LinuxContainerResources> {
    let overhead = spec.overhead.clone()?;
    Some(settings_of(Some(&ResourceRequirements {
        limits: Some(overhead),
        ..ResourceRequirements::default()
    })))
}

/// Adds to an amount that is there.
fn add(amounts: &mut Option<BTreeMap<String, Quantity>>, name: &str, more: &Quantity) {
    if let Some(amount) = amounts.as_mut().and_then(|amounts| amounts.get_mut(name)) {
        let parse = |quantity: &Quantity| quantity::parse(&quantity.0).unwrap_or(0);
        *amount = Quantity(format!("{}n", parse(amount) + parse(more)));
    }
}

/// What a pod needs at its worst moment.
///
/// Main containers and sidecars run together and add up. Init containers run
/// one after the other, each beside the sidecars that were started before it.
fn effective(spec: &PodSpec) -> ResourceRequirements {
    let sidecars = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let init: Vec<&Container> = spec.init_containers.iter().flatten().collect();
    let together: Vec<&Container> = spec
        .containers
        .iter()
        .chain(init.iter().copied().filter(sidecars))
        .collect();
    let limits_of = |container: &Container, name: &str, kind: Kind| {
        container
            .resources
            .as_ref()
            .map_or(0, |resources| match kind {
                Kind::Limit => raw(&resources.limits, name),
                Kind::Request => raw(&resources.requests, name),
            })
    };
    let mut needs = ResourceRequirements::default();
    for name in ["cpu", "memory"] {
        for kind in [Kind::Limit, Kind::Request] {
            let everybody = together.iter().chain(&init);
            if kind == Kind::Limit
                && everybody
                    .clone()
                    .any(|container| limits_of(container, name, kind) == 0)
            {
                continue;
            }
            let running: i128 = together
                .iter()
                .map(|container| limits_of(container, name, kind))
                .sum();
            let mut started = 0;
            let mut worst = running;
            for container in &init {
                let own = limits_of(container, name, kind);
                worst = worst.max(started + own);
                if sidecars(container) {
                    started += own;
                }
            }
            if worst > 0 {
                let map = match kind {
                    Kind::Limit => &mut needs.limits,
                    Kind::Request => &mut needs.requests,
                };
                map.get_or_insert_with(BTreeMap::new)
                    .insert(name.to_owned(), Quantity(format!("{worst}n")));
            }
        }
    }
    needs
}

/// Which of the two numbers is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Limit,
    Request,
}

fn settings_of(resources: Option<&ResourceRequirements>) -> v1::LinuxContainerResources {
    let empty = ResourceRequirements::default();
    let resources = resources.unwrap_or(&empty);
    let limit = amount(&resources.limits, "cpu");
    let requested = match amount(&resources.requests, "cpu") {
        0 => limit,
        requested => requested,
    };
    let (cpu_period, cpu_quota) = if limit > 0 {
        let quota = limit.saturating_mul(CPU_PERIOD_USEC) / 1000;
        (CPU_PERIOD_USEC, quota.max(MIN_CPU_QUOTA_USEC))
    } else {
        (0, 0)
    };
    v1::LinuxContainerResources {
        cpu_period,
        cpu_quota,
        cpu_shares: (requested.saturating_mul(1024) / 1000).clamp(MIN_CPU_SHARES, MAX_CPU_SHARES),
        memory_limit_in_bytes: amount(&resources.limits, "memory"),
        hugepage_limits: hugepage_limits(resources),
        ..Default::default()
    }
}

/// `hugepages-2Mi: 64Mi` as the kernel's `2MB` and bytes.
fn hugepage_limits(resources: &ResourceRequirements) -> Vec<v1::HugepageLimit> {
    resources
        .limits
        .iter()
        .flatten()
        .filter_map(|(name, limit)| {
            let size = name.strip_prefix("hugepages-")?;
            let page_size = format!("{}B", size.strip_suffix('i').unwrap_or(size));
            let limit = u64::try_from(quantity::whole(limit)).ok()?;
            Some(v1::HugepageLimit { page_size, limit })
        })
        .collect()
}

/// Thousandths of a processor, or bytes; zero when nothing is said.
fn amount(map: &Option<BTreeMap<String, Quantity>>, name: &str) -> i64 {
    let Some(quantity) = map.as_ref().and_then(|map| map.get(name)) else {
        return 0;
    };
    match name {
        "cpu" => quantity::milli(quantity),
        _ => quantity::whole(quantity),
    }
}

/// Billionths, so that sums lose nothing.
fn raw(map: &Option<BTreeMap<String, Quantity>>, name: &str) -> i128 {
    map.as_ref()
        .and_then(|map| map.get(name))
        .and_then(|quantity| quantity::parse(&quantity.0).ok())
        .unwrap_or(0)
}

/// From -997 (killed last) to 1000 (killed first).
fn oom_score_adj(qos: QosClass, requested_bytes: i64, node_bytes: i64) -> i64 {
    match qos {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let share = i128::from(requested_bytes) * 1000 / i128::from(node_bytes.max(1));
            // Between the two others whatever was asked for: never as safe as a
            // guaranteed pod, never as doomed as one that asked for nothing.
            i64::try_from(1000 - share).unwrap_or(0).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests;
