//! What an agent is told once: its node, its directories, how long it waits.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Taint;

use crate::pod::settings::{Backoff, NodeFacts};

/// The port of a kubelet.
pub const PORT: u16 = 10250;

/// Everything that an agent is told once.
#[derive(Clone)]
pub struct AgentConfig {
    /// The node's name, size and addresses.
    pub node: NodeFacts,
    /// The most pods that may run here.
    pub max_pods: u32,
    /// Space for pods' files, in bytes; that of the file system of `data_dir` if none is named.
    pub storage_bytes: Option<u64>,
    /// Labels that its Node gets, beside those that say what it is.
    pub labels: BTreeMap<String, String>,
    /// Taints that its Node is made with; one that is there keeps its own.
    pub taints: Vec<Taint>,
    /// Where the server's requests for logs and commands are heard; nowhere if none.
    pub listen: Option<SocketAddr>,
    /// Keys and certificates of that port, and who may ask there
    /// ([`crate::trust::tls::agent_server`]); plain HTTP for everybody, for tests, if none.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Volumes and what is known of pods stand below it.
    pub data_dir: PathBuf,
    /// Containers' logs stand at `logs_dir/NAMESPACE_NAME_UID/CONTAINER/ATTEMPT.log`.
    pub logs_dir: PathBuf,
    /// Links to the logs, by the containers' names and ids, for collectors of logs; none if none.
    pub log_links_dir: Option<PathBuf>,
    /// Seccomp profiles of type `Localhost` are relative to it.
    pub seccomp_dir: PathBuf,
    /// The node's resolver.
    pub resolv_conf: PathBuf,
    /// The cgroup below which pods' own are made; the runtime's choice if empty.
    pub cgroup_parent: String,
    /// The cluster's names.
    pub dns: ClusterNames,
    /// Sandboxes and containers that are made at once.
    pub starts_at_once: usize,
    /// How long it waits for what.
    pub periods: Periods,
    /// The wait before a container that ended is started again.
    pub restart_backoff: Backoff,
    /// The wait before an image is pulled again after a failure.
    pub pull_backoff: Backoff,
    /// When images that nobody uses are removed.
    pub images: ImageLimits,
    /// When a container's log begins a new file.
    pub logs: LogLimits,
    /// What must be free for the node to be at ease.
    pub pressure: Pressure,
}

/// Names that pods can resolve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterNames {
    /// The cluster's resolvers; pods use the node's if there is none.
    pub servers: Vec<IpAddr>,
    /// The domain that services' names stand below.
    pub domain: String,
}

/// How long an agent waits for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Periods {
    /// Between two renewals of the node's Lease.
    pub lease: Duration,
    /// How long a Lease says that it holds.
    pub lease_holds: Duration,
    /// Between two looks at the node.
    pub node: Duration,
    /// After this long an unchanged status of the node is told all the same.
    pub node_again: Duration,
    /// Between two looks at ConfigMaps and Secrets.
    pub objects: Duration,
    /// Between two looks for one that is missing.
    pub missing: Duration,
    /// How long statuses of a pod are gathered before they are written.
    pub gather: Duration,
    /// The first wait after a failed request to the server, and the longest.
    pub retry: (Duration, Duration),
    /// Between two lists of the runtime's containers, where it does not tell of changes.
    pub relist: Duration,
    /// Between two looks at a container that nothing was told of.
    pub look: Duration,
    /// Between two searches for what no pod owns any more.
    pub sweep: Duration,
    /// Between two looks at images and logs.
    pub tidy: Duration,
    /// Between two looks at what the node is short of.
    pub pressure: Duration,
}

/// When images that nobody uses are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// From this much of the file system in use on, in percent.
    pub high_percent: u8,
    /// Down to this much.
    pub low_percent: u8,
    /// Never one that was used or came this lately.
    pub unused_for: Duration,
}

/// When a container's log begins a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// From this size on.
    pub file_bytes: u64,
    /// Files of one container, with the one that is written.
    pub files: usize,
}

/// What must be free for the node to be at ease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pressure {
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Space for pods' files, in percent.
    pub disk_percent: u8,
    /// Process ids, in percent.
    pub pid_percent: u8,
    /// How long a node says at least that it is short: pods that come back at once would
    /// only be sent away again.
    pub holds: Duration,
}

impl AgentConfig {
    /// A kubelet's settings, for this machine, with a directory of its own.
    pub fn new(data_dir: PathBuf) -> AgentConfig {
        AgentConfig {
            node: NodeFacts::observe(),
            max_pods: 110,
            storage_bytes: None,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            listen: Some(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT)),
            tls: None,
            logs_dir: PathBuf::from("/var/log/pods"),
            log_links_dir: Some(PathBuf::from("/var/log/containers")),
            seccomp_dir: data_dir.join("seccomp"),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            cgroup_parent: String::new(),
            dns: ClusterNames::default(),
            starts_at_once: 8,
            periods: Periods::default(),
            restart_backoff: Backoff::KUBELET,
            pull_backoff: Backoff::KUBELET,
            images: ImageLimits::default(),
            logs: LogLimits::default(),
            pressure: Pressure::default(),
            data_dir,
        }
    }

    /// Where pods' volumes are.
    pub fn volumes_dir(&self) -> PathBuf {
        self.data_dir.join("volumes")
    }

    /// Where what is known of pods is kept.
    pub fn pods_dir(&self) -> PathBuf {
        self.data_dir.join("pods")
    }
}

impl std::fmt::Debug for AgentConfig {
    /// Without the keys.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("AgentConfig")
            .field("node", &self.node)
            .field("listen", &self.listen)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

impl Default for ClusterNames {
    fn default() -> ClusterNames {
        ClusterNames {
            servers: Vec::new(),
            domain: "cluster.local".to_owned(),
        }
    }
}

impl Default for Periods {
    fn default() -> Periods {
        Periods {
            lease: Duration::from_secs(2),
            lease_holds: Duration::from_secs(8),
            node: Duration::from_secs(5),
            node_again: Duration::from_secs(60),
            objects: Duration::from_secs(10),
            missing: Duration::from_secs(2),
            gather: Duration::from_millis(50),
            retry: (Duration::from_millis(500), Duration::from_secs(10)),
            relist: Duration::from_secs(1),
            look: Duration::from_secs(10),
            sweep: Duration::from_secs(60),
            tidy: Duration::from_secs(10),
            pressure: Duration::from_secs(10),
        }
    }
}

impl Default for ImageLimits {
    fn default() -> ImageLimits {
        ImageLimits {
            high_percent: 85,
            low_percent: 80,
            unused_for: Duration::from_secs(120),
        }
    }
}

impl Default for LogLimits {
    fn default() -> LogLimits {
        LogLimits {
            file_bytes: 10 << 20,
            files: 5,
        }
    }
}

impl Default for Pressure {
    fn default() -> Pressure {
        Pressure {
            memory_bytes: 100 << 20,
            disk_percent: 10,
            pid_percent: 4,
            holds: Duration::from_secs(300),
        }
    }
}
