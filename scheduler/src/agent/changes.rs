//! What changes on the node, told to the workers of the pods that it concerns.
//!
//! A runtime with `GetContainerEvents` tells by itself. Any other is asked for a list
//! of everything once a second: one call a node, not one a container. Workers look at
//! their containers now and then anyway, so a change that was missed is only late.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use berth_cri::{service::CriService, v1};
use futures::StreamExt;
use tokio::sync::watch;
use tonic::Status;
use tracing::{debug, info};

use super::settings::Periods;
use crate::pod::plan::names;

/// Who wants to hear of which pod.
#[derive(Default)]
pub struct Changes {
    pods: Mutex<HashMap<String, watch::Sender<u64>>>,
}

impl Changes {
    /// Counts up with each change of a pod.
    pub fn of(&self, uid: &str) -> watch::Receiver<u64> {
        let mut pods = self.lock();
        let sender = pods
            .entry(uid.to_owned())
            .or_insert_with(|| watch::channel(0).0);
        sender.subscribe()
    }

    /// Forgets a pod.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    fn announce(&self, uid: &str) {
        if let Some(sender) = self.lock().get(uid) {
            sender.send_modify(|count| *count += 1);
        }
    }

    fn announce_all(&self) {
        for sender in self.lock().values() {
            sender.send_modify(|count| *count += 1);
        }
    }

    /// Hears of changes for ever, in the way that the runtime offers.
    pub async fn listen(self: Arc<Self>, service: Arc<dyn CriService>, periods: Periods) {
        let mut seen = HashMap::new();
        loop {
            match service.container_events(v1::GetEventsRequest {}).await {
                Ok(mut events) => {
                    debug!("the runtime tells of changes");
                    // What happened before the first event is in no event.
                    self.announce_all();
                    while let Some(Ok(event)) = events.next().await {
                        self.hear(&event);
                    }
                    debug!("the runtime no longer tells of changes");
                    tokio::time::sleep(periods.relist).await;
                }
                Err(status) if status.code() == tonic::Code::Unimplemented => {
                    info!("the runtime does not tell of changes: it is asked");
                    loop {
                        tokio::time::sleep(periods.relist).await;
                        // A runtime that is away has changed nothing that could be seen.
                        let _ = self.compare(&service, &mut seen).await;
                    }
                }
                Err(_) => tokio::time::sleep(periods.relist).await,
            }
        }
    }

    fn hear(&self, event: &v1::ContainerEventResponse) {
        let sandbox = event.pod_sandbox_status.as_ref();
        match sandbox.and_then(|sandbox| sandbox.metadata.as_ref()) {
            Some(metadata) => self.announce(&metadata.uid),
            // Whose it is stands nowhere: everybody looks.
            None => self.announce_all(),
        }
    }

    /// Lists everything and announces what is not as it was.
    async fn compare(
        &self,
        service: &Arc<dyn CriService>,
        seen: &mut HashMap<String, (String, i32)>,
    ) -> Result<(), Status> {
        let now = list(service).await?;
        let changed = now
            .iter()
            .filter(|(id, fact)| seen.get(*id) != Some(*fact))
            .map(|(_, fact)| fact);
        let gone = seen
            .iter()
            .filter(|(id, _)| !now.contains_key(*id))
            .map(|(_, fact)| fact);
        for (uid, _) in changed.chain(gone) {
            self.announce(uid);
        }
        *seen = now;
        Ok(())
    }

    /// Each change under the lock is whole, so a panic elsewhere harms nothing.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<u64>>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pod and state of each sandbox and container, by id.
async fn list(service: &Arc<dyn CriService>) -> Result<HashMap<String, (String, i32)>, Status> {
    let uid =
        |labels: &HashMap<String, String>| labels.get(names::POD_UID).cloned().unwrap_or_default();
    let sandboxes = service
        .list_pod_sandbox(v1::ListPodSandboxRequest::default())
        .await?;
    let containers = service
        .list_containers(v1::ListContainersRequest::default())
        .await?;
    let sandboxes = sandboxes
        .items
        .into_iter()
        .map(|sandbox| (uid(&sandbox.labels), sandbox.state, sandbox.id));
    let containers = containers
        .containers
        .into_iter()
        .map(|container| (uid(&container.labels), container.state, container.id));
    Ok(sandboxes
        .chain(containers)
        .map(|(uid, state, id)| (id, (uid, state)))
        .collect())
}
