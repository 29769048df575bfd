//! Rules of kinds that have few: ConfigMap, Secret, Node, Lease, PriorityClass, Event.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    checks::{Checks, is_set, items, text},
    names, pod,
};
use crate::{api::error::FieldError, placement::priority};

/// What a ConfigMap or Secret holds at most.
const MOST_BYTES: usize = 1024 * 1024;

pub(super) fn check_config_map(map: &Value, checks: &mut Checks) {
    let mut bytes = 0;
    for field in ["data", "binaryData"] {
        for (key, value) in map[field].as_object().into_iter().flatten() {
            let path = format!("{field}[{key}]");
            checks.named(&path, key, names::config_key_problem);
            if field == "binaryData" && !map["data"][key].is_null() {
                checks.invalid(&path, &json!(key), "duplicate of key present in data");
            }
            bytes += size(field == "binaryData", value);
        }
    }
    if bytes > MOST_BYTES {
        checks.add(FieldError::too_long("", MOST_BYTES));
    }
}

pub(super) fn check_secret(secret: &Value, checks: &mut Checks) {
    let mut bytes = 0;
    for (key, value) in secret["data"].as_object().into_iter().flatten() {
        checks.named(&format!("data[{key}]"), key, names::config_key_problem);
        bytes += size(true, value);
    }
    if bytes > MOST_BYTES {
        checks.add(FieldError::too_long("data", MOST_BYTES));
    }
    let needed: &[&str] = match text(secret, "type") {
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in needed {
        if secret["data"][key].is_null() {
            checks.required(&format!("data[{key}]"), "");
        }
    }
}

/// Bytes of a value, which base64 makes a third longer.
fn size(encoded: bool, value: &Value) -> usize {
    let length = value.as_str().map_or(0, str::len);
    if encoded { length / 4 * 3 } else { length }
}

/// What says of itself that it never changes does not.
pub(super) fn check_frozen(object: &Value, before: &Value, checks: &mut Checks) {
    if before["immutable"] != json!(true) {
        return;
    }
    for field in ["immutable", "data", "binaryData"] {
        if object[field] != before[field] {
            checks.forbidden(field, "field is immutable when `immutable` is set");
        }
    }
}

pub(super) fn check_node(node: &Value, checks: &mut Checks) {
    let mut seen = BTreeSet::new();
    for (index, taint) in items(&node["spec"]["taints"]) {
        let field = format!("spec.taints[{index}]");
        let (key, effect) = (text(taint, "key"), text(taint, "effect"));
        checks.named(&format!("{field}.key"), key, names::label_key_problem);
        checks.named(
            &format!("{field}.value"),
            text(taint, "value"),
            names::label_value_problem,
        );
        if effect.is_empty() {
            checks.required(&format!("{field}.effect"), "");
        }
        pod::check_effect(&field, taint, checks);
        if !seen.insert((key, effect)) {
            checks.add(FieldError::duplicate(field, taint.clone()));
        }
    }
}

pub(super) fn check_node_update(node: &Value, before: &Value, checks: &mut Checks) {
    let (now, was) = (&node["spec"], &before["spec"]);
    if is_set(&was["podCIDRs"]) && now["podCIDRs"] != was["podCIDRs"] {
        checks.forbidden(
            "spec.podCIDRs",
            "node updates may not change podCIDR except from \"\" to valid",
        );
    }
    if is_set(&was["providerID"]) && now["providerID"] != was["providerID"] {
        checks.forbidden(
            "spec.providerID",
            "node updates may not change providerID except from \"\" to valid",
        );
    }
}

pub(super) fn check_lease(lease: &Value, checks: &mut Checks) {
    let spec = &lease["spec"];
    checks.positive("spec.leaseDurationSeconds", &spec["leaseDurationSeconds"]);
    checks.not_negative("spec.leaseTransitions", &spec["leaseTransitions"]);
}

/// Priorities above are the system's own.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

pub(super) fn check_priority_class(class: &Value, checks: &mut Checks) {
    let name = text(&class["metadata"], "name");
    let system = priority::BUILT_IN.iter().any(|(system, _)| *system == name);
    if name.starts_with("system-") && !system {
        checks.forbidden(
            "metadata.name",
            "priority class names with 'system-' prefix are reserved for system use only",
        );
    }
    if !system
        && class["value"]
            .as_i64()
            .is_some_and(|value| value > HIGHEST_USER_PRIORITY)
    {
        checks.forbidden(
            "value",
            &format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"),
        );
    }
    checks.one_of(
        "preemptionPolicy",
        &class["preemptionPolicy"],
        &["Never", "PreemptLowerPriority"],
    );
}

pub(super) fn check_priority_class_update(class: &Value, before: &Value, checks: &mut Checks) {
    for field in ["value", "preemptionPolicy"] {
        if class[field] != before[field] {
            checks.forbidden(field, "may not be changed in an update.");
        }
    }
}

/// An event stands in the namespace of what it is about, and one about what has no
/// namespace in one of the system's.
pub(super) fn check_event(event: &Value, checks: &mut Checks) {
    for field in ["involvedObject", "regarding"] {
        if event[field].is_null() {
            continue;
        }
        let about = text(&event[field], "namespace");
        let here = text(&event["metadata"], "namespace");
        let fits =
            about == here || (about.is_empty() && ["default", "kube-system"].contains(&here));
        if !fits {
            checks.invalid(
                &format!("{field}.namespace"),
                &json!(about),
                "does not match event.namespace",
            );
        }
    }
}
