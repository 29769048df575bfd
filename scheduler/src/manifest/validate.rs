//! Rules that no schema can say: names, ports, references between fields.
//!
//! Every rule adds to one list and none stops the others, so that a person
//! mends a manifest in one round. The rules are those of Kubernetes'
//! `pkg/apis/core/validation`, for the fields that berth honours.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        batch::v1::Job,
        core::v1::{ConfigMap, Pod, PodTemplateSpec, Secret},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{Position, Problem};

/// Rules of one container.
mod container;
/// Rules of a pod's spec.
mod pod;
/// Rules of one volume.
mod volume;

/// A kind whose rules are known.
pub(super) trait Validate {
    /// Adds every broken rule to `problems`.
    fn validate(&self, problems: &mut Problems<'_>);
}

/// Where the fields of one document stand.
#[derive(Debug)]
pub(super) struct Places {
    document: Position,
    fields: BTreeMap<String, Position>,
}

impl Places {
    pub(super) fn new(document: Position, fields: BTreeMap<String, Position>) -> Places {
        Places { document, fields }
    }

    /// The place of a field, or of the nearest thing around it.
    fn find(&self, path: &str) -> Position {
        let mut path = path;
        loop {
            if let Some(position) = self.fields.get(path) {
                return *position;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.document,
            }
        }
    }
}

/// The broken rules of one document.
#[derive(Debug)]
pub(super) struct Problems<'a> {
    places: &'a Places,
    pub(super) found: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(places: &'a Places) -> Problems<'a> {
        Problems {
            places,
            found: Vec::new(),
        }
    }

    fn add(&mut self, path: &str, message: impl Into<String>) {
        self.found.push(Problem {
            position: self.places.find(path),
            path: path.to_owned(),
            message: message.into(),
        });
    }

    /// Adds `message` when `broken`.
    fn add_if(&mut self, broken: bool, path: &str, message: &str) {
        if broken {
            self.add(path, message);
        }
    }

    /// A word that must be one of a few.
    fn one_of(&mut self, path: &str, value: Option<&str>, allowed: &[&str]) {
        if let Some(value) = value
            && !allowed.contains(&value)
        {
            self.add(
                path,
                format!("expected one of {}, found {value:?}", allowed.join(", ")),
            );
        }
    }

    /// A name that may stand only once in its list.
    fn unique<'name>(&mut self, path: &str, name: &'name str, seen: &mut BTreeSet<&'name str>) {
        if !seen.insert(name) {
            self.add(path, format!("{name:?} is used twice"));
        }
    }

    /// A number within limits.
    fn range(&mut self, path: &str, value: Option<i64>, allowed: std::ops::RangeInclusive<i64>) {
        if let Some(value) = value
            && !allowed.contains(&value)
        {
            self.add(
                path,
                format!(
                    "expected {} to {}, found {value}",
                    allowed.start(),
                    allowed.end()
                ),
            );
        }
    }

    fn port(&mut self, path: &str, value: Option<i32>) {
        self.range(path, value.map(i64::from), 1..=65535);
    }

    /// A name made of lower-case letters, digits and dashes (RFC 1123).
    fn label(&mut self, path: &str, name: &str) {
        if !is_label(name) {
            self.add(path, format!(
                "{name:?} is not a name: expected at most 63 lower-case letters, digits and `-`, \
                 beginning and ending with a letter or digit"
            ));
        }
    }

    /// Labels joined by dots.
    fn subdomain(&mut self, path: &str, name: &str) {
        if !is_subdomain(name) {
            self.add(path, format!(
                "{name:?} is not a name: expected at most 253 lower-case letters, digits, `-` and \
                 `.`, beginning and ending with a letter or digit"
            ));
        }
    }
}

fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| inner(*byte) || *byte == b'-')
        && bytes.first().is_some_and(|byte| inner(*byte))
        && bytes.last().is_some_and(|byte| inner(*byte))
}

fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}

/// `a.b/c` of a label's or annotation's key; the prefix may be left out.
fn is_qualified_name(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    prefix.is_none_or(is_subdomain) && !name.is_empty() && is_label_value(name)
}

/// Letters, digits, `-`, `_`, `.`; at most 63, framed by letters or digits.
fn is_label_value(value: &str) -> bool {
    value.len() <= 63
        && value
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && value
            .bytes()
            .next()
            .is_none_or(|byte| byte.is_ascii_alphanumeric())
        && value
            .bytes()
            .last()
            .is_none_or(|byte| byte.is_ascii_alphanumeric())
}

impl Validate for Pod {
    fn validate(&self, problems: &mut Problems<'_>) {
        metadata(&self.metadata, problems);
        match &self.spec {
            Some(spec) => pod::validate(spec, "spec", problems),
            None => problems.add("spec", "required field is missing"),
        }
    }
}

impl Validate for Deployment {
    fn validate(&self, problems: &mut Problems<'_>) {
        metadata(&self.metadata, problems);
        let spec = &self.spec;
        problems.range("spec.replicas", spec.replicas.map(i64::from), 0..=1000);
        template(&spec.template, problems);
        let restart = spec
            .template
            .spec
            .as_ref()
            .and_then(|pod| pod.restart_policy.as_deref());
        problems.one_of("spec.template.spec.restartPolicy", restart, &["Always"]);
        let labels = spec
            .template
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.labels.as_ref());
        let wanted = spec.selector.match_labels.iter().flatten();
        for (key, value) in wanted {
            let has = labels.and_then(|labels| labels.get(key));
            if has != Some(value) {
                let path = format!("spec.selector.matchLabels[{key}]");
                problems.add(
                    &path,
                    format!("the template's labels have no {key}: {value}"),
                );
            }
        }
        let empty = spec
            .selector
            .match_labels
            .as_ref()
            .is_none_or(BTreeMap::is_empty)
            && spec
                .selector
                .match_expressions
                .as_ref()
                .is_none_or(Vec::is_empty);
        problems.add_if(
            empty,
            "spec.selector",
            "selects nothing; expected matchLabels",
        );
    }
}

impl Validate for Job {
    fn validate(&self, problems: &mut Problems<'_>) {
        metadata(&self.metadata, problems);
        let Some(spec) = &self.spec else {
            return problems.add("spec", "required field is missing");
        };
        template(&spec.template, problems);
        let restart = spec
            .template
            .spec
            .as_ref()
            .and_then(|pod| pod.restart_policy.as_deref());
        problems.one_of(
            "spec.template.spec.restartPolicy",
            restart,
            &["OnFailure", "Never"],
        );
        let at_least_zero = 0..=i64::from(i32::MAX);
        problems.range(
            "spec.completions",
            spec.completions.map(i64::from),
            at_least_zero.clone(),
        );
        problems.range(
            "spec.parallelism",
            spec.parallelism.map(i64::from),
            0..=1000,
        );
        problems.range(
            "spec.backoffLimit",
            spec.backoff_limit.map(i64::from),
            at_least_zero.clone(),
        );
        problems.range(
            "spec.ttlSecondsAfterFinished",
            spec.ttl_seconds_after_finished.map(i64::from),
            at_least_zero,
        );
        problems.range(
            "spec.activeDeadlineSeconds",
            spec.active_deadline_seconds,
            1..=i64::from(i32::MAX),
        );
        let mode = spec.completion_mode.as_deref();
        problems.one_of("spec.completionMode", mode, &["NonIndexed", "Indexed"]);
        problems.add_if(
            mode == Some("Indexed") && spec.completions.is_none(),
            "spec.completions",
            "required where completionMode is Indexed",
        );
    }
}

impl Validate for ConfigMap {
    fn validate(&self, problems: &mut Problems<'_>) {
        metadata(&self.metadata, problems);
        data_keys("data", self.data.iter().flat_map(BTreeMap::keys), problems);
        data_keys(
            "binaryData",
            self.binary_data.iter().flat_map(BTreeMap::keys),
            problems,
        );
        let binary = self.binary_data.iter().flat_map(BTreeMap::keys);
        for key in binary.filter(|key| {
            self.data
                .as_ref()
                .is_some_and(|data| data.contains_key(*key))
        }) {
            problems.add(&format!("binaryData[{key}]"), "stands in data too");
        }
    }
}

impl Validate for Secret {
    fn validate(&self, problems: &mut Problems<'_>) {
        metadata(&self.metadata, problems);
        data_keys("data", self.data.iter().flat_map(BTreeMap::keys), problems);
        let has = |key: &str| {
            self.data
                .as_ref()
                .is_some_and(|data| data.contains_key(key))
        };
        let needed = match self.type_.as_deref() {
            Some("kubernetes.io/dockerconfigjson") => ".dockerconfigjson",
            Some("kubernetes.io/dockercfg") => ".dockercfg",
            _ => return,
        };
        if !has(needed) {
            problems.add(
                "data",
                format!("this type of Secret needs the key {needed}"),
            );
        }
    }
}

/// Keys become file names: nothing that climbs out of a directory.
fn data_keys<'a>(field: &str, keys: impl Iterator<Item = &'a String>, problems: &mut Problems<'_>) {
    for key in keys {
        let legal = (1..=253).contains(&key.len())
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && !key.starts_with("..")
            && key != ".";
        if !legal {
            problems.add(
                &format!("{field}[{key}]"),
                "a key holds only letters, digits, `-`, `_` and `.`, and does not begin with `..`",
            );
        }
    }
}

fn template(template: &PodTemplateSpec, problems: &mut Problems<'_>) {
    if let Some(metadata) = &template.metadata {
        labels(metadata, "spec.template.metadata", problems);
    }
    match &template.spec {
        Some(spec) => pod::validate(spec, "spec.template.spec", problems),
        None => problems.add("spec.template.spec", "required field is missing"),
    }
}

fn metadata(metadata: &ObjectMeta, problems: &mut Problems<'_>) {
    match (&metadata.name, &metadata.generate_name) {
        (Some(name), _) => problems.subdomain("metadata.name", name),
        (None, Some(prefix)) => {
            problems.subdomain("metadata.generateName", &format!("{prefix}x"));
        }
        (None, None) => problems.add("metadata.name", "required field is missing"),
    }
    if let Some(namespace) = &metadata.namespace {
        problems.label("metadata.namespace", namespace);
    }
    labels(metadata, "metadata", problems);
}

fn labels(metadata: &ObjectMeta, path: &str, problems: &mut Problems<'_>) {
    for (key, value) in metadata.labels.iter().flatten() {
        let path = format!("{path}.labels[{key}]");
        problems.add_if(
            !is_qualified_name(key),
            &path,
            "not a label's key, as in app or example.com/app",
        );
        problems.add_if(!is_label_value(value), &path, "a label's value holds at most 63 letters, digits, `-`, `_` and `.`, and begins and ends with a letter or digit");
    }
    for key in metadata.annotations.iter().flat_map(BTreeMap::keys) {
        let path = format!("{path}.annotations[{key}]");
        problems.add_if(
            !is_qualified_name(key),
            &path,
            "not an annotation's key, as in note or example.com/note",
        );
    }
}
