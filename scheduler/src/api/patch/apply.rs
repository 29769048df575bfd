//! Server-side apply: one manager says all that it wants, and keeps nothing else.
//!
//! ```text
//! live object ──┐
//!               ├─ merge ─▶ prune ─▶ conflicts? ─▶ the new object and its book
//! configuration ┘           what this manager wrote down last time,
//!                           does not now, and nobody else owns
//! ```
//!
//! The rules are structured-merge-diff's, so that a manifest which is applied by
//! two programs to two servers ends in the same object and the same conflicts.

use serde_json::{Map, Value, json};

use super::{
    Apply,
    managed::{self, Manager, Managers, Operation, Owned},
    paths::{Fields, Place, fields_of},
};
use crate::api::{
    error::{ApiError, Cause},
    kind::{Kind, Subresource},
    schema::{settle, types},
};

/// Applies a configuration.
pub(super) fn apply(
    kind: &Kind,
    how: &Apply,
    current: Option<&Value>,
    mut wanted: Value,
) -> Result<Value, ApiError> {
    check_header(kind, current, &wanted)?;
    keep_own_half(kind, how, &mut wanted);
    settle::write_quantities(kind, &mut wanted);
    let place = Place::of(types().shape_of(kind));
    let mut set = fields_of(place, &wanted).map_err(|misfit| untyped(kind, &wanted, &misfit.0))?;
    managed::strip(&mut set);

    let nothing = json!({});
    let live = without_book(current.unwrap_or(&nothing));
    let mut managers = current.map(managed::read).unwrap_or_default();
    if let Some(current) = current
        && managers.is_empty()
    {
        // Written before anybody kept the book: those fields belong to somebody.
        note_unknown_writer(kind, current, &mut managers);
    }
    let own = Manager {
        name: how.manager.clone(),
        operation: Operation::Apply,
        api_version: String::new(),
        subresource: how.subresource.unwrap_or_default().to_owned(),
    };

    let mut merged = live.clone();
    merge(place, &mut merged, &wanted);
    let last = managers.get(&own).cloned();
    let time = last.as_ref().and_then(|last| last.time.clone());
    let unchanged = last.as_ref().is_some_and(|last| last.fields == set);
    managers.insert(
        own.clone(),
        Owned {
            fields: set,
            api_version: kind.api_version(),
            time,
        },
    );
    if let Some(last) = &last {
        let mut owned = Fields::default();
        managers.values().for_each(|each| owned.add(&each.fields));
        prune(place, &mut merged, &last.fields, &owned);
    }

    let changes = managed::changes(kind, &live, &merged);
    if !how.force {
        refuse_conflicts(&managers, &own, &changes)?;
    }
    managed::take_over(&mut managers, &own, &changes);
    if let Some(entry) = managers.get_mut(&own) {
        // The book's time tells when something was changed by this manager.
        if entry.time.is_none() || !unchanged || merged != live {
            entry.time = Some(managed::seconds(how.now));
        }
    }
    managed::write(&mut merged, &managers);
    Ok(merged)
}

/// A configuration must say what it is, and not what only the server says.
fn check_header(kind: &Kind, current: Option<&Value>, wanted: &Value) -> Result<(), ApiError> {
    let text = |field: &str| wanted[field].as_str().unwrap_or_default();
    if text("apiVersion") != kind.api_version() || text("kind") != kind.kind {
        return Err(ApiError::bad_request(format!(
            "incorrect object type specified by apply: found {:?} {:?}, expected {:?} {:?}",
            text("apiVersion"),
            text("kind"),
            kind.api_version(),
            kind.kind
        )));
    }
    let metadata = &wanted["metadata"];
    if !metadata["managedFields"].is_null() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let live = current.map_or(&Value::Null, |current| &current["metadata"]);
    let wanted_revision = metadata["resourceVersion"].as_str().unwrap_or_default();
    if !wanted_revision.is_empty() && live["resourceVersion"].as_str() != Some(wanted_revision) {
        let name = metadata["name"].as_str().unwrap_or_default();
        return Err(ApiError::modified(kind, name));
    }
    Ok(())
}

/// An apply to an object leaves its status alone, and one to the status all else.
fn keep_own_half(kind: &Kind, how: &Apply, wanted: &mut Value) {
    let Some(fields) = wanted.as_object_mut() else {
        return;
    };
    if how.subresource == Some("resize") {
        keep_resources(fields);
    } else if how.subresource == Some("status") {
        fields.retain(|name, _| {
            ["apiVersion", "kind", "metadata", "status"].contains(&name.as_str())
        });
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|name, _| {
                ["name", "namespace", "resourceVersion", "uid"].contains(&name.as_str())
            });
        }
    } else if kind.has(Subresource::Status) {
        fields.remove("status");
    }
}

/// An apply to a pod's `/resize` is about what its containers may use.
fn keep_resources(fields: &mut Map<String, Value>) {
    fields.remove("status");
    let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    spec.retain(|name, _| ["containers", "initContainers"].contains(&name.as_str()));
    let lists = spec.values_mut().filter_map(Value::as_array_mut);
    for container in lists.flatten().filter_map(Value::as_object_mut) {
        container.retain(|name, _| ["name", "resources"].contains(&name.as_str()));
    }
}

fn untyped(kind: &Kind, wanted: &Value, why: &str) -> ApiError {
    let text = |field: &str| wanted["metadata"][field].as_str().unwrap_or_default();
    ApiError::bad_request(format!(
        "failed to create typed patch object ({}/{}; {}, Kind={}): {why}",
        text("namespace"),
        text("name"),
        kind.api_version(),
        kind.kind
    ))
}

fn without_book(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

fn note_unknown_writer(kind: &Kind, current: &Value, managers: &mut Managers) {
    let changes = managed::changes(kind, &json!({}), current);
    if changes.added.is_empty() {
        return;
    }
    let manager = Manager {
        name: "before-first-apply".to_owned(),
        operation: Operation::Update,
        api_version: kind.api_version(),
        subresource: String::new(),
    };
    let owned = Owned {
        fields: changes.added,
        api_version: kind.api_version(),
        time: None,
    };
    managers.insert(manager, owned);
}

/// Lays a configuration over the live value: parts mix, leaves are replaced.
fn merge(place: Place, live: &mut Value, wanted: &Value) {
    if !place.has_parts() || !live.is_object() && !live.is_array() {
        *live = wanted.clone();
        return;
    }
    match (&mut *live, wanted) {
        (Value::Object(fields), Value::Object(_)) => {
            for part in place.parts(wanted).ok().flatten().unwrap_or_default() {
                let name = part.step.trim_start_matches("f:");
                if part.value.is_null() {
                    continue;
                }
                match fields.get_mut(name) {
                    Some(field) => merge(part.place, field, part.value),
                    None => {
                        fields.insert(name.to_owned(), part.value.clone());
                    }
                }
            }
        }
        (Value::Array(_), Value::Array(_)) => merge_lists(place, live, wanted),
        _ => *live = wanted.clone(),
    }
}

/// Entries of both lists: in the configuration's order, and those of the live list
/// alone where they stood between the shared ones.
fn merge_lists(place: Place, live: &mut Value, wanted: &Value) {
    let (Ok(Some(old)), Ok(Some(new))) = (place.parts(live), place.parts(wanted)) else {
        *live = wanted.clone();
        return;
    };
    let is_shared = |step: &str| new.iter().any(|part| part.step == step);
    let place_of = |step: &str| old.iter().position(|one| one.step == step);
    let alone = |range: std::ops::Range<usize>| {
        let range = old.get(range).unwrap_or_default().iter();
        range
            .filter(|one| !is_shared(&one.step))
            .map(|one| one.value.clone())
    };
    let mut merged = Vec::with_capacity(old.len() + new.len());
    let mut next = 0;
    for (index, part) in new.iter().enumerate() {
        // Up to the entry that comes next in both lists; shared ones in between
        // have come already or come later.
        let shared = new[index..].iter().find_map(|part| place_of(&part.step));
        let stop = shared.unwrap_or(old.len()).max(next);
        merged.extend(alone(next..stop));
        next = stop;
        match place_of(&part.step) {
            None => merged.push(part.value.clone()),
            Some(place) => {
                let mut value = old[place].value.clone();
                merge(part.place, &mut value, part.value);
                merged.push(value);
                next = next.max(place + 1);
            }
        }
    }
    merged.extend(alone(next..old.len()));
    *live = Value::Array(merged);
}

/// Removes what the manager wrote down last time (`last`) and nobody owns now.
fn prune(place: Place, value: &mut Value, last: &Fields, owned: &Fields) {
    let Ok(Some(parts)) = place.parts(value) else {
        return;
    };
    let nobody = Fields::default();
    let verdicts: Vec<(String, Place, Verdict)> = parts
        .into_iter()
        .map(|part| {
            let Some(was) = last.below.get(&part.step) else {
                return (part.step, part.place, Verdict::Keep);
            };
            let is = owned.below.get(&part.step).unwrap_or(&nobody);
            // A field of the type is owned with anything in it; an entry or a key
            // only by itself.
            let still = is.member || (part.named && !is.is_empty());
            let verdict = if was.member && !still {
                Verdict::Remove
            } else {
                Verdict::LookInside
            };
            (part.step, part.place, verdict)
        })
        .collect();
    let inside = |step: &str, place: Place, value: &mut Value| {
        let had = !is_hollow(value);
        let is = owned.below.get(step).unwrap_or(&nobody);
        if let Some(was) = last.below.get(step) {
            prune(place, value, was, is);
        }
        // What is empty now was made by this manager, unless it is owned as empty.
        had && is_hollow(value) && is.is_empty()
    };
    match value {
        Value::Object(fields) => {
            for (step, place, verdict) in verdicts {
                let name = step.trim_start_matches("f:").to_owned();
                let emptied = match (verdict, fields.get_mut(&name)) {
                    (Verdict::Remove, _) => true,
                    (Verdict::LookInside, Some(value)) => inside(&step, place, value),
                    _ => false,
                };
                if emptied {
                    fields.remove(&name);
                }
            }
        }
        Value::Array(items) => {
            let mut verdicts = verdicts.into_iter();
            items.retain_mut(|item| match verdicts.next() {
                Some((_, _, Verdict::Remove)) => false,
                Some((step, place, Verdict::LookInside)) => {
                    inside(&step, place, item);
                    true
                }
                _ => true,
            });
        }
        _ => {}
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Keep,
    Remove,
    LookInside,
}

fn is_hollow(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Lists each changed field that another manager owns.
fn refuse_conflicts(
    managers: &Managers,
    own: &Manager,
    changes: &super::paths::Comparison,
) -> Result<(), ApiError> {
    let mut changed = changes.modified.clone();
    changed.add(&changes.added);
    let mut found: Vec<(String, Vec<String>)> = managers
        .iter()
        .filter(|(manager, _)| *manager != own)
        .map(|(manager, owned)| {
            (
                describe(manager, owned),
                owned.fields.common(&changed).paths(),
            )
        })
        .filter(|(_, paths)| !paths.is_empty())
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    found.sort();
    let causes: Vec<Cause> = found
        .iter()
        .flat_map(|(manager, paths)| {
            paths.iter().map(move |path| Cause {
                reason: "FieldManagerConflict".to_owned(),
                message: format!("conflict with {manager}"),
                field: path.clone(),
            })
        })
        .collect();
    let message = match (&causes[..], &found[0]) {
        ([cause], (manager, _)) => format!(
            "Apply failed with 1 conflict: conflict with {manager}: {}",
            cause.field
        ),
        _ => {
            let each: Vec<String> = found
                .iter()
                .map(|(manager, paths)| {
                    format!("conflicts with {manager}:\n- {}", paths.join("\n- "))
                })
                .collect();
            format!(
                "Apply failed with {} conflicts: {}",
                causes.len(),
                each.join("\n")
            )
        }
    };
    Err(ApiError::apply_conflict(message, causes))
}

/// A manager as messages name it.
fn describe(manager: &Manager, owned: &Owned) -> String {
    let mut text = format!("{:?}", manager.name);
    if !manager.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", manager.subresource));
    }
    if manager.operation == Operation::Update {
        text.push_str(&format!(" using {}", manager.api_version));
        if let Some(time) = &owned.time {
            text.push_str(&format!(" at {time}"));
        }
    }
    text
}
