//! What the loop hears: changes of the cluster's objects, and what became of its writes.
//!
//! Each kind is watched by a task of its own, which also decodes: deciding and
//! decoding share nothing but a queue. A kind that a server does not serve is
//! like a kind without objects.

use futures::{StreamExt, TryStreamExt, pin_mut};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod},
    policy::v1::PodDisruptionBudget,
    scheduling::v1::PriorityClass,
};
use kube::{
    Api, Client, Resource,
    api::ListParams,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, task::JoinSet};

use crate::placement::apply::Written;
use crate::waits::WatchWaits;

/// Something that the loop must know.
pub enum News {
    /// Of a pod.
    Pod(Box<Event<Pod>>),
    /// Of a node.
    Node(Box<Event<Node>>),
    /// Of a namespace.
    Namespace(Box<Event<Namespace>>),
    /// Of a priority class.
    Class(Box<Event<PriorityClass>>),
    /// Of a disruption budget.
    Budget(Box<Event<PodDisruptionBudget>>),
    /// What became of a write.
    Written(Written),
}

/// Kinds of which the loop must have seen all objects before it decides.
pub const KINDS: usize = 5;

/// Watches everything that decisions depend on, until the tasks are dropped.
pub fn watch_all(client: &Client, to: &mpsc::Sender<News>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(watch(Api::all(client.clone()), News::Class, to.clone()));
    tasks.spawn(watch(Api::all(client.clone()), News::Namespace, to.clone()));
    tasks.spawn(watch(Api::all(client.clone()), News::Node, to.clone()));
    tasks.spawn(watch(Api::all(client.clone()), News::Pod, to.clone()));
    tasks.spawn(watch(Api::all(client.clone()), News::Budget, to.clone()));
    tasks
}

async fn watch<K>(api: Api<K>, wrap: fn(Box<Event<K>>) -> News, to: mpsc::Sender<News>)
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    if is_absent(&api).await {
        let _ = to.send(wrap(Box::new(Event::InitDone))).await;
        return;
    }
    let stream = watcher::watcher(api, watcher::Config::default())
        .backoff(WatchWaits::default())
        .inspect_err(|error| tracing::warn!(%error, "placement: a watch broke; it is begun again"));
    pin_mut!(stream);
    while let Some(event) = stream.next().await {
        let Ok(event) = event else {
            continue;
        };
        // Nobody listens any more: the loop has ended.
        if to.send(wrap(Box::new(event))).await.is_err() {
            return;
        }
    }
}

/// Whether the server does not know the kind.
async fn is_absent<K>(api: &Api<K>) -> bool
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    matches!(
        api.list(&ListParams::default().limit(1)).await,
        Err(kube::Error::Api(status)) if status.code == 404
    )
}
