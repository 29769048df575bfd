//! `berth inspect`: all that is known of a pod, a container or an image.

use berth_cri::engine::Engine;
use berth_cri::images::ImageStore;
use berth_cri::service::CriService;
use berth_cri::v1;
use clap::Args;
use serde_json::{Map, Value, json};

use super::ps::{moment, state_name};
use crate::error::{Context, Error, Result};
use crate::objects::{
    FoundPod, attempt, container_name, find_container, find_pod, match_pods, observe_pods,
};
use crate::output::{Format, print_value};
use crate::settings::Settings;
use crate::workers::WorkerFiles;

/// `berth inspect`.
#[derive(Debug, Args)]
pub struct InspectArguments {
    /// Pods, POD/CONTAINER, ids, or images
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// One container of a pod
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
}

/// Prints each thing; JSON unless YAML is asked for, and an array as docker does.
///
/// # Errors
///
/// A name means nothing, or several things.
pub async fn run(settings: &Settings, engine: &Engine, arguments: &InspectArguments) -> Result<u8> {
    let pods = observe_pods(engine).await?;
    let mut values = Vec::new();
    for name in &arguments.names {
        values.push(
            inspect(
                settings,
                engine,
                &pods,
                name,
                arguments.container.as_deref(),
            )
            .await?,
        );
    }
    let format = match settings.format {
        Format::Yaml => Format::Yaml,
        _ => Format::Json,
    };
    print_value(format, &values)?;
    Ok(0)
}

async fn inspect(
    settings: &Settings,
    engine: &Engine,
    pods: &[FoundPod],
    name: &str,
    container: Option<&str>,
) -> Result<Value> {
    if container.is_none() && !match_pods(pods, name).is_empty() {
        return pod_value(settings, engine, find_pod(pods, name)?).await;
    }
    match find_container(pods, name, container) {
        Ok(found) => {
            let mut value = container_value(engine, found.container).await?;
            value["pod"] = json!(found.pod.title());
            Ok(value)
        }
        Err(error) if container.is_some() => Err(error),
        Err(error) => match image_value(engine.images(), name)? {
            Some(value) => Ok(value),
            None => Err(Error::new(format!(
                "{error}, and no container or image of that name"
            ))),
        },
    }
}

async fn pod_value(settings: &Settings, service: &dyn CriService, pod: &FoundPod) -> Result<Value> {
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pod.sandbox.id.clone(),
        verbose: true,
    };
    let answer = service
        .pod_sandbox_status(request)
        .await
        .context(format!("read pod {}", pod.title()))?;
    let status = answer.status.unwrap_or_default();
    let network = status.network.unwrap_or_default();
    let addresses: Vec<String> = std::iter::once(network.ip)
        .chain(network.additional_ips.into_iter().map(|ip| ip.ip))
        .filter(|address| !address.is_empty())
        .collect();
    let mut containers = Vec::new();
    for container in &pod.containers {
        containers.push(container_value(service, container).await?);
    }
    let files = WorkerFiles::new(&settings.workers_dir(), pod.namespace(), pod.name());
    let worker = files.worker().map(|worker| worker.pid());
    Ok(json!({
        "kind": "Pod",
        "id": pod.sandbox.id,
        "name": pod.name(),
        "namespace": pod.namespace(),
        "uid": pod.uid(),
        "state": if pod.is_up() { "ready" } else { "not ready" },
        "createdAt": moment(pod.sandbox.created_at),
        "addresses": addresses,
        "labels": pod.sandbox.labels,
        "annotations": pod.sandbox.annotations,
        "runtimeHandler": pod.sandbox.runtime_handler,
        "containers": containers,
        "worker": worker,
        "spec": files.read_request()?.map(|request| request.pod),
        "status": files.read_status()?.filter(|_| worker.is_some()),
        "info": details(answer.info),
    }))
}

async fn container_value(service: &dyn CriService, known: &v1::ContainerStatus) -> Result<Value> {
    let request = v1::ContainerStatusRequest {
        container_id: known.id.clone(),
        verbose: true,
    };
    let answer = service
        .container_status(request)
        .await
        .context(format!("read container {}", known.id))?;
    let status = answer.status.unwrap_or_default();
    let mounts: Vec<Value> = status
        .mounts
        .iter()
        .map(|mount| {
            json!({
                "containerPath": mount.container_path,
                "hostPath": mount.host_path,
                "readOnly": mount.readonly,
            })
        })
        .collect();
    Ok(json!({
        "kind": "Container",
        "id": status.id,
        "name": container_name(&status),
        "attempt": attempt(&status),
        "image": status.image.as_ref().map(|image| image.image.clone()),
        "imageId": status.image_id,
        "imageRef": status.image_ref,
        "state": state_name(status.state()),
        "createdAt": moment(status.created_at),
        "startedAt": moment(status.started_at),
        "finishedAt": moment(status.finished_at),
        "exitCode": (status.state() == v1::ContainerState::ContainerExited)
            .then_some(status.exit_code),
        "reason": status.reason,
        "message": status.message,
        "logPath": status.log_path,
        "mounts": mounts,
        "labels": status.labels,
        "annotations": status.annotations,
        "info": details(answer.info),
    }))
}

fn image_value(store: &ImageStore, name: &str) -> Result<Option<Value>> {
    // A word that cannot name an image names none.
    let Some(image) = store.find(name).ok().flatten() else {
        return Ok(None);
    };
    Ok(Some(json!({
        "kind": "Image",
        "id": image.id,
        "references": image.references,
        "digests": image.digests,
        "sizeBytes": image.size_bytes,
        "layers": image.layers,
        "created": image.created.map(|created| created.to_string()),
        "storedAt": image.stored_at.to_string(),
        "config": serde_json::to_value(&*image.config).context("write the configuration")?,
    })))
}

/// The node's own words, which are JSON inside a string, as the CRI has it.
fn details(info: impl IntoIterator<Item = (String, String)>) -> Value {
    let unpack = |text: String| serde_json::from_str(&text).unwrap_or(Value::String(text));
    let details: Map<String, Value> = info
        .into_iter()
        .map(|(name, text)| (name, unpack(text)))
        .collect();
    Value::Object(details)
}
