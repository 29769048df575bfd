//! Addresses and ports that the cluster hands out: a Service's `clusterIP` and `nodePort`.
//!
//! Nothing is remembered beside the Services themselves: what is used is read off
//! the stored ones, so there is no second book that could disagree after a crash.
//!
//! A free address is looked for from a place that the caller's seed gives (the
//! Service's uid, say), not from the first one on: an address that was just given
//! back then rests for a while, and clients that still hold it meet nobody
//! instead of a stranger. The lowest addresses are given only when asked for or
//! when all others are used, so that a cluster's fixed ones (DNS) stay free
//! (KEP-3070 does the same).

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use serde_json::Value;

use super::error::FieldError;

/// One whole Service at a time.
pub mod service;

/// What may be handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Service ranges, at most one for each family; the first one's is the default.
    pub ranges: Vec<Range>,
    /// Ports that every node answers on.
    pub node_ports: RangeInclusive<u16>,
}

/// A range of addresses, as `10.211.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first address.
    pub network: IpAddr,
    /// Bits that all of them share.
    pub prefix: u8,
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// As in `ipFamilies`: `IPv4`.
    V4,
    /// As in `ipFamilies`: `IPv6`.
    V6,
}

/// What the Services hold already.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Used {
    /// Cluster addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Node ports by protocol: TCP 30000 and UDP 30000 are two.
    pub node_ports: BTreeSet<(String, u16)>,
}

/// More addresses of a range than this are not looked at: an IPv6 range is endless.
const MOST_ADDRESSES: u128 = 1 << 20;

impl Default for Pool {
    /// `10.211.0.0/16` and the node ports of Kubernetes.
    fn default() -> Pool {
        Pool {
            ranges: vec![Range {
                network: IpAddr::V4(Ipv4Addr::new(10, 211, 0, 0)),
                prefix: 16,
            }],
            node_ports: 30000..=32767,
        }
    }
}

impl Used {
    /// What the given Services hold.
    pub fn of<'a>(services: impl Iterator<Item = &'a Value>) -> Used {
        let mut used = Used::default();
        for service in services {
            used.add(service);
        }
        used
    }

    /// Adds what one Service holds.
    pub fn add(&mut self, service: &Value) {
        let spec = &service["spec"];
        let listed = spec["clusterIPs"].as_array().into_iter().flatten();
        let addresses = listed.chain(std::iter::once(&spec["clusterIP"]));
        self.addresses
            .extend(addresses.filter_map(|address| address.as_str()?.parse::<IpAddr>().ok()));
        for port in spec["ports"].as_array().into_iter().flatten() {
            let number = port["nodePort"].as_u64().map(u16::try_from);
            if let Some(Ok(number @ 1..)) = number {
                let protocol = port["protocol"].as_str().unwrap_or("TCP");
                self.node_ports.insert((protocol.to_owned(), number));
            }
        }
    }
}

/// A free address of a family, or the wanted one.
///
/// # Errors
///
/// In the words of Kubernetes, on `spec.clusterIPs[…]`: the wanted one is used or
/// outside of every range, or nothing is left.
pub fn cluster_ip(
    pool: &Pool,
    used: &Used,
    wanted: Result<IpAddr, Family>,
    seed: u64,
) -> Result<IpAddr, FieldError> {
    let field = "spec.clusterIPs";
    let address = match wanted {
        Err(family) => {
            let ranges = pool.ranges.iter();
            return ranges
                .filter(|range| range.family() == family)
                .find_map(|range| range.free(used, seed))
                .ok_or_else(|| {
                    FieldError::invalid(
                        field,
                        Value::Null,
                        &format!(
                            "failed to allocate an {} address: range is full",
                            family.word()
                        ),
                    )
                });
        }
        Ok(address) => address,
    };
    let refused = |why: &str| {
        Err(FieldError::invalid(
            field,
            vec![address.to_string()],
            &format!("failed to allocate IP {address}: {why}"),
        ))
    };
    match pool.ranges.iter().find(|range| range.holds(address)) {
        None => {
            let ranges: Vec<String> = pool.ranges.iter().map(Range::to_string).collect();
            refused(&format!(
                "the provided IP is not in the valid range. The range of valid IPs is {}",
                ranges.join(", ")
            ))
        }
        Some(_) if used.addresses.contains(&address) => refused("provided IP is already allocated"),
        Some(_) => Ok(address),
    }
}

/// A free node port for a protocol, or the wanted one.
///
/// # Errors
///
/// In the words of Kubernetes: the wanted one is used or out of range, or nothing is left.
pub fn node_port(
    pool: &Pool,
    used: &Used,
    protocol: &str,
    wanted: Result<u16, u64>,
) -> Result<u16, FieldError> {
    let field = "spec.ports[].nodePort";
    let is_free = |port: u16| !used.node_ports.contains(&(protocol.to_owned(), port));
    match wanted {
        Ok(port) if !pool.node_ports.contains(&port) => Err(FieldError::invalid(
            field,
            port,
            &format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                pool.node_ports.start(),
                pool.node_ports.end()
            ),
        )),
        Ok(port) if !is_free(port) => Err(FieldError::invalid(
            field,
            port,
            "provided port is already allocated",
        )),
        Ok(port) => Ok(port),
        Err(seed) => {
            let (first, last) = (*pool.node_ports.start(), *pool.node_ports.end());
            let count = u64::from(last.saturating_sub(first)) + 1;
            (0..count)
                .filter_map(|step| {
                    let offset = (seed % count + step) % count;
                    u16::try_from(u64::from(first) + offset).ok()
                })
                .find(|port| is_free(*port))
                .ok_or_else(|| {
                    FieldError::invalid(
                        field,
                        Value::Null,
                        "failed to allocate a nodePort: range is full",
                    )
                })
        }
    }
}

impl Family {
    /// As in `ipFamilies`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        }
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.network, self.prefix)
    }
}

impl Range {
    /// The family of its addresses.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.network)
    }

    fn first(&self) -> u128 {
        let bits = number(self.network);
        bits - bits % self.size()
    }

    fn size(&self) -> u128 {
        let width = if self.network.is_ipv4() { 32 } else { 128 };
        let free_bits = u32::from(width - self.prefix.min(width));
        1_u128.checked_shl(free_bits).unwrap_or(u128::MAX)
    }

    /// Whether a Service may have this address: neither the network nor the broadcast address.
    fn holds(&self, address: IpAddr) -> bool {
        if Family::of(address) != self.family() || number(address) < self.first() {
            return false;
        }
        let offset = number(address) - self.first();
        let last_is_usable = self.family() == Family::V6;
        offset > 0 && (offset < self.size() - 1 || (last_is_usable && offset == self.size() - 1))
    }

    /// A free address: first of the upper part from the seed on, then of the lower.
    fn free(&self, used: &Used, seed: u64) -> Option<IpAddr> {
        let size = self.size().min(MOST_ADDRESSES);
        // The lower part, kept for those that ask: a sixteenth, 16 to 256 addresses.
        let low = (size / 16).clamp(16, 256).min(size);
        let upper = (0..size - low).map(|step| low + (u128::from(seed) + step) % (size - low));
        upper
            .chain(1..low)
            .map(|offset| self.nth(offset))
            .find(|address| self.holds(*address) && !used.addresses.contains(address))
    }

    fn nth(&self, offset: u128) -> IpAddr {
        let bits = self.first() + offset;
        match self.family() {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX))),
            Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests;
