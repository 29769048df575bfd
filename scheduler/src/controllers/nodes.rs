//! Nodes: who is alive, what may run there, and which addresses their pods get.
//!
//! ```text
//!   lease renewed ──▶ alive
//!   8 s without *  ──▶ conditions Unknown ──▶ taint unreachable ──▶ pods evicted after their
//!                                        └──▶ pods not ready         toleration, else 5 s
//!   Node deleted   ──▶ its pods removed, its ranges free
//! ```
//!
//! \* or as long as the node's lease says that it holds: 40 s of a kubelet.
//!
//! Time is counted on this process's clock from when a renewal was *seen*: what a node's clock
//! says does not matter, and after a change of leader every node has its 8 s anew.
//!
//! A silence of all nodes at once is more likely our own deafness: the store took no writes (its
//! disk is full, say), or this process stood still. Then a lease of our own is written first, and
//! nodes have a renewal's time from when writes are taken again: see [`deafness`].
//!
//! A node that does not answer may still run its pods: only the network may be gone. Evicting
//! them lets others run elsewhere, so for a while both can. Who needs at most one must say so by
//! a toleration without end. While no node at all is ready, nobody is evicted: then it is most
//! likely us who are cut off, and there is nowhere to go.
//!
//! Read more: "Nodes" and "Taints and Tolerations" in the Kubernetes documentation.

/// Whether it is us who cannot hear.
pub mod deafness;
/// Which pods have to go, and when.
pub mod evict;
/// Conditions and taints.
pub mod plan;
/// Who was heard last when.
pub mod pulse;
/// The addresses of each node's pods.
pub mod ranges;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::cluster::{Cluster, Deletion, Mirrors, WriteError, json_of, now, pinned};
use super::mirror::Key;
use super::pods;
use super::recorder::Weight;
use super::work::{self, Again, Controller, Queue};
use deafness::{Deafness, Doubt};
use pulse::Pulses;
use ranges::ClusterRange;

/// Where nodes renew their leases.
pub const LEASES: &str = "kube-node-lease";

/// Periods and ranges.
#[derive(Debug, Clone)]
pub struct NodesConfig {
    /// How long a node may be silent.
    pub silence: Duration,
    /// How long pods without a toleration of their own stay on a node that is not ready.
    pub toleration: Duration,
    /// The addresses of all pods, and how much of them a node gets; one for each family.
    pub ranges: Vec<ClusterRange>,
}

impl Default for NodesConfig {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(8),
            toleration: Duration::from_secs(5),
            ranges: vec![ClusterRange::default()],
        }
    }
}

/// See the module.
pub struct Nodes {
    config: NodesConfig,
    pulses: Arc<Pulses>,
    deafness: Deafness,
    /// Held while a range is chosen and written: two nodes at once would choose the same.
    allotting: Mutex<()>,
}

impl Nodes {
    /// The controller.
    pub fn new(config: NodesConfig) -> Self {
        Self {
            config,
            pulses: Arc::default(),
            deafness: Deafness::default(),
            allotting: Mutex::default(),
        }
    }
}

#[async_trait]
impl Controller for Nodes {
    fn name(&self) -> &'static str {
        "nodes"
    }

    fn subscribe(&self, mirrors: &Arc<Mirrors>, queue: &Queue) {
        work::own_changes_due(&mirrors.nodes, queue);
        self.hear_leases(mirrors, queue);
        watch_pods(mirrors, queue);
    }

    async fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Again, WriteError> {
        let Some(node) = cluster.mirrors.nodes.read(key) else {
            self.pulses.forget(&key.name);
            return remove_pods_of_gone(cluster, &key.name).await;
        };
        let node = self.allot(cluster, node).await?;
        let silent_in = self
            .pulses
            .silent_in(&key.name, self.config.silence, Instant::now());
        let silence = self.pulses.silence_of(&key.name, self.config.silence);
        if silent_in.is_none() && !self.hears(cluster, silence).await? {
            return Ok(Again::After(silence / 8));
        }
        let node = judge(cluster, node, silent_in.is_none()).await?;
        let node = taint(cluster, node).await?;
        let again = self.clear(cluster, &node).await?;
        Ok(again.or(Again::after(silent_in)))
    }
}

impl Nodes {
    /// Notes each renewal. Only the first one after a silence makes the node due: of the others
    /// it is enough to know when they end.
    fn hear_leases(&self, mirrors: &Arc<Mirrors>, queue: &Queue) {
        let (pulses, queue) = (Arc::clone(&self.pulses), Arc::clone(queue));
        let silence = self.config.silence;
        mirrors.leases.listen(move |change| {
            let Some(lease) = change.after else { return };
            if lease.metadata.namespace.as_deref() != Some(LEASES) {
                return;
            }
            let name = lease.metadata.name.as_deref().unwrap_or_default();
            let spec = lease.spec.as_ref();
            let renewed = spec.and_then(|spec| spec.renew_time.as_ref());
            let renewed = renewed.map(|time| time.0);
            let holds = spec.and_then(|spec| spec.lease_duration_seconds);
            let holds = holds.and_then(|seconds| u64::try_from(seconds).ok());
            // Never less than what everybody has.
            let silence = silence.max(Duration::from_secs(holds.unwrap_or(0)));
            if pulses.hear(name, renewed, silence, Instant::now()) {
                queue.add(Key::new("", name));
            }
        });
    }

    /// Whether the silence of a node, which may last so long, can be believed.
    async fn hears(&self, cluster: &Cluster, silence: Duration) -> Result<bool, WriteError> {
        let now = Instant::now();
        let others_heard = self.pulses.anybody_is_lively(now);
        // A node renews four times in the time that it may be silent; and a little.
        let patience = silence * 3 / 10;
        match self.deafness.doubt(others_heard, patience, now) {
            Doubt::None => Ok(true),
            Doubt::Wait => Ok(false),
            Doubt::Ask => {
                deafness::ask(cluster).await?;
                self.deafness.answered(Instant::now());
                Ok(false)
            }
        }
    }

    /// Gives a node its ranges, if it has none.
    async fn allot(&self, cluster: &Cluster, node: Arc<Node>) -> Result<Arc<Node>, WriteError> {
        if !ranges::of_node(&node).is_empty() || node.metadata.deletion_timestamp.is_some() {
            return Ok(node);
        }
        let _one = self.allotting.lock().await;
        let all = cluster.mirrors.nodes.all();
        let taken: Vec<_> = all.iter().flat_map(|node| ranges::of_node(node)).collect();
        let Some(chosen) = ranges::plan(&self.config.ranges, &taken) else {
            let message = "no range of pod addresses is left in the cluster's";
            cluster
                .recorder
                .say(&*node, Weight::Warning, "CIDRNotAvailable", message);
            return Ok(node);
        };
        let chosen: Vec<String> = chosen.iter().map(ToString::to_string).collect();
        let patch = json!({ "spec": { "podCIDR": chosen.first(), "podCIDRs": chosen } });
        write(cluster, &node, patch, Part::Whole).await
    }

    /// Evicts who has to go from a node, and ends who cannot be ended by a node that is dead.
    async fn clear(&self, cluster: &Cluster, node: &Node) -> Result<Again, WriteError> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let dead = plan::ready(node) == plan::Ready::Unknown;
        let taints = evict::evicting(node);
        if taints.is_empty() && !dead {
            return Ok(Again::OnChange);
        }
        let others_live = self.anybody_lives(cluster);
        let rules = evict::Rules {
            taints: if others_live {
                taints
            } else {
                evict::by_hand(taints)
            },
            dead: dead && others_live,
            toleration: self.config.toleration,
        };
        let mut again = match others_live {
            true => Again::OnChange,
            false => Again::After(Duration::from_secs(1)),
        };
        for pod in cluster.mirrors.pods.of_node(name) {
            match evict::plan(&rules, &pod, Timestamp::now()) {
                evict::Fate::Stay => {}
                evict::Fate::Later(wait) => again = again.or(Again::After(wait)),
                evict::Fate::Evict => {
                    let message =
                        format!("evicted: node {name} has a taint that it does not tolerate");
                    cluster
                        .recorder
                        .say(&*pod, Weight::Normal, "TaintManagerEviction", message);
                    cluster.delete(&*pod, Deletion::Background).await?;
                }
                evict::Fate::Remove => cluster.delete(&*pod, Deletion::Now).await?,
            }
        }
        Ok(again)
    }
}

impl Nodes {
    /// Whether some node is ready, and was heard only just: nodes that fall silent together are
    /// not judged at the same instant, and the last of them must not count as alive meanwhile.
    fn anybody_lives(&self, cluster: &Cluster) -> bool {
        let now = Instant::now();
        cluster.mirrors.nodes.all().iter().any(|node| {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            plan::ready(node) == plan::Ready::Yes && self.pulses.is_lively(name, now)
        })
    }
}

/// Makes a node due for changes of its pods, if that may matter: the node is gone, has taints
/// that evict, or is dead.
fn watch_pods(mirrors: &Arc<Mirrors>, queue: &Queue) {
    let queue = Arc::clone(queue);
    // Weak: the mirrors own this listener.
    let known = Arc::downgrade(mirrors);
    mirrors.pods.listen(move |change| {
        let (Some(pod), Some(mirrors)) = (change.after, known.upgrade()) else {
            return;
        };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let Some(name) = node.filter(|node| !node.is_empty()) else {
            return;
        };
        let key = Key::new("", name);
        let matters = mirrors.nodes.read(&key).is_none_or(|node| {
            plan::ready(&node) == plan::Ready::Unknown || !evict::evicting(&node).is_empty()
        });
        if matters {
            queue.add(key);
        }
    });
}

/// Says of a silent node that nothing is known of it, and of its pods that they are not ready:
/// services must stop to send there long before the pods are evicted.
async fn judge(cluster: &Cluster, node: Arc<Node>, silent: bool) -> Result<Arc<Node>, WriteError> {
    if !silent {
        return Ok(node);
    }
    let name = node.metadata.name.clone().unwrap_or_default();
    let node = match plan::silence(&node, now()) {
        None => node,
        Some(conditions) => {
            let message = "the node does not renew its lease";
            cluster
                .recorder
                .say(&*node, Weight::Warning, "NodeNotReady", message);
            let patch = json!({ "status": { "conditions": json_of(&conditions) } });
            write(cluster, &node, patch, Part::Status).await?
        }
    };
    for pod in cluster.mirrors.pods.of_node(&name) {
        if let Some(status) = plan::unready(&pod, now()) {
            // A pod that changes at the same time is seen again.
            cluster
                .write_status(&*pod, pod.status.as_ref(), &status)
                .await?;
        }
    }
    Ok(node)
}

async fn taint(cluster: &Cluster, node: Arc<Node>) -> Result<Arc<Node>, WriteError> {
    match plan::taints(&node, now()) {
        None => Ok(node),
        Some(taints) => {
            // Without any the field goes, as it does in Kubernetes.
            let taints = (!taints.is_empty()).then(|| json_of(&taints));
            let patch = json!({ "spec": { "taints": taints } });
            write(cluster, &node, patch, Part::Whole).await
        }
    }
}

/// Removes the pods of a node that does not exist: nobody else can end them.
async fn remove_pods_of_gone(cluster: &Cluster, name: &str) -> Result<Again, WriteError> {
    let pods: Vec<Arc<Pod>> = cluster.mirrors.pods.of_node(name);
    if pods.is_empty() {
        return Ok(Again::OnChange);
    }
    // The mirror of nodes may be behind the one of pods: ask.
    let api: Api<Node> = Api::all(cluster.client.clone());
    if api.get_opt(name).await.map_err(WriteError::of)?.is_some() {
        return Ok(Again::After(Duration::from_secs(1)));
    }
    for pod in pods {
        if !pods::has_ended(&pod) {
            let message = format!("removed: node {name} does not exist any more");
            cluster
                .recorder
                .say(&*pod, Weight::Normal, "PodGC", message);
        }
        cluster.delete(&*pod, Deletion::Now).await?;
    }
    Ok(Again::OnChange)
}

/// Which half of a node to write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    Status,
}

/// Patches a node if it still is the one that the decision was made on.
async fn write(
    cluster: &Cluster,
    node: &Node,
    patch: Value,
    part: Part,
) -> Result<Arc<Node>, WriteError> {
    let api: Api<Node> = Api::all(cluster.client.clone());
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let patch = Patch::Merge(pinned(node, patch));
    let params = PatchParams::default();
    let written = match part {
        Part::Whole => api.patch(name, &params, &patch).await,
        Part::Status => api.patch_status(name, &params, &patch).await,
    };
    let written = written.map_err(WriteError::of)?;
    cluster.mirrors.nodes.take_written(written.clone());
    Ok(Arc::new(written))
}
