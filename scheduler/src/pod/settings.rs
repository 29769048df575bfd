//! What a worker is told once: directories, waits, facts of the node.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::sync::{Semaphore, watch};

use super::worker::image::Pulls;

/// Where a worker keeps things, how long it waits, and what it knows of its node.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Volumes stand below `volumes_dir/POD_UID/NAME`.
    pub volumes_dir: PathBuf,
    /// Logs stand at `logs_dir/NAMESPACE_NAME_UID/CONTAINER/ATTEMPT.log`.
    pub logs_dir: PathBuf,
    /// Seccomp profiles of type `Localhost` are relative to it.
    pub seccomp_dir: PathBuf,
    /// The file that `dnsPolicy: Default` copies.
    pub resolv_conf: PathBuf,
    /// The cgroup below which the pod's own is made; the engine's own choice if
    /// empty.
    pub cgroup_parent: String,
    /// What the node is and has.
    pub node: NodeFacts,
    /// What stays on the node when the pod has ended.
    pub leftovers: Leftovers,
    /// Between two looks at a container, when no change is announced.
    pub poll: Duration,
    /// The wait before a container that ended is started again.
    pub restart_backoff: Backoff,
    /// The wait before an image is pulled again after a failure.
    pub pull_backoff: Backoff,
    /// Counts up whenever something changed on the node, so that nothing has to
    /// wait for the next poll.
    pub changes: Option<watch::Receiver<u64>>,
    /// What becomes of a pod that lacks something.
    pub patience: Patience,
    /// The cluster's names.
    pub dns: ClusterDns,
    /// The runtime, in whose name containers' ids are told.
    pub runtime_name: String,
    /// Where pods come from, as their annotation says it.
    pub source: &'static str,
    /// Sandboxes that may be made at once; as many as there are pods if none.
    pub starts: Option<Arc<Semaphore>>,
    /// Pulls that are under way.
    pub pulls: Arc<Pulls>,
}

impl WorkerConfig {
    /// The kubelet's waits, with the two directories that have no default.
    pub fn new(volumes_dir: PathBuf, logs_dir: PathBuf) -> WorkerConfig {
        WorkerConfig {
            volumes_dir,
            logs_dir,
            seccomp_dir: PathBuf::from("/var/lib/berth/seccomp"),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            cgroup_parent: String::new(),
            node: NodeFacts::observe(),
            leftovers: Leftovers::Keep,
            poll: Duration::from_millis(200),
            restart_backoff: Backoff::KUBELET,
            pull_backoff: Backoff::KUBELET,
            changes: None,
            patience: Patience::Finite,
            dns: ClusterDns::default(),
            runtime_name: "berth".to_owned(),
            source: "file",
            starts: None,
            pulls: Arc::default(),
        }
    }
}

/// What becomes of a pod that lacks something: a ConfigMap, or a node that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It ends, and says why: nobody will bring it.
    Finite,
    /// It waits and says so, as on a cluster.
    Endless,
}

/// The names of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterDns {
    /// Its resolvers; a pod has the node's if there is none.
    pub servers: Vec<IpAddr>,
    /// What its names stand below.
    pub domain: String,
}

impl Default for ClusterDns {
    fn default() -> ClusterDns {
        ClusterDns {
            servers: Vec::new(),
            domain: "cluster.local".to_owned(),
        }
    }
}

/// What stays on the node when a pod has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftovers {
    /// Stopped containers and their logs, to be looked at; volumes are gone.
    Keep,
    /// Nothing.
    Remove,
}

/// A wait that doubles with each failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait.
    pub initial: Duration,
    /// The longest wait.
    pub max: Duration,
    /// What ran this long starts again from the first wait.
    pub reset_after: Duration,
}

impl Backoff {
    /// 10 s, 20 s, … 5 min; forgotten after 10 minutes of running.
    pub const KUBELET: Backoff = Backoff {
        initial: Duration::from_secs(10),
        max: Duration::from_secs(300),
        reset_after: Duration::from_secs(600),
    };

    /// The wait after that many failures in a row; none after no failure.
    pub fn wait(&self, failures: u32) -> Duration {
        match failures {
            0 => Duration::ZERO,
            _ => self
                .initial
                .saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX))
                .min(self.max),
        }
    }
}

/// What a pod may be told of its node, and what bounds it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node's name, `spec.nodeName` to the pod.
    pub name: String,
    /// The node's addresses, `status.hostIPs` to the pod.
    pub addresses: Vec<IpAddr>,
    /// Processor time, in thousandths of a processor.
    pub cpu_millis: i64,
    /// Memory, in bytes.
    pub memory_bytes: i64,
}

impl NodeFacts {
    /// This machine: its hostname, its processors, its memory.
    ///
    /// The address is that of the route to the world, or loopback without one.
    pub fn observe() -> NodeFacts {
        let uname = rustix::system::uname();
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
        let info = rustix::system::sysinfo();
        NodeFacts {
            name: uname.nodename().to_string_lossy().into_owned(),
            addresses: vec![observe_address().unwrap_or(Ipv4Addr::LOCALHOST.into())],
            cpu_millis: i64::try_from(processors)
                .unwrap_or(i64::MAX)
                .saturating_mul(1000),
            memory_bytes: i64::try_from(info.totalram)
                .unwrap_or(i64::MAX)
                .saturating_mul(i64::from(info.mem_unit)),
        }
    }
}

/// The address that packets to the world leave with.
///
/// Connecting a UDP socket sends nothing: the kernel only looks up the route
/// and picks the source address (ip(7)). The target is a documentation address
/// (RFC 5737), which no network uses.
fn observe_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::{Backoff, NodeFacts};
    use std::time::Duration;

    #[test]
    fn the_wait_doubles_up_to_its_longest() {
        let waits: Vec<u64> = [0, 1, 2, 3, 5, 6, 7, 40, u32::MAX]
            .iter()
            .map(|failures| Backoff::KUBELET.wait(*failures).as_secs())
            .collect();
        assert_eq!(waits, [0, 10, 20, 40, 160, 300, 300, 300, 300]);
        let tiny = Backoff {
            initial: Duration::from_millis(1),
            ..Backoff::KUBELET
        };
        assert_eq!(tiny.wait(3), Duration::from_millis(4));
    }

    #[test]
    fn the_node_has_processors_and_memory() {
        let node = NodeFacts::observe();
        assert!(node.cpu_millis >= 1000);
        assert!(node.memory_bytes > 1 << 20);
        assert!(!node.name.is_empty());
    }
}
