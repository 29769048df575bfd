use std::collections::BTreeSet;
use std::path::Path;

use crate::links::{ObservedHost, bridge_alias, host_interface, mac_for, mtu};
use crate::network::{INTERFACE_NAME_LIMIT_BYTES, NetworkConfig};

#[test]
fn interface_names_fit_are_stable_and_differ() {
    let name = host_interface("default", "web");
    assert_eq!(name, host_interface("default", "web"));
    assert_eq!(name.len(), INTERFACE_NAME_LIMIT_BYTES - 1);
    // Network and pod cannot be shifted into each other.
    assert_ne!(host_interface("ab", "c"), host_interface("a", "bc"));
    let many: BTreeSet<String> = (0..10_000)
        .map(|number| host_interface("default", &format!("pod-{number}")))
        .collect();
    assert_eq!(many.len(), 10_000);
}

#[test]
fn link_layer_addresses_are_local_and_follow_the_address() {
    let mac = mac_for("10.88.64.2".parse().unwrap());
    assert_eq!(mac.to_string(), "02:62:0a:58:40:02");
    assert_eq!(mac.0[0] & 0b11, 0b10, "locally administered, one station");
    let v6 = mac_for("fdbe:2788:64::1:2".parse().unwrap());
    assert_eq!(v6.to_string(), "02:66:00:01:00:02");
}

#[test]
fn the_mtu_is_the_asked_one_else_that_of_the_way_out() {
    let config = NetworkConfig::default();
    let by = |default_mtu| {
        let host = ObservedHost {
            default_mtu,
            ..ObservedHost::default()
        };
        mtu(&config, &host)
    };
    assert_eq!(by(None), 1500);
    assert_eq!(by(Some(1420)), 1420);
    assert_eq!(
        by(Some(65_536)),
        65_535,
        "a loopback has more than a bridge may"
    );
    assert_eq!(by(Some(576)), 1280, "IPv6 needs that much");
    let asked = NetworkConfig {
        mtu: Some(9000),
        ..NetworkConfig::default()
    };
    assert_eq!(mtu(&asked, &ObservedHost::default()), 9000);
}

#[test]
fn an_alias_is_never_longer_than_the_kernel_takes() {
    let long = format!("/{}", "directory/".repeat(60));
    assert!(bridge_alias(Path::new(&long)).len() < 256);
    let umlauts = format!("/{}", "ü".repeat(300));
    assert!(bridge_alias(Path::new(&umlauts)).len() < 256);
}
