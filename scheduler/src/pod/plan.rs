//! A pod as a plan: what the CRI will be asked for, worked out without asking.
//!
//! Everything here is a pure function of the pod, its ConfigMaps and Secrets,
//! and facts of the node. What depends on a running sandbox (its address) or on
//! an image (its user) is planned by the same functions a moment later.
//!
//! ```text
//! Pod ─▶ plan_pod ─▶ PodPlan ─┬─▶ sandbox        v1::PodSandboxConfig
//!                             ├─▶ volumes        VolumesPlan
//!                             └─▶ containers     ContainerPlan ─ config ─▶ v1::ContainerConfig
//!                                                 (environment, resources, security, mounts)
//! ```

use std::time::Duration;

use berth_cri::v1;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::{events::PodIdentity, settings::WorkerConfig};

/// One container.
pub mod container;
/// Hostname, resolver, hosts file.
pub mod dns;
/// A container's environment, and `$(VAR)` in its command line.
pub mod environment;
/// What a pod may be told about itself.
pub mod facts;
/// Labels and annotations by which a pod's parts are found again.
pub mod names;
/// Requests and limits as the kernel's cgroup settings.
pub mod resources;
/// Whether a container that ended is started again.
pub mod restart;
/// What all containers share.
pub mod sandbox;
/// Who a container is and what the kernel lets it do.
pub mod security;

use container::ContainerPlan;
use resources::QosClass;
use restart::{RestartPolicy, Role};

/// A value of a pod that cannot be had, in the words that its status shows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    message: String,
}

impl ConfigError {
    /// The same error with the place that it stands at.
    pub fn within(self, place: &str) -> ConfigError {
        config_error(format!("{place}: {}", self.message))
    }
}

/// An error in the words that a status shows.
pub(crate) fn config_error(message: String) -> ConfigError {
    ConfigError { message }
}

/// A pod, ready to be asked for.
#[derive(Debug, Clone)]
pub struct PodPlan {
    /// Its names.
    pub identity: PodIdentity,
    /// The pod as it was given, with its uid.
    pub pod: Pod,
    /// Its spec.
    pub spec: PodSpec,
    /// How precisely it says what it needs.
    pub qos: QosClass,
    /// Its sandbox, for the first attempt.
    pub sandbox: v1::PodSandboxConfig,
    /// What runs it, by the name of its class; the engine's default if empty.
    pub runtime_class: String,
    /// What its containers' ends mean where they do not say themselves.
    pub restart_policy: RestartPolicy,
    /// Init containers and sidecars, in their order.
    pub init_containers: Vec<ContainerPlan>,
    /// Main containers.
    pub containers: Vec<ContainerPlan>,
    /// How long its end may take.
    pub grace: Duration,
    /// How long it may run.
    pub deadline: Option<Duration>,
}

/// Plans a pod, which must have a uid.
///
/// # Errors
///
/// What makes the pod impossible to ask for, by field.
pub fn plan_pod(
    pod: Pod,
    config: &WorkerConfig,
    host_dns: &v1::DnsConfig,
) -> Result<PodPlan, ConfigError> {
    let needed = |field: &str, value: &Option<String>| {
        value
            .clone()
            .filter(|text| !text.is_empty())
            .ok_or_else(|| config_error(format!("{field}: expected a value, found none")))
    };
    let identity = PodIdentity {
        namespace: pod
            .metadata
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned()),
        name: needed("metadata.name", &pod.metadata.name)?,
        uid: needed("metadata.uid", &pod.metadata.uid)?,
    };
    // The names become parts of paths: of the log directory, of the volumes'.
    for (field, value) in [
        ("metadata.namespace", &identity.namespace),
        ("metadata.name", &identity.name),
        ("metadata.uid", &identity.uid),
    ] {
        if value.contains('/') || value.starts_with('.') {
            return Err(config_error(format!(
                "{field}: {value:?} cannot be part of a path: expected letters, digits, '-' and '.'"
            )));
        }
    }
    let spec = pod
        .spec
        .clone()
        .ok_or_else(|| config_error("spec: expected the pod's spec, found none".to_owned()))?;
    if spec.containers.is_empty() {
        return Err(config_error(
            "spec.containers: expected at least one container".to_owned(),
        ));
    }
    let restart_policy = RestartPolicy::from_name(spec.restart_policy.as_deref());
    let plan = |container, role| container::plan_container(container, role, restart_policy);
    Ok(PodPlan {
        sandbox: sandbox::plan_sandbox(&pod, &spec, &identity, config, host_dns),
        qos: resources::plan_qos(&spec),
        runtime_class: spec.runtime_class_name.clone().unwrap_or_default(),
        restart_policy,
        init_containers: spec
            .init_containers
            .iter()
            .flatten()
            .map(|container| plan(container, Role::of_init(container)))
            .collect(),
        containers: spec
            .containers
            .iter()
            .map(|container| plan(container, Role::Main))
            .collect(),
        grace: seconds(spec.termination_grace_period_seconds.unwrap_or(30)),
        deadline: spec.active_deadline_seconds.map(seconds),
        identity,
        pod,
        spec,
    })
}

fn seconds(value: i64) -> Duration {
    Duration::from_secs(u64::try_from(value).unwrap_or(0))
}

#[cfg(test)]
mod tests;
