//! The image service's calls: the engine's, and the list in pages.

use std::time::Instant;

use tonic::{Request, async_trait};

use super::CriServer;
use super::pages::{Pages, pages};
use super::runtime_calls::{Answer, answer};
use crate::service::CriService;
use crate::v1;
use crate::v1::image_service_server::ImageService;

#[async_trait]
impl ImageService for CriServer {
    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Answer<v1::ListImagesResponse> {
        answer(self.engine.list_images(request.into_inner()).await)
    }

    type StreamImagesStream = Pages<v1::StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Answer<Pages<v1::StreamImagesResponse>> {
        let v1::StreamImagesRequest { filter } = request.into_inner();
        let list = v1::ListImagesRequest { filter };
        let items = self.engine.list_images(list).await?.images;
        Ok(pages(items, |images| v1::StreamImagesResponse { images }))
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Answer<v1::ImageStatusResponse> {
        answer(self.engine.image_status(request.into_inner()).await)
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Answer<v1::PullImageResponse> {
        let began = Instant::now();
        let outcome = self.engine.pull_image(request.into_inner()).await;
        self.telemetry.pulled(began.elapsed(), outcome.is_ok());
        answer(outcome)
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Answer<v1::RemoveImageResponse> {
        answer(self.engine.remove_image(request.into_inner()).await)
    }

    async fn image_fs_info(
        &self,
        request: Request<v1::ImageFsInfoRequest>,
    ) -> Answer<v1::ImageFsInfoResponse> {
        answer(self.engine.image_fs_info(request.into_inner()).await)
    }
}
