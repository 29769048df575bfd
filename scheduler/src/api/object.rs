//! Objects as they pass through the API: decoded where they are changed, bytes where they are only sent on.
//!
//! A list of a thousand pods, or one pod's change told to a thousand watchers, is mostly the same
//! bytes again. So an object is turned into the bytes of its answer once, when it comes from the
//! store, and beside the bytes stand only the few fields that selectors ask for.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::{
    api::{error::ApiError, kind::Kind, selector},
    store::Entry,
};

/// An object at one revision, as all readers share it.
#[derive(Debug)]
pub struct Object {
    /// Its namespace; empty for kinds of the cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The revision of its last change.
    pub modified: u64,
    /// JSON with the resource version.
    pub bytes: Bytes,
    /// Labels and selectable fields, at the places where the whole object has them.
    pub selectable: Value,
}

impl Object {
    /// Prepares an entry of the store for reading.
    ///
    /// # Errors
    ///
    /// A fault of the server where the entry is not a JSON object.
    pub fn from_entry(kind: &'static Kind, entry: &Entry) -> Result<Arc<Self>, ApiError> {
        let value = decode(entry)?;
        Ok(Arc::new(Self::from_value(kind, &value, entry.modified)))
    }

    /// Prepares a decoded object, which has its resource version already.
    #[must_use]
    pub fn from_value(kind: &'static Kind, value: &Value, modified: u64) -> Self {
        Self {
            namespace: namespace(value).to_owned(),
            name: name(value).to_owned(),
            modified,
            bytes: Bytes::from(value.to_string()),
            selectable: selectable(kind, value),
        }
    }

    /// The whole object.
    ///
    /// # Errors
    ///
    /// Never for bytes that [`Object::from_value`] wrote.
    pub fn value(&self) -> Result<Value, ApiError> {
        serde_json::from_slice(&self.bytes).map_err(ApiError::internal)
    }
}

/// The labels and the fields that selectors may ask for, nothing else.
fn selectable(kind: &'static Kind, value: &Value) -> Value {
    let mut kept = json!({ "metadata": { "name": name(value) } });
    for field in ["namespace", "labels"] {
        let found = &value["metadata"][field];
        if !found.is_null() {
            kept["metadata"][field] = found.clone();
        }
    }
    // Beside what the table says, the fields from which some selectors are derived.
    let derived = ["status.succeeded", "source", "reportingComponent"];
    for path in selector::fields::offered(kind).iter().chain(&derived) {
        let steps: Vec<&str> = path.split('.').collect();
        let found = steps.iter().try_fold(value, |value, step| value.get(step));
        if let Some(found) = found.filter(|found| !found.is_null()) {
            let place = steps
                .iter()
                .fold(&mut kept, |place, step| &mut place[*step]);
            *place = found.clone();
        }
    }
    kept
}

/// An entry's object with its resource version.
///
/// # Errors
///
/// A fault of the server where the entry is not a JSON object.
pub fn decode(entry: &Entry) -> Result<Value, ApiError> {
    let mut value: Value = serde_json::from_slice(&entry.value)
        .map_err(|error| ApiError::internal(format!("{} holds no JSON: {error}", entry.key)))?;
    if !value.is_object() {
        return Err(ApiError::internal(format!(
            "{} holds no JSON object",
            entry.key
        )));
    }
    set_resource_version(&mut value, entry.modified);
    Ok(value)
}

/// The bytes for the store: without the resource version, which the store itself counts.
#[must_use]
pub fn encode(value: &Value) -> Bytes {
    let mut value = value.clone();
    remove_meta(&mut value, "resourceVersion");
    Bytes::from(value.to_string())
}

/// `metadata.name`, empty if there is none.
#[must_use]
pub fn name(value: &Value) -> &str {
    meta_text(value, "name")
}

/// `metadata.namespace`, empty if there is none.
#[must_use]
pub fn namespace(value: &Value) -> &str {
    meta_text(value, "namespace")
}

/// `metadata.uid`, empty if there is none.
#[must_use]
pub fn uid(value: &Value) -> &str {
    meta_text(value, "uid")
}

/// `metadata.resourceVersion`, empty if there is none.
#[must_use]
pub fn resource_version(value: &Value) -> &str {
    meta_text(value, "resourceVersion")
}

/// A text of the metadata, empty if there is none.
#[must_use]
pub fn meta_text<'a>(value: &'a Value, field: &str) -> &'a str {
    value["metadata"][field].as_str().unwrap_or_default()
}

/// Whether a deletion was asked for.
#[must_use]
pub fn is_deleting(value: &Value) -> bool {
    !meta_text(value, "deletionTimestamp").is_empty()
}

/// `metadata.finalizers`.
#[must_use]
pub fn finalizers(value: &Value) -> Vec<&str> {
    value["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// Sets a field of the metadata, and makes the metadata where there are none.
pub fn set_meta(value: &mut Value, field: &str, to: impl Into<Value>) {
    if let Some(object) = value.as_object_mut() {
        let metadata = object
            .entry("metadata")
            .or_insert_with(|| Value::Object(Map::new()));
        if !metadata.is_object() {
            *metadata = Value::Object(Map::new());
        }
        metadata[field] = to.into();
    }
}

/// Takes a field of the metadata away.
pub fn remove_meta(value: &mut Value, field: &str) {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove(field);
    }
}

/// Gives a field of the metadata the value that another object has, or takes it away.
pub fn copy_meta(from: &Value, to: &mut Value, field: &str) {
    match from["metadata"].get(field) {
        Some(value) if !value.is_null() => set_meta(to, field, value.clone()),
        _ => remove_meta(to, field),
    }
}

/// Sets the resource version.
pub fn set_resource_version(value: &mut Value, revision: u64) {
    set_meta(value, "resourceVersion", revision.to_string());
}

/// The time now in the form of the metadata: whole seconds.
#[must_use]
pub fn now_text() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// The time in some seconds, in the form of the metadata.
#[must_use]
pub fn later_text(seconds: i64) -> String {
    let now = jiff::Timestamp::now();
    let later =
        jiff::Timestamp::from_second(now.as_second().saturating_add(seconds)).unwrap_or(now);
    later.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Five letters for `generateName`, without those that could form words.
#[must_use]
pub fn random_suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5)
        .map(|_| char::from(LETTERS[usize::from(rand::random::<u16>()) % LETTERS.len()]))
        .collect()
}
