//! What a pod wants of a network that plugins make.
//!
//! A plugin says by `capabilities` what it wants to be told, and is told it
//! under `runtimeConfig` (CONVENTIONS.md of the CNI specification).

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::bandwidth::Bandwidth;
use super::config::{NetworkList, PluginConfig};
use crate::error::{Error, ErrorKind};
use crate::request::{AttachRequest, HostPort};

/// The capability's name for open ports of the host.
pub(super) const PORT_MAPPINGS: &str = "portMappings";

/// A pod that plugins shall attach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniRequest {
    /// The pod, its namespace, its host ports, addresses that it insists on.
    pub attach: AttachRequest,
    /// For `CNI_ARGS`, in order.
    pub arguments: Vec<(String, String)>,
    /// Capability `bandwidth`.
    pub bandwidth: Option<Bandwidth>,
    /// Capability `dns`.
    pub dns: Option<Dns>,
    /// Capability `mac`.
    pub mac: Option<String>,
    /// Capability `ipRanges`: the node's ranges, one a family.
    pub ip_ranges: Vec<IpNet>,
    /// Capability `cgroupPath`.
    pub cgroup_path: Option<String>,
    /// Capability `io.kubernetes.cri.pod-annotations`.
    pub annotations: BTreeMap<String, String>,
}

/// What a pod's resolver is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of servers.
    pub servers: Vec<String>,
    /// Domains that names are looked up in.
    pub searches: Vec<String>,
    /// `resolv.conf(5)`, options.
    pub options: Vec<String>,
}

impl CniRequest {
    /// Refuses what cannot be right whatever the machine's state, naming the field.
    ///
    /// # Errors
    ///
    /// `Invalid`.
    pub fn validate(&self) -> Result<(), Error> {
        self.attach.validate()?;
        for (name, value) in &self.arguments {
            // Plugins split at these; a pod's name must not add arguments.
            let splits = |text: &str| text.contains([';', '=']) || text.contains(char::is_control);
            if splits(name) || splits(value) {
                return Err(invalid(format!(
                    "{name}: {value:?}: CNI_ARGS cannot hold ';', '=' or control characters"
                )));
            }
        }
        match &self.mac {
            Some(mac) if !is_mac(mac) => Err(invalid(format!(
                "mac: {mac:?}: expected six pairs of hexadecimal digits with ':' between"
            ))),
            _ => Ok(()),
        }
    }

    /// The value of `CNI_ARGS`.
    pub(super) fn arguments_text(&self) -> String {
        let words: Vec<String> = self
            .arguments
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        words.join(";")
    }

    /// What one plugin is told: only what it asked for, and only what there is.
    pub(super) fn runtime_config(&self, plugin: &PluginConfig) -> Map<String, Value> {
        self.capabilities()
            .into_iter()
            .filter(|(name, _)| plugin.capabilities.contains(*name))
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// What was asked for and no plugin of a network will do, in sentences.
    pub(super) fn notes(&self, network: &NetworkList) -> Vec<String> {
        let offered = |name: &str| {
            let mut plugins = network.plugins.iter();
            plugins.any(|plugin| plugin.capabilities.contains(name))
        };
        let wanted = [
            (
                PORT_MAPPINGS,
                !self.attach.host_ports.is_empty(),
                "host ports are not open",
            ),
            (
                "bandwidth",
                self.bandwidth.is_some(),
                "the bandwidth is not limited",
            ),
            (
                "ips",
                !self.attach.addresses.is_empty(),
                "the addresses asked for are not given",
            ),
            (
                "mac",
                self.mac.is_some(),
                "the link-layer address asked for is not given",
            ),
        ];
        wanted
            .into_iter()
            .filter(|(name, wanted, _)| *wanted && !offered(name))
            .map(|(name, _, consequence)| {
                let network = &network.name;
                format!("no plugin of network {network} has the capability {name}: {consequence}")
            })
            .collect()
    }

    fn capabilities(&self) -> Vec<(&'static str, Value)> {
        let mut told = Vec::new();
        let attach = &self.attach;
        if !attach.host_ports.is_empty() {
            let ports = attach.host_ports.iter().map(port_mapping).collect();
            told.push((PORT_MAPPINGS, Value::Array(ports)));
        }
        if let Some(bandwidth) = &self.bandwidth {
            told.push(("bandwidth", json!(bandwidth)));
        }
        if let Some(dns) = &self.dns {
            told.push(("dns", json!(dns)));
        }
        if !attach.addresses.is_empty() {
            told.push(("ips", json!(attach.addresses)));
        }
        if let Some(mac) = &self.mac {
            told.push(("mac", json!(mac)));
        }
        if !self.ip_ranges.is_empty() {
            // A list of sets; a pod gets one address of each set.
            let set = |range: &IpNet| json!([{ "subnet": range }]);
            told.push(("ipRanges", self.ip_ranges.iter().map(set).collect()));
        }
        if let Some(path) = &self.cgroup_path {
            told.push(("cgroupPath", json!(path)));
        }
        if !self.annotations.is_empty() {
            told.push(("io.kubernetes.cri.pod-annotations", json!(self.annotations)));
        }
        told
    }
}

fn port_mapping(port: &HostPort) -> Value {
    let mut mapping = json!({
        "hostPort": port.host_port,
        "containerPort": port.container_port,
        "protocol": port.protocol.to_string(),
    });
    if let Some(address) = port.host_address {
        mapping["hostIP"] = json!(address);
    }
    mapping
}

fn is_mac(text: &str) -> bool {
    let pairs: Vec<&str> = text.split(':').collect();
    let is_pair =
        |pair: &&str| pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
    pairs.len() == 6 && pairs.iter().all(is_pair)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message)
}
