//! The CRI's calls on an engine.
//!
//! One method a call: read the request, call the engine, write the reply. What
//! a call means stands where the engine does it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use berth_runtime::clock::now_nanoseconds;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use serde_json::value::RawValue;
use tonic::Status;

use super::Engine;
use super::container::making::read_config_text;
use super::error::Error;
use super::exec::ExecRequest;
use super::records::{PodPhase, PodRecord, namespace_options};
use super::view::ContainerView;
use crate::service::CriService;
use crate::v1;

/// Images, in the CRI's words.
mod image_calls;
/// Which sandboxes and containers a filter lets through.
mod select;

/// Monitors that are asked at once. Each answers within a fraction of a
/// millisecond; what takes time is to be waiting for one after the other.
const AT_ONCE: usize = 16;

#[async_trait]
impl CriService for Engine {
    async fn run_pod_sandbox(
        &self,
        request: v1::RunPodSandboxRequest,
    ) -> Result<v1::RunPodSandboxResponse, Status> {
        let config = request
            .config
            .ok_or_else(|| Error::invalid("config: is missing"))?;
        let pod_sandbox_id = self.run_sandbox(config, request.runtime_handler).await?;
        Ok(v1::RunPodSandboxResponse { pod_sandbox_id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: v1::StopPodSandboxRequest,
    ) -> Result<v1::StopPodSandboxResponse, Status> {
        self.stop_sandbox(&request.pod_sandbox_id).await?;
        Ok(v1::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
    ) -> Result<v1::RemovePodSandboxResponse, Status> {
        self.remove_sandbox(&request.pod_sandbox_id).await?;
        Ok(v1::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> Result<v1::PodSandboxStatusResponse, Status> {
        let record = self.sandbox(&request.pod_sandbox_id)?;
        let state = self.sandbox_state(&record).await;
        let views = self.views(&record).await?;
        Ok(v1::PodSandboxStatusResponse {
            info: match request.verbose {
                true => self.verbose_sandbox(&record).await?,
                false => HashMap::new(),
            },
            status: Some(sandbox_status(&record, state)),
            containers_statuses: views.iter().map(container_status).collect(),
            timestamp: now_nanoseconds(),
        })
    }

    async fn list_pod_sandbox(
        &self,
        request: v1::ListPodSandboxRequest,
    ) -> Result<v1::ListPodSandboxResponse, Status> {
        let filter = request.filter.unwrap_or_default();
        let mut chosen = self.made_sandboxes()?;
        chosen.retain(|record| select::sandbox_matches(&filter, record));
        let asked = chosen.into_iter().map(|record| async move {
            let state = self.sandbox_state(&record).await;
            sandbox_item(&record, state)
        });
        let mut items: Vec<v1::PodSandbox> = stream::iter(asked).buffered(AT_ONCE).collect().await;
        if let Some(wanted) = &filter.state {
            items.retain(|item| item.state == wanted.state);
        }
        Ok(v1::ListPodSandboxResponse { items })
    }

    async fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> Result<v1::CreateContainerResponse, Status> {
        let container_id = self.create(request).await?;
        Ok(v1::CreateContainerResponse { container_id })
    }

    async fn start_container(
        &self,
        request: v1::StartContainerRequest,
    ) -> Result<v1::StartContainerResponse, Status> {
        self.start(&request.container_id).await?;
        Ok(v1::StartContainerResponse {})
    }

    async fn stop_container(
        &self,
        request: v1::StopContainerRequest,
    ) -> Result<v1::StopContainerResponse, Status> {
        let grace = seconds("timeout", request.timeout)?;
        self.stop(&request.container_id, grace).await?;
        Ok(v1::StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: v1::RemoveContainerRequest,
    ) -> Result<v1::RemoveContainerResponse, Status> {
        self.remove(&request.container_id).await?;
        Ok(v1::RemoveContainerResponse {})
    }

    async fn list_containers(
        &self,
        request: v1::ListContainersRequest,
    ) -> Result<v1::ListContainersResponse, Status> {
        let filter = request.filter.unwrap_or_default();
        let views = self.matching_views(&filter).await?;
        let containers = views.iter().map(container_item).collect();
        Ok(v1::ListContainersResponse { containers })
    }

    async fn container_status(
        &self,
        request: v1::ContainerStatusRequest,
    ) -> Result<v1::ContainerStatusResponse, Status> {
        let mut view = self.view(&request.container_id).await?;
        let is_being_made = view.state == v1::ContainerState::ContainerCreated && view.pid == 0;
        if request.verbose && is_being_made {
            // Whoever asks for everything asks for the process too; why it was not made, the
            // second look tells.
            let _ = self.settle(&view.record).await;
            view = self.view(&request.container_id).await?;
        }
        Ok(v1::ContainerStatusResponse {
            info: match request.verbose {
                true => self.verbose_container(&view)?,
                false => HashMap::new(),
            },
            status: Some(container_status(&view)),
        })
    }

    async fn update_container_resources(
        &self,
        request: v1::UpdateContainerResourcesRequest,
    ) -> Result<v1::UpdateContainerResourcesResponse, Status> {
        let limits = request
            .linux
            .ok_or_else(|| Error::invalid("linux: is missing; nothing was changed"))?;
        self.update(&request.container_id, limits).await?;
        Ok(v1::UpdateContainerResourcesResponse {})
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: v1::UpdatePodSandboxResourcesRequest,
    ) -> Result<v1::UpdatePodSandboxResourcesResponse, Status> {
        let id = &request.pod_sandbox_id;
        self.update_sandbox(id, request.overhead, request.resources)
            .await?;
        Ok(v1::UpdatePodSandboxResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: v1::ReopenContainerLogRequest,
    ) -> Result<v1::ReopenContainerLogResponse, Status> {
        self.reopen_log(&request.container_id).await?;
        Ok(v1::ReopenContainerLogResponse {})
    }

    async fn exec_sync(
        &self,
        request: v1::ExecSyncRequest,
    ) -> Result<v1::ExecSyncResponse, Status> {
        let program = ExecRequest {
            arguments: request.cmd,
            ..Default::default()
        };
        let timeout = seconds("timeout", request.timeout)?;
        let output = self
            .exec_collect(&request.container_id, &program, timeout)
            .await?;
        Ok(v1::ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.exit_code,
        })
    }

    async fn container_stats(
        &self,
        request: v1::ContainerStatsRequest,
    ) -> Result<v1::ContainerStatsResponse, Status> {
        let stats = self.stats(&request.container_id).await?;
        Ok(v1::ContainerStatsResponse { stats: Some(stats) })
    }

    async fn list_container_stats(
        &self,
        request: v1::ListContainerStatsRequest,
    ) -> Result<v1::ListContainerStatsResponse, Status> {
        let filter = request.filter.unwrap_or_default();
        // The two filters name the same things.
        let filter = v1::ContainerFilter {
            id: filter.id,
            state: None,
            pod_sandbox_id: filter.pod_sandbox_id,
            label_selector: filter.label_selector,
        };
        let mut stats = Vec::new();
        for view in self.matching_views(&filter).await? {
            stats.push(self.stats_of(view).await?);
        }
        Ok(v1::ListContainerStatsResponse { stats })
    }

    async fn pod_sandbox_stats(
        &self,
        request: v1::PodSandboxStatsRequest,
    ) -> Result<v1::PodSandboxStatsResponse, Status> {
        let stats = self.sandbox_stats(&request.pod_sandbox_id).await?;
        Ok(v1::PodSandboxStatsResponse { stats: Some(stats) })
    }

    async fn list_images(
        &self,
        request: v1::ListImagesRequest,
    ) -> Result<v1::ListImagesResponse, Status> {
        Ok(image_calls::list(self, request)?)
    }

    async fn image_status(
        &self,
        request: v1::ImageStatusRequest,
    ) -> Result<v1::ImageStatusResponse, Status> {
        Ok(image_calls::status(self, request)?)
    }

    async fn pull_image(
        &self,
        request: v1::PullImageRequest,
    ) -> Result<v1::PullImageResponse, Status> {
        Ok(image_calls::pull(self, request).await?)
    }

    async fn remove_image(
        &self,
        request: v1::RemoveImageRequest,
    ) -> Result<v1::RemoveImageResponse, Status> {
        Ok(image_calls::remove(self, request).await?)
    }

    async fn image_fs_info(
        &self,
        _request: v1::ImageFsInfoRequest,
    ) -> Result<v1::ImageFsInfoResponse, Status> {
        Ok(image_calls::file_systems(self).await?)
    }
}

impl Engine {
    /// The record, and what plugins of CNI have to say of the network.
    async fn verbose_sandbox(&self, record: &PodRecord) -> Result<HashMap<String, String>, Error> {
        let mut told = HashMap::from([("record".to_owned(), json_text(record)?)]);
        if let Some((result, check)) = self.cni_details(record).await {
            told.insert("cniResult".to_owned(), result.to_string());
            told.insert(
                "cniCheck".to_owned(),
                serde_json::Value::from(check).to_string(),
            );
        }
        Ok(told)
    }

    /// Under `info` what scripts look for: `crictl inspect ID | jq .info.pid`.
    fn verbose_container(&self, view: &ContainerView) -> Result<HashMap<String, String>, Error> {
        let record = &view.record;
        let bundle = self.paths().bundle(&record.pod_id, &record.id);
        let info = VerboseInfo {
            sandbox_id: &record.pod_id,
            pid: view.pid,
            runtime_spec: read_config_text(&bundle),
        };
        Ok(HashMap::from([
            ("info".to_owned(), json_text(&info)?),
            ("pid".to_owned(), view.pid.to_string()),
            ("record".to_owned(), json_text(record)?),
        ]))
    }

    /// The containers that a filter lets through, of all sandboxes.
    async fn matching_views(
        &self,
        filter: &v1::ContainerFilter,
    ) -> Result<Vec<ContainerView>, Error> {
        let mut pods = self.made_sandboxes()?;
        pods.retain(|pod| select::is_prefix(&filter.pod_sandbox_id, &pod.id));
        let asked = pods
            .into_iter()
            .map(|pod| async move { self.views(&pod).await });
        let mut asked = stream::iter(asked).buffered(AT_ONCE);
        let mut views = Vec::new();
        while let Some(of_pod) = asked.try_next().await? {
            views.extend(of_pod);
        }
        views.retain(|view| select::container_matches(filter, view));
        Ok(views)
    }

    /// The sandboxes that were made; damaged records are told of in the log.
    fn made_sandboxes(&self) -> Result<Vec<Arc<PodRecord>>, Error> {
        let listing = self.records().list_pods()?;
        for error in &listing.damaged {
            tracing::error!("{}", error.chain());
        }
        let made = |record: &Arc<PodRecord>| record.phase != PodPhase::HalfMade;
        Ok(listing.records.into_iter().filter(made).collect())
    }
}

/// What stands under `info` of a container, by the names that containerd has for them.
#[derive(Serialize)]
struct VerboseInfo<'a> {
    #[serde(rename = "sandboxID")]
    sandbox_id: &'a str,
    pid: i32,
    /// Gone with the sandbox's run directory.
    #[serde(rename = "runtimeSpec")]
    runtime_spec: Option<Box<RawValue>>,
}

fn sandbox_item(record: &PodRecord, state: v1::PodSandboxState) -> v1::PodSandbox {
    let config = &record.config.0;
    v1::PodSandbox {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        state: state as i32,
        created_at: record.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}

fn sandbox_status(record: &PodRecord, state: v1::PodSandboxState) -> v1::PodSandboxStatus {
    let config = &record.config.0;
    let mut addresses = match state {
        v1::PodSandboxState::SandboxReady => {
            super::sandbox::addresses(record.network.as_ref()).into_iter()
        }
        // They may belong to another pod by now.
        v1::PodSandboxState::SandboxNotready => Vec::new().into_iter(),
    };
    v1::PodSandboxStatus {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        state: state as i32,
        created_at: record.created_at,
        network: Some(v1::PodSandboxNetworkStatus {
            ip: addresses.next().unwrap_or_default(),
            additional_ips: addresses.map(|ip| v1::PodIp { ip }).collect(),
        }),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace {
                options: Some(namespace_options(config).cloned().unwrap_or_default()),
            }),
        }),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}

fn container_item(view: &ContainerView) -> v1::Container {
    let record = &view.record;
    let config = &record.config.0;
    v1::Container {
        id: record.id.clone(),
        pod_sandbox_id: record.pod_id.clone(),
        metadata: config.metadata.clone(),
        image: told_image(config),
        image_ref: record.image_ref.clone(),
        state: view.state as i32,
        created_at: record.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        image_id: record.image_id.clone(),
    }
}

fn container_status(view: &ContainerView) -> v1::ContainerStatus {
    let record = &view.record;
    let config = &record.config.0;
    v1::ContainerStatus {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        state: view.state as i32,
        created_at: record.created_at,
        started_at: view.started_at,
        finished_at: view.finished_at,
        exit_code: view.exit_code,
        image: told_image(config),
        image_ref: record.image_ref.clone(),
        reason: view.reason.to_owned(),
        message: view.message.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: config.mounts.clone(),
        log_path: record
            .log_path
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        resources: Some(v1::ContainerResources {
            linux: Some(record.resources.0.clone()),
            ..Default::default()
        }),
        image_id: record.image_id.clone(),
        user: Some(v1::ContainerUser {
            linux: Some(v1::LinuxContainerUser {
                uid: record.run_as.uid.into(),
                gid: record.run_as.gid.into(),
                supplemental_groups: record
                    .run_as
                    .additional_gids
                    .iter()
                    .map(|gid| i64::from(*gid))
                    .collect(),
            }),
        }),
        stop_signal: select::cri_signal(record.stop_signal) as i32,
    }
}

/// The image as people know it: a kubelet asks for an id, and says beside it
/// what the manifest says.
fn told_image(config: &v1::ContainerConfig) -> Option<v1::ImageSpec> {
    let mut image = config.image.clone()?;
    if !image.user_specified_image.is_empty() {
        image.image.clone_from(&image.user_specified_image);
    }
    Some(image)
}

fn json_text<R: Serialize>(record: &R) -> Result<String, Error> {
    serde_json::to_string(record).map_err(|error| {
        Error::caused(super::error::ErrorKind::Storage, "encode the record", error)
    })
}

/// The CRI counts in whole seconds; a negative number is none at all.
fn seconds(field: &str, value: i64) -> Result<Duration, Error> {
    u64::try_from(value)
        .map(Duration::from_secs)
        .map_err(|_| Error::invalid(format!("{field}: {value} is negative")))
}
