use std::collections::BTreeSet;
use std::net::IpAddr;

use nlink::netlink::netfilter::ConntrackTuple;

use crate::flows::is_covered;
use crate::request::{HostPort, Protocol};
use crate::rules::plan::plan_elements;

#[test]
fn only_flows_to_this_machine_and_the_ports_address_are_covered() {
    let own: BTreeSet<IpAddr> = ["192.0.2.1", "192.0.2.2"]
        .map(|text| text.parse().unwrap())
        .into();
    let covered = |host_address: Option<&str>, to: &str| {
        let port = HostPort {
            protocol: Protocol::Udp,
            host_address: host_address.map(|text| text.parse().unwrap()),
            host_port: 53,
            container_port: 53,
        };
        let element = plan_elements(&[port], &["10.88.64.2".parse().unwrap()])[0];
        let flow = ConntrackTuple {
            dst_ip: Some(to.parse().unwrap()),
            ..ConntrackTuple::default()
        };
        is_covered(&flow, &element, &own)
    };
    assert!(covered(None, "192.0.2.1"));
    assert!(covered(None, "127.0.0.1"));
    assert!(!covered(None, "9.9.9.9"), "a query to a server elsewhere");
    assert!(
        !covered(None, "::1"),
        "the other family has its own element"
    );
    assert!(covered(Some("192.0.2.1"), "192.0.2.1"));
    assert!(!covered(Some("192.0.2.1"), "192.0.2.2"));
}
