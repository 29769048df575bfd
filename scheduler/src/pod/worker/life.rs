//! A pod's life, from its volumes to its last container.
//!
//! ```text
//! images ──────────────┐  (fetched from the first moment on)
//! volumes ──┐          │
//! sandbox ──┴─▶ init 1 ┴▶ sidecar ─▶ init 2 ─▶ main, main, main ─▶ sidecars end
//!                          stays ──────────────────────────────▶   last first
//! ```
//!
//! A sandbox that dies takes its containers along; the pod is then begun again
//! in another one, init containers too, because what they set up was in there.

use std::{
    collections::HashMap,
    future::Future,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use berth_cri::{service::CriService, v1};
use berth_runtime::causes::chain;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tonic::{Code, Status};

use super::{
    WorkerError,
    adopt::{self, Found},
    board::Board,
    exit::Exit,
    image::{self, FoundImage, NoImage},
    keeper::{Ending, Keeper},
    order::{self, Order},
    pulse::Pulse,
};
use crate::pod::{
    objects::PodObjects,
    plan::{
        PodPlan,
        container::ContainerPlan,
        dns,
        facts::PodFacts,
        restart::{AfterExit, Role},
    },
    settings::{Patience, WorkerConfig},
    volumes::{self, VolumesPlan, mounts},
};

/// Everything that the tasks of one pod share.
pub struct Life {
    /// The node.
    pub service: Arc<dyn CriService>,
    /// The worker's settings.
    pub config: WorkerConfig,
    /// ConfigMaps and Secrets, as they change.
    pub objects: watch::Receiver<Arc<PodObjects>>,
    /// The pod.
    pub plan: PodPlan,
    /// Its volumes.
    pub volumes: VolumesPlan,
    /// What is known of it.
    pub board: Board,
    /// Held while volumes are written; whether they are still wanted.
    pub volumes_wanted: Arc<Mutex<bool>>,
}

/// A sandbox that runs.
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// What it was asked for with.
    pub config: v1::PodSandboxConfig,
    /// The pod's addresses in it.
    pub addresses: Vec<IpAddr>,
    /// The ids of its user namespace, if it has one.
    pub users: v1::UserNamespace,
}

/// How it went in one sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The pod is over.
    Ended,
    /// The sandbox is gone and the pod is not over.
    SandboxLost,
}

/// A task that does not outlive whoever waits for it.
pub struct Tethered<T>(JoinHandle<T>);

impl<T: Send + 'static> Tethered<T> {
    /// Starts a task.
    pub fn start(future: impl Future<Output = T> + Send + 'static) -> Tethered<T> {
        Tethered(tokio::spawn(future))
    }

    /// Waits for its result; none if it panicked.
    pub async fn result(mut self) -> Option<T> {
        (&mut self.0).await.ok()
    }
}

impl<T> Drop for Tethered<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An image that is being fetched.
pub type Fetch = Tethered<Result<FoundImage, NoImage>>;

/// A sidecar that runs.
struct Sidecar {
    orders: watch::Sender<Order>,
    task: Tethered<Ending>,
}

impl Life {
    /// What values of the pod may be taken from.
    pub fn facts<'a>(&'a self, objects: &'a PodObjects, addresses: &'a [IpAddr]) -> PodFacts<'a> {
        PodFacts {
            pod: &self.plan.pod,
            objects,
            node: &self.config.node,
            addresses,
        }
    }

    /// What the pod refers to, as it is now.
    pub fn objects(&self) -> Arc<PodObjects> {
        Arc::clone(&self.objects.borrow())
    }

    /// Waits until that is other than it was.
    pub async fn objects_changed(&self) {
        let mut objects = self.objects.clone();
        objects.mark_unchanged();
        if objects.changed().await.is_err() {
            // They never change again.
            std::future::pending().await
        }
    }

    /// A pulse of its own for a task that looks at the node.
    pub fn pulse(&self) -> Pulse {
        Pulse::new(self.config.poll, self.config.changes.clone())
    }

    /// Lives the pod until it is over or ordered to end; its containers are
    /// stopped then, its sandbox is not.
    pub async fn live(
        self: &Arc<Self>,
        mut found: Found,
        mut orders: watch::Receiver<Order>,
    ) -> Result<(), WorkerError> {
        loop {
            let mut fetches = self.fetch_images(&found);
            let adopted = found.sandbox.take();
            let mut hurry = orders.clone();
            let volumes = async {
                tokio::select! {
                    () = self.prepare_volumes() => Ok(true),
                    _ = order::ended(&mut hurry) => Ok(false),
                }
            };
            let sandbox = async {
                match adopted {
                    Some((id, config)) => self.describe_patiently(id, config).await.map(Some),
                    None => self.begin_sandbox(found.next_attempt, &mut orders).await,
                }
            };
            let (true, Some(sandbox)) = tokio::try_join!(volumes, sandbox)? else {
                return Ok(());
            };
            self.write_hosts(&sandbox).await?;
            self.board.update(|known| {
                known.addresses.clone_from(&sandbox.addresses);
                known.sandbox_ready = true;
            });
            let sandbox = Arc::new(sandbox);
            let fate = self
                .live_in(&sandbox, &mut found, &mut fetches, &mut orders)
                .await;
            if fate == Fate::Ended {
                return Ok(());
            }
            self.leave(&sandbox).await?;
            let attempt = sandbox.config.metadata.as_ref().map_or(0, |m| m.attempt);
            found = Found::nothing(attempt + 1);
        }
    }

    /// Fetches the images of all containers that are not running already.
    fn fetch_images(self: &Arc<Self>, found: &Found) -> HashMap<String, Fetch> {
        self.containers()
            .filter(|container| !found.containers.contains_key(container.name()))
            .filter(|container| !found.mains_began || container.role != Role::Init)
            .map(|container| {
                let life = Arc::clone(self);
                let plan = container.clone();
                let fetch = async move { image::ensure_image(&life, &plan).await };
                (container.name().to_owned(), Tethered::start(fetch))
            })
            .collect()
    }

    fn containers(&self) -> impl Iterator<Item = &ContainerPlan> {
        let init = self.plan.init_containers.iter();
        init.chain(&self.plan.containers)
    }

    /// Makes volumes and log directories, again and again if they cannot be made.
    async fn prepare_volumes(self: &Arc<Self>) {
        let mut failures = 0;
        loop {
            match self.try_prepare_volumes().await {
                Ok(()) => return,
                Err(reason) => self.board.warning(None, "FailedMount", reason),
            }
            failures += 1;
            tokio::select! {
                () = tokio::time::sleep(self.config.restart_backoff.wait(failures)) => {}
                () = self.objects_changed() => {}
            }
        }
    }

    async fn try_prepare_volumes(self: &Arc<Self>) -> Result<(), String> {
        let plan = self.plan_volumes_now()?;
        let life = Arc::clone(self);
        let made = tokio::task::spawn_blocking(move || {
            life.write_volumes(&plan)?;
            life.make_log_directories()
        });
        made.await.map_err(|panic| panic.to_string())?
    }

    /// The volumes with the objects as they are now.
    fn plan_volumes_now(&self) -> Result<VolumesPlan, String> {
        let objects = self.objects();
        let facts = self.facts(&objects, &[]);
        volumes::plan_volumes(&facts, self.volumes.directory.clone())
            .map_err(|error| error.to_string())
    }

    /// Writes volumes, unless they were torn down.
    fn write_volumes(&self, plan: &VolumesPlan) -> Result<(), String> {
        // Held all the while: what is torn down meanwhile must not come back.
        let wanted = self
            .volumes_wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match *wanted {
            true => volumes::ensure_volumes(plan).map_err(|error| chain(&error)),
            false => Ok(()),
        }
    }

    /// Writes files anew when the objects that they came from changed; never returns.
    pub async fn refresh_volumes(self: &Arc<Self>) {
        /// Until a pod's volumes are made, this long between two looks.
        const SOON: Duration = Duration::from_millis(200);
        let mut objects = self.objects.clone();
        loop {
            if objects.changed().await.is_err() {
                // They never change again.
                return std::future::pending().await;
            }
            while !self.board.read(|known| known.sandbox_ready) {
                tokio::time::sleep(SOON).await;
            }
            let written = match self.plan_volumes_now() {
                Ok(plan) => {
                    let life = Arc::clone(self);
                    let plan = plan.files();
                    let write = tokio::task::spawn_blocking(move || life.write_volumes(&plan));
                    write.await.unwrap_or_else(|panic| Err(panic.to_string()))
                }
                // The old files stay.
                Err(error) => Err(error),
            };
            if let Err(reason) = written {
                self.board.warning(None, "FailedMount", reason);
            }
        }
    }

    fn make_log_directories(&self) -> Result<(), String> {
        let root = std::path::Path::new(&self.plan.sandbox.log_directory);
        for container in self.containers() {
            let directory = root.join(container.name());
            std::fs::create_dir_all(&directory)
                .map_err(|error| format!("{} was not made: {error}", directory.display()))?;
        }
        Ok(())
    }

    /// Makes a sandbox; none if an order to end came first.
    async fn begin_sandbox(
        &self,
        attempt: u32,
        orders: &mut watch::Receiver<Order>,
    ) -> Result<Option<Sandbox>, WorkerError> {
        let mut config = self.plan.sandbox.clone();
        if let Some(metadata) = &mut config.metadata {
            metadata.attempt = attempt;
        }
        let mut failures = 0;
        loop {
            if *orders.borrow() != Order::Run {
                return Ok(None);
            }
            let class = &self.plan.runtime_class;
            let handler = self.objects().find_handler(class).map(str::to_owned);
            let request = handler.map(|runtime_handler| v1::RunPodSandboxRequest {
                config: Some(config.clone()),
                runtime_handler,
            });
            // Many pods that begin at once would all begin slowly.
            let permit = match &self.config.starts {
                Some(starts) => starts.acquire().await.ok(),
                None => None,
            };
            // Not given up half way when an order comes: it would leave half a
            // sandbox for somebody else to find.
            let made = match request {
                Some(request) => self.service.run_pod_sandbox(request).await,
                None => Err(Status::not_found(format!(
                    "RuntimeClass {class:?} not found"
                ))),
            };
            drop(permit);
            let status = match made {
                Ok(reply) => {
                    let id = reply.pod_sandbox_id;
                    return self.describe_patiently(id, config).await.map(Some);
                }
                Err(status) => status,
            };
            self.board.warning(
                None,
                "FailedCreatePodSandBox",
                format!("Failed to create pod sandbox: {}", status.message()),
            );
            if is_final(&status) && self.config.patience == Patience::Finite {
                return Err(node_error("make the pod's sandbox", status));
            }
            failures += 1;
            let pause = self.config.restart_backoff.wait(failures);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = order::ended(orders) => return Ok(None),
            }
        }
    }

    /// As [`Life::describe`]; a node that does not answer is asked again, if the pod is
    /// one that waits.
    async fn describe_patiently(
        &self,
        id: String,
        config: v1::PodSandboxConfig,
    ) -> Result<Sandbox, WorkerError> {
        let mut failures = 0;
        loop {
            match self.describe(id.clone(), config.clone()).await {
                Err(WorkerError::Node { status, .. })
                    if self.config.patience == Patience::Endless
                        && status.code() != Code::NotFound =>
                {
                    failures += 1;
                    self.board.warning(None, "FailedSync", status.message());
                    tokio::time::sleep(self.config.restart_backoff.wait(failures)).await;
                }
                described => return described,
            }
        }
    }

    /// Asks for the addresses of a sandbox.
    async fn describe(
        &self,
        id: String,
        config: v1::PodSandboxConfig,
    ) -> Result<Sandbox, WorkerError> {
        let request = v1::PodSandboxStatusRequest {
            pod_sandbox_id: id.clone(),
            verbose: false,
        };
        let status = self
            .service
            .pod_sandbox_status(request)
            .await
            .map_err(|status| node_error("tell the sandbox's address", status))?
            .status
            .unwrap_or_default();
        let users = status
            .linux
            .and_then(|linux| linux.namespaces?.options?.userns_options)
            .unwrap_or_default();
        let network = status.network.unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|more| more.ip);
        let mut addresses: Vec<IpAddr> = std::iter::once(network.ip)
            .chain(more)
            .filter_map(|text| text.parse().ok())
            .collect();
        // In the machine's network the pod has the machine's addresses.
        if addresses.is_empty() && self.plan.spec.host_network == Some(true) {
            addresses.clone_from(&self.config.node.addresses);
        }
        Ok(Sandbox {
            id,
            config,
            addresses,
            users,
        })
    }

    /// Writes the pod's hosts file, which needs its addresses.
    async fn write_hosts(&self, sandbox: &Sandbox) -> Result<(), WorkerError> {
        let names = dns::plan_hostname(&self.plan.pod, &self.plan.spec, &self.config);
        let text = dns::plan_hosts(&self.plan.spec, &names, &sandbox.addresses);
        let path = mounts::hosts_file(&self.volumes);
        tokio::fs::write(&path, text)
            .await
            .map_err(|source| WorkerError::Files { path, source })
    }

    /// Keeps the pod's containers in one sandbox.
    async fn live_in(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        found: &mut Found,
        fetches: &mut HashMap<String, Fetch>,
        orders: &mut watch::Receiver<Order>,
    ) -> Fate {
        // Of this sandbox alone: what is said when it is lost must not reach
        // the containers of the next one.
        let (here, _) = watch::channel(*orders.borrow());
        let mut sidecars = Vec::new();
        let mut followed = Order::Run;
        let mut lost = false;
        let fate = {
            let containers = self.run_in_order(sandbox, found, fetches, &here, &mut sidecars);
            let loss = self.sandbox_lost(&sandbox.id);
            tokio::pin!(containers, loss);
            loop {
                tokio::select! {
                    fate = &mut containers => break fate,
                    order = order::hastened(orders, followed) => {
                        followed = order;
                        order::give(&here, order);
                    }
                    () = &mut loss, if !lost => {
                        lost = true;
                        self.board.normal(
                            None,
                            "SandboxChanged",
                            "Pod sandbox changed, it will be killed and re-created.",
                        );
                        order::give(&here, Order::Abandon);
                    }
                }
            }
        };
        let last = match (lost, followed) {
            (true, Order::Run) => Order::Abandon,
            (_, Order::Run) => Order::Stop {
                by: Instant::now() + self.plan.grace,
            },
            (_, order) => order,
        };
        self.end_sidecars(sidecars, last, orders).await;
        match followed {
            Order::Run => fate,
            // Whatever was lost: the pod was to end anyway.
            _ => Fate::Ended,
        }
    }

    /// Init containers one after the other, then the main ones together.
    async fn run_in_order(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        found: &mut Found,
        fetches: &mut HashMap<String, Fetch>,
        orders: &watch::Sender<Order>,
        sidecars: &mut Vec<Sidecar>,
    ) -> Fate {
        if found.mains_began {
            self.show_initialized(found);
        }
        let mut keeper = |plan: &ContainerPlan, orders: watch::Receiver<Order>| {
            let fetch = fetches.remove(plan.name());
            let existing = found.containers.remove(plan.name());
            let starts = found.starts.get(plan.name()).copied().unwrap_or(0);
            Keeper::new(self, sandbox, plan, orders).with(existing, starts, fetch)
        };
        for plan in &self.plan.init_containers {
            if *orders.borrow() != Order::Run {
                return Fate::Ended;
            }
            if plan.role == Role::Sidecar {
                let (own, heard) = watch::channel(Order::Run);
                let (keeper, up) = keeper(plan, heard).announcing();
                sidecars.push(Sidecar {
                    orders: own,
                    task: Tethered::start(keeper.keep()),
                });
                let mut heard = orders.subscribe();
                tokio::select! {
                    // An error means that the sidecar gave up: its ending tells.
                    _ = up => {}
                    _ = order::ended(&mut heard) => {}
                }
                continue;
            }
            if found.mains_began {
                continue;
            }
            match keeper(plan, orders.subscribe()).keep().await {
                Ending::Done(AfterExit::Succeeded) => {}
                Ending::Done(_) | Ending::Stopped => return Fate::Ended,
                Ending::Abandoned => return Fate::SandboxLost,
            }
        }
        if *orders.borrow() != Order::Run {
            return Fate::Ended;
        }
        self.board.update(|known| {
            for container in &mut known.containers {
                let waiting = container.status.state.as_mut();
                if let Some(waiting) = waiting.and_then(|state| state.waiting.as_mut())
                    && waiting.reason.as_deref() == Some("PodInitializing")
                {
                    waiting.reason = Some("ContainerCreating".to_owned());
                }
            }
        });
        let mut mains = JoinSet::new();
        for plan in &self.plan.containers {
            mains.spawn(keeper(plan, orders.subscribe()).keep());
        }
        let mut fate = Fate::Ended;
        while let Some(ending) = mains.join_next().await {
            if matches!(ending, Ok(Ending::Abandoned)) {
                fate = Fate::SandboxLost;
            }
        }
        fate
    }

    /// Whoever started a main container had seen the init containers succeed, and may
    /// have been lost before it told.
    fn show_initialized(&self, found: &Found) {
        let runtime = &self.config.runtime_name;
        let inits = self.plan.init_containers.iter();
        for plan in inits.filter(|plan| plan.role == Role::Init) {
            self.board.update_container(plan.name(), |container| {
                container.outcome = Some(AfterExit::Succeeded);
                let status = &mut container.status;
                let told = status.state.as_ref();
                if told.is_some_and(|state| state.terminated.is_some()) {
                    return;
                }
                status.ready = true;
                // One that is not there any more ended as well, at no known time.
                let existing = found.containers.get(plan.name()).cloned();
                let exit = Exit::of(&existing.unwrap_or_default());
                if !exit.id.is_empty() {
                    status.container_id = Some(format!("{runtime}://{}", exit.id));
                }
                status.state = Some(exit.state(runtime, None));
            });
        }
    }

    /// Ends sidecars, the last one first: each may need those before it.
    async fn end_sidecars(
        &self,
        mut sidecars: Vec<Sidecar>,
        mut order: Order,
        orders: &mut watch::Receiver<Order>,
    ) {
        while let Some(Sidecar { orders: own, task }) = sidecars.pop() {
            order::give(&own, order);
            let ended = task.result();
            tokio::pin!(ended);
            loop {
                let followed = *orders.borrow();
                tokio::select! {
                    _ = &mut ended => break,
                    harsher = order::hastened(orders, followed) => {
                        order::give(&own, harsher);
                        order = *own.borrow();
                    }
                }
            }
        }
    }

    /// Returns when the sandbox no longer runs.
    async fn sandbox_lost(&self, id: &str) {
        /// A sandbox dies so rarely that most beats need not look at it.
        const LOOKS: u32 = 5;
        let mut pulse = Pulse::new(self.config.poll * LOOKS, self.config.changes.clone());
        loop {
            pulse.beat().await;
            if self.sandbox_is_gone(id).await {
                return;
            }
        }
    }

    /// Whether a sandbox is known not to run; a node that does not answer knows nothing.
    pub async fn sandbox_is_gone(&self, id: &str) -> bool {
        let request = v1::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        match self.service.pod_sandbox_status(request).await {
            Ok(reply) => reply
                .status
                .is_some_and(|status| status.state() == v1::PodSandboxState::SandboxNotready),
            Err(status) => status.code() == Code::NotFound,
        }
    }

    /// Clears what is left of a lost sandbox, so that another can take its names.
    async fn leave(&self, sandbox: &Sandbox) -> Result<(), WorkerError> {
        self.board.update(|known| {
            known.sandbox_ready = false;
            known.addresses.clear();
        });
        let mut failures = 0;
        loop {
            match adopt::remove(&self.service, &sandbox.id).await {
                Err(error) if self.config.patience == Patience::Endless => {
                    failures += 1;
                    self.board.warning(None, "FailedKillPod", chain(&error));
                    tokio::time::sleep(self.config.restart_backoff.wait(failures)).await;
                }
                removed => return removed,
            }
        }
    }
}

/// Whether trying again cannot help.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::Unimplemented
    )
}

/// A call without which a worker cannot go on.
pub fn node_error(action: &'static str, status: Status) -> WorkerError {
    WorkerError::Node {
        action,
        status: Box::new(status),
    }
}

/// A moment that never comes, for a pod without a deadline.
pub const FAR_FUTURE: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);
