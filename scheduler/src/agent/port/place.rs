//! A pod's container on the runtime, found by the names that a person uses.

use std::{collections::HashMap, sync::Arc};

use axum::http::StatusCode;
use berth_cri::{service::CriService, v1};

use super::Refusal;
use crate::pod::plan::names;

/// A container's names.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct ContainerPlace {
    /// Its pod's namespace.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// Its own name.
    pub container: String,
}

/// A pod's names.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct PodPlace {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
}

/// The starts of a container of the newest pod with these names, the oldest first.
///
/// # Errors
///
/// When the runtime does not answer, or no pod has these names.
pub async fn find_containers(
    service: &Arc<dyn CriService>,
    place: &ContainerPlace,
) -> Result<Vec<v1::Container>, Refusal> {
    let pod = PodPlace {
        namespace: place.namespace.clone(),
        pod: place.pod.clone(),
    };
    let sandbox = find_sandbox(service, &pod).await?;
    let labels = HashMap::from([
        (names::POD_UID.to_owned(), uid(&sandbox)),
        (names::CONTAINER_NAME.to_owned(), place.container.clone()),
    ]);
    let filter = v1::ContainerFilter {
        label_selector: labels,
        ..v1::ContainerFilter::default()
    };
    let request = v1::ListContainersRequest {
        filter: Some(filter),
    };
    let mut found = service.list_containers(request).await?.containers;
    found.sort_by_key(|container| {
        let attempt = container
            .metadata
            .as_ref()
            .map_or(0, |metadata| metadata.attempt);
        (container.created_at, attempt)
    });
    Ok(found)
}

/// The container that runs.
///
/// # Errors
///
/// When none does.
pub async fn find_running(
    service: &Arc<dyn CriService>,
    place: &ContainerPlace,
) -> Result<String, Refusal> {
    let found = find_containers(service, place).await?;
    let running = found
        .into_iter()
        .rfind(|container| container.state() == v1::ContainerState::ContainerRunning);
    running.map(|container| container.id).ok_or_else(|| {
        let ContainerPlace { pod, container, .. } = place;
        let text = format!("container {container:?} of pod {pod:?} does not run");
        Refusal::new(StatusCode::NOT_FOUND, text)
    })
}

/// The newest sandbox with a pod's names; one that runs before one that does not.
///
/// # Errors
///
/// When there is none.
pub async fn find_sandbox(
    service: &Arc<dyn CriService>,
    place: &PodPlace,
) -> Result<v1::PodSandbox, Refusal> {
    let labels = HashMap::from([
        (names::POD_NAMESPACE.to_owned(), place.namespace.clone()),
        (names::POD_NAME.to_owned(), place.pod.clone()),
    ]);
    let filter = v1::PodSandboxFilter {
        label_selector: labels,
        ..v1::PodSandboxFilter::default()
    };
    let request = v1::ListPodSandboxRequest {
        filter: Some(filter),
    };
    let found = service.list_pod_sandbox(request).await?.items;
    let newest = found.into_iter().max_by_key(|sandbox| sandbox.created_at);
    newest.ok_or_else(|| {
        let PodPlace { namespace, pod } = place;
        let text = format!("pod {pod:?} of namespace {namespace:?} is not on this node");
        Refusal::new(StatusCode::NOT_FOUND, text)
    })
}

fn uid(sandbox: &v1::PodSandbox) -> String {
    let metadata = sandbox.metadata.as_ref();
    metadata
        .map(|metadata| metadata.uid.clone())
        .unwrap_or_default()
}
