//! The engine: sandboxes and containers of one machine.
//!
//! ```text
//!  berth run ─┐                        ┌─▶ images: pull, unpack, mount
//!  CRI server ┼─▶ Engine (this module) ┼─▶ netd: links, addresses, ports
//!  berth exec ┘                        └─▶ berth-oci monitor, one a pod
//! ```
//!
//! No daemon holds the truth. It is in three places that outlive every
//! `berth`: records on disk say what was asked for, a pod's monitor says what
//! runs, and its exit files say how it ended. So each call reads them afresh, or
//! sees that they are as they were (`witness`); many engines work on one machine
//! at once, and one that is killed is missed by nobody: the next one undoes what
//! it left half-made (`recover`).
//!
//! Try it: `cat DATA/pods/*/pod.json`, and `berth exec` while `berth run` runs.

use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};

use berth_netd::cni::Cni;
use berth_netd::netd::Netd;
use tracing::Instrument as _;

use self::config::EngineConfig;
use self::container::under_way::UnderWay;
use self::error::{Error, ErrorKind};
use self::monitor_link::blocking;
use self::paths::Paths;
use self::records::Records;
use self::runtimes::Runtimes;
use self::spec::host::HostFacts;
use self::witness::Witnesses;
use crate::images::ImageStore;

/// Standard input and output of a container that runs, for a client.
pub mod attach;
/// Groups of a pod: where they are, what they use, and their end.
pub mod cgroups;
/// Where an engine keeps its things and what it works with.
pub mod config;
/// Making, starting, stopping and removing containers.
pub mod container;
/// What went wrong, and the kind that callers branch on.
pub mod error;
/// What happens in all pods, whoever makes it happen.
pub mod events;
/// Running one more program in a container.
pub mod exec;
/// Files that all containers of a pod share: hosts, hostname, resolv.conf.
pub mod files;
/// Names that the engine gives to sandboxes and containers.
pub mod id;
/// Starting a pod's monitor and asking it things.
pub(crate) mod monitor_link;
/// The mounts below a directory, found in the kernel's own list.
pub(crate) mod mount_table;
/// The network of a sandbox, made by netd or by plugins of CNI.
pub(crate) mod network;
/// Calls of an OCI runtime that the engine makes itself.
pub(crate) mod oci_call;
/// Where a pod's and a container's files are.
pub mod paths;
/// The node's range of pod addresses, told by the kubelet.
pub(crate) mod pod_cidr;
/// Limits of a whole pod, changed while it runs.
pub mod pod_limits;
/// Pressure: how long tasks of a group waited for what they wanted.
pub mod pressure;
/// The processes of a container.
pub mod processes;
/// What the engine remembers: one JSON file a sandbox, one a container.
pub mod records;
/// What engines that died have left half-made, undone.
pub(crate) mod recover;
/// OCI runtimes, by the names of their handlers.
pub mod runtimes;
/// A sandbox whose record is damaged.
pub(crate) mod salvage;
/// Making, stopping and removing sandboxes.
pub mod sandbox;
/// The CRI's calls on an engine.
pub(crate) mod service;
/// From a CRI request to an OCI configuration, without touching the machine.
pub mod spec;
/// Use of CPU, memory, disk and network.
pub mod stats;
/// Ids of the host for pods that want a user namespace and bring none.
pub(crate) mod user_ids;
/// What a container is at this moment, from records, monitor and exit files.
pub mod view;
/// What is known of pods without asking their monitors each time.
pub(crate) mod witness;

/// The engine of one pair of run and data directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    config: EngineConfig,
    paths: Paths,
    records: Records,
    images: ImageStore,
    // A kubelet may have it take another range of addresses.
    netd: RwLock<Netd>,
    // A reload of the server's file may bring others.
    runtimes: RwLock<Runtimes>,
    cni: Cni,
    host: HostFacts,
    under_way: UnderWay,
    witnesses: Witnesses,
}

/// What spans of the engine's steps are made under; nobody listens unless traces
/// are on.
pub(crate) const TRACE_TARGET: &str = "berth::trace";

/// A span of one step of an operation.
fn step(name: &'static str) -> tracing::Span {
    tracing::debug_span!(target: TRACE_TARGET, "step", otel.name = name)
}

impl Engine {
    /// Opens the directories, and undoes what dead processes left half-made.
    ///
    /// # Errors
    ///
    /// `Invalid` for the configuration, `Permission` for who is not root,
    /// `Storage`, `Image` or `Network` when a part cannot be opened.
    pub async fn open(config: EngineConfig) -> Result<Arc<Self>, Error> {
        config.validate()?;
        if !rustix::process::geteuid().is_root() {
            return Err(Error::new(
                ErrorKind::Permission,
                "containers need root: mounts, namespaces and groups are made; nothing was done",
            ));
        }
        let engine = blocking(move || Self::open_parts(config)).await?;
        // On the heap: whoever opens an engine keeps its state no longer than this.
        Box::pin(engine.recover()).await;
        Ok(Arc::new(engine))
    }

    fn open_parts(config: EngineConfig) -> Result<Self, Error> {
        let paths = Paths::new(&config.run_dir);
        records::files::ensure_directory(&paths.pods())?;
        let records = Records::open(&config.data_dir)?;
        cgroups::check_driver(config.cgroup_driver)?;
        let images = ImageStore::open(&config.data_dir, config.registries.clone())
            .map_err(|error| Error::caused(ErrorKind::Image, "open the image store", error))?
            .with_layers_at_once(config.layers_at_once);
        let mut network = config.network.clone();
        pod_cidr::apply_kept(&config.data_dir, &mut network)?;
        let netd = Netd::open(&config.data_dir.join("net"), network)
            .map_err(|error| Error::caused(ErrorKind::Network, "open the network", error))?;
        let cni_dir = config.data_dir.join("net/cni");
        let cni = Cni::open(&cni_dir, config.cni.clone())
            .map_err(|error| Error::caused(ErrorKind::Network, "open the network", error))?;
        let host = spec::host::observe_host()?;
        let runtimes = RwLock::new(config.runtimes.clone());
        Ok(Self {
            parts: Arc::new(Parts {
                config,
                runtimes,
                paths,
                records,
                images,
                netd: RwLock::new(netd),
                cni,
                host,
                under_way: UnderWay::default(),
                witnesses: Witnesses::default(),
            }),
        })
    }

    /// The image store.
    pub fn images(&self) -> &ImageStore {
        &self.parts.images
    }

    /// The network of the pods.
    pub fn netd(&self) -> Netd {
        let netd = self.parts.netd.read();
        // Whoever panicked has left a whole value behind: it is set in one step.
        netd.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The networks of plugins.
    pub fn cni(&self) -> &Cni {
        &self.parts.cni
    }

    fn replace_netd(&self, netd: Netd) {
        let mut known = self
            .parts
            .netd
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *known = netd;
    }

    /// The OCI runtimes of sandboxes that are made from now on.
    pub fn runtimes(&self) -> Runtimes {
        let runtimes = self.parts.runtimes.read();
        runtimes.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes other OCI runtimes. A sandbox keeps the one that it was made with.
    pub fn replace_runtimes(&self, runtimes: Runtimes) {
        let mut known = self
            .parts
            .runtimes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *known = runtimes;
    }

    /// What sandboxes and containers were asked to be.
    pub fn records(&self) -> &Records {
        &self.parts.records
    }

    /// Where run-time files are.
    pub fn paths(&self) -> &Paths {
        &self.parts.paths
    }

    /// What the engine was opened with.
    pub fn config(&self) -> &EngineConfig {
        &self.parts.config
    }

    /// Containers whose OCI runtime is still at work.
    fn under_way(&self) -> &UnderWay {
        &self.parts.under_way
    }

    /// What monitors have told and the kernel vouches for.
    fn witnesses(&self) -> &Witnesses {
        &self.parts.witnesses
    }

    fn host(&self) -> &HostFacts {
        &self.parts.host
    }

    /// Runs an operation to its end even if the caller goes away.
    ///
    /// A dropped future (a client that hung up, a timeout) would stop in the
    /// middle with things half-made and the lock let go.
    async fn to_the_end<T, F, W>(&self, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
        W: FnOnce(Engine) -> F,
    {
        match tokio::spawn(work(self.clone()).in_current_span()).await {
            Ok(outcome) => outcome,
            Err(error) => Err(Error::caused(
                ErrorKind::Storage,
                "an operation of the engine was broken off",
                error,
            )),
        }
    }
}
