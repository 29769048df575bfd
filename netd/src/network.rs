//! A network: its bridge, its subnets, whether it masquerades.
//!
//! One network is one bridge, and one nftables table. A pod on it has at most
//! one address of each family, so a network has at most one subnet of each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// The longest interface name the kernel takes: `IFNAMSIZ` less the final NUL.
pub const INTERFACE_NAME_LIMIT_BYTES: usize = 15;

const DEFAULT_BRIDGE: &str = "berth0";

/// A network as the operator wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// Names the network and its records.
    pub name: String,
    /// The bridge's interface name. Made on demand.
    pub bridge: String,
    /// At most one subnet of each family; the first address of each is the gateway.
    pub subnets: Vec<IpNet>,
    /// MTU in bytes of bridge and pods; that of the default route's interface when absent.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Whether traffic that leaves the subnets takes the host's address.
    #[serde(default)]
    pub masquerade: Masquerade,
}

/// Whether traffic that leaves a network's subnets takes the host's address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Masquerade {
    /// Yes: the world outside knows no route to the pods.
    #[default]
    Outbound,
    /// No: the pods' subnets are routed to this machine.
    Never,
}

impl Default for NetworkConfig {
    /// The network `default`: `berth0`, 10.88.64.0/20 and fdbe:2788:64::/64.
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            bridge: DEFAULT_BRIDGE.to_owned(),
            subnets: vec![
                IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 88, 64, 0), 20)),
                IpNet::V6(Ipv6Net::new_assert(
                    Ipv6Addr::new(0xfdbe, 0x2788, 0x64, 0, 0, 0, 0, 0),
                    64,
                )),
            ],
            mtu: None,
            masquerade: Masquerade::Outbound,
        }
    }
}

impl NetworkConfig {
    /// The nftables table (family `inet`) that holds this network's rules.
    pub fn table(&self) -> String {
        table_of(&self.bridge)
    }

    /// The bridge's address in each subnet: the first one.
    pub fn gateways(&self) -> Vec<IpNet> {
        self.subnets.iter().map(gateway_of).collect()
    }

    /// Refuses a network that could not work, naming the field.
    ///
    /// # Errors
    ///
    /// `Invalid`, with the field, its value, and what is expected.
    pub fn validate(&self) -> Result<(), Error> {
        check_network_name(&self.name)?;
        check_interface_name("bridge", &self.bridge)?;
        check_subnets(&self.subnets)?;
        check_mtu(self)
    }
}

/// The nftables table that goes with a bridge: `berth` with `berth0`, else `berth-BRIDGE`.
///
/// Named by the bridge and not by the network, because a machine has a bridge
/// of one name only once while several state directories may each have a
/// network `default`.
pub fn table_of(bridge: &str) -> String {
    match bridge {
        DEFAULT_BRIDGE => "berth".to_owned(),
        other => format!("berth-{other}"),
    }
}

/// The first address of a subnet, with the subnet's prefix length.
pub fn gateway_of(subnet: &IpNet) -> IpNet {
    match subnet {
        IpNet::V4(net) => {
            let first = u32::from(net.network()).saturating_add(1);
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(first), net.prefix_len()))
        }
        IpNet::V6(net) => {
            let first = u128::from(net.network()).saturating_add(1);
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(first), net.prefix_len()))
        }
    }
}

/// Refuses what the kernel would refuse as an interface name (`dev_valid_name`).
///
/// # Errors
///
/// `Invalid`, naming `field`.
pub fn check_interface_name(field: &str, name: &str) -> Result<(), Error> {
    let bad_byte =
        |byte: u8| byte.is_ascii_whitespace() || byte == b'/' || byte == b':' || byte == 0;
    let problem = if name.is_empty() {
        "must not be empty"
    } else if name.len() > INTERFACE_NAME_LIMIT_BYTES {
        "must have at most 15 bytes"
    } else if name == "." || name == ".." || name.bytes().any(bad_byte) {
        "must not be \".\" or \"..\" nor hold white space, '/' or ':'"
    } else if name.contains(['%', '"']) || !name.is_ascii() {
        "must be plain ASCII without '%' and '\"'"
    } else {
        return Ok(());
    };
    Err(Error::new(
        ErrorKind::Invalid,
        format!("{field} {name:?}: an interface name {problem}"),
    ))
}

/// The name becomes part of file names and of an nftables table's name.
fn check_network_name(name: &str) -> Result<(), Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let starts_well = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts_well && name.len() <= 63 && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!(
            "network name {name:?}: expected 1 to 63 letters, digits, '-' or '_', \
             beginning with a letter or digit"
        ),
    ))
}

fn check_subnets(subnets: &[IpNet]) -> Result<(), Error> {
    let invalid = |message: String| Err(Error::new(ErrorKind::Invalid, message));
    if subnets.is_empty() {
        return invalid("subnets: at least one IPv4 or IPv6 subnet is expected".to_owned());
    }
    for subnet in subnets {
        if subnet.addr() != subnet.network() {
            return invalid(format!(
                "subnets: {subnet} has bits set beyond its prefix; did you mean {}?",
                subnet.trunc()
            ));
        }
        // Network, gateway, one pod and broadcast are the least that is useful.
        if subnet.prefix_len() > subnet.max_prefix_len() - 2 {
            return invalid(format!(
                "subnets: {subnet} has no room for pods; the longest prefix is /{}",
                subnet.max_prefix_len() - 2
            ));
        }
        let unusable = match subnet.addr() {
            IpAddr::V4(v4) => {
                v4.is_loopback() || v4.is_multicast() || v4.is_link_local() || v4.octets()[0] == 0
            }
            IpAddr::V6(v6) => {
                v6.is_loopback()
                    || v6.is_multicast()
                    || v6.is_unspecified()
                    || v6.is_unicast_link_local()
            }
        };
        if unusable || subnet.prefix_len() < 8 {
            return invalid(format!(
                "subnets: {subnet} is not a range of unicast addresses for pods \
                 (loopback, multicast, link-local, or a prefix shorter than /8)"
            ));
        }
    }
    for is_v4 in [true, false] {
        let of_family: Vec<String> = subnets
            .iter()
            .filter(|subnet| subnet.addr().is_ipv4() == is_v4)
            .map(IpNet::to_string)
            .collect();
        if of_family.len() > 1 {
            return invalid(format!(
                "subnets: a network has at most one subnet of each family, got {}",
                of_family.join(" and ")
            ));
        }
    }
    Ok(())
}

fn check_mtu(config: &NetworkConfig) -> Result<(), Error> {
    let Some(mtu) = config.mtu else { return Ok(()) };
    // RFC 8200 section 5: no link may carry IPv6 with less; RFC 791 asks for 68.
    let least = if config.subnets.iter().any(|subnet| subnet.addr().is_ipv6()) {
        1280
    } else {
        68
    };
    if (least..=65_535).contains(&mtu) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!("mtu {mtu}: expected {least} to 65535 bytes for the subnets given"),
    ))
}

#[cfg(test)]
mod tests;
