//! The schemas of a document: types with the facts of merging.
//!
//! They are those of `k8s-openapi`, in the dialect of the document's version, and
//! with `x-kubernetes-*` for what the types cannot say: which kinds they are, how
//! their lists are merged. `kubectl apply` computes its patches by them.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Format;
use crate::api::{
    kind::KINDS,
    schema::{
        self,
        facts::{ATOMIC_TYPES, FACTS, KEY_DEFAULTS, Merge},
    },
};

/// Types that are spoken beside the served kinds, as group, version, kind.
const SPOKEN: [(&str, &str, &str); 3] = [
    ("", "v1", "Binding"),
    ("policy", "v1", "Eviction"),
    ("autoscaling", "v1", "Scale"),
];

/// The schemas of all types, by name.
pub(super) fn all(format: Format) -> Map<String, Value> {
    schema::definitions()
        .into_iter()
        .map(|(name, mut schema)| {
            translate(format, &mut schema);
            add_facts(&name, &mut schema);
            (name, schema)
        })
        .collect()
}

/// The schemas that the kinds of one group reach.
pub(super) fn reached(
    schemas: &Map<String, Value>,
    group: &str,
    version: &str,
) -> Map<String, Value> {
    let mut names = BTreeSet::new();
    let mut open: Vec<String> = KINDS
        .iter()
        .filter(|kind| kind.group == group && kind.version == version)
        .map(|kind| format!("io.k8s.{}", schema::definition(kind)))
        .collect();
    open.push(DELETE_OPTIONS.to_owned());
    open.push(STATUS.to_owned());
    if group.is_empty() {
        open.push("io.k8s.api.core.v1.Binding".to_owned());
        open.push("io.k8s.api.policy.v1.Eviction".to_owned());
    }
    if group == "apps" {
        open.push("io.k8s.api.autoscaling.v1.Scale".to_owned());
    }
    while let Some(name) = open.pop() {
        if let Some(schema) = schemas.get(&name)
            && names.insert(name)
        {
            collect_references(schema, &mut open);
        }
    }
    let found = names.into_iter().filter_map(|name| {
        let schema = schemas.get(&name)?.clone();
        Some((name, schema))
    });
    found.collect()
}

/// The type of a deletion's body.
pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
/// The type of a failure.
pub(super) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";

/// A reference to a schema in a document.
pub(super) fn reference(format: Format, name: &str) -> Value {
    match format {
        Format::V2 => json!({"$ref": format!("#/definitions/{name}")}),
        Format::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
    }
}

fn collect_references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            for (field, value) in fields {
                match (field.as_str(), value) {
                    ("$ref", Value::String(path)) => {
                        found.extend(path.rsplit('/').next().map(str::to_owned));
                    }
                    (_, value) => collect_references(value, found),
                }
            }
        }
        Value::Array(values) => values
            .iter()
            .for_each(|value| collect_references(value, found)),
        _ => {}
    }
}

/// From the dialect of the types' schemas to the document's.
fn translate(format: Format, schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else {
        return;
    };
    if let Some(Value::String(path)) = fields.remove("$ref") {
        let name = path.trim_start_matches("#/$defs/");
        let reference = reference(format, name);
        match format {
            // Version 2 ignores what stands beside a reference, and readers know.
            Format::V2 => {
                fields.insert("$ref".to_owned(), reference["$ref"].clone());
            }
            // Version 3 forbids it, so the reference goes one step down.
            Format::V3 => {
                fields.insert("allOf".to_owned(), json!([reference]));
            }
        }
    }
    if fields.remove("x-kubernetes-int-or-string").is_some() {
        // Quantities are numbers or texts; the rest is whole numbers or texts.
        let quantity = fields.get("description").and_then(Value::as_str);
        let quantity = quantity.is_some_and(|text| text.starts_with("Quantity is"));
        let (number, named) = match quantity {
            true => ("number", None),
            false => ("integer", Some("int-or-string")),
        };
        match format {
            Format::V2 => fields.insert("type".to_owned(), json!("string")),
            Format::V3 => fields.insert(
                "oneOf".to_owned(),
                json!([{"type": number}, {"type": "string"}]),
            ),
        };
        if let Some(named) = named {
            fields.insert("format".to_owned(), json!(named));
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(inner) {
            translate(format, inner);
        }
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties
            .values_mut()
            .for_each(|property| translate(format, property));
    }
}

/// Adds what a type cannot say about itself.
fn add_facts(name: &str, schema: &mut Value) {
    let short = name.strip_prefix("io.k8s.").unwrap_or(name);
    if ATOMIC_TYPES.contains(&short) {
        schema["x-kubernetes-map-type"] = json!("atomic");
    }
    if let Some(kinds) = kinds_of(short) {
        schema["x-kubernetes-group-version-kind"] = kinds;
    }
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    for (field, property) in properties {
        let fact = FACTS
            .iter()
            .find(|fact| fact.definition == short && fact.field == field);
        match fact.map(|fact| fact.list).unwrap_or_default() {
            Merge::AsUsual if property["type"] == "array" => {
                property["x-kubernetes-list-type"] = json!("atomic");
            }
            Merge::AsUsual => {}
            Merge::Atomic => property["x-kubernetes-map-type"] = json!("atomic"),
            Merge::Set => property["x-kubernetes-list-type"] = json!("set"),
            Merge::Map(keys) => {
                property["x-kubernetes-list-type"] = json!("map");
                property["x-kubernetes-list-map-keys"] = json!(keys);
            }
        }
        let patch = fact.map(|fact| fact.patch).unwrap_or_default();
        let strategy = match (patch.merge, patch.retain_keys, patch.replace) {
            (Some(_), true, _) => "merge,retainKeys",
            (Some(_), false, _) => "merge",
            (None, true, _) => "retainKeys",
            (None, false, true) => "replace",
            (None, false, false) => "",
        };
        if !strategy.is_empty() {
            property["x-kubernetes-patch-strategy"] = json!(strategy);
        }
        if let Some(key) = patch.merge.filter(|key| !key.is_empty()) {
            property["x-kubernetes-patch-merge-key"] = json!(key);
        }
        let default = KEY_DEFAULTS
            .iter()
            .find(|(definition, key, _)| *definition == short && *key == field.as_str());
        if let Some((_, _, default)) = default {
            property["default"] = json!(default);
        }
    }
}

/// The kinds whose objects are of a type.
fn kinds_of(short: &str) -> Option<Value> {
    let served = KINDS
        .iter()
        .find(|kind| schema::definition(kind) == short)
        .map(|kind| (kind.group, kind.version, kind.kind));
    let spoken = || {
        let known = SPOKEN.iter().find(|(group, version, kind)| {
            let group = if group.is_empty() { "core" } else { group };
            short == format!("api.{group}.{version}.{kind}")
        });
        known.copied()
    };
    let (group, version, kind) = served.or_else(spoken)?;
    Some(json!([{"group": group, "version": version, "kind": kind}]))
}
