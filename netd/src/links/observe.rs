//! Reads what there is of links, addresses and routes; changes nothing.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::error::Error;
use crate::links::socket::{errno, kernel};
use crate::links::{LinkState, ObservedHost, ObservedLink, ObservedRoute};
use crate::request::LinkStatistics;

/// What of the host matters to the network with this bridge.
///
/// Routes are read only while there is no bridge: a router may have a million.
///
/// # Errors
///
/// `Kernel`.
pub async fn observe_host(handle: &Handle, bridge: &str) -> Result<ObservedHost, Error> {
    Ok(match observe_bridge(handle, bridge).await? {
        Some(link) => ObservedHost {
            bridge: Some(link),
            ..ObservedHost::default()
        },
        None => ObservedHost {
            routes: read_routes(handle).await?,
            default_mtu: read_mtu_for_pods(handle).await?,
            ..ObservedHost::default()
        },
    })
}

/// The interface that has the bridge's name.
///
/// # Errors
///
/// `Kernel`.
pub async fn observe_bridge(handle: &Handle, name: &str) -> Result<Option<ObservedLink>, Error> {
    let Some(link) = read_link(handle, name).await? else {
        return Ok(None);
    };
    Ok(Some(ObservedLink {
        index: link.header.index,
        kind: kind_of(&link),
        mtu: mtu_of(&link),
        state: if link.header.flags.contains(LinkFlags::Up) {
            LinkState::Up
        } else {
            LinkState::Down
        },
        alias: alias_of(&link),
        addresses: read_addresses(handle, link.header.index).await?,
    }))
}

/// One interface by name; none if there is none.
pub(crate) async fn read_link(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, Error> {
    let mut links = handle.link().get().match_name(name).execute();
    match links.try_next().await {
        Ok(link) => Ok(link),
        Err(error) if errno(&error) == Some(nix::Error::ENODEV as i32) => Ok(None),
        Err(error) => Err(kernel(format!("RTM_GETLINK({name:?})"), error)),
    }
}

/// Whether the interface is a port of some bridge, counted over all links.
///
/// # Errors
///
/// `Kernel`.
pub async fn count_ports(handle: &Handle, bridge_index: u32) -> Result<usize, Error> {
    let links = read_links(handle).await?;
    let is_port = |link: &&LinkMessage| {
        link.attributes
            .iter()
            .any(|a| matches!(a, LinkAttribute::Controller(index) if *index == bridge_index))
    };
    Ok(links.iter().filter(is_port).count())
}

/// The counters of every interface of a namespace.
///
/// # Errors
///
/// `Kernel`.
pub async fn read_statistics(handle: &Handle) -> Result<Vec<LinkStatistics>, Error> {
    let links = read_links(handle).await?;
    Ok(links.iter().filter_map(statistics_of).collect())
}

async fn read_links(handle: &Handle) -> Result<Vec<LinkMessage>, Error> {
    let links = handle.link().get().execute().try_collect().await;
    links.map_err(|error| kernel("RTM_GETLINK(all)", error))
}

fn statistics_of(link: &LinkMessage) -> Option<LinkStatistics> {
    let interface = name_of(link)?;
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Stats64(stats) => Some(LinkStatistics {
                interface: interface.clone(),
                received_bytes: stats.rx_bytes,
                received_packets: stats.rx_packets,
                received_errors: stats.rx_errors,
                received_dropped: stats.rx_dropped,
                sent_bytes: stats.tx_bytes,
                sent_packets: stats.tx_packets,
                sent_errors: stats.tx_errors,
                sent_dropped: stats.tx_dropped,
            }),
            _ => None,
        })
}

/// Whether an interface has an IPv6 address that does not answer yet.
pub(crate) async fn has_tentative_address(handle: &Handle, index: u32) -> Result<bool, Error> {
    let messages = read_address_messages(handle, index).await?;
    Ok(messages
        .iter()
        .any(|message| message.header.flags.contains(AddressHeaderFlags::Tentative)))
}

async fn read_address_messages(handle: &Handle, index: u32) -> Result<Vec<AddressMessage>, Error> {
    handle
        .address()
        .get()
        .set_link_index_filter(index)
        .execute()
        .try_collect()
        .await
        .map_err(|error| kernel(format!("RTM_GETADDR(index {index})"), error))
}

/// The addresses of one interface.
pub(crate) async fn read_addresses(handle: &Handle, index: u32) -> Result<Vec<IpNet>, Error> {
    let messages = read_address_messages(handle, index).await?;
    Ok(messages.iter().filter_map(address_of).collect())
}

/// The addresses of all interfaces.
///
/// # Errors
///
/// `Kernel`.
pub async fn read_own_addresses(handle: &Handle) -> Result<BTreeSet<IpAddr>, Error> {
    let messages: Vec<AddressMessage> = handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(|error| kernel("RTM_GETADDR(all)", error))?;
    let addresses = messages.iter().filter_map(address_of);
    Ok(addresses.map(|net| net.addr()).collect())
}

/// The interface that has an address; none if the machine does not have it.
pub(crate) async fn read_own_interface(
    handle: &Handle,
    wanted: IpAddr,
) -> Result<Option<LinkMessage>, Error> {
    let messages: Vec<AddressMessage> = handle
        .address()
        .get()
        .set_address_filter(wanted)
        .execute()
        .try_collect()
        .await
        .map_err(|error| kernel(format!("RTM_GETADDR({wanted})"), error))?;
    let Some(message) = messages.first() else {
        return Ok(None);
    };
    let links = handle.link().get().match_index(message.header.index);
    let link = links.execute().try_next().await;
    link.map_err(|error| kernel("RTM_GETLINK(index)", error))
}

fn address_of(message: &AddressMessage) -> Option<IpNet> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => {
                IpNet::new(*address, message.header.prefix_len).ok()
            }
            _ => None,
        })
}

async fn read_routes(handle: &Handle) -> Result<Vec<ObservedRoute>, Error> {
    let mut routes = Vec::new();
    let queries = [
        RouteMessageBuilder::<Ipv4Addr>::new().build(),
        RouteMessageBuilder::<Ipv6Addr>::new().build(),
    ];
    for query in queries {
        let found: Vec<RouteMessage> = handle
            .route()
            .get(query)
            .execute()
            .try_collect()
            .await
            .map_err(|error| kernel("RTM_GETROUTE(main)", error))?;
        for route in found.iter().filter(|route| is_of_main_table(route)) {
            let Some(destination) = destination_of(route) else {
                continue;
            };
            // Every interface has fe80::/64 and ff00::/8: they are no one's.
            let own = match destination.addr() {
                IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast(),
                IpAddr::V4(v4) => v4.is_multicast(),
            };
            if !own {
                routes.push((destination, output_interface_of(route)));
            }
        }
    }
    let mut named = Vec::with_capacity(routes.len());
    for (destination, index) in routes {
        let interface = match index {
            Some(index) => read_name(handle, index).await?,
            None => String::new(),
        };
        named.push(ObservedRoute {
            destination,
            interface,
        });
    }
    Ok(named)
}

async fn read_name(handle: &Handle, index: u32) -> Result<String, Error> {
    let link = handle
        .link()
        .get()
        .match_index(index)
        .execute()
        .try_next()
        .await;
    Ok(link
        .ok()
        .flatten()
        .as_ref()
        .and_then(name_of)
        .unwrap_or_else(|| format!("index {index}")))
}

/// On a node of a cluster pods' packets go through the tunnel, too, which has
/// less room than the wire.
async fn read_mtu_for_pods(handle: &Handle) -> Result<Option<u32>, Error> {
    let to_world = read_default_mtu(handle).await?;
    let tunnel = read_link(handle, crate::overlay::DEVICE).await?;
    Ok(to_world
        .into_iter()
        .chain(tunnel.as_ref().map(mtu_of))
        .min())
}

/// Asks the kernel where it would send a packet to the world, and reads that interface's MTU.
async fn read_default_mtu(handle: &Handle) -> Result<Option<u32>, Error> {
    // Addresses for documentation (RFC 5737, RFC 3849): only a default route leads there.
    let queries = [
        RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::new(192, 0, 2, 1), 32)
            .build(),
        RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 128)
            .build(),
    ];
    for query in queries {
        // No route is an answer, not a failure.
        let Ok(Some(route)) = handle.route().get(query).execute().try_next().await else {
            continue;
        };
        let Some(index) = output_interface_of(&route) else {
            continue;
        };
        let link = handle
            .link()
            .get()
            .match_index(index)
            .execute()
            .try_next()
            .await;
        // Whoever took such an address for itself reaches it by loopback.
        if let Ok(Some(link)) = link
            && !link.header.flags.contains(LinkFlags::Loopback)
        {
            return Ok(Some(mtu_of(&link)));
        }
    }
    Ok(None)
}

fn is_of_main_table(route: &RouteMessage) -> bool {
    let wide = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    wide.unwrap_or(u32::from(route.header.table)) == u32::from(RouteHeader::RT_TABLE_MAIN)
}

fn destination_of(route: &RouteMessage) -> Option<IpNet> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => {
                IpNet::new(IpAddr::V4(*v4), route.header.destination_prefix_length).ok()
            }
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => {
                IpNet::new(IpAddr::V6(*v6), route.header.destination_prefix_length).ok()
            }
            _ => None,
        })
}

fn output_interface_of(route: &RouteMessage) -> Option<u32> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        })
}

fn name_of(link: &LinkMessage) -> Option<String> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        })
}

fn alias_of(link: &LinkMessage) -> String {
    let alias = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfAlias(alias) => Some(alias.clone()),
        _ => None,
    });
    alias.unwrap_or_default()
}

pub(crate) fn mtu_of(link: &LinkMessage) -> u32 {
    let mtu = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
    mtu.unwrap_or(1500)
}

fn kind_of(link: &LinkMessage) -> String {
    let infos = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        });
    let kind = infos.into_iter().flatten().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    });
    kind.unwrap_or_default()
}
