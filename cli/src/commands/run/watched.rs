//! The node as a worker sees it, with somebody looking over its shoulder.
//!
//! The pod worker knows nothing of terminals and progress bars: it asks the CRI.
//! What a person should see, or has to be in place between `create` and `start`
//! of a container, hangs on the calls themselves. An attached terminal misses no
//! byte only because it was attached before the program began.

use std::sync::Arc;

use async_trait::async_trait;
use berth_cri::service::CriService;
use berth_cri::v1;
use tonic::Status;

/// Is told of the three calls that concern a person who watches.
#[async_trait]
pub trait Onlooker: Send + Sync {
    /// Pulls the image in the node's place, with whatever it shows meanwhile.
    async fn pull(&self, request: v1::PullImageRequest) -> Result<v1::PullImageResponse, Status>;
    /// A container was made; the request says how.
    fn created(&self, id: &str, request: &v1::CreateContainerRequest);
    /// A container is about to start.
    async fn before_start(&self, id: &str);
}

/// A node, and who looks on.
pub struct Watched {
    /// The node.
    pub node: Arc<dyn CriService>,
    /// Who looks on.
    pub onlooker: Arc<dyn Onlooker>,
}

#[async_trait]
impl CriService for Watched {
    async fn run_pod_sandbox(
        &self,
        request: v1::RunPodSandboxRequest,
    ) -> Result<v1::RunPodSandboxResponse, Status> {
        self.node.run_pod_sandbox(request).await
    }

    async fn stop_pod_sandbox(
        &self,
        request: v1::StopPodSandboxRequest,
    ) -> Result<v1::StopPodSandboxResponse, Status> {
        self.node.stop_pod_sandbox(request).await
    }

    async fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
    ) -> Result<v1::RemovePodSandboxResponse, Status> {
        self.node.remove_pod_sandbox(request).await
    }

    async fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> Result<v1::PodSandboxStatusResponse, Status> {
        self.node.pod_sandbox_status(request).await
    }

    async fn list_pod_sandbox(
        &self,
        request: v1::ListPodSandboxRequest,
    ) -> Result<v1::ListPodSandboxResponse, Status> {
        self.node.list_pod_sandbox(request).await
    }

    async fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> Result<v1::CreateContainerResponse, Status> {
        let response = self.node.create_container(request.clone()).await?;
        self.onlooker.created(&response.container_id, &request);
        Ok(response)
    }

    async fn start_container(
        &self,
        request: v1::StartContainerRequest,
    ) -> Result<v1::StartContainerResponse, Status> {
        self.onlooker.before_start(&request.container_id).await;
        self.node.start_container(request).await
    }

    async fn stop_container(
        &self,
        request: v1::StopContainerRequest,
    ) -> Result<v1::StopContainerResponse, Status> {
        self.node.stop_container(request).await
    }

    async fn remove_container(
        &self,
        request: v1::RemoveContainerRequest,
    ) -> Result<v1::RemoveContainerResponse, Status> {
        self.node.remove_container(request).await
    }

    async fn list_containers(
        &self,
        request: v1::ListContainersRequest,
    ) -> Result<v1::ListContainersResponse, Status> {
        self.node.list_containers(request).await
    }

    async fn container_status(
        &self,
        request: v1::ContainerStatusRequest,
    ) -> Result<v1::ContainerStatusResponse, Status> {
        self.node.container_status(request).await
    }

    async fn update_container_resources(
        &self,
        request: v1::UpdateContainerResourcesRequest,
    ) -> Result<v1::UpdateContainerResourcesResponse, Status> {
        self.node.update_container_resources(request).await
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: v1::UpdatePodSandboxResourcesRequest,
    ) -> Result<v1::UpdatePodSandboxResourcesResponse, Status> {
        self.node.update_pod_sandbox_resources(request).await
    }

    async fn reopen_container_log(
        &self,
        request: v1::ReopenContainerLogRequest,
    ) -> Result<v1::ReopenContainerLogResponse, Status> {
        self.node.reopen_container_log(request).await
    }

    async fn exec_sync(
        &self,
        request: v1::ExecSyncRequest,
    ) -> Result<v1::ExecSyncResponse, Status> {
        self.node.exec_sync(request).await
    }

    async fn container_stats(
        &self,
        request: v1::ContainerStatsRequest,
    ) -> Result<v1::ContainerStatsResponse, Status> {
        self.node.container_stats(request).await
    }

    async fn list_container_stats(
        &self,
        request: v1::ListContainerStatsRequest,
    ) -> Result<v1::ListContainerStatsResponse, Status> {
        self.node.list_container_stats(request).await
    }

    async fn pod_sandbox_stats(
        &self,
        request: v1::PodSandboxStatsRequest,
    ) -> Result<v1::PodSandboxStatsResponse, Status> {
        self.node.pod_sandbox_stats(request).await
    }

    async fn list_images(
        &self,
        request: v1::ListImagesRequest,
    ) -> Result<v1::ListImagesResponse, Status> {
        self.node.list_images(request).await
    }

    async fn image_status(
        &self,
        request: v1::ImageStatusRequest,
    ) -> Result<v1::ImageStatusResponse, Status> {
        self.node.image_status(request).await
    }

    async fn pull_image(
        &self,
        request: v1::PullImageRequest,
    ) -> Result<v1::PullImageResponse, Status> {
        self.onlooker.pull(request).await
    }

    async fn remove_image(
        &self,
        request: v1::RemoveImageRequest,
    ) -> Result<v1::RemoveImageResponse, Status> {
        self.node.remove_image(request).await
    }

    async fn image_fs_info(
        &self,
        request: v1::ImageFsInfoRequest,
    ) -> Result<v1::ImageFsInfoResponse, Status> {
        self.node.image_fs_info(request).await
    }
}
