//! A node as placement sees it: what it has, what is taken, who may come.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;

use crate::placement::{
    amounts::{Amounts, Weight},
    facts::{HostPort, PodFacts},
    symbol::{Labels, Symbol, Symbols},
    taint::Taint,
};

/// A node and what runs on it.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: Symbol,
    /// What its object says; unset where only its pods are known yet.
    pub object: Option<NodeObject>,
    /// What its pods asked for.
    pub used: Amounts,
    /// The same for scores.
    pub weight: Weight,
    /// Ports of the host that are taken.
    pub ports: Vec<HostPort>,
    /// Its pods.
    pub pods: Vec<Arc<PodFacts>>,
}

/// What a node's object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeObject {
    /// Its labels.
    pub labels: Labels,
    /// What pods may use.
    pub allocatable: Amounts,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// Whether it is cordoned.
    pub cordoned: bool,
    /// Images that it holds, with their sizes in bytes.
    pub images: Vec<(Symbol, i64)>,
}

impl NodeObject {
    /// Reads a node.
    pub fn read(symbols: &mut Symbols, node: &api::Node) -> NodeObject {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let taints = spec.and_then(|spec| spec.taints.as_deref());
        // Before the capacity is divided all of it may be used.
        let allocatable =
            status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        let images = status.and_then(|status| status.images.as_deref());
        NodeObject {
            labels: Labels::read(symbols, node.metadata.labels.iter().flatten()),
            allocatable: Amounts::read(symbols, allocatable),
            taints: taints
                .unwrap_or_default()
                .iter()
                .filter_map(|taint| Taint::read(symbols, taint))
                .collect(),
            cordoned: spec.and_then(|spec| spec.unschedulable) == Some(true),
            images: images
                .unwrap_or_default()
                .iter()
                .flat_map(|image| {
                    let size = image.size_bytes.unwrap_or(0);
                    image.names.iter().flatten().map(move |name| (name, size))
                })
                .map(|(name, size)| (symbols.intern(name), size))
                .collect(),
        }
    }
}

/// What changed of a node's object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// The node is new, or was made anew.
    pub added: bool,
    /// There is more of some resource.
    pub roomier: bool,
    /// Labels differ.
    pub labels: bool,
    /// Taints or the cordon differ.
    pub taints: bool,
}

impl NodeChange {
    /// What lies between two objects.
    pub fn between(before: Option<&NodeObject>, after: &NodeObject) -> NodeChange {
        let Some(before) = before else {
            return NodeChange {
                added: true,
                roomier: true,
                labels: true,
                taints: true,
            };
        };
        NodeChange {
            added: false,
            roomier: before.allocatable != after.allocatable,
            labels: before.labels != after.labels,
            taints: before.taints != after.taints || before.cordoned != after.cordoned,
        }
    }

    /// Whether anything that filters read changed.
    pub fn matters(self) -> bool {
        self != NodeChange::default()
    }
}

impl Node {
    /// A node of which only the name is known.
    pub fn unknown(name: Symbol) -> Node {
        Node {
            name,
            object: None,
            used: Amounts::default(),
            weight: Weight::default(),
            ports: Vec::new(),
            pods: Vec::new(),
        }
    }

    /// Takes a pod in.
    pub fn admit(&mut self, pod: &Arc<PodFacts>) {
        self.used.add(&pod.demand);
        self.weight.cpu_millis += pod.weight.cpu_millis;
        self.weight.memory_bytes += pod.weight.memory_bytes;
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.push(pod.clone());
    }

    /// Lets a pod go.
    pub fn release(&mut self, pod: &PodFacts) {
        let Some(place) = self.pods.iter().position(|known| known.name == pod.name) else {
            return;
        };
        let pod = self.pods.swap_remove(place);
        self.used.subtract(&pod.demand);
        self.weight.cpu_millis -= pod.weight.cpu_millis;
        self.weight.memory_bytes -= pod.weight.memory_bytes;
        for port in &pod.ports {
            if let Some(place) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(place);
            }
        }
    }
}
