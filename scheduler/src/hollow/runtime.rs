//! A runtime that only pretends: every call succeeds at once, and nothing runs.
//!
//! What an agent asks for is remembered, so that it finds its pods again and sees
//! them end; a program runs until it is stopped. Images are all present.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use berth_cri::{service::CriService, v1};
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::broadcast;
use tonic::Status;

/// Events that an agent may be behind; one that misses some looks at everything.
const EVENTS: usize = 256;

/// The runtime of one hollow node.
pub struct PretendRuntime {
    /// The first two bytes after `10.` of its pods' addresses.
    node: u16,
    state: Mutex<State>,
    events: broadcast::Sender<v1::ContainerEventResponse>,
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, Sandbox>,
    containers: BTreeMap<String, Container>,
    serial: u32,
}

struct Sandbox {
    config: v1::PodSandboxConfig,
    ready: bool,
    created_at: i64,
    address: Ipv4Addr,
}

struct Container {
    sandbox: String,
    config: v1::ContainerConfig,
    created_at: i64,
    started_at: Option<i64>,
    /// When, and with which code.
    ended: Option<(i64, i32)>,
}

impl Sandbox {
    fn state(&self) -> i32 {
        match self.ready {
            true => v1::PodSandboxState::SandboxReady.into(),
            false => v1::PodSandboxState::SandboxNotready.into(),
        }
    }

    fn status(&self, id: &str) -> v1::PodSandboxStatus {
        v1::PodSandboxStatus {
            id: id.to_owned(),
            metadata: self.config.metadata.clone(),
            state: self.state(),
            created_at: self.created_at,
            network: Some(v1::PodSandboxNetworkStatus {
                ip: self.address.to_string(),
                additional_ips: Vec::new(),
            }),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            ..Default::default()
        }
    }
}

impl Container {
    fn state(&self) -> i32 {
        match (self.started_at, self.ended) {
            (_, Some(_)) => v1::ContainerState::ContainerExited.into(),
            (Some(_), None) => v1::ContainerState::ContainerRunning.into(),
            (None, None) => v1::ContainerState::ContainerCreated.into(),
        }
    }

    fn end(&mut self, code: i32) {
        self.ended.get_or_insert((now(), code));
    }

    fn status(&self, id: &str) -> v1::ContainerStatus {
        v1::ContainerStatus {
            id: id.to_owned(),
            metadata: self.config.metadata.clone(),
            state: self.state(),
            created_at: self.created_at,
            started_at: self.started_at.unwrap_or(0),
            finished_at: self.ended.map_or(0, |(at, _)| at),
            exit_code: self.ended.map_or(0, |(_, code)| code),
            image: self.config.image.clone(),
            image_ref: self
                .config
                .image
                .as_ref()
                .map_or_else(String::new, |image| image.image.clone()),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            ..Default::default()
        }
    }
}

fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

fn has_all(labels: &HashMap<String, String>, wanted: &HashMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

fn missing(what: &str) -> Status {
    Status::invalid_argument(format!("{what}: expected one"))
}

/// What nobody asks of a node that only pretends.
fn unserved() -> Status {
    Status::unimplemented("a hollow node does not serve this")
}

impl PretendRuntime {
    /// The runtime of a node with this number.
    pub fn new(node: u16) -> PretendRuntime {
        PretendRuntime {
            node,
            state: Mutex::default(),
            events: broadcast::channel(EVENTS).0,
        }
    }

    /// Sandboxes that are there.
    pub fn sandboxes(&self) -> usize {
        self.lock().sandboxes.len()
    }

    /// Every change under the lock is whole, so a panic elsewhere harms nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, state: &State, id: &str, kind: v1::ContainerEventType) {
        let container = state.containers.get(id);
        let sandbox = container.and_then(|container| {
            let sandbox = state.sandboxes.get(&container.sandbox)?;
            Some(sandbox.status(&container.sandbox))
        });
        let event = v1::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: now(),
            pod_sandbox_status: sandbox,
            containers_statuses: container
                .map(|container| container.status(id))
                .into_iter()
                .collect(),
        };
        // Nobody listens before an agent is there.
        let _ = self.events.send(event);
    }

    /// An image that every name stands for.
    fn image(name: &str) -> v1::Image {
        v1::Image {
            id: name.to_owned(),
            repo_tags: vec![name.to_owned()],
            size: 1,
            ..Default::default()
        }
    }
}

#[async_trait]
impl CriService for PretendRuntime {
    async fn version(&self, _: v1::VersionRequest) -> Result<v1::VersionResponse, Status> {
        Ok(v1::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "hollow".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn status(&self, _: v1::StatusRequest) -> Result<v1::StatusResponse, Status> {
        let holds = |kind: &str| v1::RuntimeCondition {
            r#type: kind.to_owned(),
            status: true,
            ..Default::default()
        };
        Ok(v1::StatusResponse {
            status: Some(v1::RuntimeStatus {
                conditions: vec![holds("RuntimeReady"), holds("NetworkReady")],
            }),
            ..Default::default()
        })
    }

    async fn update_runtime_config(
        &self,
        _: v1::UpdateRuntimeConfigRequest,
    ) -> Result<v1::UpdateRuntimeConfigResponse, Status> {
        Ok(v1::UpdateRuntimeConfigResponse {})
    }

    async fn container_events(
        &self,
        _: v1::GetEventsRequest,
    ) -> Result<BoxStream<'static, Result<v1::ContainerEventResponse, Status>>, Status> {
        let heard = self.events.subscribe();
        let events = stream::unfold(heard, |mut heard| async {
            let event = match heard.recv().await {
                Ok(event) => Ok(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    Err(Status::data_loss("events were missed"))
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            Some((event, heard))
        });
        Ok(events.boxed())
    }

    async fn run_pod_sandbox(
        &self,
        request: v1::RunPodSandboxRequest,
    ) -> Result<v1::RunPodSandboxResponse, Status> {
        let config = request.config.ok_or_else(|| missing("config"))?;
        let metadata = config.metadata.as_ref();
        let metadata = metadata.ok_or_else(|| missing("config.metadata"))?;
        let id = format!("{}-{}", metadata.uid, metadata.attempt);
        let mut state = self.lock();
        if state.sandboxes.contains_key(&id) {
            return Err(Status::already_exists(format!("sandbox {id} is there")));
        }
        state.serial += 1;
        let [high, low] = self.node.to_be_bytes();
        let last = u8::try_from(state.serial % 254).unwrap_or(0) + 1;
        let sandbox = Sandbox {
            config,
            ready: true,
            created_at: now(),
            address: Ipv4Addr::new(10, high, low, last),
        };
        state.sandboxes.insert(id.clone(), sandbox);
        Ok(v1::RunPodSandboxResponse { pod_sandbox_id: id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: v1::StopPodSandboxRequest,
    ) -> Result<v1::StopPodSandboxResponse, Status> {
        let mut state = self.lock();
        if let Some(sandbox) = state.sandboxes.get_mut(&request.pod_sandbox_id) {
            sandbox.ready = false;
        }
        let inside = |container: &&mut Container| container.sandbox == request.pod_sandbox_id;
        for container in state.containers.values_mut().filter(inside) {
            container.end(137);
        }
        Ok(v1::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
    ) -> Result<v1::RemovePodSandboxResponse, Status> {
        let mut state = self.lock();
        state.sandboxes.remove(&request.pod_sandbox_id);
        state
            .containers
            .retain(|_, container| container.sandbox != request.pod_sandbox_id);
        Ok(v1::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> Result<v1::PodSandboxStatusResponse, Status> {
        let state = self.lock();
        let found = state.sandboxes.get(&request.pod_sandbox_id);
        let sandbox = found.ok_or_else(|| Status::not_found("no such sandbox"))?;
        Ok(v1::PodSandboxStatusResponse {
            status: Some(sandbox.status(&request.pod_sandbox_id)),
            ..Default::default()
        })
    }

    async fn list_pod_sandbox(
        &self,
        request: v1::ListPodSandboxRequest,
    ) -> Result<v1::ListPodSandboxResponse, Status> {
        let filter = request.filter.unwrap_or_default();
        let state = self.lock();
        let items = state
            .sandboxes
            .iter()
            .filter(|(id, sandbox)| {
                (filter.id.is_empty() || filter.id == **id)
                    && filter
                        .state
                        .is_none_or(|wanted| wanted.state == sandbox.state())
                    && has_all(&sandbox.config.labels, &filter.label_selector)
            })
            .map(|(id, sandbox)| v1::PodSandbox {
                id: id.clone(),
                metadata: sandbox.config.metadata.clone(),
                state: sandbox.state(),
                created_at: sandbox.created_at,
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
                ..Default::default()
            })
            .collect();
        Ok(v1::ListPodSandboxResponse { items })
    }

    async fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> Result<v1::CreateContainerResponse, Status> {
        let config = request.config.ok_or_else(|| missing("config"))?;
        let mut state = self.lock();
        let sandbox = state.sandboxes.get(&request.pod_sandbox_id);
        if !sandbox.is_some_and(|sandbox| sandbox.ready) {
            return Err(Status::failed_precondition("the sandbox does not run"));
        }
        state.serial += 1;
        let id = format!("{}-{}", request.pod_sandbox_id, state.serial);
        let container = Container {
            sandbox: request.pod_sandbox_id,
            config,
            created_at: now(),
            started_at: None,
            ended: None,
        };
        state.containers.insert(id.clone(), container);
        Ok(v1::CreateContainerResponse { container_id: id })
    }

    async fn start_container(
        &self,
        request: v1::StartContainerRequest,
    ) -> Result<v1::StartContainerResponse, Status> {
        let id = request.container_id;
        let mut state = self.lock();
        let found = state.containers.get_mut(&id);
        let container = found.ok_or_else(|| Status::not_found("no such container"))?;
        container.started_at = Some(now());
        self.tell(&state, &id, v1::ContainerEventType::ContainerStartedEvent);
        Ok(v1::StartContainerResponse {})
    }

    async fn stop_container(
        &self,
        request: v1::StopContainerRequest,
    ) -> Result<v1::StopContainerResponse, Status> {
        let id = request.container_id;
        let mut state = self.lock();
        if let Some(container) = state.containers.get_mut(&id) {
            container.end(0);
            self.tell(&state, &id, v1::ContainerEventType::ContainerStoppedEvent);
        }
        Ok(v1::StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: v1::RemoveContainerRequest,
    ) -> Result<v1::RemoveContainerResponse, Status> {
        self.lock().containers.remove(&request.container_id);
        Ok(v1::RemoveContainerResponse {})
    }

    async fn list_containers(
        &self,
        request: v1::ListContainersRequest,
    ) -> Result<v1::ListContainersResponse, Status> {
        let filter = request.filter.unwrap_or_default();
        let state = self.lock();
        let containers = state
            .containers
            .iter()
            .filter(|(id, container)| {
                (filter.id.is_empty() || filter.id == **id)
                    && (filter.pod_sandbox_id.is_empty()
                        || filter.pod_sandbox_id == container.sandbox)
                    && filter
                        .state
                        .is_none_or(|wanted| wanted.state == container.state())
                    && has_all(&container.config.labels, &filter.label_selector)
            })
            .map(|(id, container)| v1::Container {
                id: id.clone(),
                pod_sandbox_id: container.sandbox.clone(),
                metadata: container.config.metadata.clone(),
                image: container.config.image.clone(),
                state: container.state(),
                created_at: container.created_at,
                labels: container.config.labels.clone(),
                annotations: container.config.annotations.clone(),
                ..Default::default()
            })
            .collect();
        Ok(v1::ListContainersResponse { containers })
    }

    async fn container_status(
        &self,
        request: v1::ContainerStatusRequest,
    ) -> Result<v1::ContainerStatusResponse, Status> {
        let state = self.lock();
        let found = state.containers.get(&request.container_id);
        let container = found.ok_or_else(|| Status::not_found("no such container"))?;
        Ok(v1::ContainerStatusResponse {
            status: Some(container.status(&request.container_id)),
            ..Default::default()
        })
    }

    async fn exec_sync(&self, _: v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse, Status> {
        Ok(v1::ExecSyncResponse::default())
    }

    async fn list_images(
        &self,
        _: v1::ListImagesRequest,
    ) -> Result<v1::ListImagesResponse, Status> {
        Ok(v1::ListImagesResponse::default())
    }

    async fn image_status(
        &self,
        request: v1::ImageStatusRequest,
    ) -> Result<v1::ImageStatusResponse, Status> {
        let image = request.image.ok_or_else(|| missing("image"))?;
        Ok(v1::ImageStatusResponse {
            image: Some(Self::image(&image.image)),
            ..Default::default()
        })
    }

    async fn pull_image(
        &self,
        request: v1::PullImageRequest,
    ) -> Result<v1::PullImageResponse, Status> {
        let image = request.image.ok_or_else(|| missing("image"))?;
        Ok(v1::PullImageResponse {
            image_ref: image.image,
        })
    }

    async fn image_fs_info(
        &self,
        _: v1::ImageFsInfoRequest,
    ) -> Result<v1::ImageFsInfoResponse, Status> {
        Ok(v1::ImageFsInfoResponse::default())
    }

    async fn remove_image(
        &self,
        _: v1::RemoveImageRequest,
    ) -> Result<v1::RemoveImageResponse, Status> {
        Ok(v1::RemoveImageResponse {})
    }

    async fn update_container_resources(
        &self,
        _: v1::UpdateContainerResourcesRequest,
    ) -> Result<v1::UpdateContainerResourcesResponse, Status> {
        Err(unserved())
    }

    async fn reopen_container_log(
        &self,
        _: v1::ReopenContainerLogRequest,
    ) -> Result<v1::ReopenContainerLogResponse, Status> {
        Err(unserved())
    }

    async fn container_stats(
        &self,
        _: v1::ContainerStatsRequest,
    ) -> Result<v1::ContainerStatsResponse, Status> {
        Err(unserved())
    }

    async fn list_container_stats(
        &self,
        _: v1::ListContainerStatsRequest,
    ) -> Result<v1::ListContainerStatsResponse, Status> {
        Err(unserved())
    }

    async fn pod_sandbox_stats(
        &self,
        _: v1::PodSandboxStatsRequest,
    ) -> Result<v1::PodSandboxStatsResponse, Status> {
        Err(unserved())
    }
}
