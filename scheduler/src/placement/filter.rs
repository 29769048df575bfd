//! Filters: what a node must satisfy, as a table.
//!
//! A filter first reads the pod (`prepare`): one that has no such demand has
//! nothing to check, and costs nothing for each node. What is left judges node
//! after node. The first filter that says no ends a node's turn in the loop;
//! `explain` asks all of them.
//!
//! Each filter also knows what may change its mind (`helps`): a pod that it
//! turned down is tried again only then.

use crate::placement::{
    facts::PodFacts,
    node::{Node, NodeChange, NodeObject},
    reason::Reason,
    snapshot::Snapshot,
};

/// Ports of the host.
pub mod host_ports;
/// Labels of the node: `nodeSelector` and required node affinity.
pub mod node_affinity;
/// The name of the node that the pod asks for.
pub mod node_name;
/// Pods that must share a domain.
pub mod pod_affinity;
/// Pods that must not share a domain, in both directions.
pub mod pod_anti_affinity;
/// Processor, memory, disk, pods, devices.
pub mod resources;
/// Taints that keep pods away.
pub mod taints;
/// An even spread.
pub mod topology_spread;
/// Cordoned nodes.
pub mod unschedulable;

/// A node that is judged.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Where the snapshot keeps it.
    pub slot: usize,
    /// What is on it.
    pub node: &'a Node,
    /// What it is.
    pub object: &'a NodeObject,
}

/// A filter that has read the pod.
pub trait Check {
    /// Tells the reasons against a node; none means it fits.
    fn judge(&self, place: &Place<'_>, found: &mut dyn FnMut(Reason));
}

/// A check made for one pod.
pub type Prepared<'a> = Option<Box<dyn Check + 'a>>;

/// Something happened that may give a pod a place.
#[derive(Debug, Clone, Copy)]
pub enum Occasion<'a> {
    /// A node came, or changed.
    Node {
        /// The node.
        slot: usize,
        /// What changed.
        change: NodeChange,
    },
    /// A pod came to a node.
    PodCame(&'a PodFacts),
    /// The labels of a pod on a node changed, or it began to end.
    PodChanged(&'a PodFacts),
    /// A pod left its node.
    PodLeft(&'a PodFacts, usize),
    /// A namespace's labels changed.
    Namespace,
}

/// A row of the table of filters.
pub struct Filter {
    /// Its name, as kube-scheduler calls the plugin that does the same.
    pub name: &'static str,
    /// What it demands, in a line.
    pub about: &'static str,
    /// Reads a pod.
    pub prepare: for<'a> fn(&'a Snapshot, &'a PodFacts) -> Prepared<'a>,
    /// Whether what happened may make it accept a pod that it turned down.
    pub helps: fn(&Snapshot, &PodFacts, &Occasion<'_>) -> bool,
}

/// All filters, the cheap and most selective first.
pub const FILTERS: &[Filter] = &[
    unschedulable::FILTER,
    node_name::FILTER,
    taints::FILTER,
    node_affinity::FILTER,
    host_ports::FILTER,
    resources::FILTER,
    topology_spread::FILTER,
    pod_affinity::FILTER,
    pod_anti_affinity::FILTER,
];

impl<'a> Place<'a> {
    /// A node of the snapshot, if it has an object.
    pub fn of(snapshot: &'a Snapshot, slot: usize) -> Option<Place<'a>> {
        let node = snapshot.node(slot);
        Some(Place {
            slot,
            node,
            object: node.object.as_ref()?,
        })
    }
}

/// Whether a filter would accept the node that something happened to.
pub(super) fn accepts(filter: &Filter, snapshot: &Snapshot, pod: &PodFacts, slot: usize) -> bool {
    let Some(place) = Place::of(snapshot, slot) else {
        return false;
    };
    let mut fits = true;
    if let Some(check) = (filter.prepare)(snapshot, pod) {
        check.judge(&place, &mut |_| fits = false);
    }
    fits
}

#[cfg(test)]
mod tests;
