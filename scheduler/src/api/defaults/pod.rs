//! A pod's spec, alone or in a template.
//!
//! A template is filled in like a pod, but for what only a pod that is about to
//! run needs: requests from limits, tolerations of sick nodes, a service account.

use serde_json::{Value, json};

use super::{TOLERATION_SECONDS, fill, fill_text, inside, items, text};
use crate::manifest::quantity;

/// A pod on its own.
pub(super) fn fill_pod(pod: &mut Value) {
    let spec = inside(pod, "spec");
    fill_spec(spec);
    fill(spec, "enableServiceLinks", json!(true));
    fill_text(spec, "serviceAccountName", "default");
    fill_text(spec, "serviceAccount", "default");
    if spec["hostNetwork"] == json!(true) {
        fill_host_ports(spec);
    }
    for field in ["containers", "initContainers"] {
        for container in items(spec, field) {
            request_limits(inside(container, "resources"));
        }
    }
    tolerate_sick_nodes(spec);
}

/// A pod's spec, wherever it stands.
pub(super) fn fill_spec(spec: &mut Value) {
    fill_text(spec, "restartPolicy", "Always");
    fill_text(spec, "dnsPolicy", "ClusterFirst");
    fill_text(spec, "schedulerName", "default-scheduler");
    fill(spec, "terminationGracePeriodSeconds", json!(30));
    inside(spec, "securityContext");
    // The old name of the field follows the new one, or gives it.
    let old = text(spec, "serviceAccount").to_owned();
    if !old.is_empty() {
        fill_text(spec, "serviceAccountName", &old);
    }
    let account = text(spec, "serviceAccountName").to_owned();
    if !account.is_empty() && spec.is_object() {
        spec["serviceAccount"] = json!(account);
    }
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        for container in items(spec, field) {
            fill_container(container);
        }
    }
    for volume in items(spec, "volumes") {
        fill_volume(volume);
    }
}

fn fill_container(container: &mut Value) {
    let always = tag_of(text(container, "image")) == "latest";
    let policy = if always { "Always" } else { "IfNotPresent" };
    fill_text(container, "imagePullPolicy", policy);
    fill_text(container, "terminationMessagePath", "/dev/termination-log");
    fill_text(container, "terminationMessagePolicy", "File");
    inside(container, "resources");
    for port in items(container, "ports") {
        fill_text(port, "protocol", "TCP");
    }
    for variable in items(container, "env") {
        if let Some(source) = variable.get_mut("valueFrom") {
            fill_field_reference(source);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).filter(|probe| probe.is_object()) {
            fill_probe(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(action) = container.pointer_mut(&format!("/lifecycle/{hook}")) {
            fill_action(action);
        }
    }
}

fn fill_probe(probe: &mut Value) {
    for (field, number) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        if probe[field].is_null() || probe[field] == json!(0) {
            probe[field] = json!(number);
        }
    }
    fill_action(probe);
}

/// What a probe and a hook have in common.
fn fill_action(action: &mut Value) {
    if let Some(get) = action.get_mut("httpGet") {
        fill_text(get, "path", "/");
        fill_text(get, "scheme", "HTTP");
    }
    if let Some(grpc) = action.get_mut("grpc") {
        fill(grpc, "service", json!(""));
    }
}

fn fill_volume(volume: &mut Value) {
    let has_source = volume
        .as_object()
        .is_some_and(|fields| fields.keys().any(|field| field != "name"));
    if !has_source {
        volume["emptyDir"] = json!({});
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source) {
            fill(source, "defaultMode", json!(0o644));
        }
    }
    if let Some(path) = volume.get_mut("hostPath") {
        fill(path, "type", json!(""));
    }
    if let Some(downward) = volume.get_mut("downwardAPI") {
        items(downward, "items").for_each(fill_field_reference);
    }
    if let Some(projected) = volume.get_mut("projected") {
        for source in items(projected, "sources") {
            if let Some(token) = source.get_mut("serviceAccountToken") {
                fill(token, "expirationSeconds", json!(3600));
            }
            if let Some(downward) = source.get_mut("downwardAPI") {
                items(downward, "items").for_each(fill_field_reference);
            }
        }
    }
}

fn fill_field_reference(source: &mut Value) {
    if let Some(field) = source.get_mut("fieldRef") {
        fill_text(field, "apiVersion", "v1");
    }
    if let Some(resource) = source.get_mut("resourceFieldRef") {
        fill(resource, "divisor", json!("0"));
    }
}

/// The tag of an image; without tag and digest it is `latest`.
fn tag_of(image: &str) -> &str {
    let (name, has_digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, tag)) => tag,
        None if has_digest || image.is_empty() => "",
        None => "latest",
    }
}

/// In the host's network a container's port is the host's.
fn fill_host_ports(spec: &mut Value) {
    for field in ["containers", "initContainers"] {
        for container in items(spec, field) {
            for port in items(container, "ports") {
                if port["hostPort"].is_null() || port["hostPort"] == json!(0) {
                    port["hostPort"] = port["containerPort"].clone();
                }
            }
        }
    }
}

/// Who limits a resource and requests none of it requests the limit.
fn request_limits(resources: &mut Value) {
    let Some(limits) = resources["limits"].as_object().cloned() else {
        return;
    };
    let requests = inside(resources, "requests");
    for (resource, limit) in limits {
        fill(requests, &resource, limit);
    }
}

fn tolerate_sick_nodes(spec: &mut Value) {
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let tolerated = spec["tolerations"].as_array().is_some_and(|list| {
            list.iter().any(|one| {
                let of_key = text(one, "key") == key
                    || (text(one, "key").is_empty() && text(one, "operator") == "Exists");
                of_key && ["", "NoExecute"].contains(&text(one, "effect"))
            })
        });
        if tolerated {
            continue;
        }
        let toleration = json!({
            "key": key,
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": TOLERATION_SECONDS,
        });
        if spec.is_object() && spec["tolerations"].is_null() {
            spec["tolerations"] = json!([]);
        }
        if let Some(list) = spec.get_mut("tolerations").and_then(Value::as_array_mut) {
            list.push(toleration);
        }
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, by requests and limits.
pub(super) fn quality_of_service(pod: &Value) -> &'static str {
    let spec = &pod["spec"];
    let containers: Vec<&Value> = ["containers", "initContainers"]
        .iter()
        .filter_map(|field| spec[field].as_array())
        .flatten()
        .collect();
    let amount = |container: &Value, side: &str, resource: &str| {
        let text = container["resources"][side][resource].as_str()?;
        quantity::parse(text).ok().filter(|amount| *amount > 0)
    };
    let mut none = true;
    let mut guaranteed = !containers.is_empty();
    for container in containers {
        for resource in ["cpu", "memory"] {
            let limit = amount(container, "limits", resource);
            let request = amount(container, "requests", resource);
            none &= limit.is_none() && request.is_none();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (none, guaranteed) {
        (true, _) => "BestEffort",
        (false, true) => "Guaranteed",
        (false, false) => "Burstable",
    }
}
