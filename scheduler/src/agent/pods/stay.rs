//! One pod's stay on this node, from its binding to its end.
//!
//! ```text
//!  bound ─▶ admitted ─▶ objects ─▶ worker runs it ─▶ settled ─▶ deleted: cleared, DELETE ─▶ gone
//!              │           ▲             │  ▲           ▲
//!              │        checkpoint       └──┘           │
//!              └── refused: Failed ───── spec changed ──┘
//! ```
//!
//! *Settled* means that no container runs and none will: that is on disk before the
//! sandbox goes. *Gone* means that a list of the server, or its watch, said that the
//! pod is no more; a server that is away says nothing.

use std::{sync::Arc, time::Duration};

use berth_runtime::causes::chain;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, PodStatus, Volume},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use super::{Shared, report::Reporter};
use crate::{
    agent::{
        admission::Refusal,
        checkpoint::{Checkpoint, SavedObjects},
        is_conflict, is_not_found,
        node::{self, keep::OwnNode},
        objects::Reference,
        services,
    },
    pod::{
        events::{EventKind, PodIdentity, PodObserver},
        objects::PodObjects,
        plan::resources,
        worker::{PodWorker, WorkerCommand, WorkerError, status::Pending},
    },
    waits::Waits,
};

/// How often what changed of a pod is written to its checkpoint, at most.
const SAVE_PERIOD: Duration = Duration::from_secs(2);
/// How often it is tried again to give a pod resources that others hold.
const RESIZE_PERIOD: Duration = Duration::from_secs(5);
/// How long a first container may wait for the list of services.
const SERVICES_PATIENCE: Duration = Duration::from_secs(5);

/// What the server wants of a pod.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The pod as it was told last.
    pub pod: Arc<Pod>,
    /// Whether it is there at all.
    pub presence: Presence,
    /// What the node is short of, if it needs back what the pod uses.
    pub evicted: Option<String>,
}

/// Whether the server has a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// As far as is known.
    There,
    /// It said that it has not.
    Gone,
}

/// One pod's stay.
pub struct Stay {
    shared: Arc<Shared>,
    identity: PodIdentity,
    wanted: watch::Receiver<Wanted>,
    /// What an earlier agent left, or why the pod cannot run here.
    beginning: Beginning,
    reporter: Arc<Reporter>,
    /// The node, for whether a pod can have more of it.
    node: OwnNode,
    /// The pod as its last worker was given it.
    given: Option<Arc<Pod>>,
}

/// How a stay begins.
#[derive(Debug)]
pub enum Beginning {
    /// An earlier agent had it.
    Known(Box<Checkpoint>),
    /// It is new, and may run here.
    Admitted,
    /// It is new, and may not.
    Refused(Refusal),
}

/// How a worker's run ended.
enum Outcome {
    /// The pod is over.
    Settled,
    /// The pod is to run on, as another spec says.
    Changed,
    /// It did not work; it is tried again unless the pod is to end.
    Failed,
}

impl Stay {
    /// A stay that has not begun.
    pub fn new(
        shared: &Arc<Shared>,
        identity: PodIdentity,
        wanted: watch::Receiver<Wanted>,
        node: OwnNode,
        beginning: Beginning,
    ) -> Stay {
        let pod = wanted.borrow().pod.clone();
        let record = match &beginning {
            Beginning::Known(checkpoint) => Checkpoint::clone(checkpoint),
            _ => {
                let mut status = pod.status.clone().unwrap_or_default();
                // On disk before anybody is told of it: the next agent says the same.
                status
                    .start_time
                    .get_or_insert_with(|| Time(Timestamp::now()));
                Checkpoint {
                    status,
                    pod: Pod::clone(&pod),
                    objects: SavedObjects::default(),
                    settled: false,
                }
            }
        };
        Stay {
            reporter: Arc::new(Reporter::new(shared, identity.clone(), record)),
            shared: Arc::clone(shared),
            identity,
            wanted,
            node,
            given: None,
            beginning,
        }
    }

    /// Lives it to its end.
    pub async fn live(mut self) {
        self.until_settled().await;
        self.shared.release(&self.identity.uid);
        self.until_gone().await;
        self.clear().await;
        let uid = &self.identity.uid;
        if let Err(error) = self.shared.checkpoints.remove(uid) {
            warn!(pod = self.identity.name, %error, "what is known of the pod was not removed");
        }
        self.shared.statuses.forget(uid);
        self.shared.changes.forget(uid);
    }

    /// Runs the pod until no container of it runs and none will.
    async fn until_settled(&mut self) {
        match &self.beginning {
            Beginning::Known(saved) if saved.settled => {
                // Perhaps the server was not told before the agent ended.
                self.shared.statuses.want(&self.identity, &saved.status);
                return;
            }
            Beginning::Known(_) => {}
            Beginning::Refused(refusal) => return self.refuse(refusal.clone()),
            Beginning::Admitted => {
                let pod = self.pod();
                if self.is_gone() || pod.metadata.deletion_timestamp.is_some() || is_over(&pod) {
                    return;
                }
            }
        }
        let Some(objects) = self.first_objects().await else {
            return;
        };
        let (sender, objects) = watch::channel(Arc::new(objects));
        let mut waits = Waits::new(self.shared.config.periods.retry);
        loop {
            let pod = self.allot(&self.pod()).0;
            self.reporter.note_pod(&pod);
            self.reporter.save().await;
            self.given = Some(pod);
            match self.run(&sender, &objects).await {
                Outcome::Settled => return,
                Outcome::Changed => waits.reset(),
                Outcome::Failed if self.ending().is_some() => return,
                Outcome::Failed => {
                    let mut wanted = self.news();
                    tokio::select! {
                        () = waits.wait() => {}
                        _ = wanted.changed() => {}
                    }
                }
            }
        }
    }

    /// One run of a worker.
    async fn run(
        &mut self,
        sender: &watch::Sender<Arc<PodObjects>>,
        objects: &watch::Receiver<Arc<PodObjects>>,
    ) -> Outcome {
        let given_pod = self.given.clone().unwrap_or_else(|| self.pod());
        let mut pod = Pod::clone(&given_pod);
        // What this node saw last is newer than what the server was told.
        pod.status = Some(self.reporter.status());
        let worker = PodWorker::following(
            Arc::clone(&self.shared.service),
            self.shared.worker_config(&self.identity.uid),
            objects.clone(),
        );
        let (commands, heard) = mpsc::channel(4);
        let observer: Arc<dyn PodObserver> = Arc::<Reporter>::clone(&self.reporter);
        let running = worker.run(pod, heard, observer);
        tokio::pin!(running);
        let refreshing = self.refresh(sender);
        tokio::pin!(refreshing);
        let mut statuses = self.reporter.statuses();
        let mut news = self.wanted.clone();
        let mut given = None;
        let mut evicted = false;
        let mut postponed = None;
        loop {
            let eviction = self.wanted.borrow().evicted.clone();
            if let Some(message) = eviction.filter(|_| !evicted) {
                evicted = true;
                let _ = commands.send(WorkerCommand::Evict { message }).await;
            }
            if let Some(grace) = self.ending()
                && given.is_none_or(|given| grace < given)
            {
                given = Some(grace);
                // Its receiver goes with the run, and then there is nothing to end.
                let _ = commands
                    .send(WorkerCommand::Stop { grace: Some(grace) })
                    .await;
            }
            let told = Arc::clone(&news.borrow_and_update().pod);
            let (next, pending) = self.allot(&told);
            if pending != postponed {
                postponed.clone_from(&pending);
                let _ = commands.send(WorkerCommand::Postpone(pending)).await;
            }
            let edited = given.is_none() && !evicted && differs(&given_pod, &next);
            if edited && is_steady(&statuses.borrow_and_update()) {
                // The next worker takes the pod over as it is, with the new spec.
                return Outcome::Changed;
            }
            tokio::select! {
                ended = &mut running => return self.ended(ended),
                _ = news.changed() => {}
                _ = statuses.changed(), if edited => {}
                // Others may have left.
                () = tokio::time::sleep(RESIZE_PERIOD), if postponed.is_some() => {}
                () = &mut refreshing => {}
                () = self.reporter.changed_for(SAVE_PERIOD) => self.reporter.save().await,
            }
        }
    }

    /// The pod as it can run here: with the resources that it has where it cannot have those
    /// that it is to have, and why not.
    fn allot(&self, wanted: &Arc<Pod>) -> (Arc<Pod>, Option<Pending>) {
        let Some(given) = &self.given else {
            return (Arc::clone(wanted), None);
        };
        let kept = with_resources_of(wanted, given);
        if kept.spec == wanted.spec {
            return (Arc::clone(wanted), None);
        }
        let node = self.node.borrow().clone();
        let node = node.unwrap_or_else(|| Arc::new(node::plan_unseen(&self.shared.config)));
        let uid = &self.identity.uid;
        match self.shared.resize(uid, wanted, given, &node) {
            Ok(()) => (Arc::clone(wanted), None),
            Err(pending) => (Arc::new(kept), Some(pending)),
        }
    }

    fn ended(&self, ended: Result<PodStatus, WorkerError>) -> Outcome {
        let error = match ended {
            Ok(_) => return Outcome::Settled,
            // The pod ended; what is left is cleared when it is deleted.
            Err(error @ WorkerError::Leftover { .. }) => {
                warn!(
                    pod = self.identity.name,
                    error = chain(&error),
                    "something of the pod is left"
                );
                return Outcome::Settled;
            }
            Err(error) => error,
        };
        if self.reporter.is_settled() {
            warn!(
                pod = self.identity.name,
                error = chain(&error),
                "the pod's sandbox was not stopped"
            );
            return Outcome::Settled;
        }
        let text = format!("error syncing pod: {}", chain(&error));
        self.reporter.tell(EventKind::Warning, "FailedSync", text);
        Outcome::Failed
    }

    /// What the pod refers to, for its first worker here; nothing if the pod is to end.
    async fn first_objects(&mut self) -> Option<PodObjects> {
        if let Beginning::Known(saved) = &self.beginning {
            return Some(saved.objects.clone().into_objects());
        }
        let mut waits = Waits::new(self.shared.config.periods.retry);
        loop {
            if self.ending().is_some() {
                return None;
            }
            let mut wanted = self.news();
            let fetched = tokio::select! {
                fetched = self.fetch() => fetched,
                _ = wanted.changed() => continue,
            };
            match fetched {
                Ok((objects, missing)) => {
                    self.tell_missing(&missing);
                    self.reporter.note_objects(&objects);
                    return Some(objects);
                }
                Err(error) => {
                    debug!(pod = self.identity.name, %error, "what the pod refers to was not read");
                    tokio::select! {
                        () = waits.wait() => {}
                        _ = wanted.changed() => {}
                    }
                }
            }
        }
    }

    /// Reads what the pod refers to again and again; never returns.
    async fn refresh(&self, sender: &watch::Sender<Arc<PodObjects>>) {
        let periods = &self.shared.config.periods;
        let mut pause = match &self.beginning {
            // Taken over: what is on disk may be old.
            Beginning::Known(_) => periods.missing,
            _ => periods.objects,
        };
        loop {
            tokio::time::sleep(pause).await;
            pause = match self.fetch().await {
                Ok((objects, missing)) => {
                    let changed = **sender.borrow() != objects;
                    if changed {
                        self.reporter.note_objects(&objects);
                        sender.send_replace(Arc::new(objects));
                    }
                    match missing.is_empty() {
                        true => periods.objects,
                        false => periods.missing,
                    }
                }
                // The old ones hold as long as the server is away.
                Err(_) => periods.objects,
            };
        }
    }

    async fn fetch(&self) -> Result<(PodObjects, Vec<Reference>), kube::Error> {
        let pod = self.pod();
        let fetched = self.shared.objects.fetch(&pod).await?;
        let ready = self.shared.services.wait_until_ready();
        let variables = match tokio::time::timeout(SERVICES_PATIENCE, ready).await {
            Ok(Ok(())) => {
                let services = self.shared.services.state();
                let own = services.iter().map(AsRef::as_ref).filter(|service| {
                    service.metadata.namespace.as_deref() == Some(&self.identity.namespace)
                });
                services::plan_variables(own)
            }
            // The server keeps them to itself: what was known before holds.
            _ => self.reporter.service_variables(),
        };
        Ok((
            fetched.objects.with_service_variables(variables),
            fetched.missing,
        ))
    }

    /// What a pod may do without, but should know.
    fn tell_missing(&self, missing: &[Reference]) {
        let pod = self.pod();
        let volumes = pod
            .spec
            .iter()
            .flat_map(|spec| spec.volumes.iter().flatten());
        for volume in volumes.filter(|volume| asks_for_token(volume)) {
            let text = format!(
                "volume {:?}: serviceAccountToken is not served, the file is left out",
                volume.name
            );
            self.reporter.tell(EventKind::Warning, "FailedMount", text);
        }
        let secrets = pod
            .spec
            .iter()
            .flat_map(|spec| spec.image_pull_secrets.iter().flatten());
        for secret in secrets {
            if missing.contains(&Reference::Secret(secret.name.clone())) {
                let text = format!(
                    "Unable to retrieve image pull secret {:?}; attempting to pull the image may not succeed.",
                    secret.name
                );
                self.reporter
                    .tell(EventKind::Warning, "FailedToRetrieveImagePullSecret", text);
            }
        }
    }

    /// The pod cannot run here: it has failed.
    fn refuse(&self, refusal: Refusal) {
        let pod = self.pod();
        if is_over(&pod) || self.is_gone() {
            return;
        }
        let text = refusal.message.clone();
        self.reporter
            .tell(EventKind::Warning, &refusal.reason, text);
        let status = PodStatus {
            phase: Some("Failed".to_owned()),
            reason: Some(refusal.reason),
            message: Some(format!("Pod was rejected: {}", refusal.message)),
            start_time: self.reporter.status().start_time,
            qos_class: pod
                .spec
                .as_ref()
                .map(|spec| resources::plan_qos(spec).name().to_owned()),
            ..PodStatus::default()
        };
        self.reporter.settled(&self.identity, &status);
        self.shared.statuses.want(&self.identity, &status);
    }

    /// Waits until the pod is no more, and sees to that once it is to be deleted.
    async fn until_gone(&mut self) {
        let mut cleared = false;
        while !self.is_gone() {
            if self.pod().metadata.deletion_timestamp.is_none() {
                if self.wanted.changed().await.is_err() {
                    return;
                }
                continue;
            }
            if !cleared {
                self.clear().await;
                cleared = true;
            }
            let mut wanted = self.wanted.clone();
            tokio::select! {
                () = self.delete() => {}
                _ = wanted.wait_for(|wanted| wanted.presence == Presence::Gone) => return,
            }
            // The server took it. Its watch, or its next list, says so too.
            let _ = tokio::time::timeout(
                self.shared.config.periods.sweep,
                self.wanted
                    .wait_for(|wanted| wanted.presence == Presence::Gone),
            )
            .await;
        }
    }

    /// Removes the pod's object, once its last status is told.
    async fn delete(&self) {
        self.shared.statuses.flushed(&self.identity.uid).await;
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), &self.identity.namespace);
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(self.identity.uid.clone()),
                ..Preconditions::default()
            }),
            ..DeleteParams::default()
        };
        let mut waits = Waits::new(self.shared.config.periods.retry);
        loop {
            match api.delete(&self.identity.name, &parameters).await {
                Ok(_) => return,
                // Gone already, or another pod has its name.
                Err(error) if is_not_found(&error) || is_conflict(&error) => return,
                Err(error) => {
                    warn!(pod = self.identity.name, %error, "the pod's object was not removed");
                    waits.wait().await;
                }
            }
        }
    }

    /// Removes everything of the pod from the node, again and again until nothing is left.
    async fn clear(&self) {
        let worker = PodWorker::new(
            Arc::clone(&self.shared.service),
            self.shared.worker_config(&self.identity.uid),
            PodObjects::default(),
        );
        let mut waits = Waits::new(self.shared.config.periods.retry);
        while let Err(error) = worker.remove(&self.identity).await {
            let text = format!("error killing pod: {}", chain(&error));
            self.reporter
                .tell(EventKind::Warning, "FailedKillPod", text);
            waits.wait().await;
        }
        self.reporter.unlink_logs();
    }

    /// What is wanted from now on; what was said before does not count as news.
    fn news(&self) -> watch::Receiver<Wanted> {
        let mut wanted = self.wanted.clone();
        wanted.mark_unchanged();
        wanted
    }

    fn pod(&self) -> Arc<Pod> {
        Arc::clone(&self.wanted.borrow().pod)
    }

    fn is_gone(&self) -> bool {
        self.wanted.borrow().presence == Presence::Gone
    }

    /// How long the pod may take to end, if it is to.
    fn ending(&self) -> Option<Duration> {
        let wanted = self.wanted.borrow();
        let own = wanted
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds);
        let told = wanted.pod.metadata.deletion_grace_period_seconds;
        let deleted = wanted.pod.metadata.deletion_timestamp.is_some();
        let seconds = match (wanted.presence, deleted) {
            (_, true) => told.or(own),
            (Presence::Gone, false) => own,
            // Somebody else ended it, in the server's books.
            (Presence::There, false) if is_over(&wanted.pod) => own,
            (Presence::There, false) => return None,
        };
        let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
        // A second at least, as a kubelet gives: a signal that can be heard.
        Some(Duration::from_secs(seconds.unwrap_or(30).max(1)))
    }
}

fn asks_for_token(volume: &Volume) -> bool {
    let projected = volume.projected.iter();
    let mut sources = projected.flat_map(|source| source.sources.iter().flatten());
    sources.any(|source| source.service_account_token.is_some())
}

/// Whether a pod has ended, as the server has it.
fn is_over(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// A pod whose containers have the resources that they have in another.
fn with_resources_of(pod: &Pod, other: &Pod) -> Pod {
    let mut pod = pod.clone();
    let (Some(spec), Some(other)) = (&mut pod.spec, &other.spec) else {
        return pod;
    };
    let inits = spec.init_containers.iter_mut().flatten();
    for container in inits.chain(&mut spec.containers) {
        let others = other.init_containers.iter().flatten();
        let mut others = others.chain(&other.containers);
        if let Some(other) = others.find(|other| other.name == container.name) {
            container.resources.clone_from(&other.resources);
        }
    }
    pod
}

/// Whether what a worker goes by is another.
fn differs(one: &Pod, other: &Pod) -> bool {
    one.spec != other.spec
        || one.metadata.labels != other.metadata.labels
        || one.metadata.annotations != other.metadata.annotations
}

/// Whether every container runs, so that nothing is half way.
fn is_steady(status: &PodStatus) -> bool {
    let mut containers = status.container_statuses.iter().flatten();
    let running = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        state.as_ref().is_some_and(|state| state.running.is_some())
    };
    status.phase.as_deref() == Some("Running") && containers.all(|one| running(&one.state))
}
