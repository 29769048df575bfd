//! Whether a process of the host already listens on a port that a pod wants.
//!
//! A host port is a rule, not a socket, and rules win: the pod would silently
//! take the port from the process. So each port is bound for a moment, exactly
//! as the process would bind it, and released again. A process that comes
//! *later* is not kept from binding; it will not be heard
//! (docs/network.md, "What it does not do").
//!
//! Read more: `net/ipv4/inet_connection_sock.c::inet_csk_get_port`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};

use crate::error::{Error, ErrorKind};
use crate::request::{HostPort, Protocol};

/// Refuses ports that a socket of this network namespace is bound to.
///
/// `families` are those in which the pod has an address.
///
/// # Errors
///
/// `Conflict` if the port is taken, `Invalid` if the host lacks the address.
pub fn check_ports_free(ports: &[HostPort], has_v4: bool, has_v6: bool) -> Result<(), Error> {
    for port in ports {
        for address in addresses_to_bind(port, has_v4, has_v6) {
            check_port_free(port, address)?;
        }
    }
    Ok(())
}

/// One address a family: its own, or the one that stands for all.
fn addresses_to_bind(port: &HostPort, has_v4: bool, has_v6: bool) -> Vec<IpAddr> {
    if let Some(address) = port.host_address {
        return vec![address];
    }
    let v4 = has_v4.then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let v6 = has_v6.then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    v4.into_iter().chain(v6).collect()
}

fn check_port_free(port: &HostPort, address: IpAddr) -> Result<(), Error> {
    match bind_for_a_moment(port.protocol, SocketAddr::new(address, port.host_port)) {
        Ok(()) => Ok(()),
        // A kernel without SCTP or IPv6 sockets has no socket that could be bound.
        Err(Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT | Errno::AFNOSUPPORT) => Ok(()),
        Err(Errno::ADDRINUSE) => Err(Error::new(
            ErrorKind::Conflict,
            format!("host_ports: {port} is in use by a process of the host"),
        )),
        Err(Errno::ADDRNOTAVAIL) => Err(Error::new(
            ErrorKind::Invalid,
            format!("host_ports: {port}: the host has no address {address}"),
        )),
        Err(errno) => Err(Error::caused(
            ErrorKind::Kernel,
            format!(
                "host_ports: {port}: bind({})",
                SocketAddr::new(address, port.host_port)
            ),
            errno,
        )),
    }
}

fn bind_for_a_moment(protocol: Protocol, address: SocketAddr) -> Result<(), Errno> {
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(number))?;
    if protocol == Protocol::Tcp {
        // Connections of a listener that has gone linger in TIME_WAIT for a
        // minute; with this option only a living socket is in the way.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)
}

#[cfg(test)]
mod tests;
