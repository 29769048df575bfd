//! The run of a container that follows one that ended.

use std::time::Duration;

use berth_cri::service::CriService;
use berth_cri::v1;
use k8s_openapi::api::core::v1::PodSpec;

use crate::error::Result;
use crate::objects::{attempt, container_name, observe_pods};
use crate::settings::Settings;
use crate::workers::WorkerFiles;

/// Between two looks: a restart may be minutes away.
const POLL: Duration = Duration::from_millis(200);

/// Waits for the next run of a container; none when its pod is gone, nobody
/// would start it, or its pod's restart policy does not.
///
/// # Errors
///
/// The node does not answer, or the worker's files cannot be read.
pub async fn find_next(
    settings: &Settings,
    service: &dyn CriService,
    id: &str,
    exit_code: i32,
) -> Result<Option<v1::ContainerStatus>> {
    loop {
        let pods = observe_pods(service).await?;
        let found = pods.iter().find_map(|pod| {
            let ended = pod.containers.iter().find(|known| known.id == id)?;
            Some((pod, ended))
        });
        let Some((pod, ended)) = found else {
            return Ok(None);
        };
        let name = container_name(ended);
        let later = pod
            .containers
            .iter()
            .filter(|known| container_name(known) == name && attempt(known) > attempt(ended));
        if let Some(next) = later.min_by_key(|known| attempt(known)) {
            return Ok(Some(next.clone()));
        }
        let files = WorkerFiles::new(&settings.workers_dir(), pod.namespace(), pod.name());
        let request = files.read_request()?;
        let spec = request.and_then(|request| request.pod.spec);
        let restarts = spec.is_some_and(|spec| restarts(&spec, name, exit_code));
        if !restarts || files.worker().is_none() {
            return Ok(None);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether a container that ended with that exit code is started again.
fn restarts(spec: &PodSpec, name: &str, exit_code: i32) -> bool {
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let mut init = spec.init_containers.iter().flatten();
    match init.find(|container| container.name == name) {
        Some(sidecar) if sidecar.restart_policy.as_deref() == Some("Always") => true,
        // An init container has done its work when it succeeded.
        Some(_) => policy != "Never" && exit_code != 0,
        None => policy == "Always" || (policy == "OnFailure" && exit_code != 0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_policy_decides_by_container_and_exit_code() {
        let spec = |policy: &str| -> PodSpec {
            serde_json::from_value(json!({
                "restartPolicy": policy,
                "containers": [{"name": "main"}],
                "initContainers": [{"name": "first"}, {"name": "side", "restartPolicy": "Always"}],
            }))
            .unwrap()
        };
        for (policy, name, code, expected) in [
            ("Always", "main", 0, true),
            ("OnFailure", "main", 0, false),
            ("OnFailure", "main", 1, true),
            ("Never", "main", 1, false),
            ("Always", "first", 0, false),
            ("Always", "first", 1, true),
            ("Never", "first", 1, false),
            ("Never", "side", 0, true),
        ] {
            let found = restarts(&spec(policy), name, code);
            assert_eq!(found, expected, "{policy} {name} {code}");
        }
    }
}
