//! Whether a pod that was sent here can run here.
//!
//! The scheduler has looked at all of this already. It may have looked at an old
//! picture, or somebody wrote `nodeName` by hand; the node is the last that can say
//! no, and says it in a kubelet's words: the pod fails and its controller makes another.
//!
//! Read more: kubelet, `lifecycle.predicate`.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, ContainerPort, Node, Pod, PodSpec, Taint},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{
    demands,
    manifest::quantity,
    placement::priority::CRITICAL,
    pod::{
        plan::resources::{self, QosClass},
        worker::status::Pending,
    },
};

/// Why a pod cannot run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One word.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

fn refusal(reason: &str, message: impl Into<String>) -> Refusal {
    Refusal {
        reason: reason.to_owned(),
        message: message.into(),
    }
}

/// Whether `pod` can run on `node` beside those that are there.
///
/// # Errors
///
/// The first thing that speaks against it.
pub fn admit(pod: &Pod, node: &Node, others: &[&Pod]) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else {
        return Err(refusal("InvalidSpec", "the pod has no spec"));
    };
    check_pressure(spec, node)?;
    check_resources(spec, node, others)?;
    check_ports(spec, others)?;
    check_selector(spec, node)?;
    check_taints(spec, node)
}

/// A node that is short takes nobody who would have to go first; one that is short of
/// disk or of process ids takes nobody.
fn check_pressure(spec: &PodSpec, node: &Node) -> Result<(), Refusal> {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let short: Vec<&str> = conditions
        .filter(|condition| condition.status == "True")
        .map(|condition| condition.type_.as_str())
        .filter(|kind| matches!(*kind, "MemoryPressure" | "DiskPressure" | "PIDPressure"))
        .collect();
    let memory = Taint {
        key: "node.kubernetes.io/memory-pressure".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let bears = |short: &[&str]| {
        short.is_empty()
            || spec.priority.unwrap_or(0) >= CRITICAL
            || (short == ["MemoryPressure"]
                && (resources::plan_qos(spec) != QosClass::BestEffort
                    || demands::is_borne(&memory, tolerations)))
    };
    match bears(&short) {
        true => Ok(()),
        false => Err(refusal(
            "Evicted",
            format!("The node had condition: [{}].", short.join(", ")),
        )),
    }
}

fn check_resources(spec: &PodSpec, node: &Node, others: &[&Pod]) -> Result<(), Refusal> {
    let allocatable = node
        .status
        .as_ref()
        .and_then(|status| status.allocatable.clone())
        .unwrap_or_default();
    let room = |name: &str| {
        allocatable
            .get(name)
            .map_or(0, |amount| measure(name, amount))
    };
    let pods = room("pods");
    if others.len() as i64 >= pods {
        return Err(out_of("pods", 1, others.len() as i64, pods));
    }
    let used: Vec<BTreeMap<String, i64>> = others
        .iter()
        .filter_map(|other| other.spec.as_ref())
        .map(demand)
        .collect();
    for (name, wanted) in demand(spec) {
        let used: i64 = used.iter().filter_map(|demand| demand.get(&name)).sum();
        let room = room(&name);
        if wanted > 0 && used.saturating_add(wanted) > room {
            return Err(out_of(&name, wanted, used, room));
        }
    }
    Ok(())
}

/// Whether a pod that runs here can have other resources.
///
/// What it does not get more of is not looked at: a node that has promised too much must
/// not keep a pod from asking for less.
///
/// # Errors
///
/// `Infeasible` where the node never had so much, `Deferred` where others hold it.
pub fn resize(pod: &Pod, before: &Pod, node: &Node, others: &[&Pod]) -> Result<(), Pending> {
    let (Some(spec), Some(before)) = (&pod.spec, &before.spec) else {
        return Ok(());
    };
    let had = demand(before);
    let room = |name: &str| {
        let allocatable = node.status.as_ref()?.allocatable.as_ref()?;
        Some(measure(name, allocatable.get(name)?))
    };
    for (name, wanted) in demand(spec) {
        if had.get(&name).is_some_and(|had| wanted <= *had) {
            continue;
        }
        let room = room(&name).unwrap_or(0);
        if wanted > room {
            return Err(Pending {
                reason: "Infeasible",
                message: format!(
                    "Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {room}"
                ),
            });
        }
        let used: i64 = others
            .iter()
            .filter_map(|other| demand(other.spec.as_ref()?).get(&name).copied())
            .sum();
        if used.saturating_add(wanted) > room {
            return Err(Pending {
                reason: "Deferred",
                message: out_of(&name, wanted, used, room).message,
            });
        }
    }
    Ok(())
}

fn out_of(name: &str, wanted: i64, used: i64, room: i64) -> Refusal {
    let text = format!(
        "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {room}"
    );
    refusal(&format!("OutOf{name}"), text)
}

/// What a pod asks for: the sum of what runs together, or the largest init container
/// beside the sidecars that were started before it, whichever is more.
pub fn demand(spec: &PodSpec) -> BTreeMap<String, i64> {
    let mut running = BTreeMap::new();
    for container in &spec.containers {
        add(&mut running, &requests(container));
    }
    let mut sidecars = BTreeMap::new();
    let mut beginning: BTreeMap<String, i64> = BTreeMap::new();
    for container in spec.init_containers.iter().flatten() {
        let own = requests(container);
        let mut together = sidecars.clone();
        add(&mut together, &own);
        for (name, amount) in together {
            let most = beginning.entry(name).or_default();
            *most = (*most).max(amount);
        }
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, &own);
        }
    }
    add(&mut running, &sidecars);
    for (name, amount) in beginning {
        let most = running.entry(name).or_default();
        *most = (*most).max(amount);
    }
    // What is said of the pod as a whole counts instead.
    let whole = spec.resources.as_ref();
    let whole = whole.and_then(|resources| resources.requests.as_ref());
    for (name, amount) in whole.into_iter().flatten() {
        running.insert(name.clone(), measure(name, amount));
    }
    for (name, amount) in spec.overhead.iter().flatten() {
        *running.entry(name.clone()).or_default() += measure(name, amount);
    }
    running
}

fn requests(container: &Container) -> BTreeMap<String, i64> {
    let Some(resources) = &container.resources else {
        return BTreeMap::new();
    };
    let requested = resources.requests.clone().unwrap_or_default();
    let limits = resources.limits.clone().unwrap_or_default();
    // A limit without a request is a request too.
    limits
        .into_iter()
        .chain(requested)
        .map(|(name, amount)| {
            let amount = measure(&name, &amount);
            (name, amount)
        })
        .collect()
}

fn add(sum: &mut BTreeMap<String, i64>, more: &BTreeMap<String, i64>) {
    for (name, amount) in more {
        let entry = sum.entry(name.clone()).or_default();
        *entry = entry.saturating_add(*amount);
    }
}

fn measure(name: &str, amount: &Quantity) -> i64 {
    match name {
        "cpu" => quantity::milli(amount),
        _ => quantity::whole(amount),
    }
}

fn check_ports(spec: &PodSpec, others: &[&Pod]) -> Result<(), Refusal> {
    let taken: Vec<HostPort> = others
        .iter()
        .filter_map(|other| other.spec.as_ref())
        .flat_map(host_ports)
        .collect();
    let collides = |wanted: &HostPort| taken.iter().any(|port| port.collides(wanted));
    match host_ports(spec).iter().any(collides) {
        true => Err(refusal(
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
        )),
        false => Ok(()),
    }
}

/// A port of the machine that a pod has for itself.
struct HostPort {
    port: i32,
    protocol: String,
    address: String,
}

impl HostPort {
    fn collides(&self, other: &HostPort) -> bool {
        let everywhere = |address: &str| matches!(address, "" | "0.0.0.0" | "::");
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address
                || everywhere(&self.address)
                || everywhere(&other.address))
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = sidecars
        .chain(&spec.containers)
        .flat_map(|container| container.ports.iter().flatten());
    let on_host = |port: &ContainerPort| match spec.host_network {
        Some(true) => Some(port.host_port.unwrap_or(port.container_port)),
        _ => port.host_port,
    };
    ports
        .filter_map(|port| {
            Some(HostPort {
                port: on_host(port).filter(|number| *number > 0)?,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                address: port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

fn check_selector(spec: &PodSpec, node: &Node) -> Result<(), Refusal> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let none = demands::Labels::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    match demands::selects(spec, name, labels) {
        true => Ok(()),
        false => Err(refusal(
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        )),
    }
}

fn check_taints(spec: &PodSpec, node: &Node) -> Result<(), Refusal> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let unbearable = taints
        .into_iter()
        .flatten()
        .filter(|taint| taint.effect == "NoExecute")
        .find(|taint| !demands::is_borne(taint, tolerations));
    match unbearable {
        None => Ok(()),
        Some(taint) => Err(refusal(
            "TaintToleration",
            format!(
                "Predicate TaintToleration failed: node(s) had taint {{{}: {}}}, that the pod didn't tolerate",
                taint.key,
                taint.value.as_deref().unwrap_or_default()
            ),
        )),
    }
}

#[cfg(test)]
mod tests;
