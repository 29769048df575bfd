//! Pods that ended are kept for their logs, but not for ever: beyond a number the oldest go.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::controllers::cluster::{Cluster, Deletion};
use crate::controllers::pods;

/// How often to look.
const PERIOD: Duration = Duration::from_secs(20);

/// Looks again and again; ends when its task is ended.
pub async fn run(cluster: Arc<Cluster>, limit: usize) {
    cluster.mirrors.pods.until_ready().await;
    loop {
        for pod in plan(cluster.mirrors.pods.all(), limit) {
            if let Err(error) = cluster.delete(&*pod, Deletion::Now).await {
                tracing::warn!("a pod that ended was not removed: {error}");
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// The oldest of those that ended, beyond the limit.
fn plan(mut pods: Vec<Arc<Pod>>, limit: usize) -> Vec<Arc<Pod>> {
    pods.retain(|pod| pods::has_ended(pod));
    let surplus = pods.len().saturating_sub(limit);
    pods.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    pods.truncate(surplus);
    pods
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::plan;

    #[test]
    fn the_oldest_that_ended_go() {
        let pod = |name: &str, phase: &str, second: u32| {
            let created = format!("2026-01-01T00:00:{second:02}Z");
            let pod = json!({"metadata": {"name": name, "creationTimestamp": created},
                "status": {"phase": phase}});
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let pods = vec![
            pod("new", "Succeeded", 9),
            pod("runs", "Running", 0),
            pod("old", "Failed", 1),
            pod("middle", "Succeeded", 5),
        ];
        let names = |limit| -> Vec<String> {
            plan(pods.clone(), limit)
                .iter()
                .filter_map(|pod| pod.metadata.name.clone())
                .collect()
        };
        assert_eq!(names(1), ["old", "middle"]);
        assert_eq!(names(3), [""; 0]);
    }
}
