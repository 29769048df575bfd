use super::{Masquerade, NetworkConfig, check_interface_name};

fn with_subnets(subnets: &[&str]) -> NetworkConfig {
    let subnets = subnets
        .iter()
        .map(|subnet| subnet.parse().unwrap())
        .collect();
    NetworkConfig {
        subnets,
        ..NetworkConfig::default()
    }
}

#[test]
fn the_default_network_is_valid_and_owns_table_berth() {
    let config = NetworkConfig::default();
    config.validate().unwrap();
    assert_eq!(config.table(), "berth");
    let gateways: Vec<String> = config.gateways().iter().map(ToString::to_string).collect();
    assert_eq!(gateways, ["10.88.64.1/20", "fdbe:2788:64::1/64"]);
    assert_eq!(config.masquerade, Masquerade::Outbound);
}

#[test]
fn another_network_has_its_own_table() {
    let config = NetworkConfig {
        name: "db".to_owned(),
        bridge: "db0".to_owned(),
        ..NetworkConfig::default()
    };
    assert_eq!(config.table(), "berth-db0");
}

#[test]
fn each_bad_field_is_named() {
    let cases: &[(NetworkConfig, &str)] = &[
        (
            NetworkConfig {
                name: String::new(),
                ..NetworkConfig::default()
            },
            "network name",
        ),
        (
            NetworkConfig {
                name: "a/b".into(),
                ..NetworkConfig::default()
            },
            "network name",
        ),
        (
            NetworkConfig {
                bridge: "sixteen-bytes-xx".into(),
                ..NetworkConfig::default()
            },
            "at most 15",
        ),
        (
            NetworkConfig {
                mtu: Some(100),
                ..NetworkConfig::default()
            },
            "mtu 100",
        ),
        (with_subnets(&[]), "at least one"),
        (with_subnets(&["10.0.0.1/24"]), "did you mean 10.0.0.0/24"),
        (with_subnets(&["10.0.0.0/31"]), "no room"),
        (
            with_subnets(&["10.0.0.0/24", "10.1.0.0/24"]),
            "10.0.0.0/24 and 10.1.0.0/24",
        ),
        (with_subnets(&["127.0.0.0/24"]), "unicast"),
        (with_subnets(&["fe80::/64"]), "unicast"),
        (with_subnets(&["0.0.0.0/0"]), "unicast"),
    ];
    for (config, expected) in cases {
        let text = config.validate().unwrap_err().to_string();
        assert!(
            text.contains(expected),
            "{text:?} should contain {expected:?}"
        );
    }
}

#[test]
fn interface_names_follow_the_kernels_rule() {
    for good in ["eth0", "a", "exactly15bytes_"] {
        check_interface_name("interface", good).unwrap();
    }
    for bad in [
        "",
        ".",
        "..",
        "a b",
        "a/b",
        "a:b",
        "a%d",
        "sixteen_bytes_xx",
    ] {
        assert!(check_interface_name("interface", bad).is_err(), "{bad:?}");
    }
}
