//! The runtime service's calls.
//!
//! Most are the engine's own, unchanged; what a call means stands there. What
//! is added here is what only a server has: lists in pages, events, versions.

use tonic::{Request, Response, Status, async_trait};

use super::pages::{Pages, pages};
use super::{CriServer, container_events, metrics, status};
use crate::engine::error::ErrorKind;
use crate::service::CriService;
use crate::v1;
use crate::v1::runtime_service_server::RuntimeService;

/// A reply, or the code that says why not.
pub(super) type Answer<T> = Result<Response<T>, Status>;

/// The engine's answer as gRPC carries it.
pub(super) fn answer<T>(outcome: Result<T, Status>) -> Answer<T> {
    outcome.map(Response::new)
}

/// A call that this version does not serve; clients fall back by this code.
fn not_served<T>(call: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!(
        "{call}: is not served; nothing was done"
    )))
}

#[async_trait]
impl RuntimeService for CriServer {
    async fn version(&self, _request: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        Ok(Response::new(status::version()))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Answer<v1::RunPodSandboxResponse> {
        answer(self.engine.run_pod_sandbox(request.into_inner()).await)
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        answer(self.engine.stop_pod_sandbox(request.into_inner()).await)
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        answer(self.engine.remove_pod_sandbox(request.into_inner()).await)
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        answer(self.engine.pod_sandbox_status(request.into_inner()).await)
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        answer(self.engine.list_pod_sandbox(request.into_inner()).await)
    }

    type StreamPodSandboxesStream = Pages<v1::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Answer<Pages<v1::StreamPodSandboxesResponse>> {
        let v1::StreamPodSandboxesRequest { filter } = request.into_inner();
        let list = v1::ListPodSandboxRequest { filter };
        let items = self.engine.list_pod_sandbox(list).await?.items;
        Ok(pages(items, |pod_sandboxes| {
            v1::StreamPodSandboxesResponse { pod_sandboxes }
        }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        answer(self.engine.create_container(request.into_inner()).await)
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Answer<v1::StartContainerResponse> {
        answer(self.engine.start_container(request.into_inner()).await)
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Answer<v1::StopContainerResponse> {
        answer(self.engine.stop_container(request.into_inner()).await)
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        answer(self.engine.remove_container(request.into_inner()).await)
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        answer(self.engine.list_containers(request.into_inner()).await)
    }

    type StreamContainersStream = Pages<v1::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Answer<Pages<v1::StreamContainersResponse>> {
        let v1::StreamContainersRequest { filter } = request.into_inner();
        let list = v1::ListContainersRequest { filter };
        let items = self.engine.list_containers(list).await?.containers;
        Ok(pages(items, |containers| v1::StreamContainersResponse {
            containers,
        }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        answer(self.engine.container_status(request.into_inner()).await)
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        answer(
            self.engine
                .update_container_resources(request.into_inner())
                .await,
        )
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Answer<v1::ReopenContainerLogResponse> {
        answer(self.engine.reopen_container_log(request.into_inner()).await)
    }

    async fn exec_sync(
        &self,
        request: Request<v1::ExecSyncRequest>,
    ) -> Answer<v1::ExecSyncResponse> {
        answer(self.engine.exec_sync(request.into_inner()).await)
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Answer<v1::ExecResponse> {
        answer(
            self.streams
                .exec(request.into_inner())
                .await
                .map_err(Status::from),
        )
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Answer<v1::AttachResponse> {
        answer(
            self.streams
                .attach(request.into_inner())
                .await
                .map_err(Status::from),
        )
    }

    async fn port_forward(
        &self,
        request: Request<v1::PortForwardRequest>,
    ) -> Answer<v1::PortForwardResponse> {
        answer(
            self.streams
                .port_forward(request.into_inner())
                .await
                .map_err(Status::from),
        )
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Answer<v1::ContainerStatsResponse> {
        answer(self.engine.container_stats(request.into_inner()).await)
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Answer<v1::ListContainerStatsResponse> {
        answer(self.engine.list_container_stats(request.into_inner()).await)
    }

    type StreamContainerStatsStream = Pages<v1::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Answer<Pages<v1::StreamContainerStatsResponse>> {
        let v1::StreamContainerStatsRequest { filter } = request.into_inner();
        let list = v1::ListContainerStatsRequest { filter };
        let items = self.engine.list_container_stats(list).await?.stats;
        Ok(pages(items, |container_stats| {
            v1::StreamContainerStatsResponse { container_stats }
        }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Answer<v1::PodSandboxStatsResponse> {
        answer(self.engine.pod_sandbox_stats(request.into_inner()).await)
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Answer<v1::ListPodSandboxStatsResponse> {
        let v1::ListPodSandboxStatsRequest { filter } = request.into_inner();
        let stats = self.sandbox_stats(filter).await?;
        Ok(Response::new(v1::ListPodSandboxStatsResponse { stats }))
    }

    type StreamPodSandboxStatsStream = Pages<v1::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Answer<Pages<v1::StreamPodSandboxStatsResponse>> {
        let v1::StreamPodSandboxStatsRequest { filter } = request.into_inner();
        let items = self.sandbox_stats(filter).await?;
        Ok(pages(items, |pod_sandbox_stats| {
            v1::StreamPodSandboxStatsResponse { pod_sandbox_stats }
        }))
    }

    async fn update_runtime_config(
        &self,
        request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        let config = request.into_inner().runtime_config.unwrap_or_default();
        let pod_cidr = config.network_config.unwrap_or_default().pod_cidr;
        // A kubelet without a range of its own says nothing by it.
        if !pod_cidr.is_empty() {
            self.engine.set_pod_cidr(&pod_cidr).await?;
        }
        Ok(Response::new(v1::UpdateRuntimeConfigResponse {}))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let verbose = request.into_inner().verbose;
        Ok(Response::new(status::status(self, verbose).await))
    }

    async fn checkpoint_container(
        &self,
        _request: Request<v1::CheckpointContainerRequest>,
    ) -> Answer<v1::CheckpointContainerResponse> {
        not_served("CheckpointContainer")
    }

    async fn checkpoint_pod(
        &self,
        _request: Request<v1::CheckpointPodRequest>,
    ) -> Answer<v1::CheckpointPodResponse> {
        not_served("CheckpointPod")
    }

    async fn restore_pod(
        &self,
        _request: Request<v1::RestorePodRequest>,
    ) -> Answer<v1::RestorePodResponse> {
        not_served("RestorePod")
    }

    type GetContainerEventsStream = Pages<v1::ContainerEventResponse>;

    async fn get_container_events(
        &self,
        _request: Request<v1::GetEventsRequest>,
    ) -> Answer<Pages<v1::ContainerEventResponse>> {
        Ok(container_events::stream(self.engine.clone()))
    }

    async fn list_metric_descriptors(
        &self,
        _request: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Answer<v1::ListMetricDescriptorsResponse> {
        let descriptors = metrics::descriptors();
        Ok(Response::new(v1::ListMetricDescriptorsResponse {
            descriptors,
        }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _request: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Answer<v1::ListPodSandboxMetricsResponse> {
        let pod_metrics = self.pod_metrics().await?;
        Ok(Response::new(v1::ListPodSandboxMetricsResponse {
            pod_metrics,
        }))
    }

    type StreamPodSandboxMetricsStream = Pages<v1::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _request: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Pages<v1::StreamPodSandboxMetricsResponse>> {
        let items = self.pod_metrics().await?;
        Ok(pages(items, |pod_sandbox_metrics| {
            v1::StreamPodSandboxMetricsResponse {
                pod_sandbox_metrics,
            }
        }))
    }

    async fn runtime_config(
        &self,
        _request: Request<v1::RuntimeConfigRequest>,
    ) -> Answer<v1::RuntimeConfigResponse> {
        Ok(Response::new(status::runtime_config(
            self.engine.config().cgroup_driver,
        )))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<v1::UpdatePodSandboxResourcesResponse> {
        answer(
            self.engine
                .update_pod_sandbox_resources(request.into_inner())
                .await,
        )
    }
}

impl CriServer {
    /// Use by the sandboxes that a filter lets through. One that goes away
    /// meanwhile is left out.
    async fn sandbox_stats(
        &self,
        filter: Option<v1::PodSandboxStatsFilter>,
    ) -> Result<Vec<v1::PodSandboxStats>, Status> {
        let filter = filter.unwrap_or_default();
        let list = v1::ListPodSandboxRequest {
            filter: Some(v1::PodSandboxFilter {
                id: filter.id,
                state: None,
                label_selector: filter.label_selector,
            }),
        };
        let mut stats = Vec::new();
        for sandbox in self.engine.list_pod_sandbox(list).await?.items {
            match self.engine.sandbox_stats(&sandbox.id).await {
                Ok(used) => stats.push(used),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(stats)
    }
}
