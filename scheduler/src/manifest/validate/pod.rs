//! Rules of a pod's spec.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::core::v1::{Container, PodSecurityContext, PodSpec};

use super::{Problems, container, volume};

pub(super) fn validate(spec: &PodSpec, path: &str, problems: &mut Problems<'_>) {
    let at = |field: &str| format!("{path}.{field}");
    problems.add_if(
        spec.containers.is_empty(),
        &at("containers"),
        "expected at least one container",
    );
    problems.one_of(
        &at("restartPolicy"),
        spec.restart_policy.as_deref(),
        &["Always", "OnFailure", "Never"],
    );
    problems.one_of(
        &at("dnsPolicy"),
        spec.dns_policy.as_deref(),
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
    );
    problems.range(
        &at("terminationGracePeriodSeconds"),
        spec.termination_grace_period_seconds,
        0..=i64::from(i32::MAX),
    );
    problems.range(
        &at("activeDeadlineSeconds"),
        spec.active_deadline_seconds,
        1..=i64::from(i32::MAX),
    );
    for (field, name) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(name) = name {
            problems.label(&at(field), name);
        }
    }
    problems.add_if(
        spec.share_process_namespace == Some(true) && spec.host_pid == Some(true),
        &at("shareProcessNamespace"),
        "cannot be true together with hostPID",
    );
    // Root of a user namespace may not mount what belongs to the machine's.
    for (field, shared) in [("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)] {
        problems.add_if(
            spec.host_users == Some(false) && shared == Some(true),
            &at(field),
            "cannot be true where hostUsers is false",
        );
    }
    dns(spec, path, problems);
    host_aliases(spec, path, problems);
    if let Some(security) = &spec.security_context {
        pod_security(security, &at("securityContext"), problems);
    }
    volumes(spec, path, problems);
    containers(spec, path, problems);
}

fn dns(spec: &PodSpec, path: &str, problems: &mut Problems<'_>) {
    let config = spec.dns_config.as_ref();
    let servers = config.and_then(|config| config.nameservers.as_ref());
    for (index, server) in servers.into_iter().flatten().enumerate() {
        let path = format!("{path}.dnsConfig.nameservers[{index}]");
        problems.add_if(
            server.parse::<IpAddr>().is_err(),
            &path,
            "expected an IP address",
        );
    }
    problems.add_if(
        spec.dns_policy.as_deref() == Some("None") && servers.is_none_or(Vec::is_empty),
        &format!("{path}.dnsConfig.nameservers"),
        "required where dnsPolicy is None",
    );
}

fn host_aliases(spec: &PodSpec, path: &str, problems: &mut Problems<'_>) {
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = format!("{path}.hostAliases[{index}]");
        problems.add_if(
            alias.ip.parse::<IpAddr>().is_err(),
            &format!("{path}.ip"),
            "expected an IP address",
        );
        for (number, name) in alias.hostnames.iter().flatten().enumerate() {
            problems.subdomain(&format!("{path}.hostnames[{number}]"), name);
        }
    }
}

fn pod_security(security: &PodSecurityContext, path: &str, problems: &mut Problems<'_>) {
    let ids = 0..=i64::from(i32::MAX);
    problems.range(
        &format!("{path}.runAsUser"),
        security.run_as_user,
        ids.clone(),
    );
    problems.range(
        &format!("{path}.runAsGroup"),
        security.run_as_group,
        ids.clone(),
    );
    problems.range(&format!("{path}.fsGroup"), security.fs_group, ids.clone());
    for (index, group) in security.supplemental_groups.iter().flatten().enumerate() {
        problems.range(
            &format!("{path}.supplementalGroups[{index}]"),
            Some(*group),
            ids.clone(),
        );
    }
    problems.one_of(
        &format!("{path}.fsGroupChangePolicy"),
        security.fs_group_change_policy.as_deref(),
        &["Always", "OnRootMismatch"],
    );
    problems.one_of(
        &format!("{path}.supplementalGroupsPolicy"),
        security.supplemental_groups_policy.as_deref(),
        &["Merge", "Strict"],
    );
    if let Some(profile) = &security.seccomp_profile {
        container::seccomp(profile, &format!("{path}.seccompProfile"), problems);
    }
    let mut seen = BTreeSet::new();
    for (index, sysctl) in security.sysctls.iter().flatten().enumerate() {
        let path = format!("{path}.sysctls[{index}].name");
        problems.unique(&path, &sysctl.name, &mut seen);
        let legal = sysctl.name.contains(['.', '/'])
            && !sysctl.name.contains("..")
            && sysctl
                .name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
        problems.add_if(
            !legal,
            &path,
            "expected the name of a kernel parameter, as net.ipv4.ip_forward",
        );
    }
}

fn volumes(spec: &PodSpec, path: &str, problems: &mut Problems<'_>) {
    let mut seen = BTreeSet::new();
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let path = format!("{path}.volumes[{index}]");
        problems.label(&format!("{path}.name"), &volume.name);
        problems.unique(&format!("{path}.name"), &volume.name, &mut seen);
        volume::validate(volume, &path, problems);
    }
}

fn containers(spec: &PodSpec, path: &str, problems: &mut Problems<'_>) {
    let volumes: BTreeSet<&str> = spec
        .volumes
        .iter()
        .flatten()
        .map(|volume| volume.name.as_str())
        .collect();
    let init = spec.init_containers.iter().flatten().enumerate();
    let init =
        init.map(|(index, container)| (format!("{path}.initContainers[{index}]"), container));
    let main = spec.containers.iter().enumerate();
    let main = main.map(|(index, container)| (format!("{path}.containers[{index}]"), container));
    let mut names = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    for (path, container) in init.chain(main) {
        problems.unique(&format!("{path}.name"), &container.name, &mut names);
        let plain_init = path.contains("initContainers[")
            && container.restart_policy.as_deref() != Some("Always");
        if plain_init {
            without_probes(container, &path, problems);
        }
        for (index, port) in container.ports.iter().flatten().enumerate() {
            let key = (&port.protocol, &port.host_ip, port.host_port);
            if port.host_port.is_some() && !plain_init && !host_ports.insert(key) {
                let path = format!("{path}.ports[{index}].hostPort");
                problems.add(&path, "another container has this port of the machine");
            }
        }
        container::validate(container, &path, &volumes, problems);
    }
}

/// A plain init container ends before anybody could ask after its health.
fn without_probes(container: &Container, path: &str, problems: &mut Problems<'_>) {
    let fields = [
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ];
    for (field, present) in fields {
        problems.add_if(
            present,
            &format!("{path}.{field}"),
            "only an init container with restartPolicy Always may have one",
        );
    }
}
