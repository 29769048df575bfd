//! Links, addresses and routes: what is wanted, what was observed, what to do.
//!
//! Pure data and pure functions. `links/observe.rs` fills the observations in,
//! `links/apply.rs` carries the steps out.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnet::{IpNet, Ipv6Net};

use crate::error::{Error, ErrorKind};
use crate::network::NetworkConfig;

/// A link-layer address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

/// What of the host matters to a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedHost {
    /// The interface that has the bridge's name, if there is one.
    pub bridge: Option<ObservedLink>,
    /// Routes of the main table, unless the bridge stands already.
    pub routes: Vec<ObservedRoute>,
    /// MTU in bytes of the interface of the default route.
    pub default_mtu: Option<u32>,
    /// Chains of others that drop forwarded packets by policy.
    pub forward_drops: Vec<String>,
    /// Interfaces that learn IPv6 routes only while the machine does not forward.
    pub router_listeners: Vec<String>,
    /// Whether the machine speaks IPv6 (`ipv6.disable=1` takes it away).
    pub ipv6: Ipv6,
}

/// Whether a machine speaks IPv6.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ipv6 {
    /// It does.
    #[default]
    Present,
    /// It does not.
    Absent,
}

/// An interface of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedLink {
    /// Its index.
    pub index: u32,
    /// Its kind (`bridge`, `veth`, …), empty for hardware.
    pub kind: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub state: LinkState,
    /// What `ip link` shows as its alias, empty if it has none.
    pub alias: String,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
}

/// `IFF_UP` of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Set.
    Up,
    /// Not set.
    Down,
}

/// A route of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedRoute {
    /// Where to.
    pub destination: IpNet,
    /// The interface it leaves by, or empty for a blackhole.
    pub interface: String,
}

/// One thing to be done to links, addresses or routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkStep {
    /// Make a bridge, up.
    AddBridge {
        /// Its name.
        name: String,
        /// Its address, fixed so that it does not follow its ports.
        mac: Mac,
        /// In bytes.
        mtu: u32,
    },
    /// Write on an interface whose it is (`ip link` shows it).
    SetAlias {
        /// The interface.
        interface: String,
        /// The text.
        alias: String,
    },
    /// Give an interface an address; where `accept_dad` is 0 it is usable at once.
    AddAddress {
        /// The interface.
        interface: String,
        /// The address with its subnet's prefix length.
        address: IpNet,
    },
    /// Set `IFF_UP`.
    BringUp {
        /// The interface.
        interface: String,
    },
    /// Make a veth pair: one end on the bridge, up, and the other in the pod, still down.
    AddVeth(VethStep),
    /// Let the bridge send a frame back out of the port it came from.
    SetHairpin {
        /// The port.
        interface: String,
    },
    /// Route everything else of a family to the gateway.
    AddDefaultRoute {
        /// The gateway.
        gateway: IpAddr,
        /// The interface it is reached by.
        interface: String,
    },
}

/// The two ends of a veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethStep {
    /// The end on the host.
    pub host_interface: String,
    /// The bridge it is a port of.
    pub bridge: String,
    /// The end in the pod.
    pub pod_interface: String,
    /// The link-layer address of the end in the pod.
    pub pod_mac: Mac,
    /// In bytes, of both.
    pub mtu: u32,
}

/// How the alias of every bridge of ours begins; the state directory follows.
const OWNER: &str = "berth: pods of ";

/// The alias that tells whose bridge it is: two state directories that gave
/// addresses out on one bridge would give the same ones.
pub fn bridge_alias(state_dir: &Path) -> String {
    // IFALIASZ of linux/if_link.h: 256 bytes with the final NUL.
    let text = format!("{OWNER}{}", state_dir.display());
    text.chars().filter(|c| !c.is_control()).take(63).collect()
}

/// The steps that make the bridge; none if it stands. Addresses come later,
/// when its settings have been made.
///
/// # Errors
///
/// `Conflict` if the name belongs to something that is no bridge or to another
/// state directory, or if a route of the host overlaps a subnet of a bridge
/// that is yet to be made.
pub fn plan_bridge(
    config: &NetworkConfig,
    host: &ObservedHost,
    alias: &str,
) -> Result<Vec<LinkStep>, Error> {
    let name = || config.bridge.clone();
    let Some(link) = &host.bridge else {
        check_routes(config, &host.routes)?;
        return Ok(vec![
            LinkStep::AddBridge {
                name: name(),
                mac: bridge_mac(config),
                mtu: mtu(config, host),
            },
            LinkStep::SetAlias {
                interface: name(),
                alias: alias.to_owned(),
            },
        ]);
    };
    check_bridge(link, &config.bridge, alias)?;
    Ok(match link.state {
        LinkState::Up => Vec::new(),
        LinkState::Down => vec![LinkStep::BringUp { interface: name() }],
    })
}

/// The steps that give the bridge the addresses that it lacks.
pub fn plan_gateways(config: &NetworkConfig, host: &ObservedHost) -> Vec<LinkStep> {
    let wanted = match &host.bridge {
        // An operator's bridge has a link-local address of its own.
        Some(_) => config.gateways(),
        None => config
            .gateways()
            .into_iter()
            .chain(link_local(config))
            .collect(),
    };
    let present = host.bridge.iter().flat_map(|link| &link.addresses);
    let present: Vec<&IpNet> = present.collect();
    wanted
        .into_iter()
        .filter(|address| !present.contains(&address))
        .map(|address| LinkStep::AddAddress {
            interface: config.bridge.clone(),
            address,
        })
        .collect()
}

fn check_bridge(link: &ObservedLink, name: &str, alias: &str) -> Result<(), Error> {
    let conflict = |message: String| Err(Error::new(ErrorKind::Conflict, message));
    if link.kind != "bridge" {
        let kind = if link.kind.is_empty() {
            "device"
        } else {
            &link.kind
        };
        return conflict(format!(
            "bridge {name:?}: the interface exists and is a {kind}, not a bridge"
        ));
    }
    if link.alias.starts_with(OWNER) && link.alias != alias {
        return conflict(format!(
            "bridge {name:?}: it carries the {}; choose another bridge and subnets, or, if nobody \
             uses it any more, remove it with `ip link delete {name}`",
            link.alias.trim_start_matches("berth: "),
        ));
    }
    Ok(())
}

/// The address from which the bridge asks for pods' link-layer addresses when it
/// forwards to them. The kernel makes one by itself, but only when it has noticed
/// the first port's carrier, and until then would ask nobody.
fn link_local(config: &NetworkConfig) -> Option<IpNet> {
    let has_v6 = config.subnets.iter().any(|subnet| subnet.addr().is_ipv6());
    has_v6.then(|| {
        IpNet::V6(Ipv6Net::new_assert(
            Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
            64,
        ))
    })
}

/// The steps on the host that give a pod its veth pair.
pub fn plan_veth(veth: VethStep) -> Vec<LinkStep> {
    let interface = veth.host_interface.clone();
    vec![LinkStep::AddVeth(veth), LinkStep::SetHairpin { interface }]
}

/// The steps inside the pod's network namespace.
pub fn plan_pod(interface: &str, addresses: &[IpNet], gateways: &[IpAddr]) -> Vec<LinkStep> {
    let mut steps: Vec<LinkStep> = ["lo", interface]
        .into_iter()
        .map(|name| LinkStep::BringUp {
            interface: name.to_owned(),
        })
        .collect();
    for address in addresses {
        steps.push(LinkStep::AddAddress {
            interface: interface.to_owned(),
            address: *address,
        });
    }
    for gateway in gateways {
        steps.push(LinkStep::AddDefaultRoute {
            gateway: *gateway,
            interface: interface.to_owned(),
        });
    }
    steps
}

/// The MTU of a network: what was asked for, else the bridge's, else that of the
/// way out, else Ethernet's.
pub fn mtu(config: &NetworkConfig, host: &ObservedHost) -> u32 {
    const ETHERNET: u32 = 1500;
    // RFC 8200 section 5.
    const LEAST_FOR_IPV6: u32 = 1280;
    let bridge = host.bridge.as_ref().map(|bridge| bridge.mtu);
    let found = config
        .mtu
        .or(bridge)
        .or(host.default_mtu)
        .unwrap_or(ETHERNET);
    let has_v6 = config.subnets.iter().any(|subnet| subnet.addr().is_ipv6());
    // A loopback as default route has 65536, one more than a bridge may have.
    found.clamp(if has_v6 { LEAST_FOR_IPV6 } else { 68 }, 65_535)
}

/// The name of a pod's interface on the host: `bv` and 12 digits of a hash.
///
/// Stable, so that whoever knows the pod finds the interface, and short enough
/// for `IFNAMSIZ`. The hash is FNV-1a of network and pod id; 48 bits collide in
/// a thousand pods with a chance of one in half a billion, and then `RTM_NEWLINK`
/// fails with `EEXIST`.
pub fn host_interface(network: &str, pod_id: &str) -> String {
    let hash = fnv1a(network.bytes().chain([0]).chain(pod_id.bytes()));
    format!("bv{:012x}", hash >> 16)
}

/// Fowler, Noll and Vo's hash, 64 bits: stable over versions and machines.
pub(crate) fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A link-layer address made from an IP address: `02:62` and its last four bytes.
///
/// The second bit of the first byte marks it as locally administered (RFC 9542
/// section 2.1). Made from the IP address, it is unique on the bridge, and a
/// pod that gets the address of an earlier one also gets its link-layer
/// address, so that no neighbour's cache is ever wrong.
pub fn mac_for(address: IpAddr) -> Mac {
    let [a, b, c, d] = match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [a, b, c, d]
        }
    };
    Mac([
        0x02,
        if address.is_ipv4() { 0x62 } else { 0x66 },
        a,
        b,
        c,
        d,
    ])
}

fn bridge_mac(config: &NetworkConfig) -> Mac {
    let gateways = config.gateways();
    let first = gateways
        .iter()
        .find(|gateway| gateway.addr().is_ipv4())
        .or(gateways.first());
    mac_for(first.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpNet::addr))
}

/// Two routes for one address would send a pod's traffic the wrong way.
fn check_routes(config: &NetworkConfig, routes: &[ObservedRoute]) -> Result<(), Error> {
    for subnet in &config.subnets {
        for route in routes
            .iter()
            .filter(|route| route.destination.prefix_len() > 0)
        {
            let overlaps =
                subnet.contains(&route.destination) || route.destination.contains(subnet);
            if overlaps && route.interface != config.bridge {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "subnets: {subnet} of network {} overlaps the host's route to {} by {}; \
                         choose another subnet",
                        config.name,
                        route.destination,
                        if route.interface.is_empty() {
                            "no interface"
                        } else {
                            &route.interface
                        },
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// All addresses of a family, as the destination of its default route.
pub fn default_destination(gateway: IpAddr) -> IpAddr {
    match gateway {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// In the words of ip(8), so that a reader can do it by hand.
impl fmt::Display for LinkStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddBridge { name, mac, mtu } => {
                write!(f, "link add {name} address {mac} mtu {mtu} up type bridge")
            }
            Self::AddAddress { interface, address } => {
                write!(f, "address add {address} dev {interface}")
            }
            Self::SetAlias { interface, alias } => {
                write!(f, "link set {interface} alias \"{alias}\"")
            }
            Self::BringUp { interface } => write!(f, "link set {interface} up"),
            Self::AddVeth(veth) => write!(
                f,
                "link add {} mtu {} master {} up type veth peer name {} address {} mtu {} netns POD",
                veth.host_interface,
                veth.mtu,
                veth.bridge,
                veth.pod_interface,
                veth.pod_mac,
                veth.mtu
            ),
            Self::SetHairpin { interface } => {
                write!(f, "link set {interface} type bridge_slave hairpin on")
            }
            Self::AddDefaultRoute { gateway, interface } => {
                write!(f, "route add default via {gateway} dev {interface}")
            }
        }
    }
}

/// Carries steps out.
pub mod apply;
/// Reads what there is.
pub mod observe;
/// Waits until packets flow.
pub mod settle;
/// Netlink sockets, of this namespace and of others.
pub mod socket;

#[cfg(test)]
mod tests;
