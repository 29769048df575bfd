//! A controller's loop: changes to keys, keys to reconciliations.
//!
//! Workers are bounded, one key is never worked on twice at a time, and a
//! reconciliation that panics is a failure of its key alone.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::FutureExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    cluster::{Cluster, InMirrors, Mirrors, WriteError},
    mirror::{Key, Mirror, Mirrored, chain},
    ownership::{self, controller_of},
    queue::WorkQueue,
};

/// The keys of one controller.
pub type Queue = Arc<WorkQueue<Key>>;

/// When a key is to be looked at again though nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// When something changes.
    OnChange,
    /// After this long.
    After(Duration),
}

impl Again {
    /// The earlier of both.
    pub fn or(self, other: Again) -> Again {
        match (self, other) {
            (Again::OnChange, other) => other,
            (this, Again::OnChange) => this,
            (Again::After(this), Again::After(other)) => Again::After(this.min(other)),
        }
    }

    /// After a wait, if there is one.
    pub fn after(wait: Option<Duration>) -> Again {
        wait.map_or(Again::OnChange, Again::After)
    }
}

/// Makes one kind of object true.
#[async_trait]
pub trait Controller: Send + Sync + 'static {
    /// Its name in logs.
    fn name(&self) -> &'static str;

    /// Tells the mirrors which changes make which keys due. Every object that
    /// exists comes as a change when the mirrors fill.
    fn subscribe(&self, mirrors: &Arc<Mirrors>, queue: &Queue);

    /// Looks at one object and does what is to be done.
    async fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Again, WriteError>;
}

/// Runs one controller until `shutdown`.
///
/// Its listeners are in place when this returns the future, before it is polled:
/// a mirror that fills meanwhile loses nothing.
pub fn run(
    cluster: Arc<Cluster>,
    controller: Arc<dyn Controller>,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let queue: Queue = Arc::new(WorkQueue::new(cluster.config.backoff));
    controller.subscribe(&cluster.mirrors, &queue);
    async move {
        let mut workers = JoinSet::new();
        for _ in 0..cluster.config.workers.max(1) {
            let (cluster, controller) = (Arc::clone(&cluster), Arc::clone(&controller));
            let queue = Arc::clone(&queue);
            workers.spawn(async move {
                // A plan from half a list would create what is there already.
                cluster.mirrors.until_ready().await;
                loop {
                    let key = queue.take().await;
                    work(&cluster, &*controller, &queue, key).await;
                }
            });
        }
        shutdown.cancelled().await;
        workers.shutdown().await;
    }
}

/// Makes every object due that changes.
pub fn own_changes_due<K: Mirrored>(mirror: &Mirror<K>, queue: &Queue) {
    let queue = Arc::clone(queue);
    mirror.listen(move |change| {
        change
            .states()
            .for_each(|object| queue.add(Key::of(&**object)));
    });
}

/// Makes the controllers of an object due, before and after its change, if they
/// are of this kind.
pub fn owners_due<K: Mirrored>(mirror: &Mirror<K>, kind: &'static str, queue: &Queue) {
    let queue = Arc::clone(queue);
    mirror.listen(move |change| {
        for object in change.states() {
            if let Some(owner) = controller_of(&**object)
                && owner.kind == kind
            {
                let namespace = object.meta().namespace.as_deref().unwrap_or_default();
                queue.add(Key::new(namespace, &owner.name));
            }
        }
    });
}

/// Makes those due whose selector matches an object that is nobody's.
pub fn orphans_due<O: InMirrors, K: InMirrors>(
    mirrors: &Arc<Mirrors>,
    queue: &Queue,
    selector_of: fn(&O) -> Option<&LabelSelector>,
) {
    let queue = Arc::clone(queue);
    // Weak: the mirrors own this listener.
    let owners = Arc::downgrade(mirrors);
    K::mirror(mirrors).listen(move |change| {
        let orphan = change
            .after
            .filter(|object| controller_of(&***object).is_none());
        let (Some(orphan), Some(owners)) = (orphan, owners.upgrade()) else {
            return;
        };
        let namespace = orphan.meta().namespace.as_deref().unwrap_or_default();
        for owner in O::mirror(&owners).of_namespace(namespace) {
            let wanted = selector_of(&owner).and_then(ownership::selector);
            if wanted.is_some_and(|wanted| ownership::selects(&wanted, &**orphan)) {
                queue.add(Key::of(&*owner));
            }
        }
    });
}

/// Reconciles one key and says when it is due again.
async fn work(cluster: &Cluster, controller: &dyn Controller, queue: &Queue, key: Key) {
    let outcome = AssertUnwindSafe(controller.reconcile(cluster, &key)).catch_unwind();
    let name = controller.name();
    match outcome.await {
        Ok(Ok(again)) => {
            queue.forget(&key);
            if let Again::After(wait) = again {
                queue.add_after(key.clone(), wait);
            }
        }
        // Somebody else was faster. The change that beat us is on its way to the
        // mirror, and makes the key due; the wait is for when it came before.
        Ok(Err(WriteError::Conflict(_) | WriteError::Gone | WriteError::Exists)) => {
            queue.add_failed(key.clone());
        }
        Ok(Err(WriteError::NamespaceEnds)) => queue.forget(&key),
        Ok(Err(error)) => {
            tracing::warn!(controller = name, %key, error = %chain(&error), "not reconciled");
            queue.add_failed(key.clone());
        }
        Err(_) => {
            tracing::error!(controller = name, %key, "a reconciliation panicked");
            queue.add_failed(key.clone());
        }
    }
    queue.done(&key);
}
