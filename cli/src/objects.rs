//! Which pod or container a word means.
//!
//! Pods are found through the labels that a kubelet puts on what it makes, so
//! the answer holds for every pod on the node, whoever started it and whether
//! or not that process still lives.

use std::collections::BTreeMap;

use berth_cri::service::CriService;
use berth_cri::v1;

use crate::amounts::nearest;
use crate::error::{Context, Error, Result};

/// The pod's name, as the kubelet labels it.
pub const POD_NAME_LABEL: &str = "io.kubernetes.pod.name";
/// The pod's namespace.
pub const POD_NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
/// The container's name in its pod.
pub const CONTAINER_NAME_LABEL: &str = "io.kubernetes.container.name";
/// How often a container has been started again.
pub const RESTART_COUNT_ANNOTATION: &str = "io.kubernetes.container.restartCount";
/// The container that a person means who names none.
pub const DEFAULT_CONTAINER_ANNOTATION: &str = "kubectl.kubernetes.io/default-container";

/// One pod and what is in it.
#[derive(Debug, Clone)]
pub struct FoundPod {
    /// The sandbox.
    pub sandbox: v1::PodSandbox,
    /// Its containers in the order in which they were made, every attempt.
    pub containers: Vec<v1::ContainerStatus>,
}

impl FoundPod {
    /// The pod's name.
    pub fn name(&self) -> &str {
        self.sandbox
            .metadata
            .as_ref()
            .map_or("", |metadata| &metadata.name)
    }

    /// The pod's namespace.
    pub fn namespace(&self) -> &str {
        self.sandbox
            .metadata
            .as_ref()
            .map_or("", |metadata| &metadata.namespace)
    }

    /// The pod's uid.
    pub fn uid(&self) -> &str {
        self.sandbox
            .metadata
            .as_ref()
            .map_or("", |metadata| &metadata.uid)
    }

    /// As people write it: the namespace only where it is another than `default`.
    pub fn title(&self) -> String {
        title(self.namespace(), self.name())
    }

    /// Whether its sandbox is up.
    pub fn is_up(&self) -> bool {
        self.sandbox.state() == v1::PodSandboxState::SandboxReady
    }

    /// The last attempt of each container, in the order in which they were made.
    pub fn latest(&self) -> Vec<&v1::ContainerStatus> {
        let mut latest: BTreeMap<&str, &v1::ContainerStatus> = BTreeMap::new();
        for container in &self.containers {
            let known = latest.entry(container_name(container)).or_insert(container);
            if attempt(container) >= attempt(known) {
                *known = container;
            }
        }
        let mut order: Vec<&str> = Vec::new();
        for container in &self.containers {
            if !order.contains(&container_name(container)) {
                order.push(container_name(container));
            }
        }
        order
            .into_iter()
            .filter_map(|name| latest.get(name).copied())
            .collect()
    }

    /// The container that is meant when none is named: the annotated one, else
    /// the first that runs, else the last that was made.
    fn default_container(&self) -> Option<&v1::ContainerStatus> {
        let latest = self.latest();
        let annotated = self.sandbox.annotations.get(DEFAULT_CONTAINER_ANNOTATION);
        let named = annotated.and_then(|name| {
            latest
                .iter()
                .find(|container| container_name(container) == name)
        });
        named
            .or_else(|| {
                let running = v1::ContainerState::ContainerRunning;
                latest.iter().find(|container| container.state() == running)
            })
            .or(latest.last())
            .copied()
    }
}

/// `web`, or `NAMESPACE/web` where that is not `default`.
pub fn title(namespace: &str, name: &str) -> String {
    match namespace {
        "" | "default" => name.to_owned(),
        _ => format!("{namespace}/{name}"),
    }
}

/// A container's name in its pod.
pub fn container_name(container: &v1::ContainerStatus) -> &str {
    container
        .metadata
        .as_ref()
        .map_or("", |metadata| &metadata.name)
}

/// Which start of the container this was, from 0.
pub fn attempt(container: &v1::ContainerStatus) -> u32 {
    container
        .metadata
        .as_ref()
        .map_or(0, |metadata| metadata.attempt)
}

/// Every pod of the node, by namespace and name.
///
/// # Errors
///
/// The node does not answer.
pub async fn observe_pods(service: &dyn CriService) -> Result<Vec<FoundPod>> {
    let sandboxes = service
        .list_pod_sandbox(v1::ListPodSandboxRequest { filter: None })
        .await
        .context("list pods")?;
    let containers = service
        .list_containers(v1::ListContainersRequest { filter: None })
        .await
        .context("list containers")?;
    let mut pods: Vec<FoundPod> = sandboxes
        .items
        .into_iter()
        .map(|sandbox| FoundPod {
            sandbox,
            containers: Vec::new(),
        })
        .collect();
    for container in containers.containers {
        let request = v1::ContainerStatusRequest {
            container_id: container.id.clone(),
            verbose: false,
        };
        let status = match service.container_status(request).await {
            Ok(answer) => answer.status,
            // It went between the two calls.
            Err(status) if status.code() == tonic::Code::NotFound => None,
            Err(status) => {
                return Err(status).context(format!("read container {}", container.id));
            }
        };
        let pod = pods
            .iter_mut()
            .find(|pod| pod.sandbox.id == container.pod_sandbox_id);
        if let (Some(pod), Some(status)) = (pod, status) {
            pod.containers.push(status);
        }
    }
    for pod in &mut pods {
        pod.containers.sort_by_key(|container| container.created_at);
    }
    pods.sort_by_key(|pod| (pod.namespace().to_owned(), pod.name().to_owned()));
    Ok(pods)
}

/// The pod that a word means: its name, `NAMESPACE/NAME`, its uid, or the
/// beginning of its id.
///
/// # Errors
///
/// None or several are meant; the message has names that are near.
pub fn find_pod<'a>(pods: &'a [FoundPod], word: &str) -> Result<&'a FoundPod> {
    match match_pods(pods, word).as_slice() {
        [pod] => Ok(pod),
        [] => Err(unknown_pod(pods, word)),
        several => {
            let names: Vec<String> = several
                .iter()
                .map(|pod| format!("{}/{} ({})", pod.namespace(), pod.name(), &pod.sandbox.id))
                .collect();
            Err(Error::new(format!(
                "{word:?} may be any of {}",
                names.join(", ")
            )))
        }
    }
}

/// The pods that a word may mean; an exact name goes before the beginning of an id.
pub fn match_pods<'a>(pods: &'a [FoundPod], word: &str) -> Vec<&'a FoundPod> {
    let select = |rule: &dyn Fn(&FoundPod) -> bool| -> Vec<&'a FoundPod> {
        pods.iter().filter(|pod| rule(pod)).collect()
    };
    let rules: [&dyn Fn(&FoundPod) -> bool; 5] = [
        &|pod| pod.namespace() == "default" && pod.name() == word,
        &|pod| pod.name() == word,
        &|pod| word.split_once('/') == Some((pod.namespace(), pod.name())),
        &|pod| pod.uid() == word || pod.sandbox.id == word,
        &|pod| word.len() >= 3 && pod.sandbox.id.starts_with(word),
    ];
    rules
        .iter()
        .map(|rule| select(*rule))
        .find(|found| !found.is_empty())
        .unwrap_or_default()
}

/// No pod has that name.
pub fn unknown_pod(pods: &[FoundPod], word: &str) -> Error {
    let titles: Vec<String> = pods.iter().map(FoundPod::title).collect();
    let near = nearest(word, titles.iter().map(String::as_str));
    let hint = match near.as_slice() {
        [] => String::new(),
        near => format!("; did you mean {}?", near.join(" or ")),
    };
    Error::new(format!("there is no pod {word:?}{hint}"))
}

/// One container and its pod.
#[derive(Debug, Clone, Copy)]
pub struct FoundContainer<'a> {
    /// The pod.
    pub pod: &'a FoundPod,
    /// The container, in its last attempt.
    pub container: &'a v1::ContainerStatus,
}

/// The container that a word means: a pod (with `name` for one of several
/// containers), `POD/CONTAINER`, or the beginning of a container's id.
///
/// # Errors
///
/// None or several are meant; the message has names that are near.
pub fn find_container<'a>(
    pods: &'a [FoundPod],
    word: &str,
    name: Option<&str>,
) -> Result<FoundContainer<'a>> {
    if match_pods(pods, word).is_empty() {
        if let Some(found) = find_by_container_id(pods, word)? {
            return Ok(found);
        }
        if let (Some((pod, container)), None) = (word.rsplit_once('/'), name)
            && !match_pods(pods, pod).is_empty()
        {
            return find_container(pods, pod, Some(container));
        }
    }
    let pod = find_pod(pods, word)?;
    let Some(name) = name else {
        let container = pod
            .default_container()
            .ok_or_else(|| Error::new(format!("pod {} has no container yet", pod.title())))?;
        return Ok(FoundContainer { pod, container });
    };
    let latest = pod.latest();
    match latest
        .iter()
        .find(|container| container_name(container) == name)
    {
        Some(container) => Ok(FoundContainer { pod, container }),
        None => {
            let names: Vec<&str> = latest
                .iter()
                .map(|container| container_name(container))
                .collect();
            Err(Error::new(format!(
                "pod {} has no container {name:?}; it has {}",
                pod.title(),
                match names.as_slice() {
                    [] => "none yet".to_owned(),
                    names => names.join(", "),
                }
            )))
        }
    }
}

fn find_by_container_id<'a>(
    pods: &'a [FoundPod],
    word: &str,
) -> Result<Option<FoundContainer<'a>>> {
    if word.len() < 3 {
        return Ok(None);
    }
    let mut found = pods.iter().flat_map(|pod| {
        pod.containers
            .iter()
            .map(move |container| FoundContainer { pod, container })
    });
    let mut found = found
        .by_ref()
        .filter(|found| found.container.id.starts_with(word));
    match (found.next(), found.next()) {
        (Some(_), Some(_)) => Err(Error::new(format!(
            "{word:?} is the beginning of several containers' ids"
        ))),
        (first, _) => Ok(first),
    }
}

#[cfg(test)]
mod tests;
