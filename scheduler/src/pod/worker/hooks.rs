//! What a pod wants done when a container has started, and before it ends.

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;

use crate::pod::probes::ask::Respondent;

/// A hook that may take as long as the container lives.
const UNLIMITED: Duration = Duration::ZERO;

/// Runs one hook.
///
/// # Errors
///
/// What the command, the request or the connection answered.
pub async fn run(hook: &LifecycleHandler, container: &Respondent) -> Result<(), String> {
    if let Some(action) = &hook.exec {
        return container.exec(action, UNLIMITED).await;
    }
    if let Some(action) = &hook.http_get {
        return container.http_get(action).await;
    }
    if let Some(action) = &hook.tcp_socket {
        return container.tcp_socket(action).await;
    }
    if let Some(action) = &hook.sleep {
        let seconds = u64::try_from(action.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
    Ok(())
}
