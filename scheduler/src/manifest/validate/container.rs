//! Rules of one container.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::{
        Container, EnvVar, HTTPGetAction, LifecycleHandler, Probe, SeccompProfile, SecurityContext,
        VolumeMount,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::Problems;
use crate::manifest::quantity;

pub(super) fn validate(
    container: &Container,
    path: &str,
    volumes: &BTreeSet<&str>,
    problems: &mut Problems<'_>,
) {
    let at = |field: &str| format!("{path}.{field}");
    problems.label(&at("name"), &container.name);
    match container.image.as_deref() {
        None | Some("") => problems.add(&at("image"), "required field is missing"),
        Some(image) if image.contains(char::is_whitespace) => {
            problems.add(
                &at("image"),
                format!("{image:?} is not the name of an image"),
            );
        }
        Some(_) => {}
    }
    problems.one_of(
        &at("imagePullPolicy"),
        container.image_pull_policy.as_deref(),
        &["Always", "IfNotPresent", "Never"],
    );
    problems.one_of(
        &at("restartPolicy"),
        container.restart_policy.as_deref(),
        &["Always", "OnFailure", "Never"],
    );
    problems.one_of(
        &at("terminationMessagePolicy"),
        container.termination_message_policy.as_deref(),
        &["File", "FallbackToLogsOnError"],
    );
    ports(container, path, problems);
    for (index, variable) in container.env.iter().flatten().enumerate() {
        environment(variable, &format!("{path}.env[{index}]"), problems);
    }
    for (index, source) in container.env_from.iter().flatten().enumerate() {
        let count =
            usize::from(source.config_map_ref.is_some()) + usize::from(source.secret_ref.is_some());
        problems.add_if(
            count != 1,
            &format!("{path}.envFrom[{index}]"),
            "expected one of configMapRef, secretRef",
        );
    }
    mounts(container, path, volumes, problems);
    resources(container, path, problems);
    probes(container, path, problems);
    if let Some(security) = &container.security_context {
        security_context(security, &at("securityContext"), problems);
    }
}

fn ports(container: &Container, path: &str, problems: &mut Problems<'_>) {
    let mut names = BTreeSet::new();
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let path = format!("{path}.ports[{index}]");
        problems.port(&format!("{path}.containerPort"), Some(port.container_port));
        problems.port(&format!("{path}.hostPort"), port.host_port);
        problems.one_of(
            &format!("{path}.protocol"),
            port.protocol.as_deref(),
            &["TCP", "UDP", "SCTP"],
        );
        if let Some(name) = &port.name {
            problems.unique(&format!("{path}.name"), name, &mut names);
            let legal = name.len() <= 15
                && super::is_label(name)
                && name.bytes().any(|byte| byte.is_ascii_lowercase());
            problems.add_if(
                !legal,
                &format!("{path}.name"),
                "expected at most 15 lower-case letters, digits and `-`, with one letter at least",
            );
        }
        if let Some(address) = port
            .host_ip
            .as_deref()
            .filter(|address| !address.is_empty())
        {
            let bad = address.parse::<std::net::IpAddr>().is_err();
            problems.add_if(bad, &format!("{path}.hostIP"), "expected an IP address");
        }
    }
}

fn environment(variable: &EnvVar, path: &str, problems: &mut Problems<'_>) {
    let name = &variable.name;
    let legal = !name.is_empty()
        && name
            .bytes()
            .all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=');
    problems.add_if(
        !legal,
        &format!("{path}.name"),
        "expected printable ASCII without `=`",
    );
    let Some(source) = &variable.value_from else {
        return;
    };
    let path = format!("{path}.valueFrom");
    let has_value = variable
        .value
        .as_deref()
        .is_some_and(|value| !value.is_empty());
    problems.add_if(has_value, &path, "cannot stand beside value");
    let count = [
        source.config_map_key_ref.is_some(),
        source.secret_key_ref.is_some(),
        source.field_ref.is_some(),
        source.resource_field_ref.is_some(),
    ];
    problems.add_if(
        count.into_iter().filter(|present| *present).count() != 1,
        &path,
        "expected one of configMapKeyRef, secretKeyRef, fieldRef, resourceFieldRef",
    );
}

fn mounts(
    container: &Container,
    path: &str,
    volumes: &BTreeSet<&str>,
    problems: &mut Problems<'_>,
) {
    let mut targets = BTreeSet::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        if !volumes.contains(mount.name.as_str()) {
            problems.add(
                &format!("{path}.name"),
                format!("no volume of the pod is named {:?}", mount.name),
            );
        }
        let target = format!("{path}.mountPath");
        problems.unique(
            &target,
            mount.mount_path.trim_end_matches('/'),
            &mut targets,
        );
        problems.add_if(
            !mount.mount_path.starts_with('/'),
            &target,
            "expected an absolute path",
        );
        problems.add_if(mount.mount_path.contains(':'), &target, "may not hold `:`");
        problems.one_of(
            &format!("{path}.mountPropagation"),
            mount.mount_propagation.as_deref(),
            &["None", "HostToContainer", "Bidirectional"],
        );
        problems.one_of(
            &format!("{path}.recursiveReadOnly"),
            mount.recursive_read_only.as_deref(),
            &["Disabled", "IfPossible", "Enabled"],
        );
        let privileged = container
            .security_context
            .as_ref()
            .and_then(|security| security.privileged);
        problems.add_if(
            mount.mount_propagation.as_deref() == Some("Bidirectional") && privileged != Some(true),
            &format!("{path}.mountPropagation"),
            "Bidirectional needs a privileged container",
        );
        sub_path(mount, &path, problems);
    }
}

fn sub_path(mount: &VolumeMount, path: &str, problems: &mut Problems<'_>) {
    let fields = [
        ("subPath", &mount.sub_path),
        ("subPathExpr", &mount.sub_path_expr),
    ];
    for (field, value) in fields {
        let Some(value) = value else { continue };
        let climbs = value.starts_with('/') || value.split('/').any(|part| part == "..");
        problems.add_if(
            climbs,
            &format!("{path}.{field}"),
            "expected a relative path without `..`",
        );
    }
    problems.add_if(
        mount.sub_path.is_some() && mount.sub_path_expr.is_some(),
        &format!("{path}.subPathExpr"),
        "cannot stand beside subPath",
    );
}

fn resources(container: &Container, path: &str, problems: &mut Problems<'_>) {
    let Some(resources) = &container.resources else {
        return;
    };
    for (field, list) in [
        ("limits", &resources.limits),
        ("requests", &resources.requests),
    ] {
        for (name, value) in list.iter().flatten() {
            let path = format!("{path}.resources.{field}[{name}]");
            problems.add_if(quantity::milli(value) < 0, &path, "expected zero or more");
            let known = ["cpu", "memory", "ephemeral-storage"].contains(&name.as_str())
                || name.starts_with("hugepages-");
            problems.add_if(!known, &path, "expected cpu, memory, ephemeral-storage or hugepages-SIZE: there is no device plug-in here");
        }
    }
    for (name, request) in resources.requests.iter().flatten() {
        let limit = resources
            .limits
            .as_ref()
            .and_then(|limits| limits.get(name));
        if let Some(limit) = limit
            && quantity::milli(request) > quantity::milli(limit)
        {
            let path = format!("{path}.resources.requests[{name}]");
            problems.add(
                &path,
                format!("{} is more than the limit of {}", request.0, limit.0),
            );
        }
    }
}

fn probes(container: &Container, path: &str, problems: &mut Problems<'_>) {
    let probes = [
        ("startupProbe", &container.startup_probe),
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
    ];
    for (field, probe) in probes {
        if let Some(probe) = probe {
            let path = format!("{path}.{field}");
            validate_probe(probe, container, &path, problems);
            problems.add_if(
                field != "readinessProbe" && probe.success_threshold != Some(1),
                &format!("{path}.successThreshold"),
                "must be 1 for this probe",
            );
            problems.add_if(
                field == "readinessProbe" && probe.termination_grace_period_seconds.is_some(),
                &format!("{path}.terminationGracePeriodSeconds"),
                "a readiness probe ends nothing",
            );
        }
    }
    let Some(lifecycle) = &container.lifecycle else {
        return;
    };
    let hooks = [
        ("postStart", &lifecycle.post_start),
        ("preStop", &lifecycle.pre_stop),
    ];
    for (field, hook) in hooks {
        if let Some(hook) = hook {
            validate_hook(
                hook,
                container,
                &format!("{path}.lifecycle.{field}"),
                problems,
            );
        }
    }
    if let Some(signal) = &lifecycle.stop_signal {
        let known = crate::pod::signal::from_name(signal).is_some();
        problems.add_if(
            !known,
            &format!("{path}.lifecycle.stopSignal"),
            "expected a signal's name such as SIGUSR1",
        );
    }
}

fn validate_probe(probe: &Probe, container: &Container, path: &str, problems: &mut Problems<'_>) {
    let count = [
        probe.exec.is_some(),
        probe.http_get.is_some(),
        probe.tcp_socket.is_some(),
        probe.grpc.is_some(),
    ];
    problems.add_if(
        count.into_iter().filter(|present| *present).count() != 1,
        path,
        "expected one of exec, httpGet, tcpSocket, grpc",
    );
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds, 0),
        ("timeoutSeconds", probe.timeout_seconds, 1),
        ("periodSeconds", probe.period_seconds, 1),
        ("successThreshold", probe.success_threshold, 1),
        ("failureThreshold", probe.failure_threshold, 1),
    ];
    for (field, value, least) in numbers {
        problems.range(
            &format!("{path}.{field}"),
            value.map(i64::from),
            least..=i64::from(i32::MAX),
        );
    }
    problems.range(
        &format!("{path}.terminationGracePeriodSeconds"),
        probe.termination_grace_period_seconds,
        1..=i64::from(i32::MAX),
    );
    if let Some(http) = &probe.http_get {
        http_get(http, container, &format!("{path}.httpGet"), problems);
    }
    if let Some(tcp) = &probe.tcp_socket {
        port_reference(
            &tcp.port,
            container,
            &format!("{path}.tcpSocket.port"),
            problems,
        );
    }
    if let Some(grpc) = &probe.grpc {
        problems.port(&format!("{path}.grpc.port"), Some(grpc.port));
    }
    let command = probe.exec.as_ref().and_then(|exec| exec.command.as_ref());
    problems.add_if(
        probe.exec.is_some() && command.is_none_or(Vec::is_empty),
        &format!("{path}.exec.command"),
        "required field is missing",
    );
}

fn validate_hook(
    hook: &LifecycleHandler,
    container: &Container,
    path: &str,
    problems: &mut Problems<'_>,
) {
    let count = [
        hook.exec.is_some(),
        hook.http_get.is_some(),
        hook.sleep.is_some(),
    ];
    problems.add_if(
        count.into_iter().filter(|present| *present).count() != 1,
        path,
        "expected one of exec, httpGet, sleep",
    );
    problems.add_if(
        hook.tcp_socket.is_some(),
        &format!("{path}.tcpSocket"),
        "does nothing in a hook; use exec, httpGet or sleep",
    );
    if let Some(http) = &hook.http_get {
        http_get(http, container, &format!("{path}.httpGet"), problems);
    }
    if let Some(sleep) = &hook.sleep {
        problems.range(
            &format!("{path}.sleep.seconds"),
            Some(sleep.seconds),
            0..=i64::from(i32::MAX),
        );
    }
    let command = hook.exec.as_ref().and_then(|exec| exec.command.as_ref());
    problems.add_if(
        hook.exec.is_some() && command.is_none_or(Vec::is_empty),
        &format!("{path}.exec.command"),
        "required field is missing",
    );
}

fn http_get(http: &HTTPGetAction, container: &Container, path: &str, problems: &mut Problems<'_>) {
    port_reference(&http.port, container, &format!("{path}.port"), problems);
    problems.one_of(
        &format!("{path}.scheme"),
        http.scheme.as_deref(),
        &["HTTP", "HTTPS"],
    );
}

fn port_reference(
    port: &IntOrString,
    container: &Container,
    path: &str,
    problems: &mut Problems<'_>,
) {
    match port {
        IntOrString::Int(number) => problems.port(path, Some(*number)),
        IntOrString::String(name) => {
            let named = container
                .ports
                .iter()
                .flatten()
                .any(|port| port.name.as_ref() == Some(name));
            if !named && name.parse::<u16>().is_err() {
                problems.add(path, format!("no port of this container is named {name:?}"));
            }
        }
    }
}

fn security_context(security: &SecurityContext, path: &str, problems: &mut Problems<'_>) {
    let ids = 0..=i64::from(i32::MAX);
    problems.range(
        &format!("{path}.runAsUser"),
        security.run_as_user,
        ids.clone(),
    );
    problems.range(&format!("{path}.runAsGroup"), security.run_as_group, ids);
    problems.one_of(
        &format!("{path}.procMount"),
        security.proc_mount.as_deref(),
        &["Default", "Unmasked"],
    );
    if let Some(profile) = &security.seccomp_profile {
        seccomp(profile, &format!("{path}.seccompProfile"), problems);
    }
    problems.add_if(
        security.privileged == Some(true) && security.allow_privilege_escalation == Some(false),
        &format!("{path}.allowPrivilegeEscalation"),
        "cannot be false in a privileged container",
    );
}

/// A seccomp profile names a file if, and only if, it is local.
pub(super) fn seccomp(profile: &SeccompProfile, path: &str, problems: &mut Problems<'_>) {
    problems.one_of(
        &format!("{path}.type"),
        Some(&profile.type_),
        &["RuntimeDefault", "Unconfined", "Localhost"],
    );
    let path = format!("{path}.localhostProfile");
    match (profile.type_ == "Localhost", &profile.localhost_profile) {
        (true, None) => problems.add(&path, "required where type is Localhost"),
        (false, Some(_)) => problems.add(&path, "only where type is Localhost"),
        _ => {}
    }
}
