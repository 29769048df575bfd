use std::net::IpAddr;

use crate::network::{Masquerade, NetworkConfig};
use crate::request::{HostPort, Protocol};
use crate::rules::plan::{plan_elements, plan_rules};

fn addresses() -> Vec<IpAddr> {
    ["10.88.64.2", "fdbe:2788:64::2"]
        .map(|text| text.parse().unwrap())
        .to_vec()
}

fn port(host_address: Option<&str>) -> HostPort {
    HostPort {
        protocol: Protocol::Tcp,
        host_address: host_address.map(|text| text.parse().unwrap()),
        host_port: 8080,
        container_port: 80,
    }
}

fn elements(host_address: Option<&str>) -> Vec<String> {
    plan_elements(&[port(host_address)], &addresses())
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn the_documentation_shows_the_table_as_it_is() {
    let documented = include_str!("../../../../docs/network.md");
    let table = plan_rules(&NetworkConfig::default()).to_string();
    assert!(
        documented.contains(&table),
        "docs/network.md should hold this:\n{table}"
    );
}

#[test]
fn a_port_without_an_address_is_open_in_each_family_the_pod_has() {
    assert_eq!(
        elements(None),
        [
            "ports-v4 { tcp . 8080 : 10.88.64.2 . 80 }",
            "ports-v6 { tcp . 8080 : fdbe:2788:64::2 . 80 }",
        ]
    );
    let v4_only = &addresses()[..1];
    assert_eq!(plan_elements(&[port(None)], v4_only).len(), 1);
}

#[test]
fn an_address_decides_family_and_map() {
    let cases = [
        (
            "192.0.2.1",
            "address-ports-v4 { 192.0.2.1 . tcp . 8080 : 10.88.64.2 . 80 }",
        ),
        ("0.0.0.0", "ports-v4 { tcp . 8080 : 10.88.64.2 . 80 }"),
        ("::", "ports-v6 { tcp . 8080 : fdbe:2788:64::2 . 80 }"),
        (
            "2001:db8::1",
            "address-ports-v6 { 2001:db8::1 . tcp . 8080 : fdbe:2788:64::2 . 80 }",
        ),
    ];
    for (address, element) in cases {
        assert_eq!(elements(Some(address)), [element]);
    }
}

#[test]
fn without_masquerade_only_local_traffic_is_rewritten() {
    let count = |masquerade| {
        let config = NetworkConfig {
            masquerade,
            ..NetworkConfig::default()
        };
        let text = plan_rules(&config).to_string();
        text.matches("masquerade comment").count()
    };
    // Localhost, and pod to host port in two families; then the world in two.
    assert_eq!(count(Masquerade::Never), 3);
    assert_eq!(count(Masquerade::Outbound), 5);
}

#[test]
fn another_configuration_has_another_comment() {
    let config = NetworkConfig::default();
    let other = NetworkConfig {
        subnets: vec!["10.1.0.0/16".parse().unwrap(), config.subnets[1]],
        ..config.clone()
    };
    let (a, b) = (plan_rules(&config), plan_rules(&other));
    assert_eq!(a.rule_count(), b.rule_count());
    assert_ne!(a.comment, b.comment);
    assert_eq!(a.comment, plan_rules(&config).comment);
}

#[test]
fn comments_fit_into_a_rule() {
    for chain in plan_rules(&NetworkConfig::default()).chains {
        for rule in chain.rules {
            assert!(rule.comment.len() <= 127, "{}", rule.comment);
        }
    }
}
