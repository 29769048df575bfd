//! What the API server fills in where a manifest is silent.
//!
//! After this pass the rest of berth never asks "and if it is not set?" for a
//! field that has a default: one place knows them, as in Kubernetes'
//! `pkg/apis/core/v1/defaults.go`.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::Deployment,
        batch::v1::Job,
        core::v1::{ConfigMap, Container, Lifecycle, Pod, PodSpec, Probe, Secret, Volume},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// A kind whose defaults are known.
pub trait Defaults {
    /// Sets every field that was left out and has a default.
    fn fill_defaults(&mut self);
}

impl Defaults for Pod {
    fn fill_defaults(&mut self) {
        fill_metadata(&mut self.metadata);
        if let Some(spec) = &mut self.spec {
            fill_pod_spec(spec, "Always");
        }
    }
}

impl Defaults for Deployment {
    fn fill_defaults(&mut self) {
        fill_metadata(&mut self.metadata);
        self.spec.replicas.get_or_insert(1);
        if let Some(pod) = &mut self.spec.template.spec {
            fill_pod_spec(pod, "Always");
        }
    }
}

impl Defaults for Job {
    fn fill_defaults(&mut self) {
        fill_metadata(&mut self.metadata);
        if let Some(spec) = &mut self.spec {
            if spec.completions.is_none() && spec.parallelism.is_none() {
                spec.completions = Some(1);
            }
            spec.parallelism.get_or_insert(1);
            spec.backoff_limit.get_or_insert(6);
            spec.completion_mode
                .get_or_insert_with(|| "NonIndexed".to_owned());
            if let Some(pod) = &mut spec.template.spec {
                // No default: a job's template must say OnFailure or Never, and
                // validation finds this one.
                fill_pod_spec(pod, "Always");
            }
        }
    }
}

impl Defaults for ConfigMap {
    fn fill_defaults(&mut self) {
        fill_metadata(&mut self.metadata);
    }
}

impl Defaults for Secret {
    /// `stringData` becomes `data`, as the API server does when it writes.
    fn fill_defaults(&mut self) {
        fill_metadata(&mut self.metadata);
        self.type_.get_or_insert_with(|| "Opaque".to_owned());
        for (key, text) in self.string_data.take().unwrap_or_default() {
            let data = self.data.get_or_insert_with(BTreeMap::new);
            data.insert(key, ByteString(text.into_bytes()));
        }
    }
}

fn fill_metadata(metadata: &mut ObjectMeta) {
    metadata
        .namespace
        .get_or_insert_with(|| "default".to_owned());
}

/// Fills a pod's spec; `berth run IMAGE` uses it for the spec that it makes.
pub fn fill_pod_spec(spec: &mut PodSpec, restart_policy: &str) {
    spec.restart_policy
        .get_or_insert_with(|| restart_policy.to_owned());
    spec.dns_policy
        .get_or_insert_with(|| "ClusterFirst".to_owned());
    spec.termination_grace_period_seconds.get_or_insert(30);
    let host_network = spec.host_network == Some(true);
    for container in spec
        .init_containers
        .iter_mut()
        .flatten()
        .chain(&mut spec.containers)
    {
        fill_container(container, host_network);
    }
    spec.volumes.iter_mut().flatten().for_each(fill_volume);
}

fn fill_container(container: &mut Container, host_network: bool) {
    let policy = pull_policy(container.image.as_deref().unwrap_or_default());
    container
        .image_pull_policy
        .get_or_insert_with(|| policy.to_owned());
    container
        .termination_message_path
        .get_or_insert_with(|| "/dev/termination-log".to_owned());
    container
        .termination_message_policy
        .get_or_insert_with(|| "File".to_owned());
    for port in container.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
        // In the machine's network a container's port *is* the host's.
        if host_network {
            port.host_port.get_or_insert(port.container_port);
        }
    }
    let probes = [
        &mut container.startup_probe,
        &mut container.liveness_probe,
        &mut container.readiness_probe,
    ];
    probes.into_iter().flatten().for_each(fill_probe);
    if let Some(lifecycle) = &mut container.lifecycle {
        fill_lifecycle(lifecycle);
    }
    // A limit without a request is its own request.
    if let Some(resources) = &mut container.resources
        && let Some(limits) = resources.limits.clone()
    {
        let requests = resources.requests.get_or_insert_with(BTreeMap::new);
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
    for variable in container.env.iter_mut().flatten() {
        if let Some(field) = variable
            .value_from
            .as_mut()
            .and_then(|source| source.field_ref.as_mut())
        {
            field.api_version.get_or_insert_with(|| "v1".to_owned());
        }
    }
}

/// `Always` where a tag may move: no tag, `:latest`. A digest never moves.
pub fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    // A colon before the last slash belongs to a registry's port.
    let name = image.rsplit('/').next().unwrap_or(image);
    match name.rsplit_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn fill_probe(probe: &mut Probe) {
    probe.timeout_seconds.get_or_insert(1);
    probe.period_seconds.get_or_insert(10);
    probe.success_threshold.get_or_insert(1);
    probe.failure_threshold.get_or_insert(3);
    if let Some(http) = &mut probe.http_get {
        http.path.get_or_insert_with(|| "/".to_owned());
        http.scheme.get_or_insert_with(|| "HTTP".to_owned());
    }
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_with(String::new);
    }
}

fn fill_lifecycle(lifecycle: &mut Lifecycle) {
    let handlers = [&mut lifecycle.post_start, &mut lifecycle.pre_stop];
    for http in handlers
        .into_iter()
        .flatten()
        .filter_map(|handler| handler.http_get.as_mut())
    {
        http.path.get_or_insert_with(|| "/".to_owned());
        http.scheme.get_or_insert_with(|| "HTTP".to_owned());
    }
}

fn fill_volume(volume: &mut Volume) {
    const MODE: i32 = 0o644;
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(MODE);
    }
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(MODE);
    }
    if let Some(source) = &mut volume.projected {
        source.default_mode.get_or_insert(MODE);
    }
    if let Some(source) = &mut volume.host_path {
        source.type_.get_or_insert_with(String::new);
    }
}
