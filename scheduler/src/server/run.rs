//! Opening, leading, ending.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bootstrap::{self, Bootstrap};
use super::port::{self, Port};
use super::reach::Reach;
use super::{ServerConfig, ServerError, StorePlace, founding, kubeconfig, pki};
use crate::api::allocate::{Pool, Range};
use crate::api::proxy::{NodeDialer, Stream};
use crate::api::{Api, ApiConfig, Identity, http, local};
use crate::store::SharedStore;
use crate::store::election::{self, Election, EtcdElection, Sole};
use crate::store::embedded::EmbeddedStore;
use crate::store::etcd::{EtcdConfig, EtcdStore};
use crate::trust::authority;
use crate::trust::credential::Credential;
use crate::trust::register::{self, Register};
use crate::trust::tls::{self, Shown};
use crate::trust::{TrustError, files};
use crate::{controllers, placement};

/// How long to wait after a campaign that failed.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// A server that answers.
#[derive(Clone)]
pub struct Serving {
    bootstrap: Arc<Bootstrap>,
    authority: String,
    /// Where it listens, with the port that it got.
    pub address: SocketAddr,
}

impl Serving {
    /// Makes the machine that the server runs on a node: it needs no token of its own.
    ///
    /// # Errors
    ///
    /// The name cannot be a node's, or the API does not answer.
    pub async fn admit(&self, node: &str) -> Result<Credential, TrustError> {
        let (key, request) = authority::request()?;
        let answer = self
            .bootstrap
            .admit(node, &request)
            .await
            .map_err(|refused| TrustError::certificate("admit this node", refused.0.message))?;
        let credential = Credential {
            certificate: answer.certificate,
            key,
            authority: self.authority.clone(),
        };
        Shown::new(credential.clone())?;
        Ok(credential)
    }
}

/// Opens everything in the order in which it is needed, serves, and ends it in the
/// opposite order.
pub(super) async fn run(
    config: Arc<ServerConfig>,
    ready: impl FnOnce(Serving),
    shutdown: CancellationToken,
) -> Result<(), ServerError> {
    files::ensure_private_directory(&config.directory)?;
    // The port first: it says at once whether another server is here.
    let listener = listen(config.listen).await?;
    let (store, election) = open_store(&config).await?;
    let authority = Arc::new(pki::settle(&config, &store).await?);
    let (credentials, admin) = pki::credentials(&config, &authority)?;
    let dialer = Arc::new(Reach::new(&credentials.reach)?);
    let api = open_api(&config, store.clone(), dialer).await?;
    let client = local::client(api.clone(), Identity::master("system:berth"));
    let register = Register::new();
    let (bootstrap, port) = {
        let mut layout = config.layout.clone();
        let own = bootstrap::address(config.advertise, config.listen);
        layout.servers.retain(|server| *server != own);
        layout.servers.insert(0, own);
        let bootstrap = Bootstrap::new(bootstrap::Parts {
            client: client.clone(),
            authority: authority.clone(),
            register: register.clone(),
            layout,
            node_life: config.node_life,
            attempts: config.attempts.clone(),
        });
        let port = Port {
            tls: Arc::new(tls::api_server(&credentials.port)?),
            router: bootstrap::router(bootstrap.clone()).merge(http::router(api.clone())),
            register: register.clone(),
            limits: config.limits.clone(),
        };
        (bootstrap, port)
    };
    let address = listener
        .local_addr()
        .map_err(|source| ServerError::Listen {
            address: config.listen,
            source,
        })?;
    let parts = TaskTracker::new();
    // Parts that ask the API end before the API does.
    let (asking, serving) = (shutdown.child_token(), CancellationToken::new());
    let answering = tokio::spawn(port::serve(port, listener, serving.clone()));
    let outcome = founding::found(&client, &config).await;
    if outcome.is_ok() {
        let reached = SocketAddr::new(config.advertise, address.port());
        kubeconfig::write(&config.kubeconfig(), reached, &admin)?;
        parts.spawn(ending(
            asking.clone(),
            register::follow(client.clone(), register.clone()),
        ));
        let leading = lead(config.clone(), election, client, register, asking.clone());
        parts.spawn(leading);
        ready(Serving {
            bootstrap,
            authority: authority.certificate().to_owned(),
            address,
        });
        shutdown.cancelled().await;
    }
    asking.cancel();
    parts.close();
    parts.wait().await;
    serving.cancel();
    // A panic there has ended the port already.
    let _ = answering.await;
    outcome
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServerError::Listen { address, source })
}

async fn ending(shutdown: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
}

/// Opens the store, and the way to become the leader among those who share it.
async fn open_store(
    config: &ServerConfig,
) -> Result<(SharedStore, Arc<dyn Election>), ServerError> {
    let name = bootstrap::address(config.advertise, config.listen).to_string();
    Ok(match &config.store {
        StorePlace::Embedded(path) => {
            let store = EmbeddedStore::open(path)?;
            (Arc::new(store), Arc::new(Sole::new(name)))
        }
        StorePlace::Etcd(members) => {
            let store = EtcdStore::open(EtcdConfig::new(members.clone())).await?;
            let election = EtcdElection::new(store.clone(), name, election::LEASE);
            (Arc::new(store), Arc::new(election))
        }
    })
}

async fn open_api(
    config: &ServerConfig,
    store: SharedStore,
    reach: Arc<Reach>,
) -> Result<Arc<Api>, ServerError> {
    let settings = ApiConfig {
        pool: pool(config)?,
        nodes: reach,
        ..ApiConfig::default()
    };
    Api::open(store, settings)
        .await
        .map_err(|error| ServerError::Api {
            reason: error.message,
        })
}

#[async_trait]
impl NodeDialer for Reach {
    async fn dial(&self, node: &str, host: IpAddr, port: u16) -> std::io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.connect(node, host, port).await?))
    }
}

/// Runs what only one server may run, whenever this one leads.
async fn lead(
    config: Arc<ServerConfig>,
    election: Arc<dyn Election>,
    client: kube::Client,
    register: Arc<Register>,
    shutdown: CancellationToken,
) {
    while !shutdown.is_cancelled() {
        let campaign = tokio::select! {
            campaign = election.campaign() => campaign,
            () = shutdown.cancelled() => return,
        };
        let reign = match campaign {
            Ok(reign) => reign,
            Err(error) => {
                tracing::warn!("campaign: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        tracing::info!(
            term = reign.term,
            "this server leads: controllers and placement run here"
        );
        let end = shutdown.child_token();
        let watching = {
            let (lost, end) = (reign.lost.clone(), end.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = lost.cancelled() => end.cancel(),
                    () = end.cancelled() => {}
                }
            })
        };
        let tending = ending(
            end.clone(),
            register::tend(client.clone(), register.clone()),
        );
        let placing = placement::run(client.clone(), config.placement.clone(), end.clone());
        let controlling = controllers::run(client.clone(), config.controllers.clone(), end.clone());
        futures::future::join3(tending, placing, controlling).await;
        end.cancel();
        // It only waits for what has happened now.
        let _ = watching.await;
        if !shutdown.is_cancelled() {
            tracing::warn!("this server leads no longer");
        }
        reign.resign().await;
    }
}

/// What Services may be given.
fn pool(config: &ServerConfig) -> Result<Pool, ServerError> {
    let range = &config.layout.service_range;
    let parsed = range.split_once('/').and_then(|(network, prefix)| {
        Some(Range {
            network: network.parse().ok()?,
            prefix: prefix.parse().ok()?,
        })
    });
    let parsed = parsed.ok_or_else(|| ServerError::Layout {
        field: "service-range",
        reason: format!("expected ADDRESS/LENGTH, found {range:?}"),
    })?;
    let (first, last) = config.layout.node_ports;
    if first == 0 || last < first {
        return Err(ServerError::Layout {
            field: "node-ports",
            reason: format!("expected FIRST and LAST, found {first} and {last}"),
        });
    }
    Ok(Pool {
        ranges: vec![parsed],
        node_ports: first..=last,
    })
}
