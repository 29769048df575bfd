//! What attaching a pod will do, worked out before anything is touched.
//!
//! [`plan_attach`] is pure: the network, the request, the ledger and what was
//! observed of the host go in, and the plan says which address the pod gets and
//! every step that follows. `Netd::attach` carries it out in this order:
//!
//! ```text
//!   ledger: "attaching" ─ bridge ─ settings ─ gateways ─ table ─┐
//!   ┌───────────────────────────────────────────────────────────┘
//!   └─ veth ─ inside the pod ─ packets flow ─ host ports ─ ledger: "attached"
//! ```
//!
//! The record comes before the first step, so that whoever comes after a kill
//! knows what to take away. Host ports come last, so that no stranger's packet
//! reaches a pod that cannot answer yet.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use crate::addresses::{check_fixed_address, plan_address};
use crate::error::{Error, ErrorKind};
use crate::ledger::{BridgeOrigin, Ledger, Maker, NetworkRecord, PodRecord, PodState};
use crate::links::{
    Ipv6, LinkStep, ObservedHost, VethStep, bridge_alias, host_interface, mac_for, mtu,
    plan_bridge, plan_gateways, plan_pod, plan_veth,
};
use crate::network::{NetworkConfig, gateway_of};
use crate::request::{AttachRequest, PodNetwork};
use crate::rules::plan::{plan_elements, plan_rules};
use crate::rules::{PortElement, Ruleset};
use crate::settings::{Setting, plan_host_settings, plan_pod_settings};

/// Everything that attaching one pod does. Printed, it reads as `ip` and `nft`
/// would have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachPlan {
    /// What the caller gets.
    pub network: PodNetwork,
    /// The pod's line in the ledger.
    pub pod_record: PodRecord,
    /// The network's line in the ledger.
    pub network_record: NetworkRecord,
    /// Makes the bridge; empty if it stands.
    pub bridge_steps: Vec<LinkStep>,
    /// The host's kernel settings, which name the bridge.
    pub host_settings: Vec<Setting>,
    /// Gives the bridge its addresses.
    pub gateway_steps: Vec<LinkStep>,
    /// The pod's kernel settings, which its interface inherits.
    pub pod_settings: Vec<Setting>,
    /// Makes the pod's veth pair, on the host.
    pub veth_steps: Vec<LinkStep>,
    /// Inside the pod's network namespace.
    pub pod_steps: Vec<LinkStep>,
    /// The network's table.
    pub rules: Ruleset,
    /// The pod's host ports in it.
    pub elements: Vec<PortElement>,
}

/// What is known when an attach is planned.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// The network.
    pub config: &'a NetworkConfig,
    /// The directory of the ledger, which names the bridge's owner.
    pub state_dir: &'a Path,
    /// Who holds what.
    pub ledger: &'a Ledger,
    /// The host.
    pub host: &'a ObservedHost,
    /// This process.
    pub maker: Maker,
}

/// Plans one attach.
///
/// # Errors
///
/// `Invalid`, `Conflict`, `AlreadyAttached`, `Exhausted` or `Unsupported`;
/// nothing was touched.
pub fn plan_attach(
    request: &AttachRequest,
    circumstances: &Circumstances<'_>,
) -> Result<AttachPlan, Error> {
    let Circumstances { ledger, host, .. } = *circumstances;
    request.validate()?;
    let mut notes = Vec::new();
    let config = without_missing_families(circumstances.config, host, &mut notes)?;
    check_not_attached(&config.name, &request.pod_id, ledger)?;
    check_network_unchanged(&config, ledger)?;
    check_subnets_disjoint(&config, ledger)?;
    check_host_ports(request, ledger)?;
    notes.extend(host.forward_drops.iter().map(|chain| {
        format!(
            "the nftables chain {chain:?} drops forwarded packets by policy; unless it lets {} \
             through, pods reach neither each other's host ports nor the world",
            config.bridge
        )
    }));

    let addresses = choose_addresses(&config, request, ledger)?;
    let bare: Vec<IpAddr> = addresses.iter().map(IpNet::addr).collect();
    let gateways: Vec<IpAddr> = config
        .subnets
        .iter()
        .map(|s| gateway_of(s).addr())
        .collect();
    let mac = mac_for(bare[0]);
    let veth = VethStep {
        host_interface: host_interface(&config.name, &request.pod_id),
        bridge: config.bridge.clone(),
        pod_interface: request.interface.clone(),
        pod_mac: mac,
        mtu: mtu(&config, host),
    };
    let network = PodNetwork {
        pod_id: request.pod_id.clone(),
        interface: request.interface.clone(),
        mac: mac.to_string(),
        addresses: addresses.clone(),
        gateways: gateways.clone(),
        mtu: veth.mtu,
        host_ports: request.host_ports.clone(),
        notes,
    };
    Ok(AttachPlan {
        network,
        pod_record: PodRecord {
            state: PodState::Attaching,
            maker: circumstances.maker,
            netns: request.netns.clone(),
            interface: request.interface.clone(),
            host_interface: veth.host_interface.clone(),
            addresses: bare.clone(),
            host_ports: request.host_ports.clone(),
        },
        network_record: plan_network_record(circumstances, &config, &bare),
        bridge_steps: plan_bridge(&config, host, &bridge_alias(circumstances.state_dir))?,
        host_settings: plan_host_settings(&config.bridge, host.ipv6, &host.router_listeners),
        gateway_steps: plan_gateways(&config, host),
        pod_settings: plan_pod_settings(host.ipv6),
        veth_steps: plan_veth(veth),
        pod_steps: plan_pod(&request.interface, &addresses, &gateways),
        rules: plan_rules(&config),
        elements: plan_elements(&request.host_ports, &bare),
    })
}

/// The network less its IPv6 subnet, on a machine that does not speak it.
/// IPv4 first, which is the order of everything that follows.
pub fn without_missing_families(
    config: &NetworkConfig,
    host: &ObservedHost,
    notes: &mut Vec<String>,
) -> Result<NetworkConfig, Error> {
    let mut config = config.clone();
    config.subnets.sort_by_key(|subnet| subnet.addr().is_ipv6());
    if host.ipv6 == Ipv6::Absent {
        let before = config.subnets.len();
        config.subnets.retain(|subnet| subnet.addr().is_ipv4());
        if config.subnets.is_empty() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "network {} has only an IPv6 subnet and this machine does not speak IPv6",
                    config.name
                ),
            ));
        }
        if config.subnets.len() < before {
            notes.push("this machine does not speak IPv6: the pod has only IPv4".to_owned());
        }
    }
    Ok(config)
}

fn check_not_attached(network: &str, pod_id: &str, ledger: &Ledger) -> Result<(), Error> {
    match ledger.pod(network, pod_id) {
        None => Ok(()),
        Some(_) => Err(Error::new(
            ErrorKind::AlreadyAttached,
            format!("pod {pod_id} is on network {network} already"),
        )),
    }
}

/// Pods of the same network with other gateways could not talk to each other.
fn check_network_unchanged(config: &NetworkConfig, ledger: &Ledger) -> Result<(), Error> {
    let Some(record) = ledger.networks.get(&config.name) else {
        return Ok(());
    };
    if record.bridge == config.bridge && record.subnets == config.subnets {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Conflict,
        format!(
            "network {} has pods on bridge {:?} in {}; it becomes {:?} in {} only when they are gone",
            config.name,
            record.bridge,
            join(&record.subnets),
            config.bridge,
            join(&config.subnets)
        ),
    ))
}

fn check_subnets_disjoint(config: &NetworkConfig, ledger: &Ledger) -> Result<(), Error> {
    let others = ledger
        .networks
        .iter()
        .filter(|(name, _)| **name != config.name);
    for (name, other) in others {
        if other.bridge == config.bridge {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("bridge {:?} belongs to network {name}", config.bridge),
            ));
        }
        for subnet in &config.subnets {
            let overlap = other
                .subnets
                .iter()
                .find(|theirs| theirs.contains(subnet) || subnet.contains(*theirs));
            if let Some(theirs) = overlap {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("subnets: {subnet} overlaps {theirs} of network {name}"),
                ));
            }
        }
    }
    Ok(())
}

/// Ports are the host's, so pods of every network compete for them.
fn check_host_ports(request: &AttachRequest, ledger: &Ledger) -> Result<(), Error> {
    for wanted in &request.host_ports {
        for (_, pod_id, record) in ledger.all_pods() {
            if let Some(held) = record.host_ports.iter().find(|held| held.overlaps(wanted)) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("host_ports: {wanted} is held by pod {pod_id} (as {held})"),
                ));
            }
        }
    }
    Ok(())
}

/// One address a subnet: the fixed one that was asked for, else the next free.
fn choose_addresses(
    config: &NetworkConfig,
    request: &AttachRequest,
    ledger: &Ledger,
) -> Result<Vec<IpNet>, Error> {
    let holders = ledger.holders(&config.name);
    for fixed in &request.addresses {
        check_fixed_address(*fixed, &config.subnets, &holders)?;
    }
    let taken: BTreeSet<IpAddr> = holders.into_keys().collect();
    let record = ledger.networks.get(&config.name);
    let mut chosen = Vec::with_capacity(config.subnets.len());
    for subnet in &config.subnets {
        let of_subnet = |addresses: &[IpAddr]| {
            let found = addresses.iter().find(|address| subnet.contains(*address));
            found.copied()
        };
        let address = match of_subnet(&request.addresses) {
            Some(fixed) => fixed,
            None => {
                let last = record.and_then(|record| of_subnet(&record.last_given));
                plan_address(subnet, &taken, last)?
            }
        };
        let with_prefix = IpNet::new(address, subnet.prefix_len())
            .expect("a subnet's prefix length is valid for an address in it");
        chosen.push(with_prefix);
    }
    Ok(chosen)
}

fn plan_network_record(
    circumstances: &Circumstances<'_>,
    config: &NetworkConfig,
    given: &[IpAddr],
) -> NetworkRecord {
    let known = circumstances.ledger.networks.get(&config.name);
    let origin = match (known, &circumstances.host.bridge) {
        (Some(record), _) => record.bridge_origin,
        (None, None) => BridgeOrigin::Ours,
        // Of a state directory that was emptied, or of an operator.
        (None, Some(link)) if link.alias == bridge_alias(circumstances.state_dir) => {
            BridgeOrigin::Ours
        }
        (None, Some(_)) => BridgeOrigin::Found,
    };
    NetworkRecord {
        bridge: config.bridge.clone(),
        bridge_origin: origin,
        subnets: config.subnets.clone(),
        last_given: given.to_vec(),
    }
}

fn join(subnets: &[IpNet]) -> String {
    let names: Vec<String> = subnets.iter().map(IpNet::to_string).collect();
    names.join(", ")
}

impl fmt::Display for AttachPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on_host = |f: &mut fmt::Formatter<'_>, steps: &[LinkStep]| {
            steps.iter().try_for_each(|step| writeln!(f, "ip {step}"))
        };
        on_host(f, &self.bridge_steps)?;
        for setting in &self.host_settings {
            writeln!(f, "{setting}")?;
        }
        on_host(f, &self.gateway_steps)?;
        for setting in &self.pod_settings {
            writeln!(f, "ip netns exec POD {setting}")?;
        }
        on_host(f, &self.veth_steps)?;
        for step in &self.pod_steps {
            writeln!(f, "ip -n POD {step}")?;
        }
        for element in &self.elements {
            writeln!(f, "nft add element inet {} {element}", self.rules.table)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
