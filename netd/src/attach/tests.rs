use std::net::IpAddr;
use std::path::Path;

use crate::attach::{AttachPlan, Circumstances, plan_attach};
use crate::error::{Error, ErrorKind};
use crate::ledger::{BridgeOrigin, Ledger, Maker, PodState};
use crate::links::{Ipv6, LinkState, ObservedHost, ObservedLink, ObservedRoute, bridge_alias};
use crate::network::NetworkConfig;
use crate::request::{AttachRequest, HostPort, Protocol};

const STATE_DIR: &str = "/var/lib/berth/net";

fn request(pod_id: &str) -> AttachRequest {
    AttachRequest {
        pod_id: pod_id.to_owned(),
        netns: "/run/berth/pods/web/ns/net".into(),
        interface: "eth0".to_owned(),
        host_ports: vec![HostPort {
            protocol: Protocol::Tcp,
            host_address: None,
            host_port: 8080,
            container_port: 80,
        }],
        addresses: Vec::new(),
    }
}

fn plan(
    request: &AttachRequest,
    config: &NetworkConfig,
    ledger: &Ledger,
    host: &ObservedHost,
) -> Result<AttachPlan, Error> {
    plan_attach(
        request,
        &Circumstances {
            config,
            state_dir: Path::new(STATE_DIR),
            ledger,
            host,
            maker: Maker {
                pid: 1,
                start_ticks: 2,
            },
        },
    )
}

fn first_plan(request: &AttachRequest) -> AttachPlan {
    plan(
        request,
        &NetworkConfig::default(),
        &Ledger::default(),
        &ObservedHost::default(),
    )
    .unwrap()
}

/// What the ledger holds after an attach.
fn recorded(mut ledger: Ledger, plan: &AttachPlan) -> Ledger {
    let pods = ledger.pods.entry("default".to_owned()).or_default();
    let mut record = plan.pod_record.clone();
    record.state = PodState::Attached;
    pods.insert(plan.network.pod_id.clone(), record);
    let network = plan.network_record.clone();
    ledger.networks.insert("default".to_owned(), network);
    ledger
}

fn standing_bridge(alias: &str) -> ObservedHost {
    ObservedHost {
        bridge: Some(ObservedLink {
            index: 7,
            kind: "bridge".to_owned(),
            mtu: 9000,
            state: LinkState::Up,
            alias: alias.to_owned(),
            addresses: NetworkConfig::default().gateways(),
        }),
        ..ObservedHost::default()
    }
}

#[test]
fn the_documentation_shows_the_steps_as_they_are() {
    let documented = include_str!("../../../docs/network.md");
    let steps = first_plan(&request("web")).to_string();
    assert!(
        documented.contains(&steps),
        "docs/network.md should hold this:\n{steps}"
    );
}

#[test]
fn a_second_pod_finds_the_bridge_and_takes_its_mtu_and_the_next_address() {
    let first = first_plan(&request("a"));
    let ledger = recorded(Ledger::default(), &first);
    let mut second = request("b");
    second.host_ports.clear();
    let host = standing_bridge(&bridge_alias(Path::new(STATE_DIR)));
    let second = plan(&second, &NetworkConfig::default(), &ledger, &host).unwrap();
    assert!(second.bridge_steps.is_empty(), "{:?}", second.bridge_steps);
    assert_eq!(second.network.mtu, 9000);
    let addresses: Vec<String> = second
        .network
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(addresses, ["10.88.64.3/20", "fdbe:2788:64::3/64"]);
    assert_eq!(second.network_record.bridge_origin, BridgeOrigin::Ours);
}

#[test]
fn a_bridge_is_ours_by_its_alias_or_an_operators() {
    let config = NetworkConfig::default();
    let origin = |alias: &str| {
        let host = standing_bridge(alias);
        plan(&request("a"), &config, &Ledger::default(), &host)
            .map(|plan| plan.network_record.bridge_origin)
    };
    assert_eq!(
        origin(&bridge_alias(Path::new(STATE_DIR))).unwrap(),
        BridgeOrigin::Ours
    );
    assert_eq!(origin("").unwrap(), BridgeOrigin::Found);
    assert_eq!(origin("lab uplink").unwrap(), BridgeOrigin::Found);
    let error = origin(&bridge_alias(Path::new("/tmp/other"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("/tmp/other"), "{error}");
}

#[test]
fn what_another_pod_holds_is_refused() {
    let config = NetworkConfig::default();
    let host = ObservedHost::default();
    let ledger = recorded(Ledger::default(), &first_plan(&request("a")));
    let error = plan(&request("a"), &config, &ledger, &host).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyAttached);
    let error = plan(&request("b"), &config, &ledger, &host).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(
        error.to_string().contains("8080/tcp is held by pod a"),
        "{error}"
    );
    let mut fixed = request("b");
    fixed.host_ports.clear();
    fixed.addresses = vec!["10.88.64.2".parse::<IpAddr>().unwrap()];
    let error = plan(&fixed, &config, &ledger, &host).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[test]
fn networks_of_one_machine_keep_apart() {
    let ledger = recorded(Ledger::default(), &first_plan(&request("a")));
    let host = ObservedHost::default();
    let mut wanted = request("b");
    wanted.host_ports[0].host_port = 9090;
    let default = NetworkConfig::default();
    let cases = [
        (
            NetworkConfig {
                name: "db".to_owned(),
                ..default.clone()
            },
            "bridge \"berth0\" belongs to network default",
        ),
        (
            NetworkConfig {
                name: "db".to_owned(),
                bridge: "db0".to_owned(),
                ..default.clone()
            },
            "10.88.64.0/20 overlaps 10.88.64.0/20 of network default",
        ),
        (
            NetworkConfig {
                subnets: vec!["10.1.0.0/16".parse().unwrap()],
                ..default.clone()
            },
            "only when they are gone",
        ),
    ];
    for (config, words) in cases {
        let error = plan(&wanted, &config, &ledger, &host).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains(words), "{error}");
    }
    // Ports are the machine's, whatever the network.
    let apart = NetworkConfig {
        name: "db".to_owned(),
        bridge: "db0".to_owned(),
        subnets: vec!["10.1.0.0/16".parse().unwrap()],
        ..default
    };
    let error = plan(&request("b"), &apart, &ledger, &host).unwrap_err();
    assert!(error.to_string().contains("held by pod a"), "{error}");
    plan(&wanted, &apart, &ledger, &host).unwrap();
}

#[test]
fn a_machine_without_ipv6_gives_ipv4_and_says_so() {
    let host = ObservedHost {
        ipv6: Ipv6::Absent,
        ..ObservedHost::default()
    };
    let plan_with = |config: &NetworkConfig| plan(&request("a"), config, &Ledger::default(), &host);
    let made = plan_with(&NetworkConfig::default()).unwrap();
    assert_eq!(made.network.addresses.len(), 1);
    assert_eq!(made.network.notes.len(), 1);
    assert!(!made.to_string().contains("fd"), "{made}");
    let only_v6 = NetworkConfig {
        subnets: vec!["fd00::/64".parse().unwrap()],
        ..NetworkConfig::default()
    };
    assert_eq!(
        plan_with(&only_v6).unwrap_err().kind(),
        ErrorKind::Unsupported
    );
}

#[test]
fn a_chain_that_drops_is_named_in_a_note() {
    let host = ObservedHost {
        forward_drops: vec!["ip filter FORWARD".to_owned()],
        ..ObservedHost::default()
    };
    let made = plan(
        &request("a"),
        &NetworkConfig::default(),
        &Ledger::default(),
        &host,
    )
    .unwrap();
    assert!(made.network.notes[0].contains("ip filter FORWARD"));
}

#[test]
fn a_route_of_the_host_is_not_covered() {
    let host = |destination: &str, interface: &str| ObservedHost {
        routes: vec![ObservedRoute {
            destination: destination.parse().unwrap(),
            interface: interface.to_owned(),
        }],
        ..ObservedHost::default()
    };
    let result = |host: ObservedHost| {
        plan(
            &request("a"),
            &NetworkConfig::default(),
            &Ledger::default(),
            &host,
        )
    };
    for overlapping in ["10.88.64.0/24", "10.0.0.0/8", "fdbe:2788:64::7/128"] {
        let error = result(host(overlapping, "vpn0")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("by vpn0"), "{error}");
    }
    for elsewhere in ["0.0.0.0/0", "::/0", "10.89.0.0/16"] {
        result(host(elsewhere, "vpn0")).unwrap();
    }
}
