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
use crate::links::observe::read_link;

/// One after another, the kernel may notice carriers only once a second; a port
/// that needs longer than that belongs to a bridge with the spanning tree on,
/// and nobody waits half a minute for that.
const PATIENCE: Duration = Duration::from_millis(1200);
const PAUSE: Duration = Duration::from_millis(1);

/// Returns when the port forwards and the pod's end has a carrier, or when
/// enough time has passed: a slow link is no error, it comes up later.
///
/// # Errors
///
/// `Kernel`.
pub async fn wait_until_settled(
    host: &Handle,
    port: &str,
    pod: &Handle,
    interface: &str,
) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    wait_for(host, port, is_forwarding, deadline).await?;
    wait_for(pod, interface, has_carrier, deadline).await
}

async fn wait_for(
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
