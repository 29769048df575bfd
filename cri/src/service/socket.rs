//! The CRI's calls, asked of whoever serves them on a Unix socket.
//!
//! One connection for all calls: HTTP/2 carries them side by side. It is made by
//! the first call and made anew when it breaks, so that a runtime that starts
//! again is found again.

use std::path::Path;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::CriService;
use crate::v1::{
    self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};

/// A list of all containers of a large node is more than gRPC's four mebibytes.
const LARGEST_REPLY: usize = 16 << 20;

/// A runtime behind a socket.
#[derive(Debug, Clone)]
pub struct CriSocket {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl CriSocket {
    /// A runtime that listens, or will listen, at this path.
    ///
    /// # Errors
    ///
    /// When the path cannot be one of a socket. Whether somebody listens is not asked.
    pub fn at(path: &Path) -> Result<CriSocket, tonic::transport::Error> {
        let address = format!("unix://{}", path.display());
        let channel = Endpoint::from_shared(address)?.connect_lazy();
        Ok(CriSocket {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(LARGEST_REPLY),
            images: ImageServiceClient::new(channel).max_decoding_message_size(LARGEST_REPLY),
        })
    }
}

#[async_trait]
impl CriService for CriSocket {
    async fn run_pod_sandbox(
        &self,
        request: v1::RunPodSandboxRequest,
    ) -> Result<v1::RunPodSandboxResponse, Status> {
        let reply = self.runtime.clone().run_pod_sandbox(request).await?;
        Ok(reply.into_inner())
    }

    async fn stop_pod_sandbox(
        &self,
        request: v1::StopPodSandboxRequest,
    ) -> Result<v1::StopPodSandboxResponse, Status> {
        let reply = self.runtime.clone().stop_pod_sandbox(request).await?;
        Ok(reply.into_inner())
    }

    async fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
    ) -> Result<v1::RemovePodSandboxResponse, Status> {
        let reply = self.runtime.clone().remove_pod_sandbox(request).await?;
        Ok(reply.into_inner())
    }

    async fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> Result<v1::PodSandboxStatusResponse, Status> {
        let reply = self.runtime.clone().pod_sandbox_status(request).await?;
        Ok(reply.into_inner())
    }

    async fn list_pod_sandbox(
        &self,
        request: v1::ListPodSandboxRequest,
    ) -> Result<v1::ListPodSandboxResponse, Status> {
        let reply = self.runtime.clone().list_pod_sandbox(request).await?;
        Ok(reply.into_inner())
    }

    async fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> Result<v1::CreateContainerResponse, Status> {
        let reply = self.runtime.clone().create_container(request).await?;
        Ok(reply.into_inner())
    }

    async fn start_container(
        &self,
        request: v1::StartContainerRequest,
    ) -> Result<v1::StartContainerResponse, Status> {
        let reply = self.runtime.clone().start_container(request).await?;
        Ok(reply.into_inner())
    }

    async fn stop_container(
        &self,
        request: v1::StopContainerRequest,
    ) -> Result<v1::StopContainerResponse, Status> {
        let reply = self.runtime.clone().stop_container(request).await?;
        Ok(reply.into_inner())
    }

    async fn remove_container(
        &self,
        request: v1::RemoveContainerRequest,
    ) -> Result<v1::RemoveContainerResponse, Status> {
        let reply = self.runtime.clone().remove_container(request).await?;
        Ok(reply.into_inner())
    }

    async fn list_containers(
        &self,
        request: v1::ListContainersRequest,
    ) -> Result<v1::ListContainersResponse, Status> {
        let reply = self.runtime.clone().list_containers(request).await?;
        Ok(reply.into_inner())
    }

    async fn container_status(
        &self,
        request: v1::ContainerStatusRequest,
    ) -> Result<v1::ContainerStatusResponse, Status> {
        let reply = self.runtime.clone().container_status(request).await?;
        Ok(reply.into_inner())
    }

    async fn update_container_resources(
        &self,
        request: v1::UpdateContainerResourcesRequest,
    ) -> Result<v1::UpdateContainerResourcesResponse, Status> {
        let reply = self
            .runtime
            .clone()
            .update_container_resources(request)
            .await?;
        Ok(reply.into_inner())
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: v1::UpdatePodSandboxResourcesRequest,
    ) -> Result<v1::UpdatePodSandboxResourcesResponse, Status> {
        let reply = self
            .runtime
            .clone()
            .update_pod_sandbox_resources(request)
            .await?;
        Ok(reply.into_inner())
    }

    async fn reopen_container_log(
        &self,
        request: v1::ReopenContainerLogRequest,
    ) -> Result<v1::ReopenContainerLogResponse, Status> {
        let reply = self.runtime.clone().reopen_container_log(request).await?;
        Ok(reply.into_inner())
    }

    async fn exec_sync(
        &self,
        request: v1::ExecSyncRequest,
    ) -> Result<v1::ExecSyncResponse, Status> {
        let reply = self.runtime.clone().exec_sync(request).await?;
        Ok(reply.into_inner())
    }

    async fn container_stats(
        &self,
        request: v1::ContainerStatsRequest,
    ) -> Result<v1::ContainerStatsResponse, Status> {
        let reply = self.runtime.clone().container_stats(request).await?;
        Ok(reply.into_inner())
    }

    async fn list_container_stats(
        &self,
        request: v1::ListContainerStatsRequest,
    ) -> Result<v1::ListContainerStatsResponse, Status> {
        let reply = self.runtime.clone().list_container_stats(request).await?;
        Ok(reply.into_inner())
    }

    async fn pod_sandbox_stats(
        &self,
        request: v1::PodSandboxStatsRequest,
    ) -> Result<v1::PodSandboxStatsResponse, Status> {
        let reply = self.runtime.clone().pod_sandbox_stats(request).await?;
        Ok(reply.into_inner())
    }

    async fn list_images(
        &self,
        request: v1::ListImagesRequest,
    ) -> Result<v1::ListImagesResponse, Status> {
        let reply = self.images.clone().list_images(request).await?;
        Ok(reply.into_inner())
    }

    async fn image_status(
        &self,
        request: v1::ImageStatusRequest,
    ) -> Result<v1::ImageStatusResponse, Status> {
        let reply = self.images.clone().image_status(request).await?;
        Ok(reply.into_inner())
    }

    async fn pull_image(
        &self,
        request: v1::PullImageRequest,
    ) -> Result<v1::PullImageResponse, Status> {
        let reply = self.images.clone().pull_image(request).await?;
        Ok(reply.into_inner())
    }

    async fn remove_image(
        &self,
        request: v1::RemoveImageRequest,
    ) -> Result<v1::RemoveImageResponse, Status> {
        let reply = self.images.clone().remove_image(request).await?;
        Ok(reply.into_inner())
    }

    async fn image_fs_info(
        &self,
        request: v1::ImageFsInfoRequest,
    ) -> Result<v1::ImageFsInfoResponse, Status> {
        let reply = self.images.clone().image_fs_info(request).await?;
        Ok(reply.into_inner())
    }

    async fn version(&self, request: v1::VersionRequest) -> Result<v1::VersionResponse, Status> {
        let reply = self.runtime.clone().version(request).await?;
        Ok(reply.into_inner())
    }

    async fn status(&self, request: v1::StatusRequest) -> Result<v1::StatusResponse, Status> {
        let reply = self.runtime.clone().status(request).await?;
        Ok(reply.into_inner())
    }

    async fn update_runtime_config(
        &self,
        request: v1::UpdateRuntimeConfigRequest,
    ) -> Result<v1::UpdateRuntimeConfigResponse, Status> {
        let reply = self.runtime.clone().update_runtime_config(request).await?;
        Ok(reply.into_inner())
    }

    async fn exec(&self, request: v1::ExecRequest) -> Result<v1::ExecResponse, Status> {
        let reply = self.runtime.clone().exec(request).await?;
        Ok(reply.into_inner())
    }

    async fn attach(&self, request: v1::AttachRequest) -> Result<v1::AttachResponse, Status> {
        let reply = self.runtime.clone().attach(request).await?;
        Ok(reply.into_inner())
    }

    async fn port_forward(
        &self,
        request: v1::PortForwardRequest,
    ) -> Result<v1::PortForwardResponse, Status> {
        let reply = self.runtime.clone().port_forward(request).await?;
        Ok(reply.into_inner())
    }

    async fn container_events(
        &self,
        request: v1::GetEventsRequest,
    ) -> Result<BoxStream<'static, Result<v1::ContainerEventResponse, Status>>, Status> {
        let reply = self.runtime.clone().get_container_events(request).await?;
        Ok(reply.into_inner().boxed())
    }
}
