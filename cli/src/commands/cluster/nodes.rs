//! `berth cluster nodes`: the machines of the cluster. As `berth get nodes`, and also
//! where this machine is no server: then with the node's own certificate.

use berth_scheduler::trust::connect;
use berth_scheduler::trust::credential::Credential;
use berth_scheduler::trust::tls::Shown;
use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::json;

use super::membership::not_ready;
use crate::amounts::write_age_since;
use crate::cluster::api::{self, ClusterArguments};
use crate::cluster::file::NodeFile;
use crate::cluster::{ConfigArgument, Places};
use crate::error::{Context, Error, Result};
use crate::output::{Rows, print_list};
use crate::settings::Settings;

/// `berth cluster nodes`.
#[derive(Debug, Args)]
pub struct NodesArguments {
    /// Which cluster
    #[command(flatten)]
    pub cluster: ClusterArguments,
    /// Where node.toml is
    #[command(flatten)]
    pub config: ConfigArgument,
}

/// Lists the cluster's nodes.
///
/// # Errors
///
/// The cluster does not answer.
pub async fn run(settings: &Settings, arguments: &NodesArguments) -> Result<u8> {
    let places = Places::new(settings, &arguments.config);
    let client = connect_somehow(settings, &arguments.cluster, &places).await?;
    let nodes = Api::<Node>::all(client).list(&ListParams::default()).await;
    let nodes = nodes
        .map_err(|error| Error::new(format!("list nodes: {}", api::words(&error))))?
        .items;
    let values: Vec<_> = nodes.iter().map(|node| json!(node)).collect();
    let name = |value: &serde_json::Value| {
        let name = value["metadata"]["name"].as_str();
        name.unwrap_or_default().to_owned()
    };
    print_list(settings.format, &values, name, || Rows {
        heads: vec![
            "NAME",
            "STATE",
            "ADDRESS",
            "AGE",
            "VERSION",
            "PODS' RANGE",
            "WHY",
        ],
        wide_columns: 2,
        rows: nodes.iter().map(row).collect(),
    })?;
    Ok(0)
}

/// A client by the kubeconfig, or as this node.
///
/// # Errors
///
/// This machine has neither.
pub async fn connect_somehow(
    settings: &Settings,
    cluster: &ClusterArguments,
    places: &Places,
) -> Result<Client> {
    if cluster.kubeconfig.is_some() || places.kubeconfig().exists() {
        return api::connect(settings, cluster).await;
    }
    let file = NodeFile::expect(&places.config)?;
    let attempt = "speak with the cluster as this node";
    let credential = Credential::read(&places.node_pki(), "node").context(attempt)?;
    let credential =
        credential.ok_or_else(|| Error::new(format!("{attempt}: it has no certificate")))?;
    let shown = Shown::new(credential).context(attempt)?;
    connect::client(&file.servers, &shown).context(attempt)
}

fn row(node: &Node) -> Vec<String> {
    let spec = node.spec.clone().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    let why = not_ready(node);
    let mut state = if why.is_none() { "Ready" } else { "NotReady" }.to_owned();
    if spec.unschedulable == Some(true) {
        state.push_str(",SchedulingDisabled");
    }
    let addresses = status.addresses.unwrap_or_default();
    let address = addresses
        .iter()
        .find(|address| address.type_ == "InternalIP");
    let made = node.metadata.creation_timestamp.as_ref();
    vec![
        node.metadata.name.clone().unwrap_or_default(),
        state,
        address
            .map(|address| address.address.clone())
            .unwrap_or_default(),
        made.map(|made| age(made.0)).unwrap_or_default(),
        status
            .node_info
            .map(|info| info.kubelet_version)
            .unwrap_or_default(),
        spec.pod_cidrs.unwrap_or_default().join(","),
        why.unwrap_or_default(),
    ]
}

fn age(made: Timestamp) -> String {
    let nanoseconds = i64::try_from(made.as_nanosecond()).unwrap_or_default();
    write_age_since(nanoseconds, Timestamp::now())
}
