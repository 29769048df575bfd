//! Carries link steps out, one request each.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkMessage};
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth,
    RouteMessageBuilder,
};

use crate::error::{Error, ErrorKind};
use crate::links::observe::read_link;
use crate::links::socket::{errno, kernel};
use crate::links::{LinkStep, VethStep};

/// Carries steps out in order, in the namespace of the socket.
///
/// `pod_netns` is where a veth pair's other end goes; steps without one do not need it.
/// What exists already is accepted for bridges and addresses, and refused for
/// veth pairs: a pair of that name would be another pod's.
///
/// # Errors
///
/// `Kernel`, with the step.
pub async fn apply(
    handle: &Handle,
    steps: &[LinkStep],
    pod_netns: Option<&File>,
) -> Result<(), Error> {
    for step in steps {
        let done = match step {
            LinkStep::AddBridge { name, mac, mtu } => {
                let bridge = LinkBridge::new(name)
                    .address(mac.0.to_vec())
                    .mtu(*mtu)
                    .up()
                    .build();
                accept_existing(handle.link().add(bridge).execute().await)
            }
            LinkStep::AddAddress { interface, address } => {
                let index = index_of(handle, interface).await?;
                let request = handle
                    .address()
                    .add(index, address.addr(), address.prefix_len());
                accept_existing(request.execute().await)
            }
            LinkStep::SetAlias { interface, alias } => {
                let index = index_of(handle, interface).await?;
                let message = LinkUnspec::new_with_index(index).alias(alias).build();
                handle.link().set(message).execute().await
            }
            LinkStep::BringUp { interface } => {
                let index = index_of(handle, interface).await?;
                handle
                    .link()
                    .set(LinkUnspec::new_with_index(index).up().build())
                    .execute()
                    .await
            }
            LinkStep::AddVeth(veth) => {
                let controller = index_of(handle, &veth.bridge).await?;
                let netns = pod_netns.ok_or_else(|| {
                    Error::new(
                        ErrorKind::Kernel,
                        format!("{step}: without a network namespace"),
                    )
                })?;
                handle
                    .link()
                    .add(veth_message(veth, controller, netns.as_raw_fd()))
                    .execute()
                    .await
            }
            LinkStep::SetHairpin { interface } => {
                let index = index_of(handle, interface).await?;
                handle
                    .link()
                    .set_port(LinkBridgePort::new(index).hairpin(true).build())
                    .execute()
                    .await
            }
            LinkStep::AddDefaultRoute { gateway, interface } => {
                let index = index_of(handle, interface).await?;
                add_default_route(handle, index, *gateway).await
            }
        };
        done.map_err(|error| kernel(step, error))?;
    }
    Ok(())
}

/// Removes an interface; succeeds if it is gone.
///
/// # Errors
///
/// `Kernel`.
pub async fn remove_link(handle: &Handle, name: &str) -> Result<(), Error> {
    let by_name = LinkUnspec::new_with_name(name).build();
    match handle.link().del_with_message(by_name).execute().await {
        Err(error) if errno(&error) != Some(nix::Error::ENODEV as i32) => {
            Err(kernel(format!("RTM_DELLINK({name:?})"), error))
        }
        _ => Ok(()),
    }
}

/// Both ends in one request: the far end is *born* in the pod's namespace. Moving
/// it there later would make the kernel wait for every reader of its lists (RCU).
/// It is born down: the kernel would set it up before the two ends know each
/// other, and refuse with `ENOTCONN` (`drivers/net/veth.c::veth_open`).
fn veth_message(veth: &VethStep, controller: u32, pod_netns: RawFd) -> LinkMessage {
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(&veth.pod_interface)
        .address(veth.pod_mac.0.to_vec())
        .mtu(veth.mtu)
        .setns_by_fd(pod_netns)
        .build();
    LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(&veth.host_interface)
        .mtu(veth.mtu)
        .controller(controller)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .up()
        .build()
}

async fn add_default_route(
    handle: &Handle,
    index: u32,
    gateway: IpAddr,
) -> Result<(), rtnetlink::Error> {
    match gateway {
        IpAddr::V4(v4) => {
            let route = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .gateway(v4)
                .output_interface(index);
            handle.route().add(route.build()).execute().await
        }
        IpAddr::V6(v6) => {
            let route = RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .gateway(v6)
                .output_interface(index);
            handle.route().add(route.build()).execute().await
        }
    }
}

fn accept_existing(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if errno(&error) == Some(nix::Error::EEXIST as i32) => Ok(()),
        other => other,
    }
}

/// The index of an interface.
pub(crate) async fn index_of(handle: &Handle, name: &str) -> Result<u32, Error> {
    match read_link(handle, name).await? {
        Some(link) => Ok(link.header.index),
        None => Err(Error::new(
            ErrorKind::Kernel,
            format!("interface {name:?} is gone"),
        )),
    }
}
