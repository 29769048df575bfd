//! A controller's loop: changes to keys, keys to reconciliations.
//!
//! Workers are bounded, one key is never worked on twice at a time, and a
//! reconciliation that panics is a failure of its key alone.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    cluster::{Cluster, Mirrors, WriteError},
    mirror::{Key, chain},
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
    fn subscribe(&self, mirrors: &Mirrors, queue: &Queue);

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
