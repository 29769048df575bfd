//! Rules of a pod's volumes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    checks::{Checks, items, text},
    container::check_inside,
    names,
};
use crate::api::error::FieldError;

/// What a `hostPath` may be checked for.
const HOST_PATHS: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

/// Checks all volumes and gives their names.
pub(super) fn check_all(field: &str, volumes: &Value, checks: &mut Checks) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (index, volume) in items(volumes) {
        let field = format!("{field}[{index}]");
        let name = text(volume, "name");
        if name.is_empty() {
            checks.required(&format!("{field}.name"), "");
        } else {
            checks.named(&format!("{field}.name"), name, names::dns_label_problem);
            if !names.insert(name.to_owned()) {
                checks.add(FieldError::duplicate(format!("{field}.name"), name));
            }
        }
        check_source(&field, volume, checks);
    }
    names
}

fn check_source(field: &str, volume: &Value, checks: &mut Checks) {
    let sources: Vec<&String> = volume
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
        .filter(|name| *name != "name")
        .collect();
    if sources.is_empty() {
        checks.required(field, "must specify a volume type");
    }
    for extra in sources.iter().skip(1) {
        checks.forbidden(
            &format!("{field}.{extra}"),
            "may not specify more than 1 volume type",
        );
    }
    let host = &volume["hostPath"];
    if !host.is_null() {
        let path = text(host, "path");
        if path.is_empty() {
            checks.required(&format!("{field}.hostPath.path"), "");
        }
        if path.split('/').any(|step| step == "..") {
            checks.invalid(
                &format!("{field}.hostPath.path"),
                &host["path"],
                "must not contain '..'",
            );
        }
        checks.one_of(&format!("{field}.hostPath.type"), &host["type"], HOST_PATHS);
    }
    for (source, name) in [("configMap", "name"), ("secret", "secretName")] {
        if !volume[source].is_null() && text(&volume[source], name).is_empty() {
            checks.required(&format!("{field}.{source}.{name}"), "");
        }
        check_files(&format!("{field}.{source}"), &volume[source], checks);
    }
    check_files(
        &format!("{field}.downwardAPI"),
        &volume["downwardAPI"],
        checks,
    );
    let projected = &volume["projected"];
    check_mode(
        &format!("{field}.projected.defaultMode"),
        &projected["defaultMode"],
        checks,
    );
    for (index, source) in items(&projected["sources"]) {
        let field = format!("{field}.projected.sources[{index}]");
        for kind in ["configMap", "secret"] {
            if !source[kind].is_null() && text(&source[kind], "name").is_empty() {
                checks.required(&format!("{field}.{kind}.name"), "");
            }
            check_files(&format!("{field}.{kind}"), &source[kind], checks);
        }
        check_files(
            &format!("{field}.downwardAPI"),
            &source["downwardAPI"],
            checks,
        );
    }
}

/// The files that a source is laid out as.
fn check_files(field: &str, source: &Value, checks: &mut Checks) {
    check_mode(
        &format!("{field}.defaultMode"),
        &source["defaultMode"],
        checks,
    );
    for (index, item) in items(&source["items"]) {
        let field = format!("{field}.items[{index}]");
        let reads_a_field = !item["fieldRef"].is_null() || !item["resourceFieldRef"].is_null();
        if text(item, "key").is_empty() && !reads_a_field {
            checks.required(&format!("{field}.key"), "");
        }
        match text(item, "path") {
            "" => checks.required(&format!("{field}.path"), ""),
            path => check_inside(&format!("{field}.path"), path, checks),
        }
        check_mode(&format!("{field}.mode"), &item["mode"], checks);
    }
}

fn check_mode(field: &str, mode: &Value, checks: &mut Checks) {
    if mode
        .as_i64()
        .is_some_and(|mode| !(0..=0o777).contains(&mode))
    {
        checks.invalid(
            field,
            mode,
            "must be a number between 0 and 0777 (octal), both inclusive",
        );
    }
}
