//! The network of a sandbox: made by netd, or by plugins of CNI.
//!
//! Which of the two is chosen when a sandbox is made and written into its
//! record, so that whoever takes it down later asks the same one, also when the
//! operator has chosen otherwise since.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use berth_netd::cni::bandwidth::Bandwidth;
use berth_netd::cni::request::{CniRequest, Dns};
use berth_netd::request::{AttachRequest, HostPort, PodNetwork};
use serde_json::{Value, json};

use super::Engine;
use super::error::{Error, ErrorKind};
use super::pod_cidr;
use super::records::{NetworkBy, PodRecord};
use super::sandbox::{POD_INTERFACE, network_error};
use crate::v1;

/// A pod's wish for its addresses, for plugins with the capability `ips`.
const ADDRESSES: &str = "berth/cni-ips";
/// A pod's wish for its link-layer address, for the capability `mac`.
const MAC: &str = "berth/cni-mac";

impl Engine {
    /// Who makes the network of a sandbox that is made now.
    pub(super) fn network_maker(&self) -> NetworkBy {
        match self.cni().is_chosen() {
            true => NetworkBy::Cni,
            false => NetworkBy::Netd,
        }
    }

    /// Gives a sandbox its interface, addresses and host ports: all or nothing.
    pub(super) async fn attach_network(
        &self,
        record: &PodRecord,
        netns: PathBuf,
        host_ports: Vec<HostPort>,
    ) -> Result<PodNetwork, Error> {
        let request = AttachRequest {
            pod_id: record.id.clone(),
            netns,
            interface: POD_INTERFACE.to_owned(),
            host_ports,
            addresses: Vec::new(),
        };
        let outcome = match record.network_by {
            NetworkBy::Netd => self.netd().attach(&request).await,
            NetworkBy::Cni => {
                let ranges = pod_cidr::read_kept(&self.config().data_dir)?.unwrap_or_default();
                let request = CniRequest {
                    ip_ranges: ranges,
                    ..plan_cni_request(record, request)?
                };
                Box::pin(self.cni().attach(&request)).await
            }
        };
        let network = outcome.map_err(network_error)?;
        for note in &network.notes {
            tracing::warn!(pod = %record.id, "{note}");
        }
        Ok(network)
    }

    /// Takes a sandbox's network away. Idempotent.
    pub(super) async fn detach_network(&self, record: &PodRecord) -> Result<(), Error> {
        let outcome = match record.network_by {
            NetworkBy::Netd => self.netd().detach(&record.id).await,
            NetworkBy::Cni => Box::pin(self.cni().detach(&record.id)).await,
        };
        outcome.map_err(network_error)
    }

    /// Has plugins give back what no pod has any more, and begins to watch
    /// their configuration. For a server's start: a command need not.
    pub async fn collect_network_garbage(&self) {
        if !self.cni().is_chosen() {
            return;
        }
        if let Err(error) = Box::pin(self.cni().collect()).await {
            tracing::warn!("{}", network_error(error).chain());
        }
    }

    /// What would keep every pod from getting a network.
    ///
    /// # Errors
    ///
    /// `Network` or `Unsupported`, with what is wrong.
    pub async fn network_ready(&self) -> Result<(), Error> {
        let outcome = match self.network_maker() {
            NetworkBy::Netd => self.netd().check().await,
            NetworkBy::Cni => Box::pin(self.cni().ready()).await,
        };
        outcome.map_err(network_error)
    }

    /// For `crictl inspectp`: the plugins' result, and whether they find the pod
    /// attached as it was.
    pub(super) async fn cni_details(&self, record: &PodRecord) -> Option<(Value, String)> {
        let result = match record.network_by {
            NetworkBy::Netd => return None,
            NetworkBy::Cni => self.cni().result(&record.id).ok()??,
        };
        let check = match Box::pin(self.cni().check(&record.id)).await {
            Ok(()) => "passed".to_owned(),
            Err(error) => network_error(error).chain(),
        };
        Some((result, check))
    }

    /// What an operator asks for with `crictl info`.
    pub fn network_info(&self) -> Value {
        let reading = self.cni().reading();
        let network = reading.network.as_ref().map(|network| {
            let plugins = network.plugins.iter().map(|plugin| &plugin.program);
            json!({
                "name": network.name,
                "cniVersion": network.version,
                "file": network.source,
                "plugins": plugins.collect::<Vec<_>>(),
            })
        });
        json!({
            "confDir": self.config().cni.conf_dir,
            "binDirs": self.config().cni.bin_dirs,
            "timeoutSeconds": self.config().cni.timeout.as_secs_f64(),
            "network": network,
            "problems": reading.problems,
            "notes": reading.notes,
        })
    }
}

/// What plugins are told of a pod, but for the node's ranges. Pure.
fn plan_cni_request(record: &PodRecord, attach: AttachRequest) -> Result<CniRequest, Error> {
    let config = &record.config.0;
    let annotations: BTreeMap<String, String> = config.annotations.clone().into_iter().collect();
    let bandwidth = Bandwidth::from_annotations(&annotations)
        .map_err(|error| Error::caused(ErrorKind::Invalid, "config", error))?;
    Ok(CniRequest {
        attach: AttachRequest {
            addresses: wished_addresses(&annotations)?,
            ..attach
        },
        arguments: arguments(record),
        bandwidth,
        dns: config.dns_config.as_ref().and_then(plan_dns),
        mac: annotations.get(MAC).cloned(),
        ip_ranges: Vec::new(),
        cgroup_path: Some(record.cgroup.clone()),
        annotations,
    })
}

/// What every container engine passes in `CNI_ARGS`; plugins look their pod up by it.
fn arguments(record: &PodRecord) -> Vec<(String, String)> {
    let metadata = record.config.0.metadata.as_ref();
    let uid = metadata
        .map(|metadata| metadata.uid.as_str())
        .unwrap_or_default();
    [
        // First, so that no plugin refuses the others.
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &record.namespace),
        ("K8S_POD_NAME", &record.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &record.id),
        ("K8S_POD_UID", uid),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

fn plan_dns(dns: &v1::DnsConfig) -> Option<Dns> {
    (*dns != v1::DnsConfig::default()).then(|| Dns {
        servers: dns.servers.clone(),
        searches: dns.searches.clone(),
        options: dns.options.clone(),
    })
}

fn wished_addresses(annotations: &BTreeMap<String, String>) -> Result<Vec<IpAddr>, Error> {
    let Some(text) = annotations.get(ADDRESSES) else {
        return Ok(Vec::new());
    };
    let words = text.split(',').map(str::trim);
    words
        .map(|word| {
            word.parse().map_err(|error: std::net::AddrParseError| {
                let text = format!("config.annotations[{ADDRESSES}]: {word:?}");
                Error::caused(ErrorKind::Invalid, text, error)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
