//! One pod, kept as its spec says until it ends.
//!
//! The worker is a handful of tasks that share a board and hear orders:
//!
//! ```text
//! run ─── orders ──▶ life ──▶ keeper (one per container) ──▶ the node, by CRI
//!  ▲                  │          │
//!  └── commands,      └──────────┴──▶ board ──▶ status, events ──▶ observer
//!      deadline
//! ```
//!
//! Nothing is started behind its back: when `run` is dropped its tasks are too,
//! and the pod goes on without a worker. The next worker finds it by its labels.
//!
//! Read more: `docs/pods.md`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use berth_cri::service::CriService;
use berth_runtime::causes::chain;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    events::{PodIdentity, PodObserver},
    objects::PodObjects,
    plan::{self, ConfigError, PodPlan, dns, environment, facts::PodFacts, names},
    settings::{Leftovers, Patience, WorkerConfig},
    volumes::{self, VolumesPlan},
};

/// A pod that already runs here.
pub mod adopt;
/// Where what is known is kept, and told.
pub mod board;
/// A container's end.
pub mod exit;
/// The cgroup that a pod has to itself.
pub mod group;
/// What is done after a start and before an end.
pub mod hooks;
/// A container's image.
pub mod image;
/// One container, kept as its pod wants it.
pub mod keeper;
/// What a container said as it ended.
pub mod last_words;
/// The order of a pod's containers.
pub mod life;
/// Run, stop by then, stop now.
pub mod order;
/// A pod that writes more than it may.
pub mod outgrown;
/// Waiting for the next look at the node.
pub mod pulse;
/// What a pod's status says.
pub mod status;

use board::Board;
use life::{FAR_FUTURE, Life};
use order::Order;
use status::{End, Known, Pending};

/// The reason of a pod that failed because the node did not do what was asked of it.
pub const NODE_FAILED: &str = "NodeFailed";

/// What a worker can be asked while its pod runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerCommand {
    /// End the pod in order: `preStop`, the stop signal, the grace, SIGKILL.
    Stop {
        /// How long it may take; the pod's own grace if none is named.
        grace: Option<Duration>,
    },
    /// End the pod at once.
    Kill,
    /// Say that the pod is to have other resources and does not have them yet; or no more.
    Postpone(Option<Pending>),
    /// End the pod at once: it has failed, because the node needs what it uses.
    Evict {
        /// What the node is short of.
        message: String,
    },
}

/// Why a worker could not do its work; a pod that fails is no such error.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The pod's own text does not hold; nothing was made.
    #[error("pod {pod} cannot run: {reason}")]
    Invalid {
        /// NAMESPACE/NAME.
        pod: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// The node did not answer a call that the worker cannot do without.
    #[error("the node did not {action}: {}", status.message())]
    Node {
        /// What was asked.
        action: &'static str,
        /// Its answer. Its own text names gRPC's code, which says nothing to a reader.
        status: Box<tonic::Status>,
    },
    /// A file of the pod's could not be written.
    #[error("{} was not written", path.display())]
    Files {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// Something of the pod is left on the node.
    #[error("pod {pod} ended, but {leftover} is left")]
    Leftover {
        /// NAMESPACE/NAME.
        pod: String,
        /// What, and why it could not be removed.
        leftover: String,
    },
}

/// Keeps one pod at a time as its spec says.
#[derive(Clone)]
pub struct PodWorker {
    service: Arc<dyn CriService>,
    config: WorkerConfig,
    objects: watch::Receiver<Arc<PodObjects>>,
}

impl PodWorker {
    /// A worker that speaks to `service` and finds ConfigMaps and Secrets in `objects`.
    pub fn new(
        service: Arc<dyn CriService>,
        config: WorkerConfig,
        objects: PodObjects,
    ) -> PodWorker {
        // Without its sender the channel says that nothing changes any more.
        let (_, objects) = watch::channel(Arc::new(objects));
        PodWorker::following(service, config, objects)
    }

    /// A worker whose ConfigMaps and Secrets may change while its pod runs: mounted
    /// files follow them.
    pub fn following(
        service: Arc<dyn CriService>,
        config: WorkerConfig,
        objects: watch::Receiver<Arc<PodObjects>>,
    ) -> PodWorker {
        PodWorker {
            service,
            config,
            objects,
        }
    }

    /// What the worker was told once.
    pub fn config(&self) -> &WorkerConfig {
        &self.config
    }

    /// Runs a pod until it ends or is stopped, and tells its last status.
    ///
    /// A pod without a uid is a new one. A pod with the uid of one that already
    /// runs here, because an earlier worker was lost, is taken over as it is. Its status
    /// is what was told of it before, its start and restarts with it: who reads pods
    /// from manifests takes it away.
    ///
    /// When the commands' sender is dropped the pod simply runs on. When the
    /// returned future is dropped the pod runs on without a worker.
    ///
    /// # Errors
    ///
    /// When the pod is not valid, the node refuses it, or something could not be
    /// removed. A container that fails is a status, not an error.
    pub async fn run(
        &self,
        pod: Pod,
        mut commands: mpsc::Receiver<WorkerCommand>,
        observer: Arc<dyn PodObserver>,
    ) -> Result<PodStatus, WorkerError> {
        // Nothing on the node can carry a uid that is being made up here.
        let new = pod.metadata.uid.as_ref().is_none_or(String::is_empty);
        let plan = self.plan(pod)?;
        let found = match new {
            true => adopt::Found::nothing(0),
            false => adopt::find(&self.service, &plan).await?,
        };
        let life = Arc::new(self.begin(plan, &found, observer)?);
        let (orders, heard) = watch::channel(Order::Run);
        let mut end = End::default();
        let lived = {
            let mut living = pin!(life.live(found, heard));
            let mut full = pin!(outgrown::outgrown(&life));
            let mut refreshing = pin!(life.refresh_volumes());
            let deadline = deadline(&life);
            let mut listening = true;
            loop {
                tokio::select! {
                    lived = &mut living => break lived,
                    command = commands.recv(), if listening => match command {
                        Some(WorkerCommand::Evict { message }) => {
                            if end.reason.is_none() {
                                end = evict(&life, message);
                            }
                            order::give(&orders, Order::Kill);
                        }
                        Some(WorkerCommand::Postpone(pending)) => {
                            life.board.update(|known| known.pending = pending);
                        }
                        Some(command) => order::give(&orders, ordered(&life, command)),
                        None => listening = false,
                    },
                    () = tokio::time::sleep_until(deadline), if end.reason.is_none() => {
                        end = ended("DeadlineExceeded", "Pod was active on the node longer than the specified deadline".to_owned());
                        order::give(&orders, ordered(&life, WorkerCommand::Stop { grace: None }));
                    }
                    () = &mut refreshing => {}
                    message = &mut full, if end.reason.is_none() => {
                        end = evict(&life, message);
                        order::give(&orders, Order::Kill);
                    }
                }
            }
        };
        self.finish(&life, end, lived).await
    }

    /// Stops a pod that no worker keeps, and removes all of it from the node.
    ///
    /// # Errors
    ///
    /// What could not be removed; everything else is gone.
    pub async fn remove(&self, pod: &PodIdentity) -> Result<(), WorkerError> {
        let labels = HashMap::from([(names::POD_UID.to_owned(), pod.uid.clone())]);
        for sandbox in adopt::list_sandboxes(&self.service, labels).await? {
            adopt::remove(&self.service, &sandbox.id).await?;
        }
        let volumes = self.config.volumes_dir.join(&pod.uid);
        let logs = names::log_directory(&pod.namespace, &pod.name, &pod.uid);
        let logs = self.config.logs_dir.join(logs);
        let group = names::pod_group(&self.config.cgroup_parent, &pod.uid);
        let removed = tokio::task::spawn_blocking(move || {
            volumes::teardown::remove_volumes(&volumes).map_err(|error| chain(&error))?;
            remove_logs(&logs)?;
            let Some(group) = group else { return Ok(()) };
            group::remove_group(Path::new(&group))
                .map_err(|(path, error)| format!("{}: {error}", path.display()))
        });
        leftover(pod, removed.await)
    }

    /// Everything that can be known before anything is made.
    fn plan(&self, mut pod: Pod) -> Result<PodPlan, WorkerError> {
        if pod.metadata.uid.as_ref().is_none_or(String::is_empty) {
            pod.metadata.uid = Some(create_uid());
        }
        let name = format!(
            "{}/{}",
            pod.metadata.namespace.as_deref().unwrap_or("default"),
            pod.metadata.name.as_deref().unwrap_or("?")
        );
        // A node without the file has no resolver to offer.
        let resolver = std::fs::read_to_string(&self.config.resolv_conf).unwrap_or_default();
        plan::plan_pod(pod, &self.config, &dns::read_resolv_conf(&resolver)).map_err(|error| {
            WorkerError::Invalid {
                pod: name,
                reason: error.to_string(),
            }
        })
    }

    /// Plans the rest and puts up the board; still nothing is made.
    fn begin(
        &self,
        plan: PodPlan,
        found: &adopt::Found,
        observer: Arc<dyn PodObserver>,
    ) -> Result<Life, WorkerError> {
        let directory = self.config.volumes_dir.join(&plan.identity.uid);
        let volumes = {
            let objects = Arc::clone(&self.objects.borrow());
            let facts = PodFacts {
                pod: &plan.pod,
                objects: &objects,
                node: &self.config.node,
                addresses: &[],
            };
            let planned = match self.config.patience {
                Patience::Finite => plan_objects(&facts, directory),
                Patience::Endless => volumes::plan_places(&facts, directory),
            };
            planned.map_err(|error| WorkerError::Invalid {
                pod: full_name(&plan.identity),
                reason: error.to_string(),
            })?
        };
        let before = plan.pod.status.clone().unwrap_or_default();
        // The sandbox is made some time after the pod was taken.
        let told = before.start_time.as_ref().map(|told| told.0);
        let made = found.created_at.map(exit::timestamp);
        let start = told.or(made).unwrap_or_else(jiff::Timestamp::now);
        let mut known = Known::new(&plan, &self.config.node.addresses, start);
        known.resume(&before, found);
        Ok(Life {
            service: Arc::clone(&self.service),
            config: self.config.clone(),
            objects: self.objects.clone(),
            board: Board::new(plan.identity.clone(), observer, known, &before),
            plan,
            volumes,
            volumes_wanted: Arc::new(Mutex::new(true)),
        })
    }

    /// Gives back what the pod held, and tells how it ended.
    async fn finish(
        &self,
        life: &Arc<Life>,
        end: End,
        lived: Result<(), WorkerError>,
    ) -> Result<PodStatus, WorkerError> {
        let pod = &life.plan.identity;
        let labels = HashMap::from([(names::POD_UID.to_owned(), pod.uid.clone())]);
        if lived.is_ok() {
            life.board.settle(&end);
        }
        let cleared = async {
            for sandbox in adopt::list_sandboxes(&self.service, labels).await? {
                self.clear(&sandbox.id).await?;
            }
            Ok::<(), WorkerError>(())
        }
        .await;
        let directory = life.volumes.directory.clone();
        let logs = PathBuf::from(&life.plan.sandbox.log_directory);
        let leftovers = self.config.leftovers;
        let wanted = Arc::clone(&life.volumes_wanted);
        let removed = tokio::task::spawn_blocking(move || {
            *wanted.lock().unwrap_or_else(PoisonError::into_inner) = false;
            volumes::teardown::remove_volumes(&directory).map_err(|error| chain(&error))?;
            match leftovers {
                Leftovers::Keep => Ok(()),
                Leftovers::Remove => remove_logs(&logs),
            }
        });
        let removed = leftover(pod, removed.await);
        // Who only looks at the status learns it too.
        let end = match &lived {
            Err(error) if end.reason.is_none() => ended(NODE_FAILED, chain(error)),
            _ => end,
        };
        life.board.update(|known| {
            known.sandbox_ready = false;
            known.end = Some(end);
        });
        // What went wrong first is what the others came from.
        lived?;
        cleared?;
        removed?;
        Ok(life.board.status())
    }

    /// Stops a sandbox, and removes it if nothing is to be kept.
    async fn clear(&self, id: &str) -> Result<(), WorkerError> {
        match self.config.leftovers {
            Leftovers::Remove => adopt::remove(&self.service, id).await,
            Leftovers::Keep => adopt::stop(&self.service, id).await,
        }
    }
}

/// Plans volumes, and every environment once, so that a missing ConfigMap is an
/// error before anything is made and not a pod that waits for ever.
fn plan_objects(facts: &PodFacts<'_>, directory: PathBuf) -> Result<VolumesPlan, ConfigError> {
    for container in facts.containers() {
        environment::plan_environment(facts, container)
            .map_err(|error| error.within(&format!("container {:?}", container.name)))?;
    }
    volumes::plan_volumes(facts, directory)
}

/// The order that a command is.
fn ordered(life: &Life, command: WorkerCommand) -> Order {
    match command {
        WorkerCommand::Postpone(_) => Order::Run,
        WorkerCommand::Kill | WorkerCommand::Evict { .. } => Order::Kill,
        WorkerCommand::Stop { grace } => match grace.unwrap_or(life.plan.grace) {
            // No time to end in order.
            Duration::ZERO => Order::Kill,
            grace => Order::Stop {
                by: Instant::now() + grace,
            },
        },
    }
}

/// When the pod's time is over.
fn deadline(life: &Life) -> Instant {
    let lived = life.board.read(|known| {
        let lived = jiff::Timestamp::now().duration_since(known.start_time);
        Duration::try_from(lived).unwrap_or_default()
    });
    let limit = life.plan.deadline.unwrap_or(FAR_FUTURE);
    Instant::now() + limit.saturating_sub(lived)
}

/// The end of a pod that the node ends for its own sake.
fn evict(life: &Life, message: String) -> End {
    life.board.warning(None, status::EVICTED, message.clone());
    ended(status::EVICTED, message)
}

fn ended(reason: &str, message: String) -> End {
    End {
        reason: Some(reason.to_owned()),
        message: Some(message),
    }
}

fn remove_logs(directory: &std::path::Path) -> Result<(), String> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", directory.display()))
        }
        _ => Ok(()),
    }
}

fn leftover(
    pod: &PodIdentity,
    removed: Result<Result<(), String>, tokio::task::JoinError>,
) -> Result<(), WorkerError> {
    let reason = match removed {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(reason)) => reason,
        Err(panic) => panic.to_string(),
    };
    Err(WorkerError::Leftover {
        pod: full_name(pod),
        leftover: reason,
    })
}

fn full_name(pod: &PodIdentity) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

/// A random uid in the form of RFC 9562, version 4.
pub fn create_uid() -> String {
    let mut bytes = [0_u8; 16];
    // The kernel's pool is ready since boot and 16 bytes are never cut short
    // (getrandom(2)); zeros would only ever come from a kernel without it.
    let _ = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

#[cfg(test)]
pub(crate) mod tests;
