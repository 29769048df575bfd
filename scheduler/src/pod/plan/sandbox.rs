//! The sandbox of a pod: what all its containers share.

use std::collections::HashMap;

use berth_cri::v1;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::{dns, names, resources, security};
use crate::pod::{events::PodIdentity, settings::WorkerConfig};

/// The sandbox as the CRI takes it, for the first attempt.
pub fn plan_sandbox(
    pod: &Pod,
    spec: &PodSpec,
    identity: &PodIdentity,
    config: &WorkerConfig,
    host_dns: &v1::DnsConfig,
) -> v1::PodSandboxConfig {
    let PodIdentity {
        namespace,
        name,
        uid,
    } = identity;
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.clone(),
            uid: uid.clone(),
            namespace: namespace.clone(),
            attempt: 0,
        }),
        hostname: dns::plan_hostname(pod, spec, config).hostname,
        log_directory: config
            .logs_dir
            .join(names::log_directory(namespace, name, uid))
            .to_string_lossy()
            .into_owned(),
        dns_config: Some(dns::plan_dns(pod, spec, host_dns, &config.dns)),
        port_mappings: plan_ports(spec),
        labels: plan_labels(pod, identity),
        annotations: plan_annotations(pod, config.source),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: names::pod_group(&config.cgroup_parent, uid).unwrap_or_default(),
            security_context: Some(security::plan_sandbox_security(spec, &config.seccomp_dir)),
            sysctls: plan_sysctls(spec),
            overhead: resources::plan_overhead(spec),
            resources: Some(resources::plan_pod_resources(spec)),
        }),
        windows: None,
    }
}

/// The labels that the pod's containers carry too.
pub fn identity_labels(identity: &PodIdentity) -> HashMap<String, String> {
    HashMap::from([
        (names::POD_NAME.to_owned(), identity.name.clone()),
        (names::POD_NAMESPACE.to_owned(), identity.namespace.clone()),
        (names::POD_UID.to_owned(), identity.uid.clone()),
    ])
}

fn plan_labels(pod: &Pod, identity: &PodIdentity) -> HashMap<String, String> {
    let own = pod.metadata.labels.clone().unwrap_or_default();
    // Last, so that no label of the pod can claim to be another pod's.
    own.into_iter().chain(identity_labels(identity)).collect()
}

fn plan_annotations(pod: &Pod, source: &str) -> HashMap<String, String> {
    let own = pod.metadata.annotations.clone().unwrap_or_default();
    own.into_iter()
        .chain([(names::CONFIG_SOURCE.to_owned(), source.to_owned())])
        .collect()
}

/// Ports that the machine opens for the pod.
///
/// In the machine's own network there is nothing to open.
fn plan_ports(spec: &PodSpec) -> Vec<v1::PortMapping> {
    if spec.host_network == Some(true) {
        return Vec::new();
    }
    let sidecars = spec.init_containers.iter().flatten();
    let mut mappings: Vec<v1::PortMapping> = Vec::new();
    for port in sidecars
        .chain(&spec.containers)
        .flat_map(|container| container.ports.iter().flatten())
    {
        let Some(host_port) = port.host_port.filter(|port| *port > 0) else {
            continue;
        };
        let mapping = v1::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp.into(),
                Some("SCTP") => v1::Protocol::Sctp.into(),
                _ => v1::Protocol::Tcp.into(),
            },
            container_port: port.container_port,
            host_port,
            host_ip: port.host_ip.clone().unwrap_or_default(),
        };
        if !mappings.contains(&mapping) {
            mappings.push(mapping);
        }
    }
    mappings
}

fn plan_sysctls(spec: &PodSpec) -> HashMap<String, String> {
    spec.security_context
        .iter()
        .flat_map(|context| context.sysctls.iter().flatten())
        // The API takes both notations; the kernel's files have slashes.
        .map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value.clone()))
        .collect()
}
