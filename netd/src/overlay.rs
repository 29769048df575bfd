//! The overlay: pods of one node reach pods of another through a tunnel.
//!
//! The wire between the nodes knows nothing of pods' addresses. So a packet
//! from pod to pod travels inside a UDP datagram from node to node: VXLAN
//! (RFC 7348).
//!
//! ```text
//!  0                   1                   2                   3
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | outer Ethernet 14 | outer IPv4 20 (IPv6 40) | outer UDP 8     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |R|R|R|R|I|R|R|R|            Reserved                           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                VXLAN Network Identifier (VNI) |   Reserved    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | inner Ethernet 14 | the pod's packet ...                      |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! Nothing is learned and nothing is flooded: for each peer there is one route
//! (its pods, by its tunnel end), one neighbour (the tunnel end's MAC address)
//! and one forwarding entry (that MAC, at the peer's address on the wire). All
//! follow from the Nodes, for the MAC is made from the peer's pod range.
//!
//! Two tables beside the main one keep a connection on one path in both
//! directions:
//!
//! - `NODES_TABLE`, for packets that pods send: other nodes' own addresses lead
//!   through the tunnel too, so a pod keeps its address towards a node, and the
//!   wire never sees an address that it does not know.
//! - `RETURN_TABLE`, for packets that carry a peer's mark: answers to a client
//!   from outside whose packets came in through that peer. `services` sets the
//!   mark, and [`crate::services`] explains the way.
//!
//! Read more: RFC 7348; ip-link(8), `type vxlan`; bridge(8), `fdb`. Try:
//! `ip -d link show berth-vx`, `bridge fdb show dev berth-vx`,
//! `ip route show dev berth-vx table all`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::cluster::model::{Model, Node};
use crate::links::{Ipv6, Mac};
use crate::settings::{Setting, setting};

/// The tunnel's interface.
pub const DEVICE: &str = "berth-vx";

/// Routes for packets that carry a peer's mark.
pub const RETURN_TABLE: u32 = 6262;

/// Routes for packets that pods send.
pub const NODES_TABLE: u32 = 6263;

/// The bits of marks, of packets and of connections, that hold a node's number.
pub const MARK_MASK: u32 = 0x0fff_0000;

/// Before the main table, which is at 32766.
const RETURN_PRIORITY: u32 = 6262;
const NODES_PRIORITY: u32 = 6263;

/// The next hop of `RETURN_TABLE`. Nobody has the address: which peer a frame
/// goes to, the chain `return` decides by the mark (`nft/overlay.rs`).
const RETURN_HOP_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 62, 62);
const RETURN_HOP_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x62, 0x62);
const RETURN_MAC: Mac = Mac([0x0a, 0x58, 0, 0, 0, 0]);

/// How the tunnel is made; the same on every node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayConfig {
    /// The number that keeps tunnels apart that share a port.
    pub vni: u32,
    /// The UDP port. 8472 is what Linux always used, 4789 is IANA's.
    pub port: u16,
    /// The bridge of this node's pods.
    pub bridge: String,
}

impl Default for OverlayConfig {
    fn default() -> Self {
        Self {
            vni: 1,
            port: 8472,
            bridge: "berth0".to_owned(),
        }
    }
}

/// What should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// The tunnel's interface.
    pub device: Device,
    /// Everything that is keyed by a peer, and the rules.
    pub entries: BTreeSet<Entry>,
    /// Kernel settings that the interface needs.
    pub settings: Vec<Setting>,
}

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The interface of the tunnel's name, if it is a tunnel.
    pub device: Option<Device>,
    /// Whether it is up.
    pub is_up: bool,
    /// Entries of that interface and of our tables.
    pub entries: BTreeSet<Entry>,
}

/// The tunnel's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its network identifier.
    pub vni: u32,
    /// Its UDP port.
    pub port: u16,
    /// This node's address on the wire.
    pub local: IpAddr,
    /// Its link-layer address.
    pub mac: Mac,
    /// In bytes.
    pub mtu: u32,
}

/// One line of one of the kernel's tables.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    /// An IPv4 address of the interface. Without one the kernel takes no packet
    /// from it whose source is not behind it, "loose" or not
    /// (`net/ipv4/fib_frontend.c::__fib_validate_source`, `no_addr`).
    Address(IpNet),
    /// Sends packets of a kind to one of our tables.
    Rule(Rule),
    /// Frames for this MAC address go to that node.
    Forwarding {
        /// The peer's tunnel end.
        mac: Mac,
        /// The peer on the wire.
        node: IpAddr,
    },
    /// A next hop's MAC address.
    Neighbour {
        /// The next hop.
        address: IpAddr,
        /// The tunnel end.
        mac: Mac,
    },
    /// Where packets go.
    Route {
        /// The table.
        table: u32,
        /// Where to.
        destination: IpNet,
        /// The next hop, on the tunnel.
        gateway: IpAddr,
        /// The address this node takes towards it.
        source: Option<IpAddr>,
    },
}

/// Which packets look into one of our tables.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// For IPv4, or IPv6.
    pub is_v4: bool,
    /// Its place.
    pub priority: u32,
    /// The table.
    pub table: u32,
    /// Which packets.
    pub packets: Packets,
}

/// What a rule selects packets by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packets {
    /// Those with a mark, of which the masked bits must be this.
    Marked {
        /// The value.
        mark: u32,
        /// The bits.
        mask: u32,
    },
    /// Those that came in by an interface, whether or not it exists yet.
    From(String),
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Remove the interface, and with it all its entries.
    RemoveDevice,
    /// Make it.
    AddDevice(Device),
    /// Make the kernel settings so; they are files of the interface.
    Set(Vec<Setting>),
    /// Set `IFF_UP`.
    BringUp,
    /// Remove an entry.
    Remove(Entry),
    /// Add an entry.
    Add(Entry),
}

/// What is known of this node when its overlay is planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place<'a> {
    /// The node's name.
    pub node: &'a str,
    /// MTU in bytes of the interface that has the node's address.
    pub underlay_mtu: u32,
    /// Whether the machine speaks IPv6.
    pub ipv6: Ipv6,
}

/// What the tunnel should look like on one node; none while the node has no
/// address, or no range of addresses for pods.
pub fn desired(config: &OverlayConfig, model: &Model, place: &Place<'_>) -> Option<Desired> {
    let node = model.nodes.get(place.node)?;
    let local = *node.addresses.first()?;
    let mac = tunnel_mac(node)?;
    let own_ranges = node.pod_ranges.iter();
    let mut entries: BTreeSet<Entry> = own_ranges
        .filter(|range| range.addr().is_ipv4())
        .map(|range| Entry::Address(IpNet::from(range.network())))
        .collect();
    for is_v4 in families(place) {
        entries.extend(return_entries(is_v4));
        entries.insert(from_pods(config, is_v4));
    }
    let peers = model.nodes.iter().filter(|(name, _)| *name != place.node);
    for (_, peer) in peers {
        entries.extend(peer_entries(node, peer, place));
    }
    Some(Desired {
        device: Device {
            vni: config.vni,
            port: config.port,
            local,
            mac,
            mtu: place.underlay_mtu.saturating_sub(overhead(local)),
        },
        entries,
        settings: device_settings(place.ipv6),
    })
}

/// What to do, in order. Entries go before others come: an entry with the same
/// key would be in the way.
pub fn plan(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    let stands = observed.device.as_ref() == Some(&desired.device);
    let nothing = BTreeSet::new();
    // Rules are no part of the interface and outlive it, all else goes with it.
    let rules_only: BTreeSet<Entry> = observed
        .entries
        .iter()
        .filter(|entry| matches!(entry, Entry::Rule(_)))
        .cloned()
        .collect();
    let entries = match (stands, rules_only.is_empty()) {
        (true, _) => &observed.entries,
        (false, false) => &rules_only,
        (false, true) => &nothing,
    };
    if !stands {
        if observed.device.is_some() {
            steps.push(Step::RemoveDevice);
        }
        steps.push(Step::AddDevice(desired.device.clone()));
    }
    steps.push(Step::Set(desired.settings.clone()));
    if !stands || !observed.is_up {
        steps.push(Step::BringUp);
    }
    let gone = entries.difference(&desired.entries).cloned();
    steps.extend(gone.map(Step::Remove));
    // A down interface drops its routes, so after it comes up all are new.
    let new = desired.entries.difference(entries).cloned();
    steps.extend(new.map(Step::Add));
    steps
}

/// Takes away all that a node's overlay ever made.
pub fn plan_removal(observed: &Observed) -> Vec<Step> {
    let rules = observed
        .entries
        .iter()
        .filter(|entry| matches!(entry, Entry::Rule(_)));
    let mut steps: Vec<Step> = rules.cloned().map(Step::Remove).collect();
    if observed.device.is_some() {
        steps.push(Step::RemoveDevice);
    }
    steps
}

/// The MAC address of a node's tunnel end: `0a:58` and the first address of its
/// range, so that nobody has to publish it.
pub fn tunnel_mac(node: &Node) -> Option<Mac> {
    let range = node
        .pod_ranges
        .iter()
        .find(|range| range.addr().is_ipv4())
        .or(node.pod_ranges.first())?;
    let [a, b, c, d] = match range.network() {
        IpAddr::V4(v4) => v4.octets(),
        // The half that tells ranges apart: the low bytes are all zero.
        IpAddr::V6(v6) => {
            let [_, _, _, _, a, b, c, d, ..] = v6.octets();
            [a, b, c, d]
        }
    };
    Some(Mac([0x0a, 0x58, a, b, c, d]))
}

/// A packet's mark that means a node.
pub fn mark_of(number: u16) -> u32 {
    u32::from(number) << MARK_MASK.trailing_zeros()
}

/// Outer IP, UDP, VXLAN and inner Ethernet header.
fn overhead(local: IpAddr) -> u32 {
    if local.is_ipv4() { 50 } else { 70 }
}

fn families(place: &Place<'_>) -> impl Iterator<Item = bool> {
    let v6 = (place.ipv6 == Ipv6::Present).then_some(false);
    std::iter::once(true).chain(v6)
}

fn peer_entries(node: &Node, peer: &Node, place: &Place<'_>) -> Vec<Entry> {
    let Some(mac) = tunnel_mac(peer) else {
        return Vec::new();
    };
    let is_usable = |is_v4: bool| is_v4 || place.ipv6 == Ipv6::Present;
    // The tunnel has one family on the wire: that of this node's address.
    let on_wire = node.addresses.first().and_then(|own| {
        let mut addresses = peer.addresses.iter();
        addresses.find(|theirs| theirs.is_ipv4() == own.is_ipv4())
    });
    let Some(on_wire) = on_wire else {
        return Vec::new();
    };
    let mut entries = vec![Entry::Forwarding {
        mac,
        node: *on_wire,
    }];
    for range in peer.pod_ranges.iter().map(IpNet::trunc) {
        let is_v4 = range.addr().is_ipv4();
        if !is_usable(is_v4) {
            continue;
        }
        let gateway = range.network();
        entries.push(Entry::Neighbour {
            address: gateway,
            mac,
        });
        entries.push(Entry::Route {
            table: MAIN_TABLE,
            destination: range,
            gateway,
            source: node
                .addresses
                .iter()
                .copied()
                .find(|own| own.is_ipv4() == is_v4),
        });
        let theirs = peer.addresses.iter().filter(|a| a.is_ipv4() == is_v4);
        entries.extend(theirs.map(|address| Entry::Route {
            table: NODES_TABLE,
            destination: IpNet::from(*address),
            gateway,
            source: None,
        }));
    }
    entries
}

/// The kernel's main table.
pub const MAIN_TABLE: u32 = 254;

fn return_entries(is_v4: bool) -> [Entry; 3] {
    let (hop, all) = if is_v4 {
        (
            IpAddr::V4(RETURN_HOP_V4),
            IpNet::new_assert(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        )
    } else {
        (
            IpAddr::V6(RETURN_HOP_V6),
            IpNet::new_assert(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
        )
    };
    [
        Entry::Neighbour {
            address: hop,
            mac: RETURN_MAC,
        },
        Entry::Route {
            table: RETURN_TABLE,
            destination: all,
            gateway: hop,
            source: None,
        },
        Entry::Rule(Rule {
            is_v4,
            priority: RETURN_PRIORITY,
            table: RETURN_TABLE,
            // Any number at all: one bit that every packet on its way back has.
            packets: Packets::Marked {
                mark: RETURN_BIT,
                mask: RETURN_BIT,
            },
        }),
    ]
}

/// Set in a packet's mark beside the number of the peer it goes back to.
pub const RETURN_BIT: u32 = 0x1000_0000;

fn from_pods(config: &OverlayConfig, is_v4: bool) -> Entry {
    Entry::Rule(Rule {
        is_v4,
        priority: NODES_PRIORITY,
        table: NODES_TABLE,
        packets: Packets::From(config.bridge.clone()),
    })
}

fn device_settings(ipv6: Ipv6) -> Vec<Setting> {
    let mut settings = vec![
        setting("ipv4/ip_forward".to_owned(), "1"),
        // A client from outside whose packets come through a peer is no
        // neighbour of this interface: "loose" asks only for some route to it.
        setting(format!("ipv4/conf/{DEVICE}/rp_filter"), "2"),
        setting(format!("ipv4/conf/{DEVICE}/send_redirects"), "0"),
    ];
    if ipv6 == Ipv6::Present {
        settings.push(setting(format!("ipv6/conf/{DEVICE}/disable_ipv6"), "0"));
        settings.push(setting(format!("ipv6/conf/{DEVICE}/accept_ra"), "0"));
        settings.push(setting(format!("ipv6/conf/{DEVICE}/accept_dad"), "0"));
        settings.push(setting("ipv6/conf/all/forwarding".to_owned(), "1"));
    }
    settings
}

/// In the words of ip(8) and bridge(8), so that a reader can do it by hand.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveDevice => write!(f, "link del {DEVICE}"),
            Self::AddDevice(device) => write!(
                f,
                "link add {DEVICE} address {} mtu {} type vxlan id {} dstport {} local {} nolearning",
                device.mac, device.mtu, device.vni, device.port, device.local
            ),
            Self::Set(settings) => {
                let words: Vec<String> = settings.iter().map(Setting::to_string).collect();
                f.write_str(&words.join("; "))
            }
            Self::BringUp => write!(f, "link set {DEVICE} up"),
            Self::Remove(entry) => entry.write(f, "del"),
            Self::Add(entry) => entry.write(f, "add"),
        }
    }
}

impl Entry {
    fn write(&self, f: &mut fmt::Formatter<'_>, verb: &str) -> fmt::Result {
        match self {
            Self::Address(net) => write!(f, "address {verb} {net} dev {DEVICE}"),
            Self::Rule(rule) => {
                let family = if rule.is_v4 { "" } else { "-6 " };
                let (priority, table) = (rule.priority, rule.table);
                match &rule.packets {
                    Packets::Marked { mark, mask } => write!(
                        f,
                        "{family}rule {verb} fwmark {mark:#x}/{mask:#x} lookup {table} priority {priority}"
                    ),
                    Packets::From(interface) => write!(
                        f,
                        "{family}rule {verb} iif {interface} lookup {table} priority {priority}"
                    ),
                }
            }
            Self::Forwarding { mac, node } => {
                write!(f, "bridge fdb {verb} {mac} dev {DEVICE} dst {node}")
            }
            Self::Neighbour { address, mac } => write!(
                f,
                "neigh {verb} {address} lladdr {mac} dev {DEVICE} nud permanent"
            ),
            Self::Route {
                table,
                destination,
                gateway,
                source,
            } => {
                write!(
                    f,
                    "route {verb} {destination} via {gateway} dev {DEVICE} onlink table {table}"
                )?;
                source.map_or(Ok(()), |source| write!(f, " src {source}"))
            }
        }
    }
}

/// Carries steps out.
pub mod apply;
/// Reads what there is.
pub mod observe;

#[cfg(test)]
mod tests;
