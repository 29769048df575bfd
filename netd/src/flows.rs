//! Forgets flows that a change of host ports or of a service's endpoints has overtaken.
//!
//! Where a flow goes is decided once, by its first packet, and remembered in
//! the kernel's connection tracking for as long as packets keep coming. A TCP
//! client notices that its peer has changed and connects anew; but while it tries
//! to connect it is sent to the same dead address again and again. A client that
//! just keeps sending datagrams does not, and so would be sent to a dead pod's
//! address, or, if it began before the pod was there, to nobody, for ever.
//!
//! Both are forgotten here, so that the next packet is decided on again. When
//! it cannot be done (a kernel without the interface to connection tracking),
//! the flow ends by itself once its client pauses for half a minute; that is
//! worth a warning and no failed pod.
//!
//! Read more: `net/netfilter/nf_nat_core.c::nf_nat_inet_fn`;
//! `Documentation/networking/nf_conntrack-sysctl.rst`, `udp_timeout`. Try:
//! `cat /proc/net/nf_conntrack`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nlink::netlink::netfilter::{ConntrackFilter, ConntrackStatus, ConntrackTuple, IpProtocol};
use nlink::netlink::{Connection, Netfilter};

use crate::request::Protocol;
use crate::rules::PortElement;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Forgets the flows that these elements sent to a pod that is going.
pub async fn forget_flows_to(elements: &[PortElement]) {
    for element in datagrams(elements) {
        let filter = flows_to(
            element.protocol_number,
            element.pod_address,
            element.pod_port,
        );
        warn_of(element, flush(&filter).await);
    }
}

/// Forgets the flows to endpoints that serve no more: all of datagrams, and those of TCP that
/// nobody has answered. A client that still tries comes to another endpoint by its next SYN; and
/// who asks later by the same port, as clients do by chance, is not sent to a dead pod. Nobody
/// is cut off from a pod that ends in order.
pub async fn forget_endpoints(endpoints: &BTreeSet<(Protocol, IpAddr, u16)>) {
    for (protocol, address, port) in endpoints {
        if let Err(error) = forget_endpoint(*protocol, *address, *port).await {
            tracing::warn!(
                %address,
                port,
                error = &error as &dyn std::error::Error,
                "flows to an endpoint that is gone were not forgotten"
            );
        }
    }
}

async fn forget_endpoint(protocol: Protocol, address: IpAddr, port: u16) -> nlink::Result<()> {
    let filter = flows_to(protocol.number(), address, port);
    if protocol != Protocol::Tcp {
        return flush(&filter).await;
    }
    let unanswered = filter.status(ConntrackStatus::default(), ConntrackStatus::SEEN_REPLY);
    forget_each(&unanswered, |_| true).await
}

/// The flows that are answered from an address and port.
fn flows_to(protocol: u8, address: IpAddr, port: u16) -> ConntrackFilter {
    ConntrackFilter::new()
        .proto(ip_protocol(protocol))
        .reply_src(address)
        .reply_src_port(port)
}

async fn flush(filter: &ConntrackFilter) -> nlink::Result<()> {
    Connection::<Netfilter>::new()?
        .flush_conntrack_matching(filter)
        .await
}

async fn forget_each(
    filter: &ConntrackFilter,
    is_meant: impl Fn(&ConntrackTuple) -> bool,
) -> nlink::Result<()> {
    let connection = Connection::<Netfilter>::new()?;
    for entry in connection.get_conntrack_matching(filter).await? {
        if !is_meant(&entry.orig) {
            continue;
        }
        match connection.del_conntrack_entry(&entry).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Forgets the flows to this machine that began before these elements stood.
///
/// `own_addresses` are the machine's: flows of pods and of the host to the same
/// port elsewhere (think of port 53) must go on.
pub async fn forget_flows_before(elements: &[PortElement], own_addresses: &BTreeSet<IpAddr>) {
    for element in datagrams(elements) {
        warn_of(element, forget_before(element, own_addresses).await);
    }
}

async fn forget_before(element: &PortElement, own: &BTreeSet<IpAddr>) -> nlink::Result<()> {
    let not_rewritten = ConntrackStatus::default();
    let filter = ConntrackFilter::new()
        .proto(ip_protocol(element.protocol_number))
        .orig_dst_port(element.host_port)
        .status(not_rewritten, ConntrackStatus::DST_NAT);
    forget_each(&filter, |orig| is_covered(orig, element, own)).await
}

/// Whether the element would have rewritten a packet with these addresses.
fn is_covered(orig: &ConntrackTuple, element: &PortElement, own: &BTreeSet<IpAddr>) -> bool {
    orig.dst_ip.is_some_and(|address| {
        let is_local = address.is_loopback() || own.contains(&address);
        let is_meant = element.host_address.is_none_or(|host| host == address);
        is_local && is_meant && address.is_ipv4() == element.pod_address.is_ipv4()
    })
}

fn datagrams(elements: &[PortElement]) -> impl Iterator<Item = &PortElement> {
    elements
        .iter()
        .filter(|element| element.protocol_number != TCP)
}

fn ip_protocol(number: u8) -> IpProtocol {
    match number {
        TCP => IpProtocol::Tcp,
        UDP => IpProtocol::Udp,
        other => IpProtocol::Other(other),
    }
}

fn warn_of(element: &PortElement, done: nlink::Result<()>) {
    if let Err(error) = done {
        tracing::warn!(
            %element,
            error = &error as &dyn std::error::Error,
            "flows of datagrams to a host port were not forgotten"
        );
    }
}

#[cfg(test)]
mod tests;
