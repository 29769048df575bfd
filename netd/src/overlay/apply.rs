//! Carries the overlay's steps out, one request each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, LinkUnspec, LinkVxlan, RouteMessageBuilder};

use crate::error::{Error, ErrorKind};
use crate::links::Mac;
use crate::links::apply::{index_of, remove_link};
use crate::links::socket::{errno, kernel};
use crate::overlay::{DEVICE, Device, Entry, Packets, Rule, Step};
use crate::settings;

/// Carries steps out in order. All entries are tried, so that one that the
/// kernel refuses does not keep the others away; the first failure is returned.
///
/// # Errors
///
/// `Kernel` or `Unsupported`, with the step.
pub async fn apply(handle: &Handle, steps: &[Step]) -> Result<(), Error> {
    let mut first_failure = None;
    for step in steps {
        let done = match step {
            Step::RemoveDevice => remove_link(handle, DEVICE).await,
            Step::AddDevice(device) => add_device(handle, device)
                .await
                .map_err(|error| kernel(step, error)),
            Step::Set(settings) => settings::apply(settings),
            Step::BringUp => bring_up(handle, step).await,
            Step::Remove(entry) => remove(handle, entry, step).await,
            Step::Add(entry) => add(handle, entry, step).await,
        };
        match (done, step) {
            (Ok(()), _) => {}
            (Err(error), Step::Remove(_) | Step::Add(_)) => {
                first_failure.get_or_insert(error);
            }
            // Without the interface none of the rest can be.
            (Err(error), _) => return Err(error),
        }
    }
    first_failure.map_or(Ok(()), Err)
}

/// Checksums of the outer UDP header are left out over IPv4, as the RFC wants
/// it, and with them the whole class of faults where offloading computes one
/// wrongly and a connection only gets through when TCP tries for the sixth
/// time, after 63 seconds. Over IPv6 the header's own is the only one there is.
async fn add_device(handle: &Handle, device: &Device) -> Result<(), rtnetlink::Error> {
    let mut link = LinkVxlan::new(DEVICE, device.vni)
        .port(device.port)
        .learning(false)
        .udp_csum(false);
    link = match device.local {
        IpAddr::V4(local) => link.local(local),
        IpAddr::V6(local) => link.local6(local),
    };
    let message = link.address(device.mac.0.to_vec()).mtu(device.mtu).build();
    handle.link().add(message).execute().await
}

async fn bring_up(handle: &Handle, step: &Step) -> Result<(), Error> {
    let index = index_of(handle, DEVICE).await?;
    let message = LinkUnspec::new_with_index(index).up().build();
    let done = handle.link().set(message).execute().await;
    done.map_err(|error| kernel(step, error))
}

async fn add(handle: &Handle, entry: &Entry, step: &Step) -> Result<(), Error> {
    let done = match entry {
        Entry::Address(net) => {
            let index = index_of(handle, DEVICE).await?;
            let request = handle.address().add(index, net.addr(), net.prefix_len());
            request.execute().await
        }
        Entry::Rule(rule) => {
            let mut request = handle.rule().add();
            *request.message_mut() = rule_message(rule);
            request.execute().await
        }
        Entry::Forwarding { mac, node } => {
            let index = index_of(handle, DEVICE).await?;
            handle
                .neighbours()
                .add_bridge(index, &mac.0)
                .destination(*node)
                .flags(NeighbourFlags::Own)
                .replace()
                .execute()
                .await
        }
        Entry::Neighbour { address, mac } => {
            let index = index_of(handle, DEVICE).await?;
            handle
                .neighbours()
                .add(index, *address)
                .link_layer_address(&mac.0)
                .replace()
                .execute()
                .await
        }
        Entry::Route { .. } => {
            let index = index_of(handle, DEVICE).await?;
            let message = route_message(entry, index).ok_or_else(|| mixed(step))?;
            handle.route().add(message).execute().await
        }
    };
    match done {
        Err(error) if errno(&error) == Some(nix::Error::EEXIST as i32) => Ok(()),
        other => other.map_err(|error| kernel(step, error)),
    }
}

async fn remove(handle: &Handle, entry: &Entry, step: &Step) -> Result<(), Error> {
    let done = match entry {
        Entry::Address(net) => return remove_address(handle, DEVICE, net.addr()).await,
        Entry::Rule(rule) => handle.rule().del(rule_message(rule)).execute().await,
        Entry::Forwarding { mac, node } => {
            let index = index_of(handle, DEVICE).await?;
            let message = neighbour_message(AddressFamily::Bridge, index, *node, *mac);
            handle.neighbours().del(message).execute().await
        }
        Entry::Neighbour { address, mac } => {
            let index = index_of(handle, DEVICE).await?;
            let family = if address.is_ipv4() {
                AddressFamily::Inet
            } else {
                AddressFamily::Inet6
            };
            let message = neighbour_message(family, index, *address, *mac);
            handle.neighbours().del(message).execute().await
        }
        Entry::Route { .. } => {
            let index = index_of(handle, DEVICE).await?;
            let message = route_message(entry, index).ok_or_else(|| mixed(step))?;
            handle.route().del(message).execute().await
        }
    };
    let is_gone = |error: &rtnetlink::Error| {
        let gone = [nix::Error::ENOENT, nix::Error::ESRCH, nix::Error::ENODEV];
        errno(error).is_some_and(|code| gone.iter().any(|errno| *errno as i32 == code))
    };
    match done {
        Err(error) if is_gone(&error) => Ok(()),
        other => other.map_err(|error| kernel(step, error)),
    }
}

/// Takes an address from an interface; succeeds if it is gone.
///
/// # Errors
///
/// `Kernel`.
pub async fn remove_address(
    handle: &Handle,
    interface: &str,
    address: IpAddr,
) -> Result<(), Error> {
    let index = index_of(handle, interface).await?;
    let net = IpNet::from(address);
    let mut request = handle.address().add(index, address, net.prefix_len());
    let message = request.message_mut().clone();
    let done = handle.address().del(message).execute().await;
    match done {
        Err(error) if errno(&error) == Some(nix::Error::EADDRNOTAVAIL as i32) => Ok(()),
        other => other.map_err(|error| kernel(format!("address del {net} dev {interface}"), error)),
    }
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.is_v4 {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Table(rule.table),
    ];
    match &rule.packets {
        Packets::Marked { mark, mask } => {
            message.attributes.push(RuleAttribute::FwMark(*mark));
            message.attributes.push(RuleAttribute::FwMask(*mask));
        }
        Packets::From(interface) if !interface.is_empty() => {
            let name = RuleAttribute::Iifname(interface.clone());
            message.attributes.push(name);
        }
        Packets::From(_) => {}
    }
    message
}

fn neighbour_message(
    family: AddressFamily,
    index: u32,
    address: IpAddr,
    mac: Mac,
) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    if family == AddressFamily::Bridge {
        message.header.flags = NeighbourFlags::Own;
    }
    message.attributes = vec![
        NeighbourAttribute::Destination(match address {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        }),
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
    ];
    message
}

/// None if the entry mixes families, which no plan does.
fn route_message(entry: &Entry, index: u32) -> Option<RouteMessage> {
    let Entry::Route {
        table,
        destination,
        gateway,
        source,
    } = entry
    else {
        return None;
    };
    Some(match (destination, gateway, source) {
        (IpNet::V4(net), IpAddr::V4(gateway), None | Some(IpAddr::V4(_))) => {
            let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .gateway(*gateway)
                .output_interface(index)
                .onlink()
                .table_id(*table);
            if let Some(IpAddr::V4(source)) = source {
                route = route.pref_source(*source);
            }
            route.build()
        }
        (IpNet::V6(net), IpAddr::V6(gateway), None | Some(IpAddr::V6(_))) => {
            let mut route = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .gateway(*gateway)
                .output_interface(index)
                .onlink()
                .table_id(*table);
            if let Some(IpAddr::V6(source)) = source {
                route = route.pref_source(*source);
            }
            route.build()
        }
        _ => return None,
    })
}

fn mixed(step: &Step) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!("{step}: addresses of two families"),
    )
}
