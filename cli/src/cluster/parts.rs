//! The parts of a node's process: server, runtime, network, agent. Each is a task that
//! ends with the process's token, and a failure of one ends all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_scheduler::server::{self, ServerConfig, ServerError, StorePlace};
use berth_scheduler::trust::connect;
use berth_scheduler::trust::credential::Credential;
use berth_scheduler::trust::renew::{self, Renewal};
use berth_scheduler::trust::servers::{self, Servers};
use berth_scheduler::trust::tls::Shown;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::file::NodeFile;
use super::{Places, plans};
use crate::error::{Context, Error, Result};
use crate::settings::Settings;

/// What the parts are told.
#[derive(Debug, Clone)]
pub struct Member {
    /// The directories.
    pub settings: Settings,
    /// Where a member's files are.
    pub places: Places,
    /// What this machine is in its cluster.
    pub file: NodeFile,
}

/// The parts that run.
#[derive(Debug)]
pub struct Parts {
    shutdown: CancellationToken,
    tasks: JoinSet<(&'static str, Result<()>)>,
    known: Option<(Arc<Shown>, Arc<Servers>)>,
}

impl Parts {
    /// None yet; `shutdown` ends them.
    pub fn new(shutdown: CancellationToken) -> Parts {
        Parts {
            shutdown,
            tasks: JoinSet::new(),
            known: None,
        }
    }

    /// Waits until a part ends before it was told to.
    ///
    /// # Errors
    ///
    /// Always, with which and why.
    pub async fn failure(&mut self) -> Result<()> {
        match self.tasks.join_next().await {
            Some(Ok((name, Ok(())))) => Err(Error::new(format!("{name} has ended"))),
            Some(Ok((name, Err(error)))) => Err(error).context(format!("run {name}")),
            Some(Err(error)) => Err(error).context("run a part"),
            None => std::future::pending().await,
        }
    }

    /// Waits until all have ended, but not for ever.
    ///
    /// # Errors
    ///
    /// One of them failed at its end.
    pub async fn ended(mut self, patience: Duration) -> Result<()> {
        let mut outcome = Ok(());
        let waiting = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Ok((name, Err(error))) = ended {
                    outcome = Err(error).context(format!("end {name}"));
                }
            }
        };
        if tokio::time::timeout(patience, waiting).await.is_err() {
            tracing::warn!("a part did not end in time and was cut off");
        }
        outcome
    }

    /// Starts the server and waits until it answers; where this node has no certificate
    /// yet, its own server makes one.
    ///
    /// A member of a cluster with several servers does not wait: etcd may be away, for it
    /// starts after the same power failure, and the node's pods need their agent.
    ///
    /// # Errors
    ///
    /// The file has no server, or it cannot begin.
    pub async fn server(&mut self, member: &Member) -> Result<()> {
        let config = member.file.server_config(member.places.server.clone())?;
        let Some(config) = config else {
            return Err(Error::new(format!(
                "{} has no [server]: there is none on this machine",
                member.places.config.display()
            )));
        };
        let pki = member.places.node_pki();
        let attempt = "read the node's certificate";
        let is_certified = Credential::read(&pki, "node").context(attempt)?.is_some();
        let shares_store = matches!(config.store, StorePlace::Etcd(_));
        if shares_store && is_certified && !member.places.begun().exists() {
            let serving = serve_when_possible(config, self.shutdown.clone());
            self.spawn("the server", async { serving.await.context("serve") });
            return Ok(());
        }
        let (tell, told) = oneshot::channel();
        let ready = |serving| {
            // Whoever waited has gone: then nobody needs to know.
            let _ = tell.send(serving);
        };
        let running = server::run(config, ready, self.shutdown.clone());
        self.spawn("the server", async { running.await.context("serve") });
        let serving = self.wait_for("the server", told).await?;
        if !is_certified {
            let attempt = "make this node's certificate";
            let credential = serving.admit(&member.file.name).await.context(attempt)?;
            credential.write(&pki, "node").context(attempt)?;
        }
        Ok(())
    }

    /// Starts the runtime on its socket.
    ///
    /// # Errors
    ///
    /// Another one answers there, or the engine cannot be opened.
    pub async fn runtime(&mut self, member: &Member) -> Result<()> {
        let (tell, told) = oneshot::channel();
        let settings = member.settings.clone();
        let shutdown = self.shutdown.clone();
        self.spawn("the runtime", async move {
            let ready = move || {
                let _ = tell.send(());
            };
            crate::commands::cri::serve_in_node(&settings, ready, shutdown).await
        });
        self.wait_for("the runtime", told).await
    }

    /// Starts the network.
    ///
    /// # Errors
    ///
    /// This node has no certificate, or the kernel refuses.
    pub async fn network(&mut self, member: &Member) -> Result<()> {
        let client = self.client(member)?;
        let config = plans::network(&member.settings, &member.file)?;
        let running = berth_netd::cluster::run(client, config, self.shutdown.clone());
        self.spawn("the network", async {
            running.await.context("keep the network")
        });
        Ok(())
    }

    /// Starts the agent.
    ///
    /// # Errors
    ///
    /// This node has no certificate.
    pub async fn agent(&mut self, member: &Member) -> Result<()> {
        let client = self.client(member)?;
        let (shown, _) = self.known(member)?;
        let config = plans::agent(member, &shown)?;
        let service = plans::runtime(member)?;
        let running = berth_scheduler::agent::run(client, service, config, self.shutdown.clone());
        self.spawn("the agent", async { running.await.context("keep pods") });
        Ok(())
    }

    fn client(&mut self, member: &Member) -> Result<kube::Client> {
        let (shown, servers) = self.known(member)?;
        connect::client(&servers, &shown).context("speak with the cluster")
    }

    /// This node's certificate, which is renewed from now on, and where servers are, which
    /// is learned from now on.
    fn known(&mut self, member: &Member) -> Result<(Arc<Shown>, Arc<Servers>)> {
        if let Some(known) = &self.known {
            return Ok(known.clone());
        }
        let attempt = "read this node's certificate";
        let directory = member.places.node_pki();
        let credential = Credential::read(&directory, "node").context(attempt)?;
        let credential = credential.ok_or_else(|| {
            Error::new(format!(
                "{attempt}: there is none in {}",
                directory.display()
            ))
        })?;
        let shown = Shown::new(credential).context(attempt)?;
        let servers = known_servers(&member.places, &member.file);
        let client = connect::client(&servers, &shown).context("speak with the cluster")?;
        let renewal = Renewal {
            directory,
            name: "node",
            servers: servers.clone(),
            pause: Duration::from_secs(30),
        };
        let renewing = renew::run(renewal, shown.clone());
        self.spawn_endless("the renewal of certificates", renewing);
        let learning = servers::follow(client, servers.clone());
        self.spawn_endless("the list of servers", learning);
        self.known = Some((shown.clone(), servers.clone()));
        Ok((shown, servers))
    }

    fn spawn_endless(
        &mut self,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let shutdown = self.shutdown.clone();
        self.spawn(name, async move {
            shutdown.run_until_cancelled(work).await;
            Ok(())
        });
    }

    fn spawn(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        self.tasks.spawn(async move { (name, part.await) });
    }

    /// What a part tells when it is ready; its failure if it ends before.
    async fn wait_for<T>(&mut self, name: &str, told: oneshot::Receiver<T>) -> Result<T> {
        match told.await {
            Ok(told) => Ok(told),
            // It was dropped with its part, which says why.
            Err(_) => Err(match self.failure().await {
                Err(error) => error,
                Ok(()) => Error::new(format!("{name} has ended")),
            }),
        }
    }
}

/// Serves as soon as the store that several servers share is there.
async fn serve_when_possible(
    config: ServerConfig,
    shutdown: CancellationToken,
) -> std::result::Result<(), ServerError> {
    let mut told = false;
    loop {
        let outcome = server::run(config.clone(), |_| {}, shutdown.clone()).await;
        match outcome {
            Err(error) if error.is_passing() => {
                if !std::mem::replace(&mut told, true) {
                    let chain = berth_runtime::causes::chain(&error);
                    tracing::warn!("the server waits for its store: {chain}");
                }
                let pause = tokio::time::sleep(Duration::from_secs(1));
                if shutdown.run_until_cancelled(pause).await.is_none() {
                    return Ok(());
                }
            }
            outcome => return outcome,
        }
    }
}

/// Where servers answer: those of the file, the one in this machine first, and those that
/// this node has learned of.
pub fn known_servers(places: &Places, file: &NodeFile) -> Arc<Servers> {
    let mut servers = file.servers.clone();
    if let Some(server) = &file.server {
        let own = SocketAddr::new(server.advertise, server.listen.port());
        servers.retain(|known| *known != own);
        servers.insert(0, own);
    }
    Servers::remembered(servers, places.known_servers())
}

/// Takes the network of the cluster away from this machine: links, rules, state.
///
/// # Errors
///
/// The kernel refuses.
pub async fn remove_network(settings: &Settings, file: &NodeFile) -> Result<()> {
    let config = plans::network(settings, file)?;
    berth_netd::cluster::remove(&config)
        .await
        .context("take the cluster's network away")
}
