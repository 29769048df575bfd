//! `berth cluster nodes`: the machines of the cluster. As `berth get nodes`, and also
//! where this machine is no server: then with the node's own certificate.

use std::net::SocketAddr;

use berth_scheduler::trust::connect;
use berth_scheduler::trust::credential::Credential;
use berth_scheduler::trust::servers::{LEADER, OF_SERVERS};
use berth_scheduler::trust::tls::Shown;
use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::json;

use super::membership::not_ready;
use crate::amounts::write_age_since;
use crate::cluster::api::{self, ClusterArguments};
use crate::cluster::file::NodeFile;
use crate::cluster::parts::known_servers;
use crate::cluster::plans::SERVER_LABEL;
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
    let nodes = Api::<Node>::all(client.clone())
        .list(&ListParams::default())
        .await;
    let nodes = nodes
        .map_err(|error| Error::new(format!("list nodes: {}", api::words(&error))))?
        .items;
    let servers = servers(&client).await?;
    let values: Vec<_> = nodes.iter().map(|node| json!(node)).collect();
    let name = |value: &serde_json::Value| {
        let name = value["metadata"]["name"].as_str();
        name.unwrap_or_default().to_owned()
    };
    print_list(settings.format, &values, name, || Rows {
        heads: vec![
            "NAME",
            "STATE",
            "ROLE",
            "ADDRESS",
            "AGE",
            "VERSION",
            "PODS' RANGE",
            "WHY",
        ],
        wide_columns: 2,
        rows: nodes.iter().map(|node| row(node, &servers)).collect(),
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
    if cluster.kubeconfig.is_some() {
        return api::connect(settings, cluster).await;
    }
    match NodeFile::read(&places.config)? {
        Some(file) => connect_as_node(places, &file),
        None if places.kubeconfig().exists() => api::connect(settings, cluster).await,
        None => NodeFile::expect(&places.config).and_then(|file| connect_as_node(places, &file)),
    }
}

/// A client as this node, of whichever server answers.
///
/// # Errors
///
/// It has no certificate.
pub fn connect_as_node(places: &Places, file: &NodeFile) -> Result<Client> {
    let attempt = "speak with the cluster as this node";
    let credential = Credential::read(&places.node_pki(), "node").context(attempt)?;
    let credential =
        credential.ok_or_else(|| Error::new(format!("{attempt}: it has no certificate")))?;
    let shown = Shown::new(credential).context(attempt)?;
    connect::client(&known_servers(places, file), &shown).context(attempt)
}

/// The servers that are alive, by the nodes that they run on.
#[derive(Debug, Default)]
pub struct Alive {
    /// Nodes.
    pub nodes: Vec<String>,
    /// Where the one that leads answers.
    pub leader: Option<String>,
    /// The node of that.
    leading: Option<String>,
}

/// Asks which servers are alive.
///
/// # Errors
///
/// The cluster does not answer.
pub async fn servers(client: &Client) -> Result<Alive> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let there = ListParams::default().labels(OF_SERVERS);
    let found = slices.list(&there).await;
    let found =
        found.map_err(|error| Error::new(format!("list servers: {}", api::words(&error))))?;
    let mut alive = Alive::default();
    for slice in found.items {
        let annotations = slice.metadata.annotations.unwrap_or_default();
        let leader = annotations.get(LEADER).cloned();
        let port = slice.ports.into_iter().flatten().find_map(|port| port.port);
        for endpoint in slice.endpoints.into_iter().flatten() {
            let Some(node) = endpoint.node_name else {
                continue;
            };
            let address = endpoint.addresses.first().and_then(|one| one.parse().ok());
            let address = address.zip(port.and_then(|port| u16::try_from(port).ok()));
            let address = address.map(|(address, port)| SocketAddr::new(address, port));
            if leader.is_some() && address.map(|address| address.to_string()) == leader {
                alive.leading = Some(node.clone());
            }
            alive.nodes.push(node);
        }
        alive.leader = alive.leader.or(leader);
    }
    Ok(alive)
}

/// What a node is: where a server is, whether that is alive, and whether it leads.
fn role(node: &Node, servers: &Alive) -> &'static str {
    let name = node.metadata.name.as_ref();
    let labels = node.metadata.labels.iter().flatten();
    let is_server = labels.into_iter().any(|(label, _)| label == SERVER_LABEL);
    match (is_server, name) {
        (_, name) if name.is_some() && name == servers.leading.as_ref() => "server,leader",
        (_, Some(name)) if servers.nodes.contains(name) => "server",
        (true, _) => "server,away",
        (false, _) => "node",
    }
}

fn row(node: &Node, servers: &Alive) -> Vec<String> {
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
        role(node, servers).to_owned(),
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
