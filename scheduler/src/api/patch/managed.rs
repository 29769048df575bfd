//! `managedFields`: which manager owns which field.
//!
//! A manager is a program or a person: `kubectl-edit`, `deployment-controller`.
//! Whoever *applies* owns what it wrote down, several together where they agree,
//! and a field that its last applier no longer writes down is removed. Whoever
//! *updates* owns what it changed, alone.
//!
//! Read more: Kubernetes' reference, "Server-Side Apply"; KEP-555.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::paths::{Comparison, Fields, Place, compare};
use crate::api::{kind::Kind, schema::types};

/// How a manager came to own fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply.
    Apply,
    /// By a create, an update or another patch.
    Update,
}

/// Who writes, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// The field manager.
    pub manager: String,
    /// What it did.
    pub operation: Operation,
    /// Through which subresource, as `status`.
    pub subresource: Option<&'static str>,
    /// The time of the note.
    pub now: Timestamp,
}

/// One entry's identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Manager {
    pub name: String,
    pub operation: Operation,
    /// Empty for appliers, which stay the same through versions.
    pub api_version: String,
    pub subresource: String,
}

/// What one manager owns, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owned {
    pub fields: Fields,
    pub api_version: String,
    pub time: Option<String>,
}

/// Everybody's fields.
pub(super) type Managers = BTreeMap<Manager, Owned>;

/// Fields that nobody owns: what the server itself keeps.
const OWNERLESS: [&str; 9] = [
    "f:name",
    "f:namespace",
    "f:creationTimestamp",
    "f:selfLink",
    "f:uid",
    "f:generation",
    "f:managedFields",
    "f:resourceVersion",
    "f:deletionGracePeriodSeconds",
];

/// Notes in `after` who changed what: the writer owns what differs from `before`.
///
/// For a create, `before` is `None`. A client that sends an empty list of
/// `managedFields` wipes the book, as in Kubernetes; otherwise the book of `before` counts.
pub fn track(kind: &Kind, before: Option<&Value>, after: &mut Value, writer: &Writer) {
    let wiped = before.is_some()
        && after["metadata"]["managedFields"]
            .as_array()
            .is_some_and(Vec::is_empty);
    let mut managers = match before {
        Some(before) if !wiped => read(before),
        _ => Managers::new(),
    };
    if wiped {
        return write(after, &managers);
    }
    let nothing = json!({});
    let changes = changes(kind, before.unwrap_or(&nothing), after);
    let api_version = kind.api_version();
    let own = Manager {
        name: writer.manager.clone(),
        operation: writer.operation,
        api_version: match writer.operation {
            Operation::Apply => String::new(),
            Operation::Update => api_version.clone(),
        },
        subresource: writer.subresource.unwrap_or_default().to_owned(),
    };
    take_over(&mut managers, &own, &changes);
    let mut gained = changes.added;
    gained.add(&changes.modified);
    if !gained.is_empty() {
        let entry = managers.entry(own).or_insert_with(|| Owned {
            fields: Fields::default(),
            api_version,
            time: None,
        });
        entry.fields.remove(&changes.removed);
        entry.fields.add(&gained);
        entry.time = Some(seconds(writer.now));
    } else if let Some(entry) = managers.get_mut(&own) {
        entry.fields.remove(&changes.removed);
    }
    write(after, &managers);
}

/// What changed, but for the fields that nobody owns.
pub(super) fn changes(kind: &Kind, before: &Value, after: &Value) -> Comparison {
    let place = Place::of(types().shape_of(kind));
    let mut changes = compare(place, before, after);
    for fields in [
        &mut changes.added,
        &mut changes.modified,
        &mut changes.removed,
    ] {
        strip(fields);
    }
    changes
}

/// Takes out of a set what nobody owns.
pub(super) fn strip(fields: &mut Fields) {
    fields.member = false;
    fields.retain(|step| step != "f:apiVersion" && step != "f:kind");
    if let Some(metadata) = fields.below.get_mut("f:metadata") {
        metadata.member = false;
        metadata.retain(|step| !OWNERLESS.contains(&step));
        if metadata.is_empty() {
            fields.below.remove("f:metadata");
        }
    }
}

/// Everybody but `own` loses what changed hands, and what is gone.
pub(super) fn take_over(managers: &mut Managers, own: &Manager, changes: &Comparison) {
    for (manager, owned) in managers.iter_mut() {
        if manager != own {
            owned.fields.remove(&changes.added);
            owned.fields.remove(&changes.modified);
            owned.fields.remove(&changes.removed);
        }
    }
    managers.retain(|manager, owned| manager == own || !owned.fields.is_empty());
}

/// Reads an object's book.
pub(super) fn read(object: &Value) -> Managers {
    let entries = object["metadata"]["managedFields"].as_array();
    let mut managers = Managers::new();
    for entry in entries.into_iter().flatten() {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let operation = match entry["operation"].as_str() {
            Some("Apply") => Operation::Apply,
            _ => Operation::Update,
        };
        let manager = Manager {
            name: text("manager"),
            operation,
            api_version: match operation {
                Operation::Apply => String::new(),
                Operation::Update => text("apiVersion"),
            },
            subresource: text("subresource"),
        };
        let owned = Owned {
            fields: Fields::from_json(&entry["fieldsV1"]),
            api_version: text("apiVersion"),
            time: entry["time"].as_str().map(str::to_owned),
        };
        managers.insert(manager, owned);
    }
    managers
}

/// Writes an object's book: appliers first, then by time, as Kubernetes orders them.
pub(super) fn write(object: &mut Value, managers: &Managers) {
    let mut entries: Vec<(&Manager, &Owned)> = managers
        .iter()
        .filter(|(_, owned)| !owned.fields.is_empty())
        .collect();
    entries.sort_by(|(left, left_owned), (right, right_owned)| {
        let key = |manager: &Manager, owned: &Owned| (manager.operation, owned.time.clone());
        key(left, left_owned).cmp(&key(right, right_owned))
    });
    let entries: Vec<Value> = entries
        .into_iter()
        .map(|(manager, owned)| entry(manager, owned))
        .collect();
    let Some(object) = object.as_object_mut() else {
        return;
    };
    let metadata = object
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    let Some(metadata) = metadata.as_object_mut() else {
        return;
    };
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".to_owned(), Value::Array(entries));
    }
}

fn entry(manager: &Manager, owned: &Owned) -> Value {
    let mut entry = json!({
        "manager": manager.name,
        "operation": match manager.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        },
        "apiVersion": owned.api_version,
        "fieldsType": "FieldsV1",
        "fieldsV1": owned.fields.to_json(),
    });
    if let Some(time) = &owned.time {
        entry["time"] = json!(time);
    }
    if !manager.subresource.is_empty() {
        entry["subresource"] = json!(manager.subresource);
    }
    entry
}

/// A time as `metav1.Time` is written: whole seconds in UTC.
pub(super) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
