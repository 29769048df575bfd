//! `berth cordon`, `berth uncordon`, `berth drain`: nodes that take no new pods, and
//! nodes that give away those they have.

use std::time::{Duration, Instant};

use berth_scheduler::api::kind::by_plural;
use clap::Args;
use kube::Client;
use serde_json::json;

use crate::cluster::api::{self, ClusterArguments};
use crate::cluster::request::{merge, read};
use crate::error::{Context, Error, Result};
use crate::output::print_line;
use crate::settings::Settings;

/// `berth cordon` and `berth uncordon`.
#[derive(Debug, Args)]
pub struct CordonArguments {
    /// Nodes
    #[arg(required = true, value_name = "NODE")]
    pub nodes: Vec<String>,
    /// Which cluster
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// `berth drain`.
#[derive(Debug, Args)]
pub struct DrainArguments {
    /// Nodes
    #[arg(required = true, value_name = "NODE")]
    pub nodes: Vec<String>,
    /// How long pods may take to go elsewhere, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub timeout: u64,
    /// Drain even where pods have no controller that makes them anew elsewhere
    #[arg(long)]
    pub force: bool,
    /// Which cluster
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// Whether a node takes new pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedulable {
    /// It does.
    Yes,
    /// It does not.
    No,
}

/// Cordons or uncordons nodes.
///
/// # Errors
///
/// A node is not there, or the API refuses.
pub async fn run(
    settings: &Settings,
    arguments: &CordonArguments,
    schedulable: Schedulable,
) -> Result<u8> {
    let client = api::connect(settings, &arguments.cluster).await?;
    for node in &arguments.nodes {
        let patch = json!({ "spec": { "unschedulable": schedulable == Schedulable::No } });
        merge(&client, nodes(), ("", bare(node)), "", &patch).await?;
        let word = match schedulable {
            Schedulable::Yes => "uncordoned",
            Schedulable::No => "cordoned",
        };
        print_line(&format!("node/{} {word}", bare(node)))?;
    }
    Ok(0)
}

/// Drains nodes, one after the other.
///
/// # Errors
///
/// A node is not there, a pod would be lost, or pods do not go in time.
pub async fn drain(settings: &Settings, arguments: &DrainArguments) -> Result<u8> {
    let client = api::connect(settings, &arguments.cluster).await?;
    for node in &arguments.nodes {
        let node = bare(node);
        read(&client, nodes(), "", node).await?;
        if !arguments.force {
            refuse_loss(&client, node).await?;
        }
        wait_empty(&client, node, Duration::from_secs(arguments.timeout)).await?;
        print_line(&format!("node/{node} drained"))?;
    }
    Ok(0)
}

async fn wait_empty(client: &Client, node: &str, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    let mut told = 0;
    loop {
        let left = berth_scheduler::server::bootstrap::drain(client, node)
            .await
            .context(format!("drain {node}"))?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::new(format!(
                "node {node} still has {} after {} seconds; it takes no new pods, 'berth uncordon {node}' takes that back",
                left.join(", "),
                patience.as_secs()
            )));
        }
        if left.len() != told {
            told = left.len();
            eprintln!("berth: waiting for {}", left.join(", "));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// A pod without a controller is made nowhere else.
async fn refuse_loss(client: &Client, node: &str) -> Result<()> {
    use k8s_openapi::api::core::v1::Pod;
    use kube::api::ListParams;
    let there = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let pods = kube::Api::<Pod>::all(client.clone())
        .list(&there)
        .await
        .map_err(|error| Error::new(format!("list the pods of {node}: {}", api::words(&error))))?;
    let is_alone = |pod: &&Pod| {
        let mut owners = pod.metadata.owner_references.iter().flatten();
        let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
        !owners.any(|owner| owner.controller == Some(true))
            && !matches!(phase.as_deref(), Some("Succeeded" | "Failed"))
    };
    let alone: Vec<String> = pods
        .items
        .iter()
        .filter(is_alone)
        .filter_map(|pod| pod.metadata.name.clone())
        .collect();
    if alone.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!(
        "node {node}: no controller makes these pods anew elsewhere: {}; --force removes them all the same; nothing was changed",
        alone.join(", ")
    )))
}

fn nodes() -> &'static berth_scheduler::api::kind::Kind {
    by_plural("", "nodes").expect("the table of kinds has nodes")
}

/// People write `node/a` too.
fn bare(node: &str) -> &str {
    node.strip_prefix("node/").unwrap_or(node)
}
