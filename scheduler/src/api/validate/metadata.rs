//! Rules of `metadata`, the same for every kind.

use serde_json::{Value, json};

use super::{
    checks::{Checks, IMMUTABLE, is_set, items, text},
    names,
};
use crate::api::{error::FieldError, kind::Kind};

/// All annotations of an object together.
const MOST_ANNOTATION_BYTES: usize = 256 * 1024;

pub(super) fn check(kind: &Kind, object: &Value, checks: &mut Checks) {
    let metadata = &object["metadata"];
    let name = text(metadata, "name");
    if name.is_empty() {
        checks.required("metadata.name", "name or generateName is required");
    } else {
        check_name(kind, name, checks);
    }
    let namespace = text(metadata, "namespace");
    match (kind.namespaced(), namespace.is_empty()) {
        (true, true) => checks.required("metadata.namespace", ""),
        (true, false) => {
            checks.named("metadata.namespace", namespace, names::dns_label_problem);
        }
        (false, false) => {
            checks.forbidden("metadata.namespace", "not allowed on this type");
        }
        (false, true) => {}
    }
    checks.labels("metadata.labels", &metadata["labels"]);
    let mut bytes = 0;
    for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
        checks.named(
            "metadata.annotations",
            &key.to_lowercase(),
            names::label_key_problem,
        );
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > MOST_ANNOTATION_BYTES {
        checks.add(FieldError::too_long(
            "metadata.annotations",
            MOST_ANNOTATION_BYTES,
        ));
    }
    check_owners(&metadata["ownerReferences"], checks);
    for (index, finalizer) in items(&metadata["finalizers"]) {
        let field = format!("metadata.finalizers[{index}]");
        checks.named(
            &field,
            finalizer.as_str().unwrap_or_default(),
            names::label_key_problem,
        );
    }
}

fn check_name(kind: &Kind, name: &str, checks: &mut Checks) {
    let rule = match (kind.group, kind.kind) {
        ("", "Namespace") => names::dns_label_problem,
        ("", "Service") => names::dns_1035_problem,
        _ => names::dns_subdomain_problem,
    };
    checks.named("metadata.name", name, rule);
    // A CronJob's Jobs have eleven signs more.
    if kind.kind == "CronJob" && name.len() > 52 {
        checks.invalid(
            "metadata.name",
            &json!(name),
            "must be no more than 52 characters",
        );
    }
}

fn check_owners(owners: &Value, checks: &mut Checks) {
    let mut controllers: Vec<String> = Vec::new();
    for (index, owner) in items(owners) {
        let field = format!("metadata.ownerReferences[{index}]");
        for (name, why) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "kind must not be empty"),
            ("name", "name must not be empty"),
            ("uid", "uid must not be empty"),
        ] {
            if text(owner, name).is_empty() {
                checks.invalid(&format!("{field}.{name}"), &json!(""), why);
            }
        }
        if owner["controller"] == json!(true) {
            controllers.push(format!("{}/{}", text(owner, "kind"), text(owner, "name")));
        }
    }
    if let [first, second, ..] = &controllers[..] {
        let why = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {second}"
        );
        checks.invalid("metadata.ownerReferences", owners, &why);
    }
}

pub(super) fn check_update(object: &Value, before: &Value, checks: &mut Checks) {
    let (now, was) = (&object["metadata"], &before["metadata"]);
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        if is_set(&was[field]) && now[field] != was[field] {
            checks.invalid(&format!("metadata.{field}"), &now[field], IMMUTABLE);
        }
    }
    if is_set(&was["deletionTimestamp"]) {
        let known: Vec<&Value> = items(&was["finalizers"]).map(|(_, one)| one).collect();
        let added: Vec<&str> = items(&now["finalizers"])
            .filter(|(_, one)| !known.contains(one))
            .filter_map(|(_, one)| one.as_str())
            .collect();
        if !added.is_empty() {
            checks.forbidden(
                "metadata.finalizers",
                &format!("no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"),
            );
        }
    }
}
