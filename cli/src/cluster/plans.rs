//! What the parts of a node's process are told: `node.toml` in their own words.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use berth_cri::service::CriService;
use berth_cri::service::socket::CriSocket;
use berth_netd::cluster::ClusterNetConfig;
use berth_scheduler::agent::settings::AgentConfig;
use berth_scheduler::trust::tls::{self, Shown};

use super::file::NodeFile;
use super::parts::Member;
use crate::error::{Context, Error, Result};
use crate::settings::Settings;

/// The label of a Node whose machine has a server.
pub const SERVER_LABEL: &str = "node-role.kubernetes.io/control-plane";

/// What the network is told.
///
/// # Errors
///
/// A range of the file is none.
pub fn network(settings: &Settings, file: &NodeFile) -> Result<ClusterNetConfig> {
    let directory = settings.data_dir.join("node").join("network");
    let mut config = ClusterNetConfig::new(file.name.clone(), directory);
    let range = &file.cluster.service_range;
    let range = range
        .parse()
        .map_err(|_| Error::new(format!("service-range: {range:?} is no range")))?;
    config.service_ranges = vec![range];
    config.dns.addresses = vec![file.cluster.dns];
    config.dns.domain = file.cluster.domain.clone();
    if let Some(port) = file.network.vxlan_port {
        config.overlay.port = port;
    }
    Ok(config)
}

/// What the agent is told.
///
/// # Errors
///
/// The authority is not a certificate.
pub fn agent(member: &Member, shown: &Arc<Shown>) -> Result<AgentConfig> {
    let (settings, file) = (&member.settings, &member.file);
    let mut config = AgentConfig::new(settings.data_dir.join("agent"));
    config.node.name = file.name.clone();
    config.node.addresses = vec![file.address];
    config.max_pods = file.agent.max_pods;
    config.labels = file.agent.labels.clone();
    if file.server.is_some() {
        // As kubectl knows servers: ROLES of 'kubectl get nodes'.
        let role = config.labels.entry(SERVER_LABEL.to_owned());
        role.or_default();
    }
    config.images = file.agent.images.limits()?;
    config.logs = file.agent.logs.limits()?;
    config.pressure = file.agent.pressure.limits()?;
    config.listen = Some(SocketAddr::new(file.address, file.agent.port));
    let tls = tls::agent_server(shown).context("prepare the agent's port")?;
    config.tls = Some(Arc::new(tls));
    config.logs_dir = settings.data_dir.join("agent").join("logs");
    if settings.data_dir == Path::new("/var/lib/berth") {
        config.logs_dir = "/var/log/pods".into();
    } else {
        // Links for collectors are where collectors look, and so are one machine's.
        config.log_links_dir = None;
    }
    config.dns.servers = vec![file.cluster.dns];
    config.dns.domain = file.cluster.domain.clone();
    Ok(config)
}

/// The runtime that the agent asks: the one that the file names, or ours on its socket.
///
/// # Errors
///
/// The file's address is no socket's.
pub fn runtime(member: &Member) -> Result<Arc<dyn CriService>> {
    let path = match &member.file.agent.runtime {
        Some(address) => {
            let path = address.strip_prefix("unix://").map(Path::new);
            let path = path.filter(|path| path.is_absolute()).ok_or_else(|| {
                Error::new(format!(
                    "agent.runtime: expected unix:///PATH, found {address:?}; nothing was started"
                ))
            })?;
            path.to_owned()
        }
        None => member.settings.run_dir.join("berth.sock"),
    };
    let socket = CriSocket::at(&path).context("find the runtime")?;
    Ok(Arc::new(socket))
}
