//! The node agent: what the cluster says, done on this node through the CRI.
//!
//! ```text
//!           Lease, Node ◀── lease, node ──┐
//!  server   Pods ─────────────────────────┼─▶ pods ─▶ one worker a pod ─▶ CRI
//!           status, events ◀──────────────┘      ▲
//!           logs, exec ─▶ port ─▶ CRI            └── checkpoint (on disk)
//! ```
//!
//! The agent keeps nothing that it needs in memory alone. Pods are found again by
//! the runtime's labels, and what they are to be stands in checkpoints: an agent that
//! is killed at any moment, with or without a server, goes on where it was, and no
//! pod notices.
//!
//! What a pod means is not decided here: [`crate::pod::worker`] does that, the same
//! for `berth run`.
//!
//! Read more: `docs/agent.md`.

use std::{io, path::PathBuf, sync::Arc};

use berth_cri::service::CriService;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, reflector, watcher},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::waits::{Waits, WatchWaits};

/// Whether a pod can run here.
pub mod admission;
/// What changes on the node.
pub mod changes;
/// What is known of pods, on disk.
pub mod checkpoint;
/// What happens to pods, told as Events.
pub mod events;
/// Which pod goes when the node runs short.
pub mod eviction;
/// The heartbeat.
pub mod lease;
/// The node as the API shows it.
pub mod node;
/// ConfigMaps and Secrets of pods.
pub mod objects;
/// The pods of this node.
pub mod pods;
/// What the server asks of the node.
pub mod port;
/// Variables that tell of services.
pub mod services;
/// What an agent is told once.
pub mod settings;
/// Pods' statuses, on their way to the server.
pub mod status;
/// Logs that grow, images that nobody uses.
pub mod tidy;

use node::{
    keep::NodeKeeper,
    observe::{self, RuntimeName},
};
use pods::{Pods, Shared};
use settings::AgentConfig;

/// Who wrote a field, in `managedFields`.
pub const FIELD_MANAGER: &str = "berth-agent";

/// Why an agent could not begin.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A directory is not there and could not be made.
    #[error("{} was not made", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The port is taken, or not this machine's.
    #[error("the agent does not listen at {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Keeps this node's pods as the cluster says, until told to end.
///
/// Pods run on when it returns: whoever wants them gone drains the node first.
///
/// # Errors
///
/// When it cannot begin: a directory or the port. A server or a runtime that does
/// not answer is waited for.
pub async fn run(
    client: Client,
    service: Arc<dyn CriService>,
    config: AgentConfig,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    ensure_directories(&config)?;
    let listener = listen(&config).await?;
    let config = Arc::new(config);
    let working = work(client, service, config, listener);
    tokio::select! {
        () = working => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}

/// Everything that an agent does; never returns.
async fn work(
    client: Client,
    service: Arc<dyn CriService>,
    config: Arc<AgentConfig>,
    listener: Option<TcpListener>,
) {
    let runtime = meet_runtime(&service, &config).await;
    let port = listener
        .as_ref()
        .and_then(|listener| Some(listener.local_addr().ok()?.port()));
    let keeper = NodeKeeper {
        client: client.clone(),
        service: Arc::clone(&service),
        config: Arc::clone(&config),
        runtime: runtime.clone(),
        port,
    };
    let (own_node, node) = watch::channel(None);
    let mut tasks = JoinSet::new();
    let (services, listing) = follow_services(client.clone());
    tasks.spawn(listing);
    let shared = Arc::new(Shared::new(
        client.clone(),
        Arc::clone(&service),
        runtime,
        Arc::clone(&config),
        services,
    ));
    tasks.spawn(Arc::clone(&shared.statuses).write_all());
    tasks.spawn(Arc::clone(&shared.events).tell_all());
    tasks.spawn(Arc::clone(&shared.changes).listen(Arc::clone(&service), config.periods.clone()));
    tasks.spawn(tidy::keep(service, Arc::clone(&config)));
    let (evictions, heard) = mpsc::channel(1);
    tasks.spawn(eviction::keep(Arc::clone(&shared), evictions));
    tasks.spawn(Pods::new(Arc::clone(&shared), node.clone(), heard).keep());
    if let Some(listener) = listener {
        tasks.spawn(port::serve(listener, shared));
    }
    tasks.spawn(keeper.clone().follow(own_node));
    tasks.spawn(async move {
        let node_uid = keeper.register().await.metadata.uid.unwrap_or_default();
        let name = config.node.name.clone();
        let beating = lease::keep(client, name, node_uid, config.periods.clone());
        tokio::join!(beating, keeper.keep(node));
    });
    while let Some(ended) = tasks.join_next().await {
        // None of them ends by itself.
        warn!(?ended, "a part of the agent ended");
    }
}

/// The cluster's services, as pods' variables need them.
fn follow_services(
    client: Client,
) -> (
    reflector::Store<Service>,
    impl Future<Output = ()> + Send + 'static,
) {
    let (reader, writer) = reflector::store();
    let api: Api<Service> = Api::all(client);
    let changes = watcher(api, watcher::Config::default())
        .backoff(WatchWaits::default())
        // Kept for every service of the cluster, on every node: no more than is read.
        .modify(|service| {
            service.metadata.managed_fields = None;
            service.metadata.annotations = None;
            service.status = None;
        })
        .reflect(writer);
    (reader, changes.for_each(|_| std::future::ready(())))
}

/// Waits for the runtime to say who it is.
async fn meet_runtime(service: &Arc<dyn CriService>, config: &AgentConfig) -> RuntimeName {
    let mut waits = Waits::new(config.periods.retry);
    loop {
        match observe::ask_name(service).await {
            Ok(runtime) => {
                info!(
                    name = runtime.name,
                    version = runtime.version,
                    "the runtime answers"
                );
                return runtime;
            }
            Err(status) => {
                warn!(
                    message = status.message(),
                    "the runtime does not answer yet"
                );
                waits.wait().await;
            }
        }
    }
}

fn ensure_directories(config: &AgentConfig) -> Result<(), AgentError> {
    use std::os::unix::fs::DirBuilderExt;
    let private = [
        config.data_dir.clone(),
        config.volumes_dir(),
        config.pods_dir(),
    ];
    let made = private.into_iter().map(|path| (path, 0o700));
    let links = config.log_links_dir.clone();
    let public = std::iter::once(config.logs_dir.clone()).chain(links);
    for (path, mode) in made.chain(public.map(|path| (path, 0o755))) {
        let mut builder = std::fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(mode)
            .create(&path)
            .map_err(|source| AgentError::Directory { path, source })?;
    }
    Ok(())
}

async fn listen(config: &AgentConfig) -> Result<Option<TcpListener>, AgentError> {
    let Some(address) = config.listen else {
        return Ok(None);
    };
    let bound = TcpListener::bind(address).await;
    bound
        .map(Some)
        .map_err(|source| AgentError::Listen { address, source })
}

/// Whether the server does not have the object.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the object is another than was thought.
pub(crate) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

#[cfg(test)]
mod tests;
