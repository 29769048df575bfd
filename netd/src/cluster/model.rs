//! What netd knows of the cluster: nodes, services, and who serves them.
//!
//! Plain data that is a fraction of the API's objects. The three planners
//! (overlay, services, DNS) read nothing else, and the state file is this as
//! JSON, so a netd that starts while the API is away goes on where it was.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::request::Protocol;

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Model {
    /// By name, this node too.
    pub nodes: BTreeMap<String, Node>,
    /// By `NAMESPACE/NAME`.
    pub services: BTreeMap<String, Service>,
    /// By `NAMESPACE/NAME` of the slice.
    pub slices: BTreeMap<String, Slice>,
    /// Numbers of nodes, which never change while the node exists.
    pub numbers: BTreeMap<String, u16>,
}

/// A node as its neighbours see it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Its addresses on the wire, the first of each family the one it is reached by.
    pub addresses: Vec<IpAddr>,
    /// The ranges that its pods' addresses are of.
    pub pod_ranges: Vec<IpNet>,
}

/// A service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Its virtual addresses; none for a headless one.
    pub cluster_ips: Vec<IpAddr>,
    /// Addresses of the outside that lead to it where packets for them arrive.
    pub external_ips: Vec<IpAddr>,
    /// A name of the outside that it is an alias of, and then nothing else.
    pub external_name: Option<String>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// How many seconds a client stays with its endpoint, if it does.
    pub affinity_seconds: Option<u32>,
    /// Who serves those who come from pods and nodes.
    pub internal: TrafficPolicy,
    /// Who serves those who come from outside.
    pub external: TrafficPolicy,
}

/// Which endpoints take part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// All.
    #[default]
    Cluster,
    /// Those on the node that took the packet.
    Local,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name; empty where there is but one.
    #[serde(default)]
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port at the service's addresses.
    pub port: u16,
    /// The port at every node's addresses.
    #[serde(default)]
    pub node_port: Option<u16>,
}

/// Some endpoints of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Slice {
    /// `NAMESPACE/NAME` of the service.
    pub service: String,
    /// The ports at the endpoints, by the name of the service's port.
    pub ports: Vec<SlicePort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A port at a slice's endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlicePort {
    /// The name of the service's port.
    #[serde(default)]
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port at the endpoint.
    pub port: u16,
}

/// One that serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where; all are of one family in a slice.
    pub address: IpAddr,
    /// Whether new connections are welcome, and what holds otherwise.
    pub condition: Condition,
    /// The pod's `hostname`, if it has one below its `subdomain`.
    #[serde(default)]
    pub hostname: Option<String>,
    /// The node it is on.
    #[serde(default)]
    pub node: Option<String>,
}

/// What of an endpoint's conditions decides whether it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Condition {
    /// Ready: used.
    Ready,
    /// On its way out and still serving: used only while nobody is ready.
    Draining,
    /// Not used.
    Unready,
}

impl Model {
    /// Gives every node a number and forgets those of nodes that are gone.
    ///
    /// The number travels in packet marks (`overlay`), so that it must not move
    /// to another node while connections live; the lowest free one is taken,
    /// from 1, below `MOST_NODES`.
    pub fn number_nodes(&mut self) {
        let nodes = &self.nodes;
        self.numbers.retain(|name, _| nodes.contains_key(name));
        for name in self.nodes.keys() {
            if self.numbers.contains_key(name) {
                continue;
            }
            let taken: std::collections::BTreeSet<u16> = self.numbers.values().copied().collect();
            if let Some(free) = (1..MOST_NODES).find(|number| !taken.contains(number)) {
                self.numbers.insert(name.clone(), free);
            }
        }
    }

    /// The slices of each service.
    pub fn slices_by_service(&self) -> BTreeMap<&str, Vec<&Slice>> {
        let mut by_service: BTreeMap<&str, Vec<&Slice>> = BTreeMap::new();
        for slice in self.slices.values() {
            by_service
                .entry(slice.service.as_str())
                .or_default()
                .push(slice);
        }
        by_service
    }
}

/// Twelve bits of a packet's mark carry a node's number.
pub const MOST_NODES: u16 = 4095;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_number_while_others_come_and_go() {
        let mut model = Model::default();
        for name in ["b", "c"] {
            model.nodes.insert(name.to_owned(), Node::default());
        }
        model.number_nodes();
        let before = model.numbers["c"];
        model.nodes.remove("b");
        model.nodes.insert("a".to_owned(), Node::default());
        model.number_nodes();
        assert_eq!(model.numbers["c"], before);
        assert_eq!(model.numbers["a"], 1, "the number that became free");
    }

    #[test]
    fn the_state_file_of_an_earlier_version_is_read() {
        let model: Model = serde_json::from_str("{\"nodes\":{\"a\":{}}}").unwrap();
        assert_eq!(model.nodes["a"], Node::default());
    }
}
