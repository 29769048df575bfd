use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};

use crate::error::ErrorKind;
use crate::listeners::check_ports_free;
use crate::request::{HostPort, Protocol};

fn port(protocol: Protocol, host_address: Option<IpAddr>, host_port: u16) -> HostPort {
    HostPort {
        protocol,
        host_address,
        host_port,
        container_port: 80,
    }
}

#[test]
fn a_listener_is_found_through_every_address_that_covers_it() {
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let listener = TcpListener::bind((localhost, 0)).unwrap();
    let number = listener.local_addr().unwrap().port();
    for address in [
        None,
        Some(localhost),
        Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
    ] {
        let wanted = [port(Protocol::Tcp, address, number)];
        let error = check_ports_free(&wanted, true, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains(&format!("{number}/tcp")));
    }
    let elsewhere = Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)));
    check_ports_free(&[port(Protocol::Tcp, elsewhere, number)], true, false).unwrap();
    drop(listener);
    check_ports_free(&[port(Protocol::Tcp, None, number)], true, false).unwrap();
}

#[test]
fn a_datagram_socket_is_found_and_its_protocol_is_its_own() {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let number = socket.local_addr().unwrap().port();
    let error = check_ports_free(&[port(Protocol::Udp, None, number)], true, false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    check_ports_free(&[port(Protocol::Sctp, None, number)], true, false).unwrap();
}

#[test]
fn an_address_that_the_host_lacks_is_named() {
    let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));
    let error =
        check_ports_free(&[port(Protocol::Tcp, Some(address), 8080)], true, false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("192.0.2.77"));
}
