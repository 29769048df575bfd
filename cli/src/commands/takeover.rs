//! The end of a pod that nobody looks after.
//!
//! Its worker was killed, or another program made it through the CRI. What is
//! there is then ended by the CRI's own calls.

use std::time::Duration;

use berth_cri::service::CriService;
use berth_cri::v1;

use crate::error::{Context, Result};
use crate::objects::FoundPod;

/// The pod's grace, as the kubelet notes it on each container.
const GRACE_ANNOTATION: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Kubernetes' default.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// Stops every container at the same time, then the sandbox.
///
/// # Errors
///
/// The node does not do it.
pub async fn stop_unattended(
    service: &dyn CriService,
    pod: &FoundPod,
    grace: Option<Duration>,
) -> Result<()> {
    let ended = v1::ContainerState::ContainerExited;
    let stops = pod
        .containers
        .iter()
        .filter(|container| container.state() != ended)
        .map(|container| async move {
            let grace = grace.unwrap_or_else(|| noted_grace(container));
            let request = v1::StopContainerRequest {
                container_id: container.id.clone(),
                timeout: i64::try_from(grace.as_secs()).unwrap_or(i64::MAX),
            };
            service.stop_container(request).await
        });
    for outcome in futures::future::join_all(stops).await {
        outcome.context(format!("stop pod {}", pod.title()))?;
    }
    let request = v1::StopPodSandboxRequest {
        pod_sandbox_id: pod.sandbox.id.clone(),
    };
    service
        .stop_pod_sandbox(request)
        .await
        .context(format!("stop pod {}", pod.title()))?;
    Ok(())
}

/// Removes the sandbox with its containers.
///
/// # Errors
///
/// The node does not do it.
pub async fn remove_sandbox(service: &dyn CriService, pod: &FoundPod) -> Result<()> {
    let request = v1::RemovePodSandboxRequest {
        pod_sandbox_id: pod.sandbox.id.clone(),
    };
    service
        .remove_pod_sandbox(request)
        .await
        .context(format!("remove pod {}", pod.title()))?;
    Ok(())
}

fn noted_grace(container: &v1::ContainerStatus) -> Duration {
    let noted = container.annotations.get(GRACE_ANNOTATION);
    noted
        .and_then(|text| text.parse().ok())
        .map_or(DEFAULT_GRACE, Duration::from_secs)
}
