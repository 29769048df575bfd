//! Garbage: what belongs to an owner that is gone goes too.
//!
//! An object names its owners by uid in `metadata.ownerReferences`. Three ways to delete an owner:
//!
//! | policy | the owner | what it owns |
//! |---|---|---|
//! | Background | goes at once | goes afterwards, since its owner is gone |
//! | Foreground | stays, being deleted, with the finalizer `foregroundDeletion` | goes first, if it blocks the owner; then the owner goes |
//! | Orphan | stays, with the finalizer `orphan` | is told to forget the owner; then the owner goes |
//!
//! The API only sets the finalizers; the rest happens here, on a graph of the metadata of all
//! objects ([`graph`]), one object at a time ([`plan`]). Before anything is deleted because its
//! owner is gone, the API itself is asked for the owner: the graph may be behind, and a uid that
//! was only not seen yet must not cost an object. A deletion names the state that it was decided
//! on, so an object that was adopted meanwhile stays.
//!
//! Read more: "Garbage Collection" in the Kubernetes documentation.

/// The pods that ended, beyond a number.
pub mod ended;
/// Who owns whom.
pub mod graph;
/// What to do about one object.
pub mod plan;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{
    DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy,
};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::cluster::{Cluster, WriteError};
use super::mirror::chain;
use super::namespaces::resource_of;
use super::queue::WorkQueue;
use crate::api::kind::{self, KINDS, Kind};
use crate::waits::WatchWaits;
use graph::{Graph, Item};
use plan::{Standing, Step};

/// Limits.
#[derive(Debug, Clone)]
pub struct GarbageConfig {
    /// How many pods that ended may stay.
    pub ended_pods: usize,
}

impl Default for GarbageConfig {
    fn default() -> Self {
        Self { ended_pods: 12_500 }
    }
}

struct Collector {
    cluster: Arc<Cluster>,
    graph: Mutex<Graph>,
    /// Uids to look at.
    queue: WorkQueue<String>,
    /// One permit for each kind that was listed.
    listed: Semaphore,
}

/// Collects until `shutdown`.
pub async fn run(cluster: Arc<Cluster>, config: GarbageConfig, shutdown: CancellationToken) {
    let collector = Arc::new(Collector {
        queue: WorkQueue::new(cluster.config.backoff),
        graph: Mutex::default(),
        listed: Semaphore::new(0),
        cluster,
    });
    let mut tasks = JoinSet::new();
    // Events are many, owned by nobody, and go by themselves.
    let kinds: Vec<&'static Kind> = KINDS.iter().filter(|kind| kind.kind != "Event").collect();
    for kind in kinds.iter().copied() {
        let collector = Arc::clone(&collector);
        tasks.spawn(async move { collector.follow(kind).await });
    }
    for _ in 0..collector.cluster.config.workers.max(1) {
        let (collector, count) = (Arc::clone(&collector), kinds.len());
        tasks.spawn(async move { collector.work(count).await });
    }
    tasks.spawn(ended::run(
        Arc::clone(&collector.cluster),
        config.ended_pods,
    ));
    shutdown.cancelled().await;
    tasks.shutdown().await;
}

impl Collector {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        // Every change of the graph is one call that does not panic half-way.
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the graph in step with one kind.
    async fn follow(&self, kind: &'static Kind) {
        let resource = resource_of(kind);
        let api: Api<DynamicObject> = Api::all_with(self.cluster.client.clone(), &resource);
        let events = watcher(api, watcher::Config::default()).backoff(WatchWaits::default());
        let mut events = std::pin::pin!(events);
        let mut listing = Vec::new();
        let mut first = true;
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listing.clear(),
                Ok(watcher::Event::InitApply(object)) => {
                    listing.extend(object.uid());
                    self.put(kind, &object);
                }
                Ok(watcher::Event::InitDone) => {
                    let gone = self.graph().others(kind, &listing);
                    gone.iter().for_each(|uid| self.remove(uid));
                    if std::mem::take(&mut first) {
                        self.listed.add_permits(1);
                    }
                }
                Ok(watcher::Event::Apply(object)) => self.put(kind, &object),
                Ok(watcher::Event::Delete(object)) => {
                    object.uid().iter().for_each(|uid| self.remove(uid));
                }
                Err(error) => {
                    tracing::warn!(kind = kind.kind, error = %chain(&error), "watch failed");
                }
            }
        }
    }

    fn put(&self, kind: &'static Kind, object: &DynamicObject) {
        let Some(item) = Item::of(kind, &object.metadata) else {
            return;
        };
        let due = self.graph().put(item);
        due.into_iter().for_each(|uid| self.queue.add(uid));
    }

    fn remove(&self, uid: &str) {
        let due = self.graph().remove(uid);
        due.into_iter().for_each(|uid| self.queue.add(uid));
    }

    async fn work(&self, kinds: usize) {
        // Whether an owner still has something to wait for is known only when all is known.
        let count = u32::try_from(kinds).unwrap_or(u32::MAX);
        drop(self.listed.acquire_many(count).await);
        loop {
            let uid = self.queue.take().await;
            match self.look_at(&uid).await {
                Ok(()) => self.queue.forget(&uid),
                Err(WriteError::Gone | WriteError::NamespaceEnds) => self.queue.forget(&uid),
                Err(WriteError::Conflict(_)) => self.queue.add_failed(uid.clone()),
                Err(error) => {
                    tracing::warn!(uid, error = %chain(&error), "garbage was not collected");
                    self.queue.add_failed(uid.clone());
                }
            }
            self.queue.done(&uid);
        }
    }

    async fn look_at(&self, uid: &str) -> Result<(), WriteError> {
        let Some(item) = self.graph().read(uid).cloned() else {
            return Ok(());
        };
        let asked = self.ask_for_unseen(&item).await?;
        let step = plan::plan(&self.graph(), &item, &asked);
        self.carry_out(&item, step).await
    }

    /// Asks the API for the owners that the graph does not know.
    async fn ask_for_unseen(&self, item: &Item) -> Result<HashMap<String, Standing>, WriteError> {
        let mut asked = HashMap::new();
        for owner in &item.owners {
            let seen = self.graph().read(&owner.uid).is_some();
            if !seen && !item.deleting {
                asked.insert(owner.uid.clone(), self.ask(item, owner).await?);
            }
        }
        Ok(asked)
    }

    async fn ask(&self, item: &Item, owner: &OwnerReference) -> Result<Standing, WriteError> {
        let Some(kind) = kind::by_kind(&owner.api_version, &owner.kind) else {
            tracing::debug!(
                owner = owner.kind,
                "an owner of a kind that is not served is kept"
            );
            return Ok(Standing::Solid);
        };
        let resource = resource_of(kind);
        let client = self.cluster.client.clone();
        let api: Api<DynamicObject> = match (kind.namespaced(), item.namespace.as_str()) {
            // An object of the cluster cannot be owned by one in a namespace.
            (true, "") => return Ok(Standing::Absent),
            (true, namespace) => Api::namespaced_with(client, namespace, &resource),
            (false, _) => Api::all_with(client, &resource),
        };
        let found = api.get_opt(&owner.name).await.map_err(WriteError::of)?;
        let same = found
            .and_then(|found| found.uid())
            .is_some_and(|uid| uid == owner.uid);
        Ok(if same {
            Standing::Solid
        } else {
            Standing::Absent
        })
    }

    async fn carry_out(&self, item: &Item, step: Step) -> Result<(), WriteError> {
        match step {
            Step::Nothing => Ok(()),
            Step::Delete(policy) => self.delete(item, policy).await,
            Step::Forget(owners) => {
                let left = |owner: &&OwnerReference| !owners.contains(&owner.uid);
                let left: Vec<_> = item.owners.iter().filter(left).collect();
                self.patch(item, json!({ "ownerReferences": left })).await
            }
            Step::Wait(dependents) => {
                dependents.into_iter().for_each(|uid| self.queue.add(uid));
                Ok(())
            }
            Step::Release {
                dependents,
                finalizer,
            } => {
                for uid in dependents {
                    let Some(dependent) = self.graph().read(&uid).cloned() else {
                        continue;
                    };
                    let left = |owner: &&OwnerReference| owner.uid != item.uid;
                    let left: Vec<_> = dependent.owners.iter().filter(left).collect();
                    match self
                        .patch(&dependent, json!({ "ownerReferences": left }))
                        .await
                    {
                        Ok(()) | Err(WriteError::Gone) => {}
                        Err(error) => return Err(error),
                    }
                }
                self.finish(item, finalizer).await
            }
        }
    }

    async fn finish(&self, item: &Item, finalizer: &str) -> Result<(), WriteError> {
        let left: Vec<_> = item
            .finalizers
            .iter()
            .filter(|one| *one != finalizer)
            .collect();
        self.patch(item, json!({ "finalizers": left })).await
    }

    async fn delete(&self, item: &Item, policy: PropagationPolicy) -> Result<(), WriteError> {
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: Some(item.uid.clone()),
                resource_version: Some(item.revision.clone()),
            }),
            ..DeleteParams::default()
        };
        let done = self.api_of(item).delete(&item.name, &params).await;
        done.map(drop).map_err(WriteError::of)
    }

    /// Changes the metadata of an object if it still is the one in the graph.
    async fn patch(&self, item: &Item, mut metadata: Value) -> Result<(), WriteError> {
        metadata["uid"] = json!(item.uid);
        metadata["resourceVersion"] = json!(item.revision);
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        let written = self
            .api_of(item)
            .patch(&item.name, &PatchParams::default(), &patch)
            .await;
        let written = written.map_err(WriteError::of)?;
        // The graph reads its own writes, so that the next look does not decide on the old state.
        if written.metadata.deletion_timestamp.is_none() || !written.finalizers().is_empty() {
            self.put(item.kind, &written);
        }
        Ok(())
    }

    fn api_of(&self, item: &Item) -> Api<DynamicObject> {
        let resource = resource_of(item.kind);
        let client = self.cluster.client.clone();
        match item.kind.namespaced() {
            true => Api::namespaced_with(client, &item.namespace, &resource),
            false => Api::all_with(client, &resource),
        }
    }
}
