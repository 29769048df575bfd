//! Which address a pod gets (IPAM), as pure functions.
//!
//! An address that was given back is not given out again at once: peers may
//! still hold it in their ARP caches and in connection tracking, and would
//! talk to the wrong pod. So the search begins after the address that was
//! given last and wraps around ("next free, with rotation").
//!
//! Addresses are treated as numbers of 128 bits for both families. The search
//! skips taken addresses in order, so its cost is the length of the run of
//! taken ones, not the size of the subnet: a /64 costs no more than a /24.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::error::{Error, ErrorKind};
use crate::network::gateway_of;

/// Picks the next free address of `subnet` after `last_given`.
///
/// # Errors
///
/// `Exhausted`, with the number of addresses the subnet has for pods.
pub fn plan_address(
    subnet: &IpNet,
    taken: &BTreeSet<IpAddr>,
    last_given: Option<IpAddr>,
) -> Result<IpAddr, Error> {
    let usable = usable_range(subnet);
    let is_v4 = subnet.addr().is_ipv4();
    let last = last_given
        .map(number_of)
        .filter(|number| usable.contains(number));
    let start = last.map_or(*usable.start(), |number| number + 1);
    first_free(start..=*usable.end(), taken, is_v4)
        .or_else(|| first_free(*usable.start()..=start.saturating_sub(1), taken, is_v4))
        .ok_or_else(|| exhausted(subnet, &usable, taken))
}

/// Checks that a pod may have the address it asks for.
///
/// `holders` maps taken addresses to the pods that hold them.
///
/// # Errors
///
/// `Invalid` if it lies in no subnet or is reserved, `Conflict` if a pod has it.
pub fn check_fixed_address(
    address: IpAddr,
    subnets: &[IpNet],
    holders: &BTreeMap<IpAddr, String>,
) -> Result<(), Error> {
    let Some(subnet) = subnets.iter().find(|subnet| subnet.contains(&address)) else {
        let names: Vec<String> = subnets.iter().map(IpNet::to_string).collect();
        return Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "addresses: {address} is in no subnet of the network ({})",
                names.join(", ")
            ),
        ));
    };
    if !usable_range(subnet).contains(&number_of(address)) {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "addresses: {address} is reserved in {subnet} (network, gateway {} or broadcast)",
                gateway_of(subnet).addr()
            ),
        ));
    }
    match holders.get(&address) {
        None => Ok(()),
        Some(pod) => Err(Error::new(
            ErrorKind::Conflict,
            format!("addresses: {address} is held by pod {pod}"),
        )),
    }
}

/// The numbers of the addresses that pods may have: all but network, gateway and broadcast.
fn usable_range(subnet: &IpNet) -> RangeInclusive<u128> {
    let first = number_of(gateway_of(subnet).addr()) + 1;
    let last = number_of(subnet.broadcast());
    match subnet {
        IpNet::V4(_) => first..=last - 1,
        // IPv6 has no broadcast: the last address is one like any other.
        IpNet::V6(_) => first..=last,
    }
}

/// The lowest number of `range` that is not taken.
fn first_free(
    range: RangeInclusive<u128>,
    taken: &BTreeSet<IpAddr>,
    is_v4: bool,
) -> Option<IpAddr> {
    if range.is_empty() {
        return None;
    }
    let (low, high) = (
        address_of(*range.start(), is_v4),
        address_of(*range.end(), is_v4),
    );
    let mut candidate = *range.start();
    // The set is ordered, so the first gap shows as a mismatch.
    for address in taken.range(low..=high) {
        if number_of(*address) != candidate {
            break;
        }
        candidate += 1;
    }
    range
        .contains(&candidate)
        .then(|| address_of(candidate, is_v4))
}

fn exhausted(subnet: &IpNet, usable: &RangeInclusive<u128>, taken: &BTreeSet<IpAddr>) -> Error {
    let size = usable.end() - usable.start() + 1;
    let held = taken
        .iter()
        .filter(|address| subnet.contains(*address))
        .count();
    Error::new(
        ErrorKind::Exhausted,
        format!(
            "{subnet} has {size} addresses for pods and all are taken ({held} by pods on record)"
        ),
    )
}

fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address_of(number: u128, is_v4: bool) -> IpAddr {
    if is_v4 {
        let bits = u32::try_from(number).expect("a number of an IPv4 range has 32 bits");
        IpAddr::V4(Ipv4Addr::from(bits))
    } else {
        IpAddr::V6(Ipv6Addr::from(number))
    }
}

#[cfg(test)]
mod tests;
