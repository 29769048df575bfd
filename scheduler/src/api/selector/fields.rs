//! Selection by fields, for the few fields that each kind offers.
//!
//! A server can answer a field selector only by reading the field of every
//! object, so Kubernetes names the fields for which it does. A node's agent
//! lives on one of them: `spec.nodeName` of pods.

use std::fmt;

use serde_json::Value;

use crate::api::{error::ApiError, kind::Kind};

/// All of these must be met.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    /// The requirements, in the order of the text.
    pub requirements: Vec<FieldRequirement>,
}

/// What one field must be, or must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    /// The field's path, as `spec.nodeName`.
    pub field: String,
    /// The value as text; empty where the field is not set.
    pub value: String,
    /// Whether the field must have this value or any other.
    pub equal: bool,
}

/// The fields that a kind offers beside `metadata.name` and `metadata.namespace`.
#[must_use]
pub fn offered(kind: &Kind) -> &'static [&'static str] {
    match (kind.group, kind.kind) {
        ("", "Pod") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        ("", "Event") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ("events.k8s.io", "Event") => &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
        ("", "Node") => &["spec.unschedulable"],
        ("", "Namespace") => &["status.phase"],
        ("", "Secret") => &["type"],
        ("", "Service") => &["spec.clusterIP", "spec.type"],
        ("apps", "ReplicaSet") => &["status.replicas"],
        ("batch", "Job") => &["status.successful"],
        _ => &[],
    }
}

/// Reads `a=b,c!=d` for a kind.
pub(super) fn parse(kind: &Kind, text: &str) -> Result<FieldSelector, ApiError> {
    let mut requirements = Vec::new();
    for term in split_terms(text) {
        let Some((field, equal, value)) = split_term(&term) else {
            return Err(ApiError::bad_request(format!(
                "invalid selector: '{text}'; can't understand '{term}'"
            )));
        };
        let value = unescape(value).map_err(|found| {
            ApiError::bad_request(format!(
                "invalid field selector: unescaped character in value: {found:?}"
            ))
        })?;
        let known = ["metadata.name", "metadata.namespace"].contains(&field)
            || offered(kind).contains(&field);
        if !known {
            return Err(ApiError::bad_request(format!(
                "field label not supported: {field}"
            )));
        }
        requirements.push(FieldRequirement {
            field: field.to_owned(),
            value,
            equal,
        });
    }
    Ok(FieldSelector { requirements })
}

/// The terms between commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<String> {
    let mut terms = Vec::new();
    let mut term = String::new();
    let mut escaped = false;
    for next in text.chars() {
        match next {
            ',' if !escaped => terms.push(std::mem::take(&mut term)),
            _ => term.push(next),
        }
        escaped = next == '\\' && !escaped;
    }
    terms.push(term);
    terms.retain(|term| !term.is_empty());
    terms
}

/// The field, whether it must be equal, and the value.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(at);
    let (equal, value) = if let Some(value) = rest.strip_prefix("!=") {
        (false, value)
    } else if let Some(value) = rest.strip_prefix("==") {
        (true, value)
    } else {
        (true, rest.strip_prefix('=')?)
    };
    (!field.trim().is_empty()).then_some((field.trim(), equal, value))
}

/// Takes backslashes off; the error is a sign that should have had one.
fn unescape(value: &str) -> Result<String, char> {
    let mut plain = String::new();
    let mut signs = value.chars();
    while let Some(next) = signs.next() {
        match next {
            '\\' => match signs.next() {
                Some(escaped @ ('\\' | ',' | '=')) => plain.push(escaped),
                _ => return Err('\\'),
            },
            '=' | ',' => return Err(next),
            _ => plain.push(next),
        }
    }
    Ok(plain)
}

impl FieldSelector {
    /// Whether an object meets all requirements.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.requirements.iter().all(|requirement| {
            let found = field_text(object, &requirement.field);
            (found == requirement.value) == requirement.equal
        })
    }

    /// The value that a field must have, if the selector fixes one.
    ///
    /// A list of one name need not read all objects.
    #[must_use]
    pub fn required(&self, field: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|requirement| requirement.equal && requirement.field == field)
            .map(|requirement| requirement.value.as_str())
    }

    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

/// A field as text: empty where it is not set.
fn field_text(object: &Value, field: &str) -> String {
    let at = |path: &str| {
        path.split('.')
            .try_fold(object, |value, step| value.get(step))
            .unwrap_or(&Value::Null)
    };
    match field {
        // Booleans that nobody set are false, not empty; counts are zero.
        "spec.unschedulable" | "spec.hostNetwork" => {
            return at(field).as_bool().unwrap_or(false).to_string();
        }
        "status.replicas" => return at(field).as_i64().unwrap_or(0).to_string(),
        "status.successful" => return at("status.succeeded").as_i64().unwrap_or(0).to_string(),
        "source" => {
            let source = match at("source.component") {
                Value::String(component) if !component.is_empty() => component,
                _ => return text_of(at("reportingComponent")),
            };
            return source.clone();
        }
        "status.podIPs" => {
            let addresses = at(field).as_array().into_iter().flatten();
            let texts: Vec<&str> = addresses.filter_map(|one| one["ip"].as_str()).collect();
            return texts.join(",");
        }
        _ => {}
    }
    text_of(match field.split_once('.') {
        // The core group's spelling of the same stored events, and the other way round.
        Some(("involvedObject", rest)) => match at(field) {
            Value::Null => return text_of(at(&format!("regarding.{rest}"))),
            value => value,
        },
        Some(("regarding", rest)) => match at(field) {
            Value::Null => return text_of(at(&format!("involvedObject.{rest}"))),
            value => value,
        },
        _ => at(field),
    })
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let sign = if requirement.equal { "=" } else { "!=" };
            let value = requirement
                .value
                .replace('\\', "\\\\")
                .replace(',', "\\,")
                .replace('=', "\\=");
            write!(out, "{comma}{}{sign}{value}", requirement.field)?;
        }
        Ok(())
    }
}
