//! A node in memory: programs are scripts, faults are told in advance.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use berth_cri::{service::CriService, v1};
use jiff::Timestamp;
use tokio::{sync::watch, time::Instant};
use tonic::Status;

/// What a container's program does.
#[derive(Debug, Clone)]
pub struct Program {
    /// When it ends by itself.
    pub ends_after: Option<Duration>,
    /// With which code.
    pub code: i32,
    /// How long it takes to end after the stop signal; it has to be killed if this is too long.
    pub stops_after: Duration,
}

impl Program {
    /// Ends at once with a code.
    pub fn exits(code: i32) -> Program {
        Program {
            ends_after: Some(Duration::ZERO),
            code,
            stops_after: Duration::ZERO,
        }
    }

    /// Runs until it is stopped, and then ends with 0.
    pub fn serves() -> Program {
        Program {
            ends_after: None,
            code: 0,
            stops_after: Duration::ZERO,
        }
    }

    /// Runs for a while.
    pub fn runs(millis: u64, code: i32) -> Program {
        Program {
            ends_after: Some(Duration::from_millis(millis)),
            code,
            stops_after: Duration::ZERO,
        }
    }
}

#[derive(Debug, Clone)]
struct FakeContainer {
    sandbox: String,
    config: v1::ContainerConfig,
    program: Program,
    started: Option<(Instant, i64)>,
    /// When, in both clocks, and with which code.
    ended: Option<(i64, i32)>,
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, (v1::PodSandboxConfig, bool)>,
    containers: BTreeMap<String, FakeContainer>,
    images: BTreeMap<String, v1::Image>,
    programs: HashMap<String, Vec<Program>>,
    /// Answers to `exec_sync` by the first word, in turn; the last one stays.
    commands: HashMap<String, Vec<i32>>,
    /// How often a call fails from now on, with what.
    faults: HashMap<&'static str, Vec<Status>>,
    log: Vec<String>,
    serial: usize,
}

/// The node.
pub struct FakeNode {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

impl FakeNode {
    pub fn new() -> Arc<FakeNode> {
        let node = FakeNode {
            state: Mutex::default(),
            changes: watch::channel(0).0,
        };
        for image in ["main", "side", "init", "other"] {
            node.add_image(image, Some(0));
        }
        Arc::new(node)
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub fn add_image(&self, name: &str, uid: Option<i64>) {
        let image = v1::Image {
            id: format!("sha256:{name}"),
            repo_tags: vec![name.to_owned()],
            uid: uid.map(|value| v1::Int64Value { value }),
            ..Default::default()
        };
        self.lock().images.insert(name.to_owned(), image);
    }

    pub fn remove_image_named(&self, name: &str) {
        self.lock().images.remove(name);
    }

    /// The programs of a container's starts in turn; the last one stays.
    pub fn script(&self, container: &str, programs: &[Program]) {
        let mut state = self.lock();
        state
            .programs
            .insert(container.to_owned(), programs.to_vec());
    }

    /// The exit codes of a command in turn; the last one stays.
    pub fn command(&self, word: &str, codes: &[i32]) {
        self.lock().commands.insert(word.to_owned(), codes.to_vec());
    }

    /// Makes the next calls of this name fail.
    pub fn fail(&self, call: &'static str, statuses: &[Status]) {
        self.lock().faults.insert(call, statuses.to_vec());
    }

    /// What was asked, in its order.
    pub fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    /// The calls whose line begins with one of these words.
    pub fn calls(&self, words: &[&str]) -> Vec<String> {
        let log = self.log();
        log.into_iter()
            .filter(|line| words.iter().any(|word| line.starts_with(word)))
            .collect()
    }

    pub fn sandboxes(&self) -> Vec<(String, bool)> {
        let state = self.lock();
        let sandboxes = state.sandboxes.iter();
        sandboxes
            .map(|(id, (_, ready))| (id.clone(), *ready))
            .collect()
    }

    pub fn container_configs(&self) -> Vec<v1::ContainerConfig> {
        let state = self.lock();
        state
            .containers
            .values()
            .map(|container| container.config.clone())
            .collect()
    }

    /// As though a container's program had ended by itself.
    pub fn end_container(&self, named: &str, code: i32) {
        let mut state = self.lock();
        for container in state.containers.values_mut() {
            if name(&container.config) == named {
                container.ended.get_or_insert((now(), code));
            }
        }
        drop(state);
        self.changes.send_modify(|count| *count += 1);
    }

    /// As though the sandbox and all in it had been killed.
    pub fn lose_sandbox(&self) {
        let mut state = self.lock();
        for (_, ready) in state.sandboxes.values_mut() {
            *ready = false;
        }
        for container in state.containers.values_mut() {
            container.ended.get_or_insert((now(), 137));
        }
        drop(state);
        self.changes.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Notes a call; its fault, if one was told.
    fn called(&self, call: &'static str, line: String) -> Result<(), Status> {
        let mut state = self.lock();
        state.log.push(line);
        match state.faults.get_mut(call) {
            Some(faults) if !faults.is_empty() => Err(faults.remove(0)),
            _ => Ok(()),
        }
    }

    fn name_of(&self, id: &str) -> String {
        let state = self.lock();
        let container = state.containers.get(id);
        container.map_or_else(|| "?".to_owned(), |container| name(&container.config))
    }
}

fn name(config: &v1::ContainerConfig) -> String {
    config.metadata.clone().unwrap_or_default().name
}

/// When every sandbox here was made: no moment that a worker could take for its own.
pub const SANDBOX_MADE_AT: Timestamp = Timestamp::constant(1_000_000_000, 0);

fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap()
}

impl State {
    /// Lets time pass for a container: a program whose time is over has ended.
    fn settle(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let (Some((since, _)), None) = (container.started, container.ended) else {
            return;
        };
        if let Some(after) = container.program.ends_after
            && since.elapsed() >= after
        {
            container.ended = Some((now(), container.program.code));
        }
    }

    fn status(&mut self, id: &str) -> Option<v1::ContainerStatus> {
        self.settle(id);
        let container = self.containers.get(id)?;
        let state = match (container.started, container.ended) {
            (_, Some(_)) => v1::ContainerState::ContainerExited,
            (Some(_), None) => v1::ContainerState::ContainerRunning,
            (None, None) => v1::ContainerState::ContainerCreated,
        };
        Some(v1::ContainerStatus {
            id: id.to_owned(),
            metadata: container.config.metadata.clone(),
            state: state.into(),
            started_at: container.started.map_or(0, |(_, at)| at),
            finished_at: container.ended.map_or(0, |(at, _)| at),
            exit_code: container.ended.map_or(0, |(_, code)| code),
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
            ..Default::default()
        })
    }
}

fn matches(labels: &HashMap<String, String>, filter: &HashMap<String, String>) -> bool {
    filter
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// The answer to what the worker does not ask.
fn unasked() -> Status {
    Status::unimplemented("the worker does not ask this")
}

#[async_trait]
impl CriService for FakeNode {
    async fn run_pod_sandbox(
        &self,
        request: v1::RunPodSandboxRequest,
    ) -> Result<v1::RunPodSandboxResponse, Status> {
        let config = request.config.unwrap();
        let metadata = config.metadata.clone().unwrap();
        self.called("sandbox", format!("sandbox {}", metadata.attempt))?;
        let id = format!("{}-{}", metadata.uid, metadata.attempt);
        let mut state = self.lock();
        if state.sandboxes.contains_key(&id) {
            return Err(Status::already_exists("the sandbox is there"));
        }
        state.sandboxes.insert(id.clone(), (config, true));
        Ok(v1::RunPodSandboxResponse { pod_sandbox_id: id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: v1::StopPodSandboxRequest,
    ) -> Result<v1::StopPodSandboxResponse, Status> {
        let id = request.pod_sandbox_id;
        self.called("stop sandbox", format!("stop sandbox {id}"))?;
        let mut state = self.lock();
        if let Some((_, ready)) = state.sandboxes.get_mut(&id) {
            *ready = false;
        }
        for container in state.containers.values_mut() {
            if container.sandbox == id {
                container.ended.get_or_insert((now(), 137));
            }
        }
        Ok(v1::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
    ) -> Result<v1::RemovePodSandboxResponse, Status> {
        let id = request.pod_sandbox_id;
        self.called("remove sandbox", format!("remove sandbox {id}"))?;
        let mut state = self.lock();
        state.sandboxes.remove(&id);
        state
            .containers
            .retain(|_, container| container.sandbox != id);
        Ok(v1::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> Result<v1::PodSandboxStatusResponse, Status> {
        let state = self.lock();
        let found = state.sandboxes.get(&request.pod_sandbox_id);
        let (config, ready) = found.ok_or_else(|| Status::not_found("no such sandbox"))?;
        let status = v1::PodSandboxStatus {
            id: request.pod_sandbox_id.clone(),
            metadata: config.metadata.clone(),
            state: i32::from(!ready),
            network: Some(v1::PodSandboxNetworkStatus {
                ip: "127.0.0.1".to_owned(),
                additional_ips: Vec::new(),
            }),
            ..Default::default()
        };
        Ok(v1::PodSandboxStatusResponse {
            status: Some(status),
            ..Default::default()
        })
    }

    async fn list_pod_sandbox(
        &self,
        request: v1::ListPodSandboxRequest,
    ) -> Result<v1::ListPodSandboxResponse, Status> {
        let filter = request.filter.unwrap_or_default().label_selector;
        let state = self.lock();
        let sandboxes = state.sandboxes.iter();
        let items = sandboxes
            .filter(|(_, (config, _))| matches(&config.labels, &filter))
            .map(|(id, (config, ready))| v1::PodSandbox {
                id: id.clone(),
                metadata: config.metadata.clone(),
                state: i32::from(!ready),
                created_at: SANDBOX_MADE_AT.as_nanosecond().try_into().unwrap(),
                ..Default::default()
            })
            .collect();
        Ok(v1::ListPodSandboxResponse { items })
    }

    async fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> Result<v1::CreateContainerResponse, Status> {
        let config = request.config.unwrap();
        let metadata = config.metadata.clone().unwrap();
        let line = format!("create {} {}", metadata.name, metadata.attempt);
        self.called("create", line)?;
        let mut state = self.lock();
        if !state
            .sandboxes
            .get(&request.pod_sandbox_id)
            .is_some_and(|(_, ready)| *ready)
        {
            return Err(Status::failed_precondition("the sandbox does not run"));
        }
        let taken = state.containers.values().any(|other| {
            other.sandbox == request.pod_sandbox_id && other.config.metadata == config.metadata
        });
        if taken {
            return Err(Status::already_exists("the container's name is taken"));
        }
        let script = state.programs.entry(metadata.name.clone()).or_default();
        let program = match script.len() {
            0 => Program::serves(),
            1 => script[0].clone(),
            _ => script.remove(0),
        };
        state.serial += 1;
        let id = format!("c{}", state.serial);
        let container = FakeContainer {
            sandbox: request.pod_sandbox_id,
            config,
            program,
            started: None,
            ended: None,
        };
        state.containers.insert(id.clone(), container);
        Ok(v1::CreateContainerResponse { container_id: id })
    }

    async fn start_container(
        &self,
        request: v1::StartContainerRequest,
    ) -> Result<v1::StartContainerResponse, Status> {
        let name = self.name_of(&request.container_id);
        self.called("start", format!("start {name}"))?;
        let mut state = self.lock();
        let container = state.containers.get_mut(&request.container_id).unwrap();
        container.started = Some((Instant::now(), now()));
        Ok(v1::StartContainerResponse {})
    }

    async fn stop_container(
        &self,
        request: v1::StopContainerRequest,
    ) -> Result<v1::StopContainerResponse, Status> {
        let name = self.name_of(&request.container_id);
        self.called("stop", format!("stop {name} {}", request.timeout))?;
        let program = {
            let mut state = self.lock();
            state.settle(&request.container_id);
            let container = state.containers.get(&request.container_id);
            let container = container.ok_or_else(|| Status::not_found("no such container"))?;
            if container.ended.is_some() {
                return Ok(v1::StopContainerResponse {});
            }
            container.program.clone()
        };
        let grace = Duration::from_secs(request.timeout.unsigned_abs());
        let code = if program.stops_after <= grace && !grace.is_zero() {
            tokio::time::sleep(program.stops_after).await;
            program.code
        } else {
            tokio::time::sleep(grace).await;
            137
        };
        let mut state = self.lock();
        if let Some(container) = state.containers.get_mut(&request.container_id) {
            container.ended.get_or_insert((now(), code));
        }
        state.log.push(format!("ended {name} {code}"));
        Ok(v1::StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: v1::RemoveContainerRequest,
    ) -> Result<v1::RemoveContainerResponse, Status> {
        let name = self.name_of(&request.container_id);
        self.called("remove", format!("remove {name}"))?;
        self.lock().containers.remove(&request.container_id);
        Ok(v1::RemoveContainerResponse {})
    }

    async fn list_containers(
        &self,
        request: v1::ListContainersRequest,
    ) -> Result<v1::ListContainersResponse, Status> {
        let filter = request.filter.unwrap_or_default();
        let state = self.lock();
        let containers = state.containers.iter();
        let containers = containers
            .filter(|(_, container)| container.sandbox == filter.pod_sandbox_id)
            .map(|(id, container)| v1::Container {
                id: id.clone(),
                metadata: container.config.metadata.clone(),
                ..Default::default()
            })
            .collect();
        Ok(v1::ListContainersResponse { containers })
    }

    async fn container_status(
        &self,
        request: v1::ContainerStatusRequest,
    ) -> Result<v1::ContainerStatusResponse, Status> {
        let status = self.lock().status(&request.container_id);
        let status = status.ok_or_else(|| Status::not_found("no such container"))?;
        Ok(v1::ContainerStatusResponse {
            status: Some(status),
            ..Default::default()
        })
    }

    async fn exec_sync(
        &self,
        request: v1::ExecSyncRequest,
    ) -> Result<v1::ExecSyncResponse, Status> {
        let word = request.cmd.first().cloned().unwrap_or_default();
        let name = self.name_of(&request.container_id);
        self.called("exec", format!("exec {name} {word}"))?;
        let mut state = self.lock();
        let codes = state.commands.entry(word).or_default();
        let exit_code = match codes.len() {
            0 => 0,
            1 => codes[0],
            _ => codes.remove(0),
        };
        Ok(v1::ExecSyncResponse {
            exit_code,
            ..Default::default()
        })
    }

    async fn image_status(
        &self,
        request: v1::ImageStatusRequest,
    ) -> Result<v1::ImageStatusResponse, Status> {
        let name = request.image.unwrap().image;
        Ok(v1::ImageStatusResponse {
            image: self.lock().images.get(&name).cloned(),
            ..Default::default()
        })
    }

    async fn pull_image(
        &self,
        request: v1::PullImageRequest,
    ) -> Result<v1::PullImageResponse, Status> {
        let name = request.image.unwrap().image;
        self.called("pull", format!("pull {name}"))?;
        self.add_image(&name, Some(0));
        Ok(v1::PullImageResponse {
            image_ref: format!("sha256:{name}"),
        })
    }

    async fn update_container_resources(
        &self,
        _: v1::UpdateContainerResourcesRequest,
    ) -> Result<v1::UpdateContainerResourcesResponse, Status> {
        Err(unasked())
    }

    async fn reopen_container_log(
        &self,
        _: v1::ReopenContainerLogRequest,
    ) -> Result<v1::ReopenContainerLogResponse, Status> {
        Err(unasked())
    }

    async fn container_stats(
        &self,
        _: v1::ContainerStatsRequest,
    ) -> Result<v1::ContainerStatsResponse, Status> {
        Err(unasked())
    }

    async fn list_container_stats(
        &self,
        _: v1::ListContainerStatsRequest,
    ) -> Result<v1::ListContainerStatsResponse, Status> {
        Err(unasked())
    }

    async fn pod_sandbox_stats(
        &self,
        _: v1::PodSandboxStatsRequest,
    ) -> Result<v1::PodSandboxStatsResponse, Status> {
        Err(unasked())
    }

    async fn list_images(
        &self,
        _: v1::ListImagesRequest,
    ) -> Result<v1::ListImagesResponse, Status> {
        Err(unasked())
    }

    async fn remove_image(
        &self,
        _: v1::RemoveImageRequest,
    ) -> Result<v1::RemoveImageResponse, Status> {
        Err(unasked())
    }

    async fn image_fs_info(
        &self,
        _: v1::ImageFsInfoRequest,
    ) -> Result<v1::ImageFsInfoResponse, Status> {
        Err(unasked())
    }
}
