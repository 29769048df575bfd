//! Waits until packets flow through a new veth pair.
//!
//! `IFF_UP` is a wish. That a link has a carrier the kernel notices in a work
//! queue of its own, a moment later; only then does a bridge forward through
//! the port, and only then does IPv6 count the link as ready. What is sent
//! before is dropped in silence, and the asker asks again after a second: a pod
//! handed over too early starts a second late, now and then.
//!
//! Read more: `net/core/link_watch.c::linkwatch_do_dev`,
//! `net/bridge/br_if.c::br_port_carrier_check`.

use std::time::{Duration, Instant};

use netlink_packet_route::link::{
    BridgePortState, InfoBridgePort, InfoPortData, LinkAttribute, LinkInfo, LinkMessage, State,
};
use rtnetlink::Handle;

use crate::error::Error;
use crate::links::observe::{has_tentative_address, read_link};

/// One after another, the kernel may notice carriers only once a second; a port
/// that needs longer than that belongs to a bridge with the spanning tree on,
/// and nobody waits half a minute for that.
const PATIENCE: Duration = Duration::from_millis(1200);
const PAUSE: Duration = Duration::from_millis(1);

/// The interfaces that packets pass.
#[derive(Debug, Clone, Copy)]
pub struct Ends<'a> {
    /// The bridge, on the host.
    pub bridge: &'a str,
    /// Its port, on the host.
    pub port: &'a str,
    /// The other end, in the pod.
    pub pod: &'a str,
}

/// Returns when the port forwards, the pod's end has a carrier and the addresses
/// of both sides answer, or when enough time has passed: a slow link is no
/// error, it comes up later.
///
/// # Errors
///
/// `Kernel`.
pub async fn wait_until_settled(host: &Handle, pod: &Handle, ends: Ends<'_>) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    wait_for_link(host, ends.port, is_forwarding, deadline).await?;
    wait_for_link(pod, ends.pod, has_carrier, deadline).await?;
    wait_for_addresses(pod, ends.pod, deadline).await?;
    wait_for_addresses(host, ends.bridge, deadline).await
}

/// An IPv6 address is tentative until the kernel has joined the group by which
/// neighbours ask for it, even where it detects no duplicates: that, too, is
/// left to a work queue (`net/ipv6/addrconf.c::addrconf_dad_begin`).
async fn wait_for_addresses(handle: &Handle, name: &str, deadline: Instant) -> Result<(), Error> {
    let Some(link) = read_link(handle, name).await? else {
        return Ok(());
    };
    while has_tentative_address(handle, link.header.index).await? && Instant::now() < deadline {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn wait_for_link(
    handle: &Handle,
    name: &str,
    is_ready: fn(&LinkMessage) -> bool,
    deadline: Instant,
) -> Result<(), Error> {
    while !read_link(handle, name)
        .await?
        .as_ref()
        .is_some_and(is_ready)
        && Instant::now() < deadline
    {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

fn is_forwarding(link: &LinkMessage) -> bool {
    link.attributes
        .iter()
        .filter_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        })
        .flatten()
        .filter_map(|info| match info {
            LinkInfo::PortData(InfoPortData::BridgePort(attributes)) => Some(attributes),
            _ => None,
        })
        .flatten()
        .any(|attribute| {
            matches!(
                attribute,
                InfoBridgePort::State(BridgePortState::Forwarding)
            )
        })
}

fn has_carrier(link: &LinkMessage) -> bool {
    link.attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkAttribute::OperState(State::Up)))
}
