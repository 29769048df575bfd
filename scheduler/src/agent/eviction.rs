//! A node that runs short: which pod goes, so that the others can stay.
//!
//! ```text
//!  enough ──▶ short of disk: images that nobody uses go ──▶ still short ─┐
//!     ▲       short of memory ───────────────────────────────────────────┴▶ one pod goes
//!     └───────────────────────── look again ◀────────────── it has ended ◀──┘
//! ```
//!
//! One pod at a time: what it gives back may be enough. First those that use more than
//! they asked for, of these the least important, of these the one that exceeds most. The
//! kernel's own out-of-memory killer is faster and knows none of this, so an agent is
//! to be early: it looks while there is still something left.
//!
//! Read more: "Node-pressure Eviction" in the Kubernetes documentation.

use std::{collections::HashMap, sync::Arc, time::Duration};

use berth_cri::v1;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{admission, node::observe, pods::Shared, tidy};
use crate::placement::priority::CRITICAL;
use crate::pod::{plan::names, volumes::empty_dir};

/// How long a pod may take to be gone before the next one is looked for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A pod that is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// Which.
    pub uid: String,
    /// What the node is short of.
    pub message: String,
}

/// What a node can be short of, and a pod can give back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resource {
    Memory,
    Disk,
}

/// What the node is short of at the moment.
struct Shortage {
    resource: Resource,
    /// What must be free and what is, in words.
    text: String,
}

/// A pod and what it uses of one resource, in bytes.
#[derive(Debug)]
struct Candidate {
    pod: Arc<Pod>,
    used: u64,
    requested: u64,
}

/// Looks at the node for ever, and names pods that are to go.
pub async fn keep(shared: Arc<Shared>, evictions: mpsc::Sender<Eviction>) {
    loop {
        tokio::time::sleep(shared.config.periods.pressure).await;
        let Some(shortage) = find_shortage(&shared) else {
            continue;
        };
        if shortage.resource == Resource::Disk {
            tidy::remove_unused_images(&shared.service).await;
        }
        let Some(shortage) = find_shortage(&shared) else {
            continue;
        };
        let candidates = observe_candidates(&shared, shortage.resource).await;
        let Some(chosen) = choose(candidates) else {
            warn!(
                shortage = shortage.text,
                "the node is short and no pod can go"
            );
            continue;
        };
        let eviction = plan_eviction(&chosen, &shortage);
        let uid = eviction.uid.clone();
        info!(uid, message = eviction.message, "a pod is evicted");
        if evictions.send(eviction).await.is_err() {
            return;
        }
        until_gone(&shared, &uid).await;
    }
}

/// What the node is short of now; memory first, for it kills sooner.
fn find_shortage(shared: &Shared) -> Option<Shortage> {
    let limits = &shared.config.pressure;
    let free = observe::observe_free_memory();
    if free < limits.memory_bytes {
        return Some(Shortage {
            resource: Resource::Memory,
            text: format!(
                "memory. Threshold quantity: {}Ki, available: {}Ki",
                limits.memory_bytes / 1024,
                free / 1024
            ),
        });
    }
    let free = observe::observe_space(&shared.config.data_dir).free_percent;
    (free < limits.disk_percent).then(|| Shortage {
        resource: Resource::Disk,
        text: format!(
            "ephemeral-storage. Threshold quantity: {}%, available: {free}%",
            limits.disk_percent
        ),
    })
}

/// Pods of the node that may go, with what they use.
async fn observe_candidates(shared: &Arc<Shared>, resource: Resource) -> Vec<Candidate> {
    let request = v1::ListContainerStatsRequest::default();
    // A runtime that does not tell leaves priorities and files.
    let stats = match shared.service.list_container_stats(request).await {
        Ok(reply) => reply.stats,
        Err(_) => Vec::new(),
    };
    let mut told: HashMap<String, u64> = HashMap::new();
    for one in &stats {
        let labels = one.attributes.as_ref().map(|facts| &facts.labels);
        if let Some(uid) = labels.and_then(|labels| labels.get(names::POD_UID)) {
            *told.entry(uid.clone()).or_default() += usage(one, resource);
        }
    }
    let mut candidates = Vec::new();
    for pod in shared.pods() {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let files = match resource {
            Resource::Memory => 0,
            Resource::Disk => measure_files(shared, &pod).await,
        };
        let name = match resource {
            Resource::Memory => "memory",
            Resource::Disk => "ephemeral-storage",
        };
        let demand = pod.spec.as_ref().map(admission::demand).unwrap_or_default();
        let requested = demand.get(name).copied().unwrap_or(0);
        candidates.push(Candidate {
            used: told.get(&uid).copied().unwrap_or(0) + files,
            requested: u64::try_from(requested).unwrap_or(0),
            pod,
        });
    }
    candidates
}

fn usage(stats: &v1::ContainerStats, resource: Resource) -> u64 {
    let value = match resource {
        Resource::Memory => {
            let memory = stats.memory.as_ref();
            memory.and_then(|memory| memory.working_set_bytes.or(memory.usage_bytes))
        }
        Resource::Disk => {
            let layer = stats.writable_layer.as_ref();
            layer.and_then(|layer| layer.used_bytes)
        }
    };
    value.map_or(0, |value| value.value)
}

/// A pod's volumes and logs on disk.
async fn measure_files(shared: &Arc<Shared>, pod: &Pod) -> u64 {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let uid = text(&pod.metadata.uid);
    let (namespace, name) = (text(&pod.metadata.namespace), text(&pod.metadata.name));
    let logs = names::log_directory(&namespace, &name, &uid);
    empty_dir::measure(&shared.config.volumes_dir().join(uid)).await
        + empty_dir::measure(&shared.config.logs_dir.join(logs)).await
}

/// The pod that is to go first.
fn choose(candidates: Vec<Candidate>) -> Option<Candidate> {
    let priority = |pod: &Pod| {
        pod.spec
            .as_ref()
            .and_then(|spec| spec.priority)
            .unwrap_or(0)
    };
    candidates
        .into_iter()
        .filter(|candidate| priority(&candidate.pod) < CRITICAL)
        .max_by_key(|candidate| {
            let excess = i128::from(candidate.used) - i128::from(candidate.requested);
            (excess > 0, -i64::from(priority(&candidate.pod)), excess)
        })
}

fn plan_eviction(chosen: &Candidate, shortage: &Shortage) -> Eviction {
    Eviction {
        uid: chosen.pod.metadata.uid.clone().unwrap_or_default(),
        message: format!(
            "The node was low on resource: {}. The pod was using {}Ki, its request is {}Ki.",
            shortage.text,
            chosen.used / 1024,
            chosen.requested / 1024
        ),
    }
}

/// Waits until a pod holds nothing of the node any more.
async fn until_gone(shared: &Shared, uid: &str) {
    let gone = async {
        while shared
            .pods()
            .iter()
            .any(|pod| pod.metadata.uid.as_deref() == Some(uid))
        {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    // One that takes longer goes all the same, and the next look sees what is free then.
    let _ = tokio::time::timeout(PATIENCE, gone).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::{CRITICAL, Candidate, choose};

    fn candidate(name: &str, priority: i32, used: u64, requested: u64) -> Candidate {
        let pod = json!({"metadata": {"name": name, "uid": name},
            "spec": {"priority": priority, "containers": []}});
        Candidate {
            pod: Arc::new(serde_json::from_value(pod).unwrap()),
            used,
            requested,
        }
    }

    #[test]
    fn who_exceeds_goes_before_who_does_not_and_the_unimportant_before_the_important() {
        let rows: [(&str, Vec<Candidate>); 5] = [
            (
                "b",
                vec![candidate("a", 0, 10, 20), candidate("b", 9, 5, 0)],
            ),
            (
                "a",
                vec![candidate("a", 1, 10, 0), candidate("b", 9, 50, 0)],
            ),
            (
                "b",
                vec![candidate("a", 1, 10, 0), candidate("b", 1, 50, 0)],
            ),
            // Nobody exceeds: the one that is nearest to it.
            (
                "a",
                vec![candidate("a", 1, 9, 10), candidate("b", 1, 50, 90)],
            ),
            (
                "a",
                vec![candidate("a", 0, 1, 10), candidate("b", CRITICAL, 99, 0)],
            ),
        ];
        for (expected, candidates) in rows {
            let described = format!("{candidates:?}");
            let chosen = choose(candidates).unwrap();
            assert_eq!(
                chosen.pod.metadata.name.as_deref(),
                Some(expected),
                "{described}"
            );
        }
        assert!(choose(vec![candidate("a", CRITICAL, 99, 0)]).is_none());
    }
}
