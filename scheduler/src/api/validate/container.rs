//! Rules of one container.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    checks::{Checks, is_set, items, text},
    names,
};
use crate::{api::error::FieldError, manifest::quantity};

/// Where a container stands.
pub(super) struct Place<'a> {
    pub field: &'a str,
    /// Whether it runs before the others.
    pub initial: bool,
    pub host_network: bool,
    /// The pod's `restartPolicy`.
    pub restart_policy: &'a str,
    /// The names of the pod's volumes.
    pub volumes: &'a BTreeSet<String>,
}

/// Host ports that the pod's containers hold: protocol, address, number.
pub(super) type HostPorts = BTreeSet<(String, String, i64)>;

pub(super) fn check(
    place: &Place<'_>,
    one: &Value,
    host_ports: &mut HostPorts,
    checks: &mut Checks,
) {
    let at = |name: &str| format!("{}.{name}", place.field);
    match text(one, "name") {
        "" => checks.required(&at("name"), ""),
        name => checks.named(&at("name"), name, names::dns_label_problem),
    }
    let image = text(one, "image");
    if image.is_empty() {
        checks.required(&at("image"), "");
    } else if image.trim() != image {
        checks.invalid(
            &at("image"),
            &one["image"],
            "must not have leading or trailing whitespace",
        );
    }
    checks.one_of(
        &at("imagePullPolicy"),
        &one["imagePullPolicy"],
        &["Always", "IfNotPresent", "Never"],
    );
    checks.one_of(
        &at("terminationMessagePolicy"),
        &one["terminationMessagePolicy"],
        &["File", "FallbackToLogsOnError"],
    );
    check_ports(place, &one["ports"], host_ports, checks);
    check_environment(place.field, one, checks);
    check_mounts(place, &one["volumeMounts"], checks);
    check_resources(&at("resources"), &one["resources"], checks);
    check_resize_policy(place, one, checks);
    check_security(&at("securityContext"), &one["securityContext"], checks);
    let sidecar = one["restartPolicy"] == "Always";
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let field = at(probe);
        match &one[probe] {
            Value::Null => {}
            _ if place.initial && !sidecar => checks.forbidden(
                &field,
                "may not be set for init containers without restartPolicy=Always",
            ),
            value => check_probe(&field, value, probe != "readinessProbe", checks),
        }
    }
    for hook in ["postStart", "preStop"] {
        let action = &one["lifecycle"][hook];
        if !action.is_null() {
            check_action(&at(&format!("lifecycle.{hook}")), action, HOOKS, checks);
        }
    }
    if place.initial && !sidecar && !one["lifecycle"].is_null() {
        checks.forbidden(
            &at("lifecycle"),
            "may not be set for init containers without restartPolicy=Always",
        );
    }
}

fn check_ports(place: &Place<'_>, ports: &Value, host_ports: &mut HostPorts, checks: &mut Checks) {
    let mut seen = BTreeSet::new();
    for (index, port) in items(ports) {
        let at = |name: &str| format!("{}.ports[{index}].{name}", place.field);
        let name = text(port, "name");
        if !name.is_empty() {
            checks.named(&at("name"), name, names::port_name_problem);
            if !seen.insert(name) {
                checks.add(FieldError::duplicate(at("name"), name));
            }
        }
        let number = port["containerPort"].as_i64().unwrap_or(0);
        if number == 0 {
            checks.required(&at("containerPort"), "");
        }
        checks.port(
            &at("containerPort"),
            if number == 0 {
                &Value::Null
            } else {
                &port["containerPort"]
            },
        );
        checks.one_of(&at("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
        let host_port = port["hostPort"].as_i64().unwrap_or(0);
        if host_port == 0 {
            continue;
        }
        checks.port(&at("hostPort"), &port["hostPort"]);
        if place.host_network && host_port != number {
            checks.invalid(
                &at("containerPort"),
                &port["containerPort"],
                "must match `hostPort` when `hostNetwork` is true",
            );
        }
        let key = (
            text(port, "protocol").to_owned(),
            text(port, "hostIP").to_owned(),
            host_port,
        );
        // Containers that run one after another may share a port.
        if !place.initial && !host_ports.insert(key.clone()) {
            let value = format!("{}/{}/{}", key.0, key.1, key.2);
            checks.add(FieldError::duplicate(at("hostPort"), value));
        }
    }
}

fn check_environment(field: &str, one: &Value, checks: &mut Checks) {
    for (index, variable) in items(&one["env"]) {
        let field = format!("{field}.env[{index}]");
        match text(variable, "name") {
            "" => checks.required(&format!("{field}.name"), ""),
            name => checks.named(&format!("{field}.name"), name, names::variable_name_problem),
        }
        let source = &variable["valueFrom"];
        if source.is_null() {
            continue;
        }
        let field = format!("{field}.valueFrom");
        let sources = source.as_object().map_or(0, serde_json::Map::len);
        if sources == 0 {
            checks.invalid(&field, source, "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`");
        } else if sources > 1 {
            checks.invalid(
                &field,
                source,
                "may not have more than one field specified at a time",
            );
        }
        if !text(variable, "value").is_empty() {
            checks.invalid(
                &field,
                source,
                "may not be specified when `value` is not empty",
            );
        }
        for kind in ["configMapKeyRef", "secretKeyRef"] {
            let reference = &source[kind];
            if reference.is_null() {
                continue;
            }
            for name in ["name", "key"] {
                if text(reference, name).is_empty() {
                    checks.required(&format!("{field}.{kind}.{name}"), "");
                }
            }
        }
        if !source["fieldRef"].is_null() && text(&source["fieldRef"], "fieldPath").is_empty() {
            checks.required(&format!("{field}.fieldRef.fieldPath"), "");
        }
        if !source["resourceFieldRef"].is_null()
            && text(&source["resourceFieldRef"], "resource").is_empty()
        {
            checks.required(&format!("{field}.resourceFieldRef.resource"), "");
        }
    }
    for (index, source) in items(&one["envFrom"]) {
        let field = format!("{field}.envFrom[{index}]");
        match (
            source["configMapRef"].is_null(),
            source["secretRef"].is_null(),
        ) {
            (true, true) => checks.invalid(
                &field,
                source,
                "must specify one of: `configMapRef` or `secretRef`",
            ),
            (false, false) => checks.invalid(
                &field,
                source,
                "may not have more than one field specified at a time",
            ),
            _ => {}
        }
        for kind in ["configMapRef", "secretRef"] {
            if !source[kind].is_null() && text(&source[kind], "name").is_empty() {
                checks.required(&format!("{field}.{kind}.name"), "");
            }
        }
    }
}

fn check_mounts(place: &Place<'_>, mounts: &Value, checks: &mut Checks) {
    let mut paths = BTreeSet::new();
    for (index, mount) in items(mounts) {
        let at = |name: &str| format!("{}.volumeMounts[{index}].{name}", place.field);
        let name = text(mount, "name");
        if name.is_empty() {
            checks.required(&at("name"), "");
        } else if !place.volumes.contains(name) {
            checks.add(FieldError::not_found(at("name"), name));
        }
        let path = text(mount, "mountPath");
        if path.is_empty() {
            checks.required(&at("mountPath"), "");
        } else if !paths.insert(path) {
            checks.invalid(&at("mountPath"), &mount["mountPath"], "must be unique");
        }
        let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        if !sub.is_empty() && !expression.is_empty() {
            checks.invalid(
                &at("subPathExpr"),
                &mount["subPathExpr"],
                "subPathExpr and subPath are mutually exclusive",
            );
        }
        for (field, path) in [("subPath", sub), ("subPathExpr", expression)] {
            check_inside(&at(field), path, checks);
        }
        checks.one_of(
            &at("mountPropagation"),
            &mount["mountPropagation"],
            &["Bidirectional", "HostToContainer", "None"],
        );
    }
}

/// A path below something that it must not leave.
pub(super) fn check_inside(field: &str, path: &str, checks: &mut Checks) {
    if path.starts_with('/') {
        checks.invalid(field, &json!(path), "must be a relative path");
    }
    if path.split('/').any(|step| step == "..") {
        checks.invalid(field, &json!(path), "must not contain '..'");
    }
}

pub(super) fn check_resources(field: &str, resources: &Value, checks: &mut Checks) {
    for side in ["limits", "requests"] {
        for (resource, amount) in resources[side].as_object().into_iter().flatten() {
            let field = format!("{field}.{side}[{resource}]");
            let standard = ["cpu", "memory", "ephemeral-storage"].contains(&resource.as_str())
                || resource.starts_with("hugepages-");
            if !standard {
                checks.named(&field, resource, names::label_key_problem);
                if !resource.contains('/') {
                    checks.invalid(
                        &field,
                        &json!(resource),
                        "must be a standard resource type or fully qualified",
                    );
                }
            }
            if parse(amount).is_some_and(|amount| amount < 0) {
                checks.invalid(&field, amount, "must be greater than or equal to 0");
            }
        }
    }
    let field = format!("{field}.requests");
    for (resource, request) in resources["requests"].as_object().into_iter().flatten() {
        let limit = &resources["limits"][resource];
        let extended = resource.contains('/');
        match (parse(request), parse(limit)) {
            (Some(wanted), Some(most)) if extended && wanted != most => checks.invalid(
                &field,
                request,
                &format!(
                    "must be equal to {resource} limit of {}",
                    limit.as_str().unwrap_or_default()
                ),
            ),
            (Some(wanted), Some(most)) if wanted > most => checks.invalid(
                &field,
                request,
                &format!(
                    "must be less than or equal to {resource} limit of {}",
                    limit.as_str().unwrap_or_default()
                ),
            ),
            (Some(_), None) if extended => {
                checks.required(
                    &field.replace(".requests", ".limits"),
                    "Limit must be set for non overcommitable resources",
                );
            }
            _ => {}
        }
    }
}

fn check_resize_policy(place: &Place<'_>, one: &Value, checks: &mut Checks) {
    let field = format!("{}.resizePolicy", place.field);
    if place.initial && one["restartPolicy"] != "Always" && is_set(&one["resizePolicy"]) {
        checks.invalid(
            &field,
            &one["resizePolicy"],
            "must not be set for init containers",
        );
    }
    let mut seen = BTreeSet::new();
    for (index, policy) in items(&one["resizePolicy"]) {
        let at = |name: &str| format!("{field}[{index}].{name}");
        let (resource, restart) = (text(policy, "resourceName"), text(policy, "restartPolicy"));
        if resource.is_empty() {
            checks.required(&at("resourceName"), "");
        }
        if restart.is_empty() {
            checks.required(&at("restartPolicy"), "");
        }
        checks.one_of(
            &at("resourceName"),
            &policy["resourceName"],
            &["cpu", "memory"],
        );
        checks.one_of(
            &at("restartPolicy"),
            &policy["restartPolicy"],
            &["NotRequired", "RestartContainer"],
        );
        if place.restart_policy == "Never" && restart == "RestartContainer" {
            checks.invalid(
                &at("restartPolicy"),
                &policy["restartPolicy"],
                "must be 'NotRequired' when `restartPolicy` is 'Never'",
            );
        }
        if !seen.insert(resource) {
            checks.add(FieldError::duplicate(format!("{field}[{index}]"), resource));
        }
    }
}

fn parse(amount: &Value) -> Option<i128> {
    quantity::parse(amount.as_str()?).ok()
}

fn check_security(field: &str, security: &Value, checks: &mut Checks) {
    for name in ["runAsUser", "runAsGroup"] {
        let number = &security[name];
        if number
            .as_i64()
            .is_some_and(|number| !(0..=i64::from(i32::MAX)).contains(&number))
        {
            checks.invalid(
                &format!("{field}.{name}"),
                number,
                "must be between 0 and 2147483647, inclusive",
            );
        }
    }
    let escalation = format!("{field}.allowPrivilegeEscalation");
    if security["allowPrivilegeEscalation"] == json!(false) {
        if security["privileged"] == json!(true) {
            checks.invalid(
                &escalation,
                &json!(false),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        let added = &security["capabilities"]["add"];
        if items(added).any(|(_, one)| one == "SYS_ADMIN" || one == "CAP_SYS_ADMIN") {
            checks.invalid(
                &escalation,
                &json!(false),
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
    checks.one_of(
        &format!("{field}.procMount"),
        &security["procMount"],
        &["Default", "Unmasked"],
    );
}

/// What a probe may do.
const PROBES: &[&str] = &["exec", "grpc", "httpGet", "tcpSocket"];
/// What a hook may do.
const HOOKS: &[&str] = &["exec", "httpGet", "sleep", "tcpSocket"];

fn check_probe(field: &str, probe: &Value, once: bool, checks: &mut Checks) {
    check_action(field, probe, PROBES, checks);
    for name in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
        "terminationGracePeriodSeconds",
    ] {
        checks.not_negative(&format!("{field}.{name}"), &probe[name]);
    }
    if once
        && probe["successThreshold"]
            .as_i64()
            .is_some_and(|number| number > 1)
    {
        checks.invalid(
            &format!("{field}.successThreshold"),
            &probe["successThreshold"],
            "must be 1",
        );
    }
}

/// A probe or hook does exactly one thing.
fn check_action(field: &str, action: &Value, kinds: &[&str], checks: &mut Checks) {
    let found: Vec<&&str> = kinds
        .iter()
        .filter(|kind| !action[**kind].is_null())
        .collect();
    match found.len() {
        0 => checks.required(field, "must specify a handler type"),
        1 => {}
        _ => {
            for kind in &found[1..] {
                checks.forbidden(
                    &format!("{field}.{kind}"),
                    "may not specify more than 1 handler type",
                );
            }
        }
    }
    let exec = &action["exec"];
    if !exec.is_null() && !is_set(&exec["command"]) {
        checks.required(&format!("{field}.exec.command"), "");
    }
    let get = &action["httpGet"];
    if !get.is_null() {
        if text(get, "path").is_empty() {
            checks.required(&format!("{field}.httpGet.path"), "");
        }
        checks.port_or_name(&format!("{field}.httpGet.port"), &get["port"]);
        checks.one_of(
            &format!("{field}.httpGet.scheme"),
            &get["scheme"],
            &["HTTP", "HTTPS"],
        );
    }
    if !action["tcpSocket"].is_null() {
        checks.port_or_name(
            &format!("{field}.tcpSocket.port"),
            &action["tcpSocket"]["port"],
        );
    }
    checks.port(&format!("{field}.grpc.port"), &action["grpc"]["port"]);
    checks.not_negative(
        &format!("{field}.sleep.seconds"),
        &action["sleep"]["seconds"],
    );
}
