//! Services: one address in front of many pods, by nftables and nothing else.
//!
//! A service has addresses that no interface has. The first packet of a
//! connection to one is given another destination, one of the pods; the
//! kernel's connection tracking does the same to every later packet and the
//! reverse to the answers. Which pod it is, two look-ups say, however many
//! services there are:
//!
//! ```text
//!              services-v4                     endpoints-v4
//!   daddr . proto . dport  ──▶ pick-v4-3 ──▶ daddr . proto . dport . 0 ─▶ 10.210.1.5 . 8080
//!              (verdict)       0, 1 or 2     daddr . proto . dport . 1 ─▶ 10.210.2.7 . 8080
//!                              at random     daddr . proto . dport . 2 ─▶ 10.210.2.9 . 8080
//! ```
//!
//! There is one chain for each *number* of endpoints, not for each service, so
//! a change of one endpoint is a handful of map elements in one batch. Ports of
//! nodes have maps of the same shape without the address. With session affinity
//! the chain's name ends in the timeout, and what it picked for a client is
//! kept in `affinity-v4`, a map whose elements the kernel adds and expires.
//!
//! # The client's address is kept
//!
//! A packet for a node port may arrive at a node that has none of the pods.
//! Hiding the client behind that node's address would bring the answers back,
//! and would lie to the pod. Instead:
//!
//! ```text
//!  client ──▶ node A ───────────────── tunnel ─────────────────▶ node B ──▶ pod
//!             new destination,          source is still the       marks the connection:
//!             source untouched          client                    "came through A" (A's MAC)
//!
//!  client ◀── node A ◀──────────────── tunnel ──────────────────  node B ◀── pod
//!             destination's             the mark leads to         answers carry the mark
//!             address put back          RETURN_TABLE, and the
//!                                       chain `return` writes A's MAC into the frame
//! ```
//!
//! A client that is a node or a pod of the cluster and asks another node's port is hidden
//! behind that node: its endpoint may be its neighbour, whose answer would not come by.
//!
//! Read more: nft(8), "MAPS" and "VERDICT MAPS"; the kernel's
//! `net/netfilter/nft_lookup.c`, `nft_nat.c`, `nft_dynset.c`;
//! `Documentation/networking/nf_conntrack-sysctl.rst`. Try:
//! `nft list map inet berth-services services-v4`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::cluster::model::{Condition, Endpoint, Model, Service, Slice, TrafficPolicy};
use crate::links::Mac;
use crate::overlay::{RETURN_BIT, mark_of, tunnel_mac};
use crate::request::Protocol;
use crate::rules::IpFamily;

/// The table of family `inet`.
pub const TABLE: &str = "berth-services";

/// More than this many endpoints of one port are not used. It bounds the
/// number of chains.
pub const MOST_ENDPOINTS: usize = 1000;

/// Elements of the table's maps.
pub type Elements = BTreeMap<Key, Value>;

/// What an element is found by; the variant says in which map it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `services-*`: a service's address and port.
    Service(Door),
    /// `endpoints-*`: the same, and which of the endpoints.
    Endpoint(Door, u16),
    /// `node-ports-*`: a port of every node.
    NodePort(NodeDoor),
    /// `node-endpoints-*`: the same, and which of the endpoints.
    NodeEndpoint(NodeDoor, u16),
    /// `refused-*`: a service's address and port that nobody serves.
    Refused(Door),
    /// `node-refused-*`: a node's port that nobody serves.
    NodeRefused(NodeDoor),
    /// `hairpin-*`: a pod of this node that serves, and may be its own client.
    Hairpin(IpAddr),
    /// `foreign-*`: an endpoint that is neither pod nor node.
    Foreign(Door),
    /// `nodes-*`: a node's address, from which tunnelled packets are taken.
    Node(IpAddr),
    /// `node-marks-*`: another node's address, as an endpoint.
    NodeMark(IpAddr),
    /// `peer-marks`: a peer's tunnel end.
    Peer(Mac),
}

/// An address, a protocol and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Door {
    /// The address.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

/// A port of every node, in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeDoor {
    /// The family.
    pub family: IpFamily,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

/// What an element leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Nothing: it is a set's.
    Present,
    /// A chain that picks one of the endpoints.
    Pick(Pick),
    /// An endpoint.
    Target(IpAddr, u16),
    /// The connection is refused.
    Refuse,
    /// The packet vanishes.
    Drop,
    /// A peer's mark.
    Mark(u32),
}

/// A chain that picks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pick {
    /// Of this family.
    pub family: IpFamily,
    /// At which kind of door.
    pub at: At,
    /// Among how many.
    pub count: u16,
    /// How many seconds the client stays with what was picked, if it does.
    pub affinity_seconds: Option<u32>,
}

/// The two kinds of door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum At {
    /// A service's address.
    Service,
    /// A node's port.
    Node,
}

/// What is known of this node when services are planned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The node's name.
    pub node: String,
    /// Ranges of all nodes' pods.
    pub pod_ranges: Vec<IpNet>,
    /// Ranges of this node's pods.
    pub own_ranges: Vec<IpNet>,
    /// All nodes' addresses.
    pub nodes: Vec<IpAddr>,
}

/// The elements that one service is. `before` are those that it was: an endpoint
/// that stays keeps its number, so that clients that are kept with it stay with
/// it, and one endpoint's change is not a change of all after it.
pub fn plan_service(
    service: &Service,
    slices: &[&Slice],
    place: &Place,
    before: &Elements,
) -> Elements {
    let mut elements = Elements::new();
    if service.external_name.is_some() {
        return elements;
    }
    for port in &service.ports {
        let targets = targets_of(&port.name, port.protocol, slices);
        for address in &service.cluster_ips {
            let door = Door {
                address: *address,
                protocol: port.protocol,
                port: port.port,
            };
            let picked = pick_targets(&targets, address.is_ipv4(), service.internal, place);
            let numbered = picked.numbered(before, |n| Key::Endpoint(door, n), service);
            add_door(&mut elements, door, &numbered, service.affinity_seconds);
        }
        for address in &service.external_ips {
            let door = Door {
                address: *address,
                protocol: port.protocol,
                port: port.port,
            };
            let picked = pick_targets(&targets, address.is_ipv4(), service.external, place);
            let numbered = picked.numbered(before, |n| Key::Endpoint(door, n), service);
            add_door(&mut elements, door, &numbered, service.affinity_seconds);
        }
        if let Some(number) = port.node_port {
            for family in families(service) {
                let door = NodeDoor {
                    family,
                    protocol: port.protocol,
                    port: number,
                };
                let is_v4 = family == IpFamily::V4;
                let picked = pick_targets(&targets, is_v4, service.external, place);
                let numbered = picked.numbered(before, |n| Key::NodeEndpoint(door, n), service);
                add_node_door(&mut elements, door, &numbered, service.affinity_seconds);
            }
        }
    }
    elements
}

/// The elements that lead port 53 of the DNS service's address to the server on
/// this node, which listens on another port: port 53 of the host stays free.
pub fn plan_dns(addresses: &[IpAddr], port: u16) -> Elements {
    let mut elements = Elements::new();
    for address in addresses {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let door = Door {
                address: *address,
                protocol,
                port: 53,
            };
            let pick = Pick {
                family: family_of(*address),
                at: At::Service,
                count: 1,
                affinity_seconds: None,
            };
            elements.insert(Key::Service(door), Value::Pick(pick));
            elements.insert(Key::Endpoint(door, 0), Value::Target(*address, port));
        }
    }
    elements
}

/// The elements that the nodes are.
pub fn plan_nodes(model: &Model, node: &str) -> Elements {
    let mut elements = Elements::new();
    for (name, peer) in &model.nodes {
        let nodes = peer.addresses.iter().map(|a| Key::Node(*a));
        elements.extend(nodes.map(|key| (key, Value::Present)));
        let (Some(number), Some(mac)) = (model.numbers.get(name), tunnel_mac(peer)) else {
            continue;
        };
        if name == node {
            continue;
        }
        let mark = Value::Mark(mark_of(*number) | RETURN_BIT);
        elements.insert(Key::Peer(mac), mark);
        let marks = peer.addresses.iter().map(|a| Key::NodeMark(*a));
        elements.extend(marks.map(|key| (key, mark)));
    }
    elements
}

/// One endpoint's port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    address: IpAddr,
    port: u16,
    condition: Condition,
    node: Option<String>,
}

/// Who serves a port; or why not.
enum Picked {
    Targets(Vec<(IpAddr, u16, Whose)>),
    /// There is no endpoint at all.
    Nobody,
    /// There are endpoints, and none on this node, where all must be.
    NobodyHere,
}

impl Picked {
    /// The same targets in an order that changes as little as can be.
    fn numbered(self, before: &Elements, key: impl Fn(u16) -> Key, service: &Service) -> Self {
        let Self::Targets(now) = self else {
            return self;
        };
        let held = (0..).map_while(|number| match before.get(&key(number)) {
            Some(Value::Target(address, port)) => Some((*address, *port)),
            _ => None,
        });
        let held: Vec<(IpAddr, u16)> = held.collect();
        Self::Targets(match service.affinity_seconds {
            Some(_) => keep_numbers(&held, now),
            None => keep_order(&held, now),
        })
    }
}

type Chosen = (IpAddr, u16, Whose);

/// Who stays keeps its number; into a hole comes whoever has none yet, then the last.
fn keep_order(held: &[(IpAddr, u16)], now: Vec<Chosen>) -> Vec<Chosen> {
    let (mut slots, mut new) = seat(held, now);
    for hole in 0..slots.len() {
        if hole >= slots.len() {
            break;
        }
        if slots[hole].is_none() {
            slots[hole] = new.pop();
        }
        while hole < slots.len() && slots[hole].is_none() {
            slots.swap_remove(hole);
        }
    }
    new.reverse();
    slots.into_iter().flatten().chain(new).collect()
}

/// As above, but a number that was given out stays in use: a client that was
/// kept with who left is sent to another, and nobody else is moved.
fn keep_numbers(held: &[(IpAddr, u16)], now: Vec<Chosen>) -> Vec<Chosen> {
    let (slots, mut new) = seat(held, now.clone());
    let mut turn = now.iter().cycle();
    let filled = slots.into_iter().filter_map(|slot| {
        let fresh = slot.or_else(|| new.pop());
        fresh.or_else(|| turn.next().copied())
    });
    let mut filled: Vec<Chosen> = filled.collect();
    new.reverse();
    filled.extend(new);
    filled.truncate(MOST_ENDPOINTS);
    filled
}

/// Who stays, in its place, and who is new, the first one last. Of one that held
/// two places the second is free.
fn seat(held: &[(IpAddr, u16)], now: Vec<Chosen>) -> (Vec<Option<Chosen>>, Vec<Chosen>) {
    let mut waiting = now;
    let slots = held
        .iter()
        .map(|before| {
            let place = waiting.iter().position(|(a, p, _)| (*a, *p) == *before)?;
            Some(waiting.remove(place))
        })
        .collect();
    waiting.reverse();
    (slots, waiting)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    OwnPod,
    Pod,
    Node,
    Foreign,
}

fn targets_of(name: &str, protocol: Protocol, slices: &[&Slice]) -> Vec<Target> {
    let mut targets = Vec::new();
    for slice in slices {
        let mut ports = slice.ports.iter();
        let Some(port) = ports.find(|port| port.name == name && port.protocol == protocol) else {
            continue;
        };
        targets.extend(slice.endpoints.iter().map(|endpoint: &Endpoint| Target {
            address: endpoint.address,
            port: port.port,
            condition: endpoint.condition,
            node: endpoint.node.clone(),
        }));
    }
    // In the order of their addresses, so that a slice that is listed in
    // another order changes nothing.
    targets.sort();
    targets.dedup_by(|a, b| (a.address, a.port) == (b.address, b.port));
    targets
}

fn pick_targets(targets: &[Target], is_v4: bool, policy: TrafficPolicy, place: &Place) -> Picked {
    let of_family = || targets.iter().filter(|t| t.address.is_ipv4() == is_v4);
    let is_near = |target: &&Target| {
        policy == TrafficPolicy::Cluster || target.node.as_deref() == Some(&*place.node)
    };
    let with = |condition: Condition| -> Vec<&Target> {
        let near = of_family().filter(is_near);
        near.filter(|target| target.condition == condition)
            .collect()
    };
    let mut usable = with(Condition::Ready);
    if usable.is_empty() {
        usable = with(Condition::Draining);
    }
    if usable.is_empty() {
        let anywhere = of_family().any(|target| target.condition != Condition::Unready);
        return if anywhere {
            Picked::NobodyHere
        } else {
            Picked::Nobody
        };
    }
    usable.truncate(MOST_ENDPOINTS);
    let targets = usable.into_iter();
    Picked::Targets(
        targets
            .map(|t| (t.address, t.port, place.whose(t.address)))
            .collect(),
    )
}

impl Place {
    fn whose(&self, address: IpAddr) -> Whose {
        let within = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&address));
        if within(&self.own_ranges) {
            Whose::OwnPod
        } else if within(&self.pod_ranges) {
            Whose::Pod
        } else if self.nodes.contains(&address) {
            Whose::Node
        } else {
            Whose::Foreign
        }
    }
}

fn add_door(elements: &mut Elements, door: Door, picked: &Picked, affinity: Option<u32>) {
    match picked {
        Picked::Nobody => {
            elements.insert(Key::Refused(door), Value::Refuse);
        }
        Picked::NobodyHere => {
            elements.insert(Key::Refused(door), Value::Drop);
        }
        Picked::Targets(targets) => {
            let pick = pick(
                At::Service,
                family_of(door.address),
                targets.len(),
                affinity,
            );
            elements.insert(Key::Service(door), Value::Pick(pick));
            for (index, (address, port, whose)) in (0..).zip(targets) {
                let key = Key::Endpoint(door, index);
                elements.insert(key, Value::Target(*address, *port));
                add_source_element(elements, door.protocol, (*address, *port), *whose);
            }
        }
    }
}

fn add_node_door(elements: &mut Elements, door: NodeDoor, picked: &Picked, affinity: Option<u32>) {
    match picked {
        Picked::Nobody => {
            elements.insert(Key::NodeRefused(door), Value::Refuse);
        }
        Picked::NobodyHere => {
            elements.insert(Key::NodeRefused(door), Value::Drop);
        }
        Picked::Targets(targets) => {
            let pick = pick(At::Node, door.family, targets.len(), affinity);
            elements.insert(Key::NodePort(door), Value::Pick(pick));
            for (index, (address, port, whose)) in (0..).zip(targets) {
                let key = Key::NodeEndpoint(door, index);
                elements.insert(key, Value::Target(*address, *port));
                add_source_element(elements, door.protocol, (*address, *port), *whose);
            }
        }
    }
}

/// Endpoints whose answers would not come back through here by themselves.
fn add_source_element(
    elements: &mut Elements,
    protocol: Protocol,
    (address, port): (IpAddr, u16),
    whose: Whose,
) {
    match whose {
        Whose::OwnPod => {
            elements.insert(Key::Hairpin(address), Value::Present);
        }
        Whose::Foreign => {
            let door = Door {
                address,
                protocol,
                port,
            };
            elements.insert(Key::Foreign(door), Value::Present);
        }
        Whose::Pod | Whose::Node => {}
    }
}

fn pick(at: At, family: IpFamily, count: usize, affinity_seconds: Option<u32>) -> Pick {
    Pick {
        family,
        at,
        count: u16::try_from(count).unwrap_or(u16::MAX),
        affinity_seconds,
    }
}

/// A node's port is open in the families that the service has.
fn families(service: &Service) -> Vec<IpFamily> {
    let mut families: Vec<IpFamily> = service.cluster_ips.iter().map(|a| family_of(*a)).collect();
    families.sort();
    families.dedup();
    families
}

/// The family of an address.
pub fn family_of(address: IpAddr) -> IpFamily {
    if address.is_ipv4() {
        IpFamily::V4
    } else {
        IpFamily::V6
    }
}

impl Key {
    /// The family of the map it is in.
    pub fn family(&self) -> IpFamily {
        match self {
            Self::Service(door)
            | Self::Endpoint(door, _)
            | Self::Refused(door)
            | Self::Foreign(door) => family_of(door.address),
            Self::NodePort(door) | Self::NodeEndpoint(door, _) | Self::NodeRefused(door) => {
                door.family
            }
            Self::Hairpin(address) | Self::Node(address) | Self::NodeMark(address) => {
                family_of(*address)
            }
            // Of no family; the map has no suffix.
            Self::Peer(_) => IpFamily::V4,
        }
    }

    /// The name of the map it is in.
    pub fn map(&self) -> String {
        let stem = match self {
            Self::Service(_) => "services",
            Self::Endpoint(..) => "endpoints",
            Self::NodePort(_) => "node-ports",
            Self::NodeEndpoint(..) => "node-endpoints",
            Self::Refused(_) => "refused",
            Self::NodeRefused(_) => "node-refused",
            Self::Hairpin(_) => "hairpin",
            Self::Foreign(_) => "foreign",
            Self::Node(_) => "nodes",
            Self::NodeMark(_) => "node-marks",
            Self::Peer(_) => return "peer-marks".to_owned(),
        };
        map_name(stem, self.family())
    }

    /// The protocol of the door.
    pub fn protocol(&self) -> Option<Protocol> {
        match self {
            Self::Service(door)
            | Self::Endpoint(door, _)
            | Self::Refused(door)
            | Self::Foreign(door) => Some(door.protocol),
            Self::NodePort(door) | Self::NodeEndpoint(door, _) | Self::NodeRefused(door) => {
                Some(door.protocol)
            }
            Self::Hairpin(_) | Self::Node(_) | Self::NodeMark(_) | Self::Peer(_) => None,
        }
    }
}

/// `STEM-v4` or `STEM-v6`.
pub fn map_name(stem: &str, family: IpFamily) -> String {
    match family {
        IpFamily::V4 => format!("{stem}-v4"),
        IpFamily::V6 => format!("{stem}-v6"),
    }
}

impl Pick {
    /// The chain's name.
    pub fn chain(&self) -> String {
        let stem = match self.at {
            At::Service => "pick",
            At::Node => "node-pick",
        };
        let name = format!("{}-{}", map_name(stem, self.family), self.count);
        match self.affinity_seconds {
            None => name,
            Some(seconds) => format!("{name}-{seconds}s"),
        }
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} . {} . {}", self.address, self.protocol, self.port)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(door) | Self::Refused(door) | Self::Foreign(door) => door.fmt(f),
            Self::Endpoint(door, index) => write!(f, "{door} . {index}"),
            Self::NodePort(door) | Self::NodeRefused(door) => {
                write!(f, "{} . {}", door.protocol, door.port)
            }
            Self::NodeEndpoint(door, index) => {
                write!(f, "{} . {} . {index}", door.protocol, door.port)
            }
            Self::Hairpin(address) => write!(f, "{address} . {address}"),
            Self::Node(address) | Self::NodeMark(address) => address.fmt(f),
            Self::Peer(mac) => mac.fmt(f),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => Ok(()),
            Self::Pick(pick) => write!(f, "goto {}", pick.chain()),
            Self::Target(address, port) => write!(f, "{address} . {port}"),
            Self::Refuse => f.write_str("goto refuse"),
            Self::Drop => f.write_str("drop"),
            Self::Mark(mark) => write!(f, "{mark:#x}"),
        }
    }
}

/// What all services together want, and what one service's change adds and removes.
pub mod wanted;

#[cfg(test)]
mod tests;
