//! The server's process: the API over TLS, the paths by which machines join, and, where
//! it leads, controllers and placement.
//!
//! ```text
//!                 :6443, TLS                         ┌ controllers ┐ while
//!   kubectl ──┐   ┌──────────┐   identity   ┌─────┐  │ placement   │ leader
//!   agents ───┼──▶│ port     │─────────────▶│ API │◀─┴─────────────┘
//!   netd ─────┘   │          │──▶ /berth/v1 └──┬──┘
//!                 └──────────┘    join, …      ▼
//!                                            store: redb, or etcd
//! ```
//!
//! Everything that asks the API inside this process does so by a client without a
//! socket, so there is one way in, and one place that decides who may do what.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::store::StoreError;
use crate::store::etcd::TlsFiles;
use crate::trust::TrustError;
use crate::trust::join::ClusterLayout;

/// How often a stranger may try.
pub mod attempts;
/// Joining, renewing, leaving: what is outside the Kubernetes API.
pub mod bootstrap;
/// What is in every cluster from its first moment.
pub mod founding;
/// The file that kubectl reads.
pub mod kubeconfig;
/// What only the leader does.
pub mod leading;
/// The authority and the server's certificates, in files.
pub mod pki;
/// TLS connections, each with its identity, bounded and ended in order.
pub mod port;
/// Connections to agents.
pub mod reach;
/// Answers to those who are not let in.
pub mod refusal;
/// The servers behind the Service `kubernetes`.
pub mod roster;
/// Opening and ending.
pub mod run;

/// Where the cluster's memory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorePlace {
    /// In a file of this machine: one server.
    Embedded(PathBuf),
    /// In etcd: any number of servers.
    Etcd(EtcdPlace),
}

/// Which etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdPlace {
    /// `HOST:PORT` of each member.
    pub members: Vec<String>,
    /// Files to speak TLS with; plain text without.
    pub tls: Option<TlsFiles>,
}

/// What a server needs to know.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The server's own files: the authority, its certificates, the kubeconfig.
    pub directory: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// By which address others reach it.
    pub advertise: IpAddr,
    /// The node that it runs on.
    pub node: Option<String>,
    /// By which further names and addresses it is known.
    pub names: Vec<String>,
    /// Where the cluster's memory is.
    pub store: StorePlace,
    /// How the cluster is laid out; the servers in it are filled in.
    pub layout: ClusterLayout,
    /// Bounds of its port.
    pub limits: port::Limits,
    /// How long a node's certificate holds.
    pub node_life: Duration,
    /// How long Events are kept after they last happened.
    pub event_life: Duration,
    /// What strangers may try.
    pub attempts: attempts::Allowed,
    /// What the controllers are told.
    pub controllers: crate::controllers::ControllersConfig,
    /// What placement is told.
    pub placement: crate::placement::PlacementConfig,
}

impl ServerConfig {
    /// A server with all its files below one directory.
    pub fn new(directory: PathBuf, advertise: IpAddr) -> ServerConfig {
        let any: IpAddr = match advertise {
            IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        ServerConfig {
            store: StorePlace::Embedded(directory.join("state.redb")),
            directory,
            listen: SocketAddr::new(any, 6443),
            advertise,
            node: None,
            names: Vec::new(),
            layout: ClusterLayout::default(),
            limits: port::Limits::default(),
            node_life: crate::trust::authority::NODE_LIFE,
            event_life: crate::api::EVENT_LIFE,
            attempts: attempts::Allowed::default(),
            controllers: crate::controllers::ControllersConfig::default(),
            placement: crate::placement::PlacementConfig::default(),
        }
    }

    /// Where certificates and keys lie.
    pub fn pki(&self) -> PathBuf {
        self.directory.join("pki")
    }

    /// What kubectl reads.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("admin.kubeconfig")
    }
}

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Nobody may listen there.
    #[error("listen on {address}; nothing was started")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The store cannot be opened.
    #[error("open the cluster's store")]
    Store(#[from] StoreError),
    /// The authority or a certificate is not as it should be.
    #[error("prepare the cluster's trust")]
    Trust(#[from] TrustError),
    /// The API cannot begin on its store.
    #[error("read the cluster from its store: {reason}")]
    Api {
        /// What it said.
        reason: String,
    },
    /// The store belongs to another cluster than the files do.
    #[error(
        "the store holds another cluster, whose authority is not the one in {}: a further server of that cluster joins with 'berth cluster join --server'",
        directory.display()
    )]
    OtherCluster {
        /// Where our authority is.
        directory: PathBuf,
    },
    /// What belongs to every cluster could not be made.
    #[error("found the cluster")]
    Found(#[source] Box<kube::Error>),
    /// A range of the layout is none.
    #[error("the cluster's layout: {field}: {reason}; nothing was started")]
    Layout {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl ServerError {
    /// Whether the store was away, so that the same may do a moment later.
    pub fn is_passing(&self) -> bool {
        match self {
            ServerError::Store(StoreError::Unavailable(_)) => true,
            ServerError::Found(error) => {
                matches!(&**error, kube::Error::Api(status) if status.code == 503)
            }
            _ => false,
        }
    }
}

/// Serves until `shutdown`; tells `ready` once it answers.
///
/// # Errors
///
/// [`ServerError`], before anything answers.
pub async fn run(
    config: ServerConfig,
    ready: impl FnOnce(run::Serving),
    shutdown: CancellationToken,
) -> Result<(), ServerError> {
    run::run(Arc::new(config), ready, shutdown).await
}
