//! A pod that already runs here, because an earlier worker was lost.
//!
//! Nothing but the node is asked: labels say which sandboxes and containers are
//! the pod's, annotations how often each was started. Containers that run go on
//! running; the new worker only begins to watch them.

use std::{collections::HashMap, sync::Arc};

use berth_cri::{service::CriService, v1};
use tonic::Code;

use super::{WorkerError, life::node_error};
use crate::pod::plan::{PodPlan, names, restart::Role};

/// What an earlier worker left.
#[derive(Debug, Default)]
pub struct Found {
    /// A sandbox that runs, with what it is asked for as.
    pub sandbox: Option<(String, v1::PodSandboxConfig)>,
    /// The newest start of each container in that sandbox.
    pub containers: HashMap<String, v1::ContainerStatus>,
    /// Whether a main container was started in it, and so every init container ended.
    pub mains_began: bool,
    /// The number of the next sandbox.
    pub next_attempt: u32,
    /// How often each container was started, in this sandbox and before.
    pub starts: HashMap<String, u32>,
    /// When the sandbox was made, in nanoseconds since 1970.
    pub created_at: Option<i64>,
}

impl Found {
    /// Nothing but the number of the next sandbox.
    pub fn nothing(next_attempt: u32) -> Found {
        Found {
            next_attempt,
            ..Found::default()
        }
    }
}

/// The sandboxes of a pod, by its labels.
pub async fn list_sandboxes(
    service: &Arc<dyn CriService>,
    labels: HashMap<String, String>,
) -> Result<Vec<v1::PodSandbox>, WorkerError> {
    let filter = v1::PodSandboxFilter {
        label_selector: labels,
        ..Default::default()
    };
    let request = v1::ListPodSandboxRequest {
        filter: Some(filter),
    };
    let reply = service.list_pod_sandbox(request).await;
    Ok(reply
        .map_err(|status| node_error("list the pod's sandboxes", status))?
        .items)
}

/// Looks for a pod on the node, and removes sandboxes of it that are dead.
pub async fn find(service: &Arc<dyn CriService>, plan: &PodPlan) -> Result<Found, WorkerError> {
    let labels = HashMap::from([(names::POD_UID.to_owned(), plan.identity.uid.clone())]);
    let mut sandboxes = list_sandboxes(service, labels).await?;
    sandboxes.sort_by_key(attempt_of);
    let mut found = Found::nothing(sandboxes.last().map_or(0, |last| attempt_of(last) + 1));
    let newest = sandboxes
        .iter()
        .rposition(|sandbox| sandbox.state() == v1::PodSandboxState::SandboxReady);
    for (index, sandbox) in sandboxes.iter().enumerate() {
        let containers = list_containers(service, &sandbox.id).await?;
        for container in &containers {
            let metadata = container.metadata.clone().unwrap_or_default();
            let starts = found.starts.entry(metadata.name).or_default();
            *starts = (*starts).max(metadata.attempt + 1);
        }
        if Some(index) == newest {
            adopt(service, plan, sandbox, &containers, &mut found).await?;
        } else {
            remove(service, &sandbox.id).await?;
        }
    }
    Ok(found)
}

async fn adopt(
    service: &Arc<dyn CriService>,
    plan: &PodPlan,
    sandbox: &v1::PodSandbox,
    containers: &[v1::Container],
    found: &mut Found,
) -> Result<(), WorkerError> {
    let mut config = plan.sandbox.clone();
    config.metadata.clone_from(&sandbox.metadata);
    found.sandbox = Some((sandbox.id.clone(), config));
    found.created_at = Some(sandbox.created_at);
    let mut newest: HashMap<String, &v1::Container> = HashMap::new();
    for container in containers {
        let attempt = |container: &v1::Container| {
            container
                .metadata
                .as_ref()
                .map_or(0, |metadata| metadata.attempt)
        };
        let name = container.metadata.clone().unwrap_or_default().name;
        let entry = newest.entry(name).or_insert(container);
        if attempt(container) > attempt(entry) {
            *entry = container;
        }
    }
    for (name, container) in newest {
        let request = v1::ContainerStatusRequest {
            container_id: container.id.clone(),
            verbose: false,
        };
        match service.container_status(request).await {
            Ok(reply) => {
                let status = reply.status.unwrap_or_default();
                let main = plan
                    .containers
                    .iter()
                    .any(|main| main.role == Role::Main && main.name() == name);
                found.mains_began |= main;
                found.containers.insert(name, status);
            }
            // Gone between the two calls.
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(node_error("tell a container's state", status)),
        }
    }
    Ok(())
}

async fn list_containers(
    service: &Arc<dyn CriService>,
    sandbox: &str,
) -> Result<Vec<v1::Container>, WorkerError> {
    let filter = v1::ContainerFilter {
        pod_sandbox_id: sandbox.to_owned(),
        ..Default::default()
    };
    let request = v1::ListContainersRequest {
        filter: Some(filter),
    };
    let reply = service.list_containers(request).await;
    Ok(reply
        .map_err(|status| node_error("list the pod's containers", status))?
        .containers)
}

/// Stops a sandbox; its containers stay to be looked at.
pub async fn stop(service: &Arc<dyn CriService>, id: &str) -> Result<(), WorkerError> {
    let request = v1::StopPodSandboxRequest {
        pod_sandbox_id: id.to_owned(),
    };
    let stopped = service.stop_pod_sandbox(request).await;
    stopped.map_err(|status| node_error("stop a sandbox of the pod", status))?;
    Ok(())
}

/// Stops and removes a sandbox with all its containers.
pub async fn remove(service: &Arc<dyn CriService>, id: &str) -> Result<(), WorkerError> {
    stop(service, id).await?;
    let request = v1::RemovePodSandboxRequest {
        pod_sandbox_id: id.to_owned(),
    };
    let removed = service.remove_pod_sandbox(request).await;
    removed.map_err(|status| node_error("remove a sandbox of the pod", status))?;
    Ok(())
}

fn attempt_of(sandbox: &v1::PodSandbox) -> u32 {
    let metadata = sandbox.metadata.as_ref();
    metadata.map_or(0, |metadata| metadata.attempt)
}
