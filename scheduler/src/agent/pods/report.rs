//! What a pod's worker tells, passed on: to the server, to the checkpoint, to collectors of logs.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use tokio::sync::watch;
use tracing::warn;

use super::Shared;
use crate::{
    agent::checkpoint::{Checkpoint, Checkpoints, SavedObjects},
    pod::{
        events::{EventKind, PodEvent, PodIdentity, PodObserver},
        objects::PodObjects,
        plan::names,
    },
};

/// Passes on what one pod's worker tells.
pub struct Reporter {
    shared: Arc<Shared>,
    identity: PodIdentity,
    record: Mutex<Checkpoint>,
    /// Held while the file is written, so that no older record follows a newer one.
    file: Mutex<()>,
    status: watch::Sender<PodStatus>,
    /// Whether the record is other than the file.
    dirty: watch::Sender<bool>,
}

impl Reporter {
    /// Begins with what is known.
    pub fn new(shared: &Arc<Shared>, identity: PodIdentity, record: Checkpoint) -> Reporter {
        Reporter {
            shared: Arc::clone(shared),
            identity,
            status: watch::channel(record.status.clone()).0,
            record: Mutex::new(record),
            file: Mutex::default(),
            dirty: watch::channel(false).0,
        }
    }

    /// The pod's last status here.
    pub fn status(&self) -> PodStatus {
        self.status.borrow().clone()
    }

    /// Hears of each status.
    pub fn statuses(&self) -> watch::Receiver<PodStatus> {
        self.status.subscribe()
    }

    /// Whether the pod is over.
    pub fn is_settled(&self) -> bool {
        self.lock().settled
    }

    /// Variables of services as they were known last.
    pub fn service_variables(&self) -> Vec<(String, String)> {
        self.lock().objects.service_variables.clone()
    }

    /// The pod is to be saved as this.
    pub fn note_pod(&self, pod: &Pod) {
        let mut pod = pod.clone();
        pod.metadata.managed_fields = None;
        pod.status = None;
        self.lock().pod = pod;
        self.dirty.send_replace(true);
    }

    /// What it refers to is to be saved as this.
    pub fn note_objects(&self, objects: &PodObjects) {
        self.lock().objects = SavedObjects::of(objects);
        self.dirty.send_replace(true);
    }

    /// Waits until there is something to save, and a while longer.
    pub async fn changed_for(&self, while_longer: Duration) {
        let mut dirty = self.dirty.subscribe();
        // The sender is this reporter's own.
        let _ = dirty.wait_for(|dirty| *dirty).await;
        tokio::time::sleep(while_longer).await;
    }

    /// Writes the checkpoint; what cannot be written is tried again later.
    pub async fn save(self: &Arc<Self>) {
        self.dirty.send_replace(false);
        let reporter = Arc::clone(self);
        let saving = tokio::task::spawn_blocking(move || reporter.write(Checkpoints::write));
        // An error: the runtime ends, and this with it.
        let _ = saving.await;
    }

    /// Writes the record as it is now; what cannot be written is tried again later.
    fn write(&self, how: fn(&Checkpoints, &Checkpoint) -> io::Result<()>) {
        let _turn = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.lock().clone();
        if let Err(error) = how(&self.shared.checkpoints, &record) {
            warn!(pod = self.identity.name, %error, "what is known of the pod was not saved");
            self.dirty.send_replace(true);
        }
    }

    /// Tells of something that is no container's.
    pub fn tell(&self, kind: EventKind, reason: &str, message: String) {
        self.event(&PodEvent {
            at: Timestamp::now(),
            pod: self.identity.clone(),
            container: None,
            kind,
            reason: reason.to_owned(),
            message,
        });
    }

    /// Whether a container of this name is an init container.
    fn is_init(&self, container: Option<&str>) -> bool {
        let record = self.lock();
        let spec = record.pod.spec.as_ref();
        let mut inits = spec
            .into_iter()
            .flat_map(|spec| spec.init_containers.iter().flatten());
        container.is_some_and(|name| inits.any(|init| init.name == name))
    }

    /// Where collectors of logs look: `POD_NAMESPACE_CONTAINER-ID.log`.
    fn link(&self, container: &ContainerStatus) -> Option<(PathBuf, PathBuf)> {
        let directory = self.shared.config.log_links_dir.as_ref()?;
        let (_, id) = container.container_id.as_ref()?.split_once("://")?;
        let PodIdentity {
            namespace, name, ..
        } = &self.identity;
        let link = directory.join(format!("{name}_{namespace}_{}-{id}.log", container.name));
        let log = self
            .logs_dir()
            .join(&container.name)
            .join(format!("{}.log", container.restart_count));
        Some((link, log))
    }

    fn logs_dir(&self) -> PathBuf {
        let PodIdentity {
            namespace,
            name,
            uid,
        } = &self.identity;
        let own = names::log_directory(namespace, name, uid);
        self.shared.config.logs_dir.join(own)
    }

    fn link_logs(&self, before: &PodStatus, status: &PodStatus) {
        let known: Vec<_> = containers(before).map(|one| &one.container_id).collect();
        let new = containers(status).filter(|one| !known.contains(&&one.container_id));
        let links: Vec<(PathBuf, PathBuf)> = new.filter_map(|one| self.link(one)).collect();
        if !links.is_empty() {
            // Logs of earlier starts are gone.
            self.unlink_logs_if(|log| !log.exists());
        }
        for (link, log) in links {
            // A collector that finds no link finds the log itself.
            let _ = std::os::unix::fs::symlink(log, link);
        }
    }

    /// Removes the links of the pod's containers.
    pub fn unlink_logs(&self) {
        self.unlink_logs_if(|_| true);
    }

    /// Removes those whose log is so.
    fn unlink_logs_if(&self, chosen: impl Fn(&Path) -> bool) {
        let Some(directory) = &self.shared.config.log_links_dir else {
            return;
        };
        let prefix = format!("{}_{}_", self.identity.name, self.identity.namespace);
        let logs = self.logs_dir();
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let own = entry.file_name().to_string_lossy().starts_with(&prefix)
                && std::fs::read_link(entry.path())
                    .is_ok_and(|log| log.starts_with(&logs) && chosen(&log));
            if own {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Each change under the lock is whole, so a panic elsewhere harms nothing.
    fn lock(&self) -> MutexGuard<'_, Checkpoint> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn containers(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    let inits = status.init_container_statuses.iter().flatten();
    inits.chain(status.container_statuses.iter().flatten())
}

impl PodObserver for Reporter {
    fn event(&self, event: &PodEvent) {
        let init = self.is_init(event.container.as_deref());
        self.shared.events.push(event, init);
    }

    fn status(&self, pod: &PodIdentity, status: &PodStatus) {
        let before = self.status.send_replace(status.clone());
        self.link_logs(&before, status);
        let settled = {
            let mut record = self.lock();
            record.status = status.clone();
            record.settled
        };
        self.dirty.send_replace(true);
        // Before the server is told: the next agent, whenever it comes, goes on from what was
        // told last. An end is on disk already, and must outlive a loss of power too.
        if !settled {
            self.write(Checkpoints::note);
        }
        self.shared.statuses.want(pod, status);
    }

    /// On disk before the sandbox goes: a pod that is over must not begin anew, whenever
    /// this process dies.
    fn settled(&self, _pod: &PodIdentity, status: &PodStatus) {
        {
            let mut record = self.lock();
            record.status = status.clone();
            record.settled = true;
        }
        self.write(Checkpoints::write);
    }
}
