//! Hollow nodes with the agent's own code: only their runtime pretends.

use std::{net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{HollowConfig, runtime::PretendRuntime};
use crate::agent::{self, AgentError, settings::AgentConfig};

/// Runs an agent for each node until told to stop; `directory` holds what they keep on disk.
///
/// They do not listen: a hollow node has no logs.
///
/// # Errors
///
/// The first agent that could not begin; the others end too.
pub async fn run(
    client: Client,
    config: HollowConfig,
    directory: &Path,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    let mut agents = JoinSet::new();
    for number in 0..config.nodes {
        let runtime = Arc::new(PretendRuntime::new(
            u16::try_from(number).unwrap_or(u16::MAX),
        ));
        let settings = settings(&config, number, directory);
        agents.spawn(agent::run(
            client.clone(),
            runtime,
            settings,
            shutdown.clone(),
        ));
    }
    while let Some(ended) = agents.join_next().await {
        // A panic of an agent was told where it happened.
        ended.unwrap_or(Ok(()))?;
    }
    Ok(())
}

fn settings(config: &HollowConfig, number: usize, directory: &Path) -> AgentConfig {
    let name = format!("{}{number}", config.prefix);
    let mut settings = AgentConfig::new(directory.join(&name));
    settings.logs_dir = settings.data_dir.join("logs");
    settings.log_links_dir = None;
    settings.listen = None;
    settings.max_pods = config.pods;
    settings.node.name = name;
    settings.node.addresses = vec![Ipv4Addr::LOCALHOST.into()];
    settings.node.cpu_millis = i64::from(config.cpu) * 1000;
    settings.node.memory_bytes = i64::from(config.memory_gib) << 30;
    settings.storage_bytes = Some(1 << 40);
    settings.labels.insert(
        "topology.kubernetes.io/zone".to_owned(),
        format!("zone-{}", number % config.zones.max(1)),
    );
    // A thousand agents in one process share two processors.
    settings.periods.lease = config.lease_period.unwrap_or(Duration::from_secs(3600));
    settings.periods.lease_holds = settings.periods.lease * 4;
    settings.periods.node = Duration::from_secs(30);
    settings.periods.node_again = Duration::from_secs(300);
    settings
}
