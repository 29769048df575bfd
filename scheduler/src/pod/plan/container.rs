//! One container of a pod.

use std::{collections::HashMap, time::Duration};

use berth_cri::v1;
use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::{
    ConfigError,
    environment::Environment,
    names,
    resources::{self, QosClass},
    restart::{RestartPolicy, RestartRules, Role},
    sandbox,
    security::{self, ImageUser},
};
use crate::{
    manifest::defaults,
    pod::{events::PodIdentity, settings::WorkerConfig, signal},
};

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Before each start, for a tag may have moved.
    Always,
    /// When it is not there.
    IfNotPresent,
    /// Not at all: it is there, or the container cannot start.
    Never,
}

/// What is known of a container before its pod runs.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerPlan {
    /// Its spec.
    pub spec: Container,
    /// Its part in the pod.
    pub role: Role,
    /// What its end means.
    pub restart: RestartRules,
    /// The image that was asked for.
    pub image: String,
    /// When that image is pulled.
    pub pull_policy: PullPolicy,
    /// A number that changes with the spec, but for what can change while it runs.
    pub hash: String,
}

/// What is known of a container only when it is about to start.
#[derive(Debug)]
pub struct Launch {
    /// How often it was started before.
    pub attempt: u32,
    /// Its image, by the node's own id.
    pub image_id: String,
    /// Whom that image runs as.
    pub image_user: ImageUser,
    /// Its environment, which the command line is expanded with.
    pub environment: Environment,
    /// Its mounts, sources in place.
    pub mounts: Vec<v1::Mount>,
}

/// The facts of a pod that each of its containers needs.
#[derive(Debug, Clone, Copy)]
pub struct ContainerSurroundings<'a> {
    /// The pod's spec.
    pub spec: &'a PodSpec,
    /// The pod's names.
    pub identity: &'a PodIdentity,
    /// The pod's class.
    pub qos: QosClass,
    /// The pod's grace.
    pub grace: Duration,
    /// The worker's settings.
    pub config: &'a WorkerConfig,
}

/// Plans one container.
pub fn plan_container(container: &Container, role: Role, of_pod: RestartPolicy) -> ContainerPlan {
    let image = container.image.clone().unwrap_or_default();
    let policy = container
        .image_pull_policy
        .as_deref()
        .unwrap_or_else(|| defaults::pull_policy(&image));
    ContainerPlan {
        role,
        restart: RestartRules::new(container, role, of_pod),
        pull_policy: match policy {
            "Always" => PullPolicy::Always,
            "Never" => PullPolicy::Never,
            _ => PullPolicy::IfNotPresent,
        },
        image,
        hash: names::digest(&Container {
            resources: container.resources.as_ref().map(|_| Default::default()),
            resize_policy: None,
            ..container.clone()
        }),
        spec: container.clone(),
    }
}

impl ContainerPlan {
    /// The container's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The container as the CRI takes it.
    ///
    /// # Errors
    ///
    /// When `runAsNonRoot` does not hold for the image, or the stop signal is
    /// none that the kernel knows.
    pub fn config(
        &self,
        around: &ContainerSurroundings<'_>,
        launch: Launch,
    ) -> Result<v1::ContainerConfig, ConfigError> {
        let security = security::plan_container_security(
            around.spec,
            &self.spec,
            &launch.image_user,
            &around.config.seccomp_dir,
        )?;
        let expand = |words: &Option<Vec<String>>| -> Vec<String> {
            let words = words.iter().flatten();
            words
                .map(|word| launch.environment.expand_text(word))
                .collect()
        };
        Ok(v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: self.spec.name.clone(),
                attempt: launch.attempt,
            }),
            image: Some(v1::ImageSpec {
                image: launch.image_id,
                user_specified_image: self.image.clone(),
                ..Default::default()
            }),
            command: expand(&self.spec.command),
            args: expand(&self.spec.args),
            working_dir: self.spec.working_dir.clone().unwrap_or_default(),
            labels: self.labels(around.identity),
            annotations: self.annotations(launch.attempt, around.grace),
            log_path: log_path(&self.spec.name, launch.attempt),
            stdin: self.spec.stdin == Some(true),
            stdin_once: self.spec.stdin_once == Some(true),
            tty: self.spec.tty == Some(true),
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(resources::plan_resources(
                    &self.spec,
                    around.qos,
                    &around.config.node,
                )),
                security_context: Some(security),
            }),
            stop_signal: self.stop_signal()?.into(),
            mounts: launch.mounts,
            envs: launch.environment.into_cri(),
            ..Default::default()
        })
    }

    fn stop_signal(&self) -> Result<v1::Signal, ConfigError> {
        let named = self
            .spec
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.stop_signal.as_deref());
        match named {
            None => Ok(v1::Signal::RuntimeDefault),
            Some(name) => signal::from_name(name).ok_or_else(|| {
                super::config_error(format!(
                    "lifecycle.stopSignal: {name:?} is no signal: expected a name such as SIGTERM"
                ))
            }),
        }
    }

    fn labels(&self, identity: &PodIdentity) -> HashMap<String, String> {
        let mut labels = sandbox::identity_labels(identity);
        labels.insert(names::CONTAINER_NAME.to_owned(), self.spec.name.clone());
        labels
    }

    fn annotations(&self, attempt: u32, grace: Duration) -> HashMap<String, String> {
        let spec = &self.spec;
        let json = |value: Result<String, serde_json::Error>| value.unwrap_or_default();
        let mut annotations = HashMap::from([
            (names::CONTAINER_HASH.to_owned(), self.hash.clone()),
            (names::RESTART_COUNT.to_owned(), attempt.to_string()),
            (names::POD_GRACE.to_owned(), grace.as_secs().to_string()),
            (
                names::TERMINATION_MESSAGE_PATH.to_owned(),
                spec.termination_message_path.clone().unwrap_or_default(),
            ),
            (
                names::TERMINATION_MESSAGE_POLICY.to_owned(),
                spec.termination_message_policy.clone().unwrap_or_default(),
            ),
        ]);
        if let Some(ports) = spec.ports.as_ref().filter(|ports| !ports.is_empty()) {
            annotations.insert(names::PORTS.to_owned(), json(serde_json::to_string(ports)));
        }
        let hooks = spec.lifecycle.as_ref();
        if let Some(hook) = hooks.and_then(|hooks| hooks.pre_stop.as_ref()) {
            annotations.insert(
                names::PRE_STOP.to_owned(),
                json(serde_json::to_string(hook)),
            );
        }
        annotations
    }
}

/// The log's place below the pod's log directory.
pub fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}
