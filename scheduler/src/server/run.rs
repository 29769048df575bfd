//! Opening and ending.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bootstrap::{self, Bootstrap};
use super::leading::{self, Office};
use super::port::{self, Port};
use super::reach::Reach;
use super::roster::Roll;
use super::{ServerConfig, ServerError, StorePlace, founding, kubeconfig, pki};
use crate::api::allocate::{Pool, Range};
use crate::api::proxy::{NodeDialer, Stream};
use crate::api::{Api, ApiConfig, Identity, http, local};
use crate::store::election::{self, Election, EtcdElection, Sole};
use crate::store::embedded::EmbeddedStore;
use crate::store::etcd::{EtcdConfig, EtcdStore};
use crate::store::presence::{self, Present};
use crate::store::{SharedStore, StoreError};
use crate::trust::authority;
use crate::trust::credential::Credential;
use crate::trust::register::{self, Register};
use crate::trust::tls::{self, Shown};
use crate::trust::{TrustError, files};

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
    let Opened {
        store,
        election,
        shared,
    } = open_store(&config).await?;
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
            store: config.store.clone(),
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
    let present = Present {
        address: SocketAddr::new(config.advertise, address.port()),
        node: config.node.clone(),
    };
    let parts = TaskTracker::new();
    // Parts that ask the API end before the API does.
    let (asking, serving) = (shutdown.child_token(), CancellationToken::new());
    let answering = tokio::spawn(port::serve(port, listener, serving.clone()));
    let outcome = founding::found(&client, &config).await;
    if outcome.is_ok() {
        kubeconfig::write(&config.kubeconfig(), present.address, &admin)?;
        parts.spawn(ending(
            asking.clone(),
            register::follow(client.clone(), register.clone()),
        ));
        let office = Office {
            api,
            register,
            roll: match &shared {
                Some(store) => Roll::Shared(Arc::new(store.clone())),
                None => Roll::Sole(present.clone()),
            },
            address: present.address,
            controllers: config.controllers.clone(),
            placement: config.placement.clone(),
        };
        if let Some(store) = shared {
            parts.spawn(presence::announce(store, present, asking.clone()));
        }
        parts.spawn(leading::run(office, election, asking.clone()));
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

/// The store, and what goes with it.
struct Opened {
    store: SharedStore,
    /// The way to become the leader among those who share it.
    election: Arc<dyn Election>,
    /// The store that several servers share.
    shared: Option<EtcdStore>,
}

async fn open_store(config: &ServerConfig) -> Result<Opened, ServerError> {
    let name = bootstrap::address(config.advertise, config.listen).to_string();
    Ok(match &config.store {
        StorePlace::Embedded(path) => {
            let store = EmbeddedStore::open(path)?;
            Opened {
                store: Arc::new(store),
                election: Arc::new(Sole::new(name)),
                shared: None,
            }
        }
        StorePlace::Etcd(etcd) => {
            let store = EtcdStore::open(EtcdConfig {
                tls: etcd.tls.clone(),
                ..EtcdConfig::new(etcd.members.clone())
            })
            .await?;
            let election = EtcdElection::new(store.clone(), name, election::LEASE);
            Opened {
                store: Arc::new(store.clone()),
                election: Arc::new(election),
                shared: Some(store),
            }
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
        event_ttl: config.event_life,
        ..ApiConfig::default()
    };
    Api::open(store, settings)
        .await
        .map_err(|error| match error.code {
            503 => ServerError::Store(StoreError::Unavailable(error.message)),
            _ => ServerError::Api {
                reason: error.message,
            },
        })
}

#[async_trait]
impl NodeDialer for Reach {
    async fn dial(&self, node: &str, host: IpAddr, port: u16) -> std::io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.connect(node, host, port).await?))
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
