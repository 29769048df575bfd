//! Which rules a network needs, from its configuration alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::links::fnv1a;
use crate::network::{Masquerade, NetworkConfig};
use crate::request::HostPort;
use crate::rules::{
    Chain, Hook, IpFamily, Match, PortElement, PortKey, PortMap, Rule, Ruleset, Verdict,
};

const LOOPBACK_V4: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
const LOOPBACK_V6: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128));
const MULTICAST_V4: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4));
const MULTICAST_V6: IpNet = IpNet::V6(Ipv6Net::new_assert(
    Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0),
    8,
));

/// The table of a network.
pub fn plan_rules(config: &NetworkConfig) -> Ruleset {
    let mut rules = Ruleset {
        table: config.table(),
        comment: String::new(),
        maps: PortMap::ALL.to_vec(),
        chains: vec![
            host_ports(),
            guard(),
            prerouting(),
            output(),
            postrouting(config),
        ],
    };
    // A table that another version or another configuration made is told by this
    // and replaced.
    rules.comment = format!(
        "made and removed by berth for network {}, rules {:08x}",
        config.name,
        fnv1a(rules.to_string().bytes()) >> 32
    );
    rules
}

/// The map elements that one pod's host ports are.
///
/// A port without a host address is open in every family in which the pod has
/// an address; a family that the pod lacks has no element, so the port stays
/// closed there.
pub fn plan_elements(ports: &[HostPort], pod_addresses: &[IpAddr]) -> Vec<PortElement> {
    let mut elements = Vec::new();
    for pod_address in pod_addresses {
        let is_v4 = pod_address.is_ipv4();
        for port in ports.iter().filter(|port| port.covers_family(is_v4)) {
            let host_address = port.single_address();
            elements.push(PortElement {
                map: PortMap {
                    family: if is_v4 { IpFamily::V4 } else { IpFamily::V6 },
                    key: if host_address.is_some() {
                        PortKey::Address
                    } else {
                        PortKey::Any
                    },
                },
                host_address,
                protocol_number: port.protocol.number(),
                host_port: port.host_port,
                pod_address: *pod_address,
                pod_port: port.container_port,
            });
        }
    }
    elements
}

/// The more exact key comes first: a port of one address wins over one of all.
fn host_ports() -> Chain {
    let comment = "host port to pod";
    let rules = PortMap::ALL
        .into_iter()
        .map(|map| Rule {
            matches: vec![],
            verdict: Verdict::RewriteBy(map),
            comment,
        })
        .collect();
    Chain {
        name: "host-ports",
        hook: None,
        rules,
    }
}

/// Keeps everyone else from the host's loopback (CVE-2020-8558 and its like).
///
/// `route_localnet` on the bridge is what lets 127.0.0.1:PORT reach a pod, and
/// it would also let a pod send to the host's 127.0.0.1. A neighbour on the
/// host's own wire is the other attacker: a packet to 127.0.0.1:PORT would have
/// its destination rewritten before routing could call it a martian, and a port
/// published for this machine alone would be open to the street. The chain must
/// run before NAT (priority raw): there, replies to the host still carry the
/// bridge's address and only a forged packet carries a loopback one.
fn guard() -> Chain {
    let rule = |net| Rule {
        matches: vec![
            Match::NotInputInterface("lo".to_owned()),
            Match::Destination(net),
        ],
        verdict: Verdict::Drop,
        comment: "loopback is for this machine alone",
    };
    Chain {
        name: "guard",
        hook: Some(Hook::PreroutingRaw),
        rules: vec![rule(LOOPBACK_V4), rule(LOOPBACK_V6)],
    }
}

fn to_host_ports() -> Rule {
    Rule {
        matches: vec![Match::DestinationIsLocal],
        verdict: Verdict::Jump("host-ports"),
        comment: "only what is addressed to this machine",
    }
}

fn prerouting() -> Chain {
    Chain {
        name: "prerouting",
        hook: Some(Hook::PreroutingNat),
        rules: vec![to_host_ports()],
    }
}

/// Packets that the host itself sends never see prerouting.
fn output() -> Chain {
    let not_loopback_v6 = Rule {
        matches: vec![Match::Destination(LOOPBACK_V6)],
        verdict: Verdict::Return,
        comment: "the kernel drops ::1 on any wire",
    };
    Chain {
        name: "output",
        hook: Some(Hook::OutputNat),
        rules: vec![not_loopback_v6, to_host_ports()],
    }
}

fn postrouting(config: &NetworkConfig) -> Chain {
    let to_bridge = || Match::OutputInterface(config.bridge.clone());
    let mut rules = vec![Rule {
        matches: vec![to_bridge(), Match::Source(LOOPBACK_V4)],
        verdict: Verdict::Masquerade,
        comment: "localhost to a host port: a pod cannot answer 127.0.0.1",
    }];
    for subnet in &config.subnets {
        rules.push(Rule {
            matches: vec![
                to_bridge(),
                Match::Source(*subnet),
                Match::ConnectionWasRewritten,
            ],
            verdict: Verdict::Masquerade,
            comment: "pod to a host port of this network: the answer must come back through here",
        });
    }
    if config.masquerade == Masquerade::Outbound {
        rules.extend(
            config
                .subnets
                .iter()
                .flat_map(|subnet| outbound(config, *subnet)),
        );
    }
    Chain {
        name: "postrouting",
        hook: Some(Hook::PostroutingNat),
        rules,
    }
}

/// What leaves the subnet for anywhere else takes the host's address.
fn outbound(config: &NetworkConfig, subnet: IpNet) -> [Rule; 2] {
    let multicast = if subnet.addr().is_ipv4() {
        MULTICAST_V4
    } else {
        MULTICAST_V6
    };
    [
        Rule {
            matches: vec![Match::Source(subnet), Match::Destination(multicast)],
            verdict: Verdict::Return,
            comment: "a group has no one to send an answer back",
        },
        Rule {
            matches: vec![
                Match::NotOutputInterface(config.bridge.clone()),
                Match::Source(subnet),
                Match::NotDestination(subnet),
            ],
            verdict: Verdict::Masquerade,
            comment: "the world outside has no route to pods",
        },
    ]
}

#[cfg(test)]
mod tests;
