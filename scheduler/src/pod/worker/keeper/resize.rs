//! A container that runs gets more, or less, of the processor and of memory.
//!
//! ```text
//! spec changed ─▶ the next worker takes the container over ─▶ has it what the spec says?
//!                                     yes: nothing   no: the pod's group, the container's,
//!                                                        the pod's again; or a restart
//! ```
//!
//! A group's quota must fit into the one above it (cgroup version 1 refuses it otherwise), so
//! the pod's group grows before its container and shrinks after it. What fails the first
//! time for one reason succeeds the second time, so only the container's own answer counts.
//!
//! Read more: KEP 1287; sched-bwc.rst in the kernel's documentation.

use berth_cri::v1;
use k8s_openapi::api::core::v1::Container;

use super::Keeper;
use crate::pod::plan::resources;

/// What became of a container whose resources may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resized {
    /// It runs on.
    Runs,
    /// Its spec wants it to be started anew for what changed.
    WantsRestart,
}

impl Keeper {
    /// Gives a container of an earlier worker what its spec says now.
    pub(super) async fn resize(&self, existing: &v1::ContainerStatus) -> Resized {
        let has = existing.resources.as_ref();
        let Some(has) = has.and_then(|resources| resources.linux.as_ref()) else {
            // A runtime that does not say what it gave cannot be asked for another amount.
            return Resized::Runs;
        };
        let life = &self.life;
        let spec = &self.plan.spec;
        let mut wanted = resources::plan_resources(spec, life.plan.qos, &life.config.node);
        // A process keeps what it was started with.
        wanted.oom_score_adj = has.oom_score_adj;
        let changed = changed(has, &wanted);
        if changed.is_empty() {
            self.show_resources();
            return Resized::Runs;
        }
        if changed.iter().any(|name| restarts(spec, name)) {
            return Resized::WantsRestart;
        }
        let name = self.plan.name();
        self.resize_pod().await;
        let request = v1::UpdateContainerResourcesRequest {
            container_id: existing.id.clone(),
            linux: Some(wanted),
            ..Default::default()
        };
        match life.service.update_container_resources(request).await {
            Ok(_) => {
                self.resize_pod().await;
                self.show_resources();
                let text = format!("Container {name} has other {}", changed.join(" and "));
                life.board.normal(Some(name), "ResizeCompleted", text);
            }
            Err(status) => {
                let text = format!("Error: {}", status.message());
                life.board.warning(Some(name), "ResizeError", text);
            }
        }
        Resized::Runs
    }

    async fn resize_pod(&self) {
        let linux = self.life.plan.sandbox.linux.clone().unwrap_or_default();
        let request = v1::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: self.sandbox.id.clone(),
            overhead: linux.overhead,
            resources: linux.resources,
        };
        // Not every runtime has the call; the pod's group then stays as it is.
        let _ = self
            .life
            .service
            .update_pod_sandbox_resources(request)
            .await;
    }

    /// Tells what the container has: what its spec says.
    pub(super) fn show_resources(&self) {
        let resources = self.plan.spec.resources.clone().unwrap_or_default();
        self.life.board.update_container(self.plan.name(), |known| {
            known.status.allocated_resources = resources.requests.clone();
            known.status.resources = Some(resources);
        });
    }
}

/// The names of what differs. What an update does not state stays, so it does not differ.
fn changed(
    has: &v1::LinuxContainerResources,
    wanted: &v1::LinuxContainerResources,
) -> Vec<&'static str> {
    let differs = |has: i64, wanted: i64| wanted > 0 && has != wanted;
    let cpu = differs(has.cpu_quota, wanted.cpu_quota)
        || differs(has.cpu_period, wanted.cpu_period)
        || differs(has.cpu_shares, wanted.cpu_shares);
    let memory = differs(has.memory_limit_in_bytes, wanted.memory_limit_in_bytes);
    [(cpu, "cpu"), (memory, "memory")]
        .into_iter()
        .filter_map(|(differs, name)| differs.then_some(name))
        .collect()
}

/// Whether a container wants to be started anew when so much of this changes.
fn restarts(spec: &Container, resource: &str) -> bool {
    let mut policies = spec.resize_policy.iter().flatten();
    policies.any(|policy| {
        policy.resource_name == resource && policy.restart_policy == "RestartContainer"
    })
}

#[cfg(test)]
mod tests {
    use berth_cri::v1;
    use serde_json::json;

    use super::{changed, restarts};

    #[test]
    fn what_differs_is_named() {
        let of = |quota, shares, memory| v1::LinuxContainerResources {
            cpu_quota: quota,
            cpu_shares: shares,
            memory_limit_in_bytes: memory,
            ..Default::default()
        };
        let has = of(10_000, 100, 1 << 20);
        for (wanted, expected) in [
            (has.clone(), &[] as &[&str]),
            (of(0, 100, 0), &[]),
            (of(20_000, 100, 1 << 20), &["cpu"]),
            (of(10_000, 200, 1 << 20), &["cpu"]),
            (of(10_000, 100, 2 << 20), &["memory"]),
            (of(20_000, 200, 2 << 20), &["cpu", "memory"]),
        ] {
            assert_eq!(changed(&has, &wanted), expected, "{wanted:?}");
        }
    }

    #[test]
    fn a_restart_is_for_what_asks_for_one() {
        let spec = serde_json::from_value(json!({"name": "c", "resizePolicy": [
            {"resourceName": "cpu", "restartPolicy": "NotRequired"},
            {"resourceName": "memory", "restartPolicy": "RestartContainer"}]}))
        .unwrap();
        assert!(restarts(&spec, "memory"));
        assert!(!restarts(&spec, "cpu"));
    }
}
