//! Reads what there is of the overlay; changes nothing.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};

use crate::error::Error;
use crate::links::Mac;
use crate::links::observe::{mtu_of, read_addresses, read_link, read_own_interface};
use crate::links::socket::{has_ipv6, kernel};
use crate::overlay::{
    DEVICE, Device, Entry, MAIN_TABLE, NODES_TABLE, Observed, Packets, RETURN_TABLE, Rule,
};

/// What there is.
///
/// # Errors
///
/// `Kernel`.
pub async fn observe(handle: &Handle) -> Result<Observed, Error> {
    let mut observed = Observed::default();
    for version in versions() {
        observed.entries.extend(read_rules(handle, version).await?);
    }
    let Some(link) = read_link(handle, DEVICE).await? else {
        return Ok(observed);
    };
    let index = link.header.index;
    observed.is_up = link.header.flags.contains(LinkFlags::Up);
    observed.device = Some(device_of(&link.attributes, mtu_of(&link)));
    let addresses = read_addresses(handle, index).await?;
    let addresses = addresses.into_iter().filter(|net| net.addr().is_ipv4());
    observed.entries.extend(addresses.map(Entry::Address));
    observed
        .entries
        .extend(read_neighbours(handle, index).await?);
    observed.entries.extend(read_routes(handle, index).await?);
    Ok(observed)
}

/// MTU in bytes of the interface that has this address.
///
/// # Errors
///
/// `Kernel`.
pub async fn read_underlay_mtu(handle: &Handle, local: IpAddr) -> Result<Option<u32>, Error> {
    let link = read_own_interface(handle, local).await?;
    Ok(link.as_ref().map(mtu_of))
}

/// An interface of another kind under our name differs in everything.
fn device_of(attributes: &[LinkAttribute], mtu: u32) -> Device {
    let mut device = Device {
        vni: 0,
        port: 0,
        local: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        mac: Mac([0; 6]),
        mtu,
    };
    for attribute in attributes {
        match attribute {
            LinkAttribute::Address(bytes) => {
                if let Ok(bytes) = <[u8; 6]>::try_from(bytes.as_slice()) {
                    device.mac = Mac(bytes);
                }
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Data(InfoData::Vxlan(parts)) = info {
                        parts.iter().for_each(|part| note(part, &mut device));
                    }
                }
            }
            _ => {}
        }
    }
    device
}

fn note(part: &InfoVxlan, device: &mut Device) {
    match part {
        InfoVxlan::Id(vni) => device.vni = *vni,
        InfoVxlan::Port(port) => device.port = *port,
        InfoVxlan::Local(local) => device.local = IpAddr::V4(*local),
        InfoVxlan::Local6(local) => device.local = IpAddr::V6(*local),
        // Whoever turned learning on changed what the tunnel is.
        InfoVxlan::Learning(true) => device.vni = 0,
        _ => {}
    }
}

async fn read_neighbours(handle: &Handle, index: u32) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    for family in [
        AddressFamily::Inet,
        AddressFamily::Inet6,
        AddressFamily::Bridge,
    ] {
        if family == AddressFamily::Inet6 && !has_ipv6() {
            continue;
        }
        let request = handle.neighbours().get().set_address_family(family);
        let found: Vec<NeighbourMessage> = request
            .execute()
            .try_collect()
            .await
            .map_err(|error| kernel(format!("RTM_GETNEIGH({family:?})"), error))?;
        let ours = found.iter().filter(|entry| entry.header.ifindex == index);
        entries.extend(ours.filter_map(|entry| neighbour_of(entry, family)));
    }
    Ok(entries)
}

fn neighbour_of(message: &NeighbourMessage, family: AddressFamily) -> Option<Entry> {
    use netlink_packet_route::neighbour::NeighbourState;
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let address = message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        // Of a forwarding entry the header does not say which family it is.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from))
                .ok()
        }
        _ => None,
    })?;
    let mac = message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::LinkLayerAddress(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    })?;
    let mac = Mac(mac);
    Some(if family == AddressFamily::Bridge {
        Entry::Forwarding { mac, node: address }
    } else {
        Entry::Neighbour { address, mac }
    })
}

async fn read_routes(handle: &Handle, index: u32) -> Result<BTreeSet<Entry>, Error> {
    let mut entries = BTreeSet::new();
    let mut queries = vec![RouteMessageBuilder::<Ipv4Addr>::new().build()];
    if has_ipv6() {
        queries.push(RouteMessageBuilder::<Ipv6Addr>::new().build());
    }
    for query in queries {
        let is_v4 = query.header.address_family == AddressFamily::Inet;
        let found: Vec<RouteMessage> = handle
            .route()
            .get(query)
            .execute()
            .try_collect()
            .await
            .map_err(|error| kernel("RTM_GETROUTE(all)", error))?;
        entries.extend(found.iter().filter_map(|r| route_of(r, index, is_v4)));
    }
    Ok(entries)
}

fn route_of(message: &RouteMessage, wanted_index: u32, is_v4: bool) -> Option<Entry> {
    let mut table = u32::from(message.header.table);
    let mut destination = if is_v4 {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let (mut gateway, mut source, mut index) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => destination = address_of(address)?,
            RouteAttribute::Gateway(address) => gateway = address_of(address),
            RouteAttribute::PrefSource(address) => source = address_of(address),
            RouteAttribute::Oif(number) => index = Some(*number),
            _ => {}
        }
    }
    let is_ours =
        index == Some(wanted_index) && [MAIN_TABLE, NODES_TABLE, RETURN_TABLE].contains(&table);
    let length = message.header.destination_prefix_length;
    // Routes without a next hop are the kernel's own, as fe80::/64.
    gateway.filter(|_| is_ours).and_then(|gateway| {
        Some(Entry::Route {
            table,
            destination: IpNet::new(destination, length).ok()?,
            gateway,
            source,
        })
    })
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn versions() -> impl Iterator<Item = IpVersion> {
    let v6 = has_ipv6().then_some(IpVersion::V6);
    std::iter::once(IpVersion::V4).chain(v6)
}

async fn read_rules(handle: &Handle, version: IpVersion) -> Result<Vec<Entry>, Error> {
    let is_v4 = matches!(version, IpVersion::V4);
    let found: Vec<RuleMessage> = handle
        .rule()
        .get(version)
        .execute()
        .try_collect()
        .await
        .map_err(|error| kernel("RTM_GETRULE", error))?;
    Ok(found.iter().filter_map(|r| rule_of(r, is_v4)).collect())
}

fn rule_of(message: &RuleMessage, is_v4: bool) -> Option<Entry> {
    let mut table = u32::from(message.header.table);
    let (mut priority, mut mark, mut mask, mut interface) = (0, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::FwMark(number) => mark = Some(*number),
            RuleAttribute::FwMask(number) => mask = Some(*number),
            RuleAttribute::Iifname(name) => interface = Some(name.clone()),
            _ => {}
        }
    }
    if ![NODES_TABLE, RETURN_TABLE].contains(&table) {
        return None;
    }
    let packets = match (mark, interface) {
        (Some(mark), _) => Packets::Marked {
            mark,
            mask: mask.unwrap_or(u32::MAX),
        },
        (None, Some(interface)) => Packets::From(interface),
        (None, None) => Packets::From(String::new()),
    };
    Some(Entry::Rule(Rule {
        is_v4,
        priority,
        table,
        packets,
    }))
}
