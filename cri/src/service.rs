//! What a pod worker asks of a node: the CRI's calls, whoever answers them.
//!
//! `berth run` hands the worker the engine in this process; a node agent hands
//! it a socket, ours or another runtime's. Requests, replies and error codes
//! are those of the CRI, unchanged, so that the two cannot be told apart.

use async_trait::async_trait;
use futures::stream::BoxStream;
use tonic::Status;

use crate::v1;

/// The calls, asked of whoever serves them on a socket.
pub mod socket;

/// The calls of the CRI's two services that a node agent makes.
///
/// A pod worker needs those without a body; the others are a node's.
///
/// # Errors
///
/// Each call answers with the code that a kubelet expects of it: `NotFound`
/// for an unknown id where the CRI does not ask for success, `InvalidArgument`
/// with the field's name for bad input, `DeadlineExceeded` for an `exec_sync`
/// that took too long.
#[async_trait]
pub trait CriService: Send + Sync {
    /// Makes a sandbox and its network; it is ready when this returns.
    async fn run_pod_sandbox(
        &self,
        request: v1::RunPodSandboxRequest,
    ) -> Result<v1::RunPodSandboxResponse, Status>;
    /// Ends every process of the sandbox and gives its network back. Idempotent.
    async fn stop_pod_sandbox(
        &self,
        request: v1::StopPodSandboxRequest,
    ) -> Result<v1::StopPodSandboxResponse, Status>;
    /// Removes the sandbox and its containers. Idempotent.
    async fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
    ) -> Result<v1::RemovePodSandboxResponse, Status>;
    /// The state and the addresses of one sandbox.
    async fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> Result<v1::PodSandboxStatusResponse, Status>;
    /// The sandboxes that match a filter.
    async fn list_pod_sandbox(
        &self,
        request: v1::ListPodSandboxRequest,
    ) -> Result<v1::ListPodSandboxResponse, Status>;
    /// Makes a container in a sandbox from an image that is present.
    async fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> Result<v1::CreateContainerResponse, Status>;
    /// Starts a container that was made.
    async fn start_container(
        &self,
        request: v1::StartContainerRequest,
    ) -> Result<v1::StartContainerResponse, Status>;
    /// The stop signal, then SIGKILL after the grace. Idempotent.
    async fn stop_container(
        &self,
        request: v1::StopContainerRequest,
    ) -> Result<v1::StopContainerResponse, Status>;
    /// Removes a container, running or not. Idempotent.
    async fn remove_container(
        &self,
        request: v1::RemoveContainerRequest,
    ) -> Result<v1::RemoveContainerResponse, Status>;
    /// The containers that match a filter.
    async fn list_containers(
        &self,
        request: v1::ListContainersRequest,
    ) -> Result<v1::ListContainersResponse, Status>;
    /// The state, times, exit code and mounts of one container.
    async fn container_status(
        &self,
        request: v1::ContainerStatusRequest,
    ) -> Result<v1::ContainerStatusResponse, Status>;
    /// Changes the limits of a container that runs.
    async fn update_container_resources(
        &self,
        request: v1::UpdateContainerResourcesRequest,
    ) -> Result<v1::UpdateContainerResourcesResponse, Status>;
    /// Changes the limits of a sandbox as a whole. Runtimes are free not to have this call.
    async fn update_pod_sandbox_resources(
        &self,
        _request: v1::UpdatePodSandboxResourcesRequest,
    ) -> Result<v1::UpdatePodSandboxResourcesResponse, Status> {
        Err(Status::unimplemented(
            "UpdatePodSandboxResources is not served",
        ))
    }
    /// Opens the log file anew after a rotation.
    async fn reopen_container_log(
        &self,
        request: v1::ReopenContainerLogRequest,
    ) -> Result<v1::ReopenContainerLogResponse, Status>;
    /// Runs a command in a container and collects its output.
    async fn exec_sync(&self, request: v1::ExecSyncRequest)
    -> Result<v1::ExecSyncResponse, Status>;
    /// Use of CPU, memory and disk by one container.
    async fn container_stats(
        &self,
        request: v1::ContainerStatsRequest,
    ) -> Result<v1::ContainerStatsResponse, Status>;
    /// Use of CPU, memory and disk by the containers that match a filter.
    async fn list_container_stats(
        &self,
        request: v1::ListContainerStatsRequest,
    ) -> Result<v1::ListContainerStatsResponse, Status>;
    /// Use of CPU, memory, network and processes by one sandbox.
    async fn pod_sandbox_stats(
        &self,
        request: v1::PodSandboxStatsRequest,
    ) -> Result<v1::PodSandboxStatsResponse, Status>;
    /// The images that are present.
    async fn list_images(
        &self,
        request: v1::ListImagesRequest,
    ) -> Result<v1::ListImagesResponse, Status>;
    /// One image, or none: an absent image is not an error here.
    async fn image_status(
        &self,
        request: v1::ImageStatusRequest,
    ) -> Result<v1::ImageStatusResponse, Status>;
    /// Pulls an image; the reply holds its id.
    async fn pull_image(
        &self,
        request: v1::PullImageRequest,
    ) -> Result<v1::PullImageResponse, Status>;
    /// Removes an image by name, digest or id. Idempotent.
    async fn remove_image(
        &self,
        request: v1::RemoveImageRequest,
    ) -> Result<v1::RemoveImageResponse, Status>;
    /// The space that images take.
    async fn image_fs_info(
        &self,
        request: v1::ImageFsInfoRequest,
    ) -> Result<v1::ImageFsInfoResponse, Status>;
    /// The runtime's name and version.
    async fn version(&self, _request: v1::VersionRequest) -> Result<v1::VersionResponse, Status> {
        Err(not_served("Version"))
    }
    /// Whether the runtime and its network are ready.
    async fn status(&self, _request: v1::StatusRequest) -> Result<v1::StatusResponse, Status> {
        Err(not_served("Status"))
    }
    /// Tells the runtime the addresses that its pods get.
    async fn update_runtime_config(
        &self,
        _request: v1::UpdateRuntimeConfigRequest,
    ) -> Result<v1::UpdateRuntimeConfigResponse, Status> {
        Err(not_served("UpdateRuntimeConfig"))
    }
    /// Where to stream to a new process in a container.
    async fn exec(&self, _request: v1::ExecRequest) -> Result<v1::ExecResponse, Status> {
        Err(not_served("Exec"))
    }
    /// Where to stream to a container's own process.
    async fn attach(&self, _request: v1::AttachRequest) -> Result<v1::AttachResponse, Status> {
        Err(not_served("Attach"))
    }
    /// Where to stream to ports of a sandbox.
    async fn port_forward(
        &self,
        _request: v1::PortForwardRequest,
    ) -> Result<v1::PortForwardResponse, Status> {
        Err(not_served("PortForward"))
    }
    /// What happens to containers from now on.
    async fn container_events(
        &self,
        _request: v1::GetEventsRequest,
    ) -> Result<BoxStream<'static, Result<v1::ContainerEventResponse, Status>>, Status> {
        Err(not_served("GetContainerEvents"))
    }
}

/// What a node answers that is no more than what a pod worker needs.
fn not_served(call: &str) -> Status {
    Status::unimplemented(format!("{call} is not served here"))
}
