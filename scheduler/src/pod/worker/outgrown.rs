//! A pod that writes more to the node's disk than it may.
//!
//! A directory on disk has no bound of its own, and neither has a container's root or
//! its log, so they are measured now and then. What the kernel bounds itself, a tmpfs,
//! is left out.
//!
//! Read more: "Local ephemeral storage" in the Kubernetes documentation.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use berth_cri::{service::CriService, v1};
use k8s_openapi::api::core::v1::Container;

use super::life::Life;
use crate::{
    manifest::quantity,
    pod::{
        plan::names,
        volumes::{Content, empty_dir},
    },
};

/// Between two measurements.
const PERIOD: Duration = Duration::from_secs(10);

/// What a pod may write.
struct Limits {
    /// Empty directories on disk, each with its own limit.
    volumes: Vec<(String, PathBuf, Option<u64>)>,
    /// Containers with a limit.
    containers: Vec<(String, u64)>,
    /// Where each container's log is, below.
    logs: PathBuf,
}

/// Waits until the pod holds more than it may, and says what.
pub async fn outgrown(life: &Arc<Life>) -> String {
    let limits = Limits::of(life);
    if limits.is_none() {
        return std::future::pending().await;
    }
    let uid = &life.plan.identity.uid;
    loop {
        tokio::time::sleep(PERIOD).await;
        let written = match limits.containers.is_empty() {
            true => HashMap::new(),
            // A runtime that does not tell is asked again.
            false => observe_written(&life.service, uid)
                .await
                .unwrap_or_default(),
        };
        if let Some(reason) = limits.exceeded(&written).await {
            return reason;
        }
    }
}

/// What each container of a pod wrote into its own layer, in bytes.
async fn observe_written(
    service: &Arc<dyn CriService>,
    uid: &str,
) -> Result<HashMap<String, u64>, tonic::Status> {
    let filter = v1::ContainerStatsFilter {
        label_selector: HashMap::from([(names::POD_UID.to_owned(), uid.to_owned())]),
        ..v1::ContainerStatsFilter::default()
    };
    let request = v1::ListContainerStatsRequest {
        filter: Some(filter),
    };
    let reply = service.list_container_stats(request).await?;
    let mut written: HashMap<String, u64> = HashMap::new();
    for stats in reply.stats {
        let labels = stats.attributes.unwrap_or_default().labels;
        let layer = stats.writable_layer.and_then(|layer| layer.used_bytes);
        if let (Some(name), Some(bytes)) = (labels.get(names::CONTAINER_NAME), layer) {
            *written.entry(name.clone()).or_default() += bytes.value;
        }
    }
    Ok(written)
}

impl Limits {
    fn of(life: &Life) -> Limits {
        let spec = &life.plan.spec;
        let inits = spec.init_containers.iter().flatten();
        Limits {
            volumes: life
                .volumes
                .volumes
                .iter()
                .filter_map(|volume| match &volume.content {
                    Content::EmptyDir(plan) if plan.medium == empty_dir::Medium::Disk => {
                        let path = life.volumes.directory.join(&volume.name);
                        Some((volume.name.clone(), path, plan.limit_bytes))
                    }
                    _ => None,
                })
                .collect(),
            containers: inits
                .chain(&spec.containers)
                .filter_map(|container| Some((container.name.clone(), limit_of(container)?)))
                .collect(),
            logs: PathBuf::from(&life.plan.sandbox.log_directory),
        }
    }

    fn is_none(&self) -> bool {
        self.containers.is_empty() && self.volumes.iter().all(|(_, _, limit)| limit.is_none())
    }

    /// The first limit that is exceeded.
    async fn exceeded(&self, written: &HashMap<String, u64>) -> Option<String> {
        let mut total = 0;
        for (name, path, limit) in &self.volumes {
            let usage = empty_dir::measure(path).await;
            total += usage;
            if limit.is_some_and(|limit| usage > limit) {
                let limit = limit.unwrap_or_default();
                return Some(format!(
                    "Usage of EmptyDir volume {name:?} exceeds the limit of {limit} bytes"
                ));
            }
        }
        let mut own = None;
        for (name, limit) in &self.containers {
            let usage = written.get(name).copied().unwrap_or(0)
                + empty_dir::measure(&self.logs.join(name)).await;
            total += usage;
            if usage > *limit {
                own.get_or_insert_with(|| {
                    format!(
                        "Container {name} exceeded its local ephemeral storage limit of {limit} bytes"
                    )
                });
            }
        }
        let together: u64 = self.containers.iter().map(|(_, limit)| limit).sum();
        if own.is_none() && !self.containers.is_empty() && total > together {
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers of {together} bytes"
            ));
        }
        own
    }
}

/// A container's limit of what it may write, if it has one.
fn limit_of(container: &Container) -> Option<u64> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    u64::try_from(quantity::whole(limits.get("ephemeral-storage")?)).ok()
}
