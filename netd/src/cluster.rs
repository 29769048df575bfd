//! This node as one of many: overlay, services and names, from the cluster's API.
//!
//! ```text
//!   Nodes ──────────┐            ┌─ overlay    links, routes, rules  (rtnetlink)
//!   Services ───────┼─▶ model ───┼─ services   maps and chains       (nf_tables)
//!   EndpointSlices ─┘     │      └─ dns        names                 (a server here)
//!                     state file
//! ```
//!
//! What the watches tell goes into the model, and what follows from the model
//! is put in place and looked after: whatever somebody else deletes is back
//! after the next look. While the API is away the model stays as it was; the
//! state file carries it over a restart, so a node that boots without the API
//! serves what it served.
//!
//! Try: `nft delete table inet berth-services`, and `nft list tables` a second
//! later.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use tokio_util::sync::CancellationToken;

use crate::cluster::keeper::Keeper;
use crate::error::{Error, ErrorKind};
use crate::files::ensure_private_directory;
use crate::overlay::OverlayConfig;

/// What `run` needs to know.
#[derive(Debug, Clone)]
pub struct ClusterNetConfig {
    /// The name of this node's Node.
    pub node: String,
    /// Where the state file is.
    pub state_dir: PathBuf,
    /// The tunnel; the same on every node.
    pub overlay: OverlayConfig,
    /// Ranges of services' addresses.
    pub service_ranges: Vec<IpNet>,
    /// Names.
    pub dns: DnsConfig,
    /// How often to look whether everything stands.
    pub look_every: Duration,
}

/// How names are served.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// The addresses of the DNS service, which every node has for itself.
    pub addresses: Vec<IpAddr>,
    /// The port that the server listens on at these addresses; port 53 leads to it.
    pub port: u16,
    /// The cluster's domain.
    pub domain: String,
    /// The host's resolvers, for all other names.
    pub resolv_conf: PathBuf,
}

impl ClusterNetConfig {
    /// The defaults of a cluster, for one node.
    pub fn new(node: impl Into<String>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            node: node.into(),
            state_dir: state_dir.into(),
            overlay: OverlayConfig::default(),
            service_ranges: vec![IpNet::V4(Ipv4Net::new_assert(
                Ipv4Addr::new(10, 211, 0, 0),
                16,
            ))],
            dns: DnsConfig::default(),
            look_every: Duration::from_secs(1),
        }
    }
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 211, 0, 10))],
            port: 10_053,
            domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
        }
    }
}

/// Keeps this node's part of the cluster's network until `shutdown`. What was
/// made stays in place afterwards: pods go on, and a netd that starts again
/// takes it over.
///
/// # Errors
///
/// `Invalid` for the configuration, `Storage` for the state directory. Whatever
/// fails later is logged and tried again.
pub async fn run(
    client: kube::Client,
    config: ClusterNetConfig,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    config.validate()?;
    ensure_private_directory(&config.state_dir)?;
    let updates = feed::start(&client, &shutdown);
    Keeper::open(config).await?.run(updates, shutdown).await;
    Ok(())
}

/// Takes away all that [`run`] ever made on this machine; for a node that leaves.
///
/// # Errors
///
/// `Kernel`, `Storage`.
pub async fn remove(config: &ClusterNetConfig) -> Result<(), Error> {
    keeper::remove(config).await
}

impl ClusterNetConfig {
    fn validate(&self) -> Result<(), Error> {
        let invalid = |text: String| Err(Error::new(ErrorKind::Invalid, text));
        if self.node.is_empty() {
            return invalid("node: the name of this node is expected, got none".to_owned());
        }
        // 24 bits in the header; 0 is a number like any other, but ours is not.
        if !(1..1 << 24).contains(&self.overlay.vni) {
            return invalid(format!(
                "overlay.vni {}: expected 1 to 16777215",
                self.overlay.vni
            ));
        }
        if self.overlay.port == 0 || self.dns.port == 0 {
            return invalid("overlay.port and dns.port: 0 is no port".to_owned());
        }
        Ok(())
    }
}

/// Watches of the API, as updates of the model.
mod feed;
/// Puts in place what follows from the model, and looks after it.
mod keeper;
/// What netd knows of the cluster.
pub mod model;
/// Objects of the API as parts of the model.
pub mod objects;
/// The state file.
mod state;
