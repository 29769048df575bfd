//! What a sandbox's request becomes, as values.

use std::path::Path;

use super::*;
use crate::engine::spec::tests::sandbox_with;

fn mapping(host: i32, container: i32, ip: &str) -> v1::PortMapping {
    v1::PortMapping {
        protocol: v1::Protocol::Udp as i32,
        container_port: container,
        host_port: host,
        host_ip: ip.to_owned(),
    }
}

#[test]
fn ports_of_the_host_are_read() {
    let mut config = v1::PodSandboxConfig {
        port_mappings: vec![mapping(0, 80, ""), mapping(53, 5353, "127.0.0.1")],
        ..Default::default()
    };
    let ports = plan_host_ports(&config).unwrap();
    assert_eq!(
        ports,
        [HostPort {
            protocol: Protocol::Udp,
            host_address: Some([127, 0, 0, 1].into()),
            host_port: 53,
            container_port: 5353,
        }]
    );
    for (wrong, part) in [
        (mapping(70_000, 80, ""), "host_port: 70000"),
        (mapping(80, 0, ""), "container_port: 0"),
        (mapping(80, 80, "localhost"), "host_ip: \"localhost\""),
    ] {
        config.port_mappings = vec![wrong];
        let error = plan_host_ports(&config).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn a_setting_of_the_host_is_refused() {
    let with = |name: &str, network: v1::NamespaceMode| {
        let mut config = sandbox_with(v1::NamespaceOption {
            network: network as i32,
            ..Default::default()
        });
        config
            .linux
            .get_or_insert_default()
            .sysctls
            .insert(name.to_owned(), "1".to_owned());
        let namespaces = PodNamespaces::plan(&config, Path::new("/run/pod")).unwrap();
        plan_sysctls(&config, &namespaces)
    };
    let pod = v1::NamespaceMode::Pod;
    assert!(
        with("net/ipv4/ip_forward", pod)
            .unwrap()
            .contains_key("net.ipv4.ip_forward")
    );
    assert!(with("kernel.shmmax", pod).is_ok());
    let error = with("vm.swappiness", pod).unwrap_err();
    assert!(
        error.to_string().contains("would change the host"),
        "{error}"
    );
    let error = with("net.ipv4.ip_forward", v1::NamespaceMode::Node).unwrap_err();
    assert!(error.to_string().contains("shares the host's"), "{error}");
}

#[test]
fn a_name_is_checked_and_has_a_default() {
    let named = |name: &str| {
        plan_hostname(&v1::PodSandboxConfig {
            hostname: name.to_owned(),
            ..Default::default()
        })
    };
    assert_eq!(named("web-1").unwrap(), "web-1");
    assert!(!named("").unwrap().is_empty());
    for wrong in ["a b", "a/b", "ä", &"x".repeat(65)] {
        assert!(named(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn metadata_is_needed() {
    let error = check_metadata(&v1::PodSandboxConfig::default()).unwrap_err();
    assert!(error.to_string().contains("config.metadata"), "{error}");
    let error = check_metadata(&v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    })
    .unwrap_err();
    assert!(error.to_string().contains("metadata.uid"), "{error}");
}
