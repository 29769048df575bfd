//! The pods that are bound to this node, each with its stay.
//!
//! The watch says what is wanted, checkpoints say what was. A pod leaves only by the
//! server's word: a deletion in the watch, or a whole list without it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use berth_cri::{service::CriService, v1};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, reflector::Store, watcher},
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};
use tracing::{debug, info, warn};

use super::{
    admission::{self, Refusal},
    changes::Changes,
    checkpoint::{Checkpoint, Checkpoints},
    events::Events,
    eviction::Eviction,
    node::{self, keep::OwnNode, observe::RuntimeName},
    objects::ObjectSource,
    settings::AgentConfig,
    status::Statuses,
};
use crate::pod::{
    events::PodIdentity,
    objects::PodObjects,
    plan::names,
    settings::{ClusterDns, Leftovers, Patience, WorkerConfig},
    volumes,
    worker::{PodWorker, image::Pulls, status::Pending},
};
use crate::waits::WatchWaits;

/// What a pod's worker tells, passed on.
pub mod report;
/// One pod's stay on this node.
pub mod stay;

use stay::{Beginning, Presence, Stay, Wanted};

/// What pods of an agent's are marked with on the runtime.
const SOURCE: &str = "api";
/// How long the first pod may wait for the node's own Node.
const NODE_PATIENCE: Duration = Duration::from_secs(5);

/// What all pods of the node share.
pub struct Shared {
    /// The server.
    pub client: Client,
    /// The runtime.
    pub service: Arc<dyn CriService>,
    /// The agent's settings.
    pub config: Arc<AgentConfig>,
    /// Who the runtime is.
    pub runtime: RuntimeName,
    /// Statuses on their way to the server.
    pub statuses: Arc<Statuses>,
    /// Events on their way to the server.
    pub events: Arc<Events>,
    /// ConfigMaps and Secrets.
    pub objects: ObjectSource,
    /// The cluster's services.
    pub services: Store<Service>,
    /// What changes on the node.
    pub changes: Arc<Changes>,
    /// What is known of pods, on disk.
    pub checkpoints: Checkpoints,
    pulls: Arc<Pulls>,
    starts: Arc<Semaphore>,
    /// Pods that hold resources.
    active: Mutex<HashMap<String, Arc<Pod>>>,
    /// Pods that have a stay.
    known: Mutex<HashSet<String>>,
}

/// How much there is of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// Pods that hold resources.
    pub pods: usize,
    /// Statuses that the server does not have yet.
    pub statuses_waiting: usize,
    /// Events that it does not have yet.
    pub events_waiting: usize,
}

impl Shared {
    /// What pods share, with nobody there yet.
    pub fn new(
        client: Client,
        service: Arc<dyn CriService>,
        runtime: RuntimeName,
        config: Arc<AgentConfig>,
        services: Store<Service>,
    ) -> Shared {
        let periods = &config.periods;
        let name = config.node.name.clone();
        Shared {
            statuses: Statuses::new(client.clone(), periods.gather, periods.retry),
            events: Events::new(client.clone(), name, periods.retry),
            objects: ObjectSource::new(client.clone(), periods.missing),
            services,
            changes: Arc::default(),
            checkpoints: Checkpoints::new(config.pods_dir()),
            pulls: Arc::default(),
            starts: Arc::new(Semaphore::new(config.starts_at_once.max(1))),
            active: Mutex::default(),
            known: Mutex::default(),
            client,
            service,
            config,
            runtime,
        }
    }

    /// What the worker of a pod is told.
    pub fn worker_config(&self, uid: &str) -> WorkerConfig {
        let config = &self.config;
        WorkerConfig {
            seccomp_dir: config.seccomp_dir.clone(),
            resolv_conf: config.resolv_conf.clone(),
            cgroup_parent: config.cgroup_parent.clone(),
            node: config.node.clone(),
            leftovers: Leftovers::Keep,
            poll: config.periods.look,
            restart_backoff: config.restart_backoff,
            pull_backoff: config.pull_backoff,
            changes: Some(self.changes.of(uid)),
            patience: Patience::Endless,
            dns: ClusterDns {
                servers: config.dns.servers.clone(),
                domain: config.dns.domain.clone(),
            },
            runtime_name: self.runtime.name.clone(),
            source: SOURCE,
            starts: Some(Arc::clone(&self.starts)),
            pulls: Arc::clone(&self.pulls),
            ..WorkerConfig::new(config.volumes_dir(), config.logs_dir.clone())
        }
    }

    /// A pod holds resources no more.
    pub fn release(&self, uid: &str) {
        self.active().remove(uid);
    }

    /// How much there is of what.
    pub fn numbers(&self) -> Numbers {
        Numbers {
            pods: self.active().len(),
            statuses_waiting: self.statuses.waiting(),
            events_waiting: self.events.waiting(),
        }
    }

    /// The pods that are here, for whoever asks.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.active().values().cloned().collect()
    }

    /// Whether a pod may run here; if so it holds its resources from now on.
    fn admit(&self, uid: &str, pod: &Arc<Pod>, node: &Node) -> Result<(), Refusal> {
        let mut active = self.active();
        let others: Vec<&Pod> = active.values().map(AsRef::as_ref).collect();
        admission::admit(pod, node, &others)?;
        active.insert(uid.to_owned(), Arc::clone(pod));
        Ok(())
    }

    /// Whether a pod that runs here can have the resources that it is to have; if so it
    /// holds them from now on.
    fn resize(&self, uid: &str, pod: &Arc<Pod>, before: &Pod, node: &Node) -> Result<(), Pending> {
        let mut active = self.active();
        let others: Vec<&Pod> = active
            .iter()
            .filter(|(other, _)| *other != uid)
            .map(|(_, other)| other.as_ref())
            .collect();
        admission::resize(pod, before, node, &others)?;
        if let Some(own) = active.get_mut(uid) {
            *own = Arc::clone(pod);
        }
        Ok(())
    }

    fn is_known(&self, uid: &str) -> bool {
        self.known().contains(uid)
    }

    /// Each change under the lock is whole, so a panic elsewhere harms nothing.
    fn active(&self) -> MutexGuard<'_, HashMap<String, Arc<Pod>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, HashSet<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pod's stay, seen from outside.
struct Slot {
    identity: PodIdentity,
    wanted: watch::Sender<Wanted>,
}

/// The pods of the node.
pub struct Pods {
    shared: Arc<Shared>,
    node: OwnNode,
    slots: HashMap<String, Slot>,
    stays: JoinSet<String>,
    /// Pods that the node needs back what they use from.
    evictions: mpsc::Receiver<Eviction>,
    /// The list that is being told; nothing outside of one.
    listing: Option<Vec<Arc<Pod>>>,
}

impl Pods {
    /// Nobody yet.
    pub fn new(shared: Arc<Shared>, node: OwnNode, evictions: mpsc::Receiver<Eviction>) -> Pods {
        Pods {
            evictions,
            shared,
            node,
            slots: HashMap::new(),
            stays: JoinSet::new(),
            listing: None,
        }
    }

    /// Keeps the node's pods for ever. Those of an earlier agent go on at once, with or
    /// without a server.
    pub async fn keep(mut self) {
        for checkpoint in self.shared.checkpoints.read_all() {
            self.take_over(checkpoint);
        }
        let api: Api<Pod> = Api::all(self.shared.client.clone());
        let own = format!("spec.nodeName={}", self.shared.config.node.name);
        let changes =
            watcher(api, watcher::Config::default().fields(&own)).backoff(WatchWaits::default());
        let mut changes = std::pin::pin!(changes);
        let mut sweeps = tokio::time::interval(self.shared.config.periods.sweep);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sweeping = JoinSet::new();
        let mut synced = false;
        loop {
            tokio::select! {
                change = changes.next() => match change {
                    Some(Ok(change)) => {
                        if matches!(change, watcher::Event::InitDone) {
                            synced = true;
                            sweeps.reset_immediately();
                        }
                        self.hear(change).await;
                    }
                    Some(Err(error)) => debug!(%error, "the server tells of no pods"),
                    None => return,
                },
                Some(ended) = self.stays.join_next() => match ended {
                    Ok(uid) => self.forget(&uid),
                    Err(error) => warn!(%error, "a pod's stay broke off"),
                },
                Some(eviction) = self.evictions.recv() => self.evict(eviction),
                _ = sweeps.tick(), if synced && sweeping.is_empty() => {
                    sweeping.spawn(sweep(Arc::clone(&self.shared)));
                }
                Some(_) = sweeping.join_next() => {}
            }
        }
    }

    async fn hear(&mut self, change: watcher::Event<Pod>) {
        match change {
            watcher::Event::Init => self.listing = Some(Vec::new()),
            watcher::Event::InitApply(pod) => {
                self.listing.get_or_insert_default().push(Arc::new(pod));
            }
            watcher::Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                self.hear_list(listed).await;
            }
            watcher::Event::Apply(pod) => self.apply(Arc::new(pod)).await,
            watcher::Event::Delete(pod) => {
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                // Its last state says how long it may take to end.
                self.say(&uid, Some(Arc::new(pod)), Presence::Gone);
            }
        }
    }

    /// A whole list: what is not in it is no more.
    async fn hear_list(&mut self, mut listed: Vec<Arc<Pod>>) {
        let there: HashSet<&str> = listed
            .iter()
            .filter_map(|pod| pod.metadata.uid.as_deref())
            .collect();
        let gone: Vec<String> = self
            .slots
            .keys()
            .filter(|uid| !there.contains(uid.as_str()))
            .cloned()
            .collect();
        for uid in gone {
            info!(uid, "the server has a pod of this node no more");
            self.say(&uid, None, Presence::Gone);
        }
        // Who came first is admitted first.
        listed.sort_by(|one, other| {
            let key = |pod: &Pod| {
                (
                    pod.metadata.creation_timestamp.clone(),
                    pod.metadata.name.clone(),
                )
            };
            key(one).cmp(&key(other))
        });
        for pod in listed {
            self.apply(pod).await;
        }
    }

    /// A pod as it is wanted now.
    async fn apply(&mut self, pod: Arc<Pod>) {
        let Some(identity) = identity(&pod) else {
            return;
        };
        let uid = identity.uid.clone();
        self.shared.statuses.seen(&identity, &pod);
        if self.slots.contains_key(&uid) {
            self.say(&uid, Some(pod), Presence::There);
            return;
        }
        // A name belongs to one pod: whoever had it is no more.
        let earlier: Vec<String> = self
            .slots
            .values()
            .filter(|slot| {
                slot.identity.name == identity.name && slot.identity.namespace == identity.namespace
            })
            .map(|slot| slot.identity.uid.clone())
            .collect();
        for uid in earlier {
            self.say(&uid, None, Presence::Gone);
        }
        let node = self.own_node().await;
        let beginning = match self.shared.admit(&uid, &pod, &node) {
            Ok(()) => Beginning::Admitted,
            Err(refusal) => Beginning::Refused(refusal),
        };
        self.begin(identity, pod, beginning);
    }

    /// A pod that an earlier agent had.
    fn take_over(&mut self, checkpoint: Checkpoint) {
        let mut pod = checkpoint.pod.clone();
        pod.status = Some(checkpoint.status.clone());
        let pod = Arc::new(pod);
        let Some(identity) = identity(&pod) else {
            return;
        };
        self.shared.statuses.note_gates(&identity, &pod);
        if !checkpoint.settled {
            let mut active = self.shared.active();
            active.insert(identity.uid.clone(), Arc::clone(&pod));
        }
        self.begin(identity, pod, Beginning::Known(Box::new(checkpoint)));
    }

    fn begin(&mut self, identity: PodIdentity, pod: Arc<Pod>, beginning: Beginning) {
        let presence = Presence::There;
        let (wanted, heard) = watch::channel(Wanted {
            pod,
            presence,
            evicted: None,
        });
        let uid = identity.uid.clone();
        self.shared.known().insert(uid.clone());
        let node = self.node.clone();
        let stay = Stay::new(&self.shared, identity.clone(), heard, node, beginning);
        self.stays.spawn(async move {
            stay.live().await;
            uid
        });
        self.slots
            .insert(identity.uid.clone(), Slot { identity, wanted });
    }

    /// Tells a stay what is wanted of it now.
    fn say(&mut self, uid: &str, pod: Option<Arc<Pod>>, presence: Presence) {
        if let Some(slot) = self.slots.get(uid) {
            slot.wanted.send_modify(|wanted| {
                // Nobody comes back from being gone.
                if wanted.presence == Presence::There {
                    wanted.presence = presence;
                }
                if let Some(pod) = pod {
                    wanted.pod = pod;
                }
            });
        }
    }

    fn evict(&self, eviction: Eviction) {
        if let Some(slot) = self.slots.get(&eviction.uid) {
            slot.wanted.send_modify(|wanted| {
                wanted.evicted.get_or_insert(eviction.message);
            });
        }
    }

    fn forget(&mut self, uid: &str) {
        self.slots.remove(uid);
        self.shared.release(uid);
        self.shared.known().remove(uid);
    }

    /// The node's Node; what it would be made as, if the server does not tell soon.
    async fn own_node(&mut self) -> Arc<Node> {
        let told = self.node.wait_for(Option::is_some);
        let told = tokio::time::timeout(NODE_PATIENCE, told).await;
        if let Ok(Ok(told)) = told
            && let Some(node) = told.as_ref()
        {
            return Arc::clone(node);
        }
        Arc::new(node::plan_unseen(&self.shared.config))
    }
}

fn identity(pod: &Pod) -> Option<PodIdentity> {
    Some(PodIdentity {
        namespace: pod.metadata.namespace.clone()?,
        name: pod.metadata.name.clone()?,
        uid: pod.metadata.uid.clone()?,
    })
}

/// Removes sandboxes and volumes of pods that are not here. Only what an agent made is
/// looked at, and only after the server has listed the node's pods.
async fn sweep(shared: Arc<Shared>) {
    let worker = PodWorker::new(
        Arc::clone(&shared.service),
        shared.worker_config(""),
        PodObjects::default(),
    );
    let listed = shared
        .service
        .list_pod_sandbox(v1::ListPodSandboxRequest::default())
        .await;
    let Ok(listed) = listed else {
        return;
    };
    for sandbox in listed.items {
        let source = sandbox.annotations.get(names::CONFIG_SOURCE);
        let metadata = sandbox.metadata.unwrap_or_default();
        // Asked now and not before: a stay that began since then has its sandbox here too.
        if source.map(String::as_str) != Some(SOURCE) || shared.is_known(&metadata.uid) {
            continue;
        }
        info!(
            pod = metadata.name,
            uid = metadata.uid,
            "a pod that nobody wants is ended"
        );
        let identity = PodIdentity {
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
        };
        if let Err(error) = worker.remove(&identity).await {
            warn!(pod = identity.name, %error, "a pod that nobody wants was not removed");
        }
    }
    let directory = shared.config.volumes_dir();
    let _ = tokio::task::spawn_blocking(move || {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if !shared.is_known(&name.to_string_lossy())
                && let Err(error) = volumes::teardown::remove_volumes(&entry.path())
            {
                warn!(path = %entry.path().display(), %error, "volumes of no pod were not removed");
            }
        }
    })
    .await;
}
