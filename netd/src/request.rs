//! What a caller asks for one pod, and what it gets.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};
use crate::network::check_interface_name;

/// The transport protocol of a host port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl Protocol {
    /// The number in the IP header (IANA "Assigned Internet Protocol Numbers").
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A port of the host that leads to a port of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// The transport.
    pub protocol: Protocol,
    /// One address of the host; absent for all of both families, `0.0.0.0` or `::` for all of one.
    pub host_address: Option<IpAddr>,
    /// The port on the host, not 0.
    pub host_port: u16,
    /// The port in the pod, not 0.
    pub container_port: u16,
}

impl HostPort {
    /// Whether a packet could belong to both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.host_port == other.host_port
            && addresses_overlap(self.host_address, other.host_address)
    }

    /// Whether this port is open on addresses of the family.
    pub fn covers_family(&self, ipv4: bool) -> bool {
        self.host_address
            .is_none_or(|address| address.is_ipv4() == ipv4)
    }

    /// The one address it is bound to, or none if it is open on all of a family.
    pub fn single_address(&self) -> Option<IpAddr> {
        self.host_address
            .filter(|address| !address.is_unspecified())
    }
}

/// `None` is every address, an unspecified one is every address of its family.
fn addresses_overlap(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    let (Some(a), Some(b)) = (a, b) else {
        return true;
    };
    a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified())
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_address {
            None => write!(f, "{}/{}", self.host_port, self.protocol),
            Some(IpAddr::V4(address)) => {
                write!(f, "{address}:{}/{}", self.host_port, self.protocol)
            }
            Some(IpAddr::V6(address)) => {
                write!(f, "[{address}]:{}/{}", self.host_port, self.protocol)
            }
        }
    }
}

/// A pod that wants its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// The pod's id, unique on the machine.
    pub pod_id: String,
    /// A file that refers to the pod's network namespace.
    pub netns: PathBuf,
    /// The interface's name in the pod, usually `eth0`.
    pub interface: String,
    /// Ports of the host that lead to this pod.
    pub host_ports: Vec<HostPort>,
    /// Fixed addresses, at most one of each family; the others come from IPAM.
    pub addresses: Vec<IpAddr>,
}

/// The network a pod has got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNetwork {
    /// The pod's id.
    pub pod_id: String,
    /// The interface's name in the pod.
    pub interface: String,
    /// Its link-layer address, `02:62:…`.
    pub mac: String,
    /// Its addresses, with the subnet's prefix length; IPv4 first.
    pub addresses: Vec<IpNet>,
    /// The bridge's addresses, which are the pod's default routes.
    pub gateways: Vec<IpAddr>,
    /// MTU in bytes.
    pub mtu: u32,
    /// The host ports that lead here.
    pub host_ports: Vec<HostPort>,
    /// What the machine could not give, in sentences for a person.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Counters of one interface, as the kernel keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatistics {
    /// The interface's name.
    pub interface: String,
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets received.
    pub received_packets: u64,
    /// Bad packets received.
    pub received_errors: u64,
    /// Packets dropped for want of room on the way in.
    pub received_dropped: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets that could not be sent.
    pub sent_errors: u64,
    /// Packets dropped for want of room on the way out.
    pub sent_dropped: u64,
}

impl AttachRequest {
    /// Refuses what cannot be right whatever the machine's state, naming the field.
    ///
    /// # Errors
    ///
    /// `Invalid`.
    pub fn validate(&self) -> Result<(), Error> {
        check_pod_id(&self.pod_id)?;
        check_interface_name("interface", &self.interface)?;
        if self.interface == "lo" || self.interface == "all" || self.interface == "default" {
            return Err(invalid(format!(
                "interface {:?}: the name is taken in every network namespace",
                self.interface
            )));
        }
        if !self.netns.is_absolute() {
            return Err(invalid(format!(
                "netns {}: expected an absolute path",
                self.netns.display()
            )));
        }
        self.host_ports.iter().try_for_each(check_host_port)?;
        for (index, port) in self.host_ports.iter().enumerate() {
            if let Some(other) = self.host_ports[..index]
                .iter()
                .find(|other| port.overlaps(other))
            {
                return Err(invalid(format!(
                    "host_ports: {port} and {other} of the same pod overlap"
                )));
            }
        }
        for is_v4 in [true, false] {
            if self
                .addresses
                .iter()
                .filter(|address| address.is_ipv4() == is_v4)
                .count()
                > 1
            {
                return Err(invalid(
                    "addresses: at most one of each family is expected".to_owned(),
                ));
            }
        }
        Ok(())
    }
}

fn check_pod_id(pod_id: &str) -> Result<(), Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !pod_id.is_empty() && pod_id.len() <= 253 && pod_id.bytes().all(allowed) {
        return Ok(());
    }
    Err(invalid(format!(
        "pod_id {pod_id:?}: expected 1 to 253 letters, digits, '-', '_' or '.'"
    )))
}

fn check_host_port(port: &HostPort) -> Result<(), Error> {
    if port.host_port == 0 || port.container_port == 0 {
        return Err(invalid(format!(
            "host_ports: {} to {}: a port is 1 to 65535",
            port, port.container_port
        )));
    }
    if let Some(address) = port.host_address {
        // See docs/network.md: the kernel never routes ::1 to another interface.
        if address == IpAddr::V6(std::net::Ipv6Addr::LOCALHOST) {
            return Err(invalid(format!(
                "host_ports: {port}: the kernel has no IPv6 counterpart of route_localnet, so a \
                 port on ::1 cannot lead to a pod; use 127.0.0.1 or an address of an interface"
            )));
        }
        if address.is_multicast() {
            return Err(invalid(format!(
                "host_ports: {port}: a multicast address is not a host's own"
            )));
        }
    }
    Ok(())
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests;
