//! The strategic merge patch: RFC 7386, with lists merged by keys and `$` directives.
//!
//! A merge patch replaces lists, so a client that wants to change one container
//! must send all of them. Here lists of objects are merged by the key that the
//! table of types names, and what a merge cannot say is said by a directive:
//!
//! | directive | where | what it does |
//! |---|---|---|
//! | `$patch: replace` | object, or an entry of a list | the patch takes the place of what is there |
//! | `$patch: delete` | object | it becomes empty; in a list the entry with this key goes |
//! | `$patch: merge` | object | nothing: the rule |
//! | `$retainKeys: […]` | object | keys not listed go before the merge |
//! | `$deleteFromPrimitiveList/F: […]` | beside F | these values leave the set F |
//! | `$setElementOrder/F: […]` | beside F | the order of F's entries afterwards |
//!
//! This is what `kubectl apply` and `kubectl edit` send for the kinds they know.

use serde_json::{Map, Value};

use crate::api::{
    error::ApiError,
    schema::{Shape, facts::PatchStrategy, types},
};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Lays `patch`, an object, over `target`.
///
/// # Errors
///
/// 422 for directives that make no sense or entries without their key.
pub(super) fn merge(shape: &Shape, target: &mut Value, patch: Value) -> Result<(), ApiError> {
    let Value::Object(mut patch) = patch else {
        *target = patch;
        return Ok(());
    };
    match take_directive(&mut patch)? {
        Some(Directive::Replace) => {
            *target = Value::Object(patch);
            return Ok(());
        }
        Some(Directive::Delete) => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some(Directive::Merge) | None => {}
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else {
        return Ok(());
    };
    retain_keys(fields, &mut patch)?;
    let orders = take_prefixed(&mut patch, SET_ORDER);
    for (field, gone) in take_prefixed(&mut patch, DELETE_PRIMITIVES) {
        delete_primitives(fields, &field, &gone)?;
    }
    for (field, order) in &orders {
        // An order alone sorts what is there.
        if !patch.contains_key(field) && fields.contains_key(field) {
            patch.insert(field.clone(), Value::Array(Vec::new()));
        }
        if !order.is_array() {
            return Err(bad(format!("{SET_ORDER}{field} must be a list")));
        }
    }
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(&name);
            continue;
        }
        let (inner, strategy) = field_of(shape, &name);
        let order = orders.iter().find(|(field, _)| *field == name);
        let order = order.and_then(|(_, order)| order.as_array());
        let merges = strategy.merge.is_some() && value.is_array();
        let field = fields.entry(name.clone()).or_insert(Value::Null);
        match value {
            Value::Array(items) if merges => {
                let key = strategy.merge.unwrap_or_default();
                merge_list((&inner, key), field, items, order)
                    .map_err(|error| within(&name, error))?;
            }
            Value::Object(_) if strategy.replace => *field = without_directives(&inner, value),
            Value::Object(_) => {
                merge(&inner, field, value).map_err(|error| within(&name, error))?;
            }
            value => *field = value,
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Directive {
    Replace,
    Delete,
    Merge,
}

fn take_directive(patch: &mut Map<String, Value>) -> Result<Option<Directive>, ApiError> {
    match patch.remove(DIRECTIVE) {
        None => Ok(None),
        Some(Value::String(word)) => match word.as_str() {
            "replace" => Ok(Some(Directive::Replace)),
            "delete" => Ok(Some(Directive::Delete)),
            "merge" => Ok(Some(Directive::Merge)),
            _ => Err(bad(format!("unknown patch type: {word}"))),
        },
        Some(other) => Err(bad(format!("unknown patch type: {other}"))),
    }
}

fn take_prefixed(patch: &mut Map<String, Value>, prefix: &str) -> Vec<(String, Value)> {
    let names: Vec<String> = patch
        .keys()
        .filter(|name| name.starts_with(prefix))
        .cloned()
        .collect();
    names
        .into_iter()
        .filter_map(|name| {
            let value = patch.remove(&name)?;
            Some((name[prefix.len()..].to_owned(), value))
        })
        .collect()
}

fn retain_keys(
    fields: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Some(keys) = keys.as_array() else {
        return Err(bad(format!("{RETAIN_KEYS} must be a list of names")));
    };
    let listed = |name: &str| keys.iter().any(|key| key.as_str() == Some(name));
    let stray = patch
        .iter()
        .find(|(name, value)| !value.is_null() && !name.starts_with('$') && !listed(name));
    if let Some((stray, _)) = stray {
        return Err(bad(format!(
            "{RETAIN_KEYS} does not list the key {stray:?} of its own patch"
        )));
    }
    fields.retain(|name, _| listed(name));
    Ok(())
}

fn delete_primitives(
    fields: &mut Map<String, Value>,
    field: &str,
    gone: &Value,
) -> Result<(), ApiError> {
    let Some(gone) = gone.as_array() else {
        return Err(bad(format!("{DELETE_PRIMITIVES}{field} must be a list")));
    };
    if let Some(items) = fields.get_mut(field).and_then(Value::as_array_mut) {
        items.retain(|item| !gone.contains(item));
    }
    Ok(())
}

/// The type of a field and how it is merged.
fn field_of(shape: &Shape, name: &str) -> (Shape, PatchStrategy) {
    match shape {
        Shape::Object(id) => match types().field(*id, name) {
            Some(field) => (field.shape.clone(), field.patch),
            None => (Shape::Anything, PatchStrategy::default()),
        },
        Shape::Map(values) => ((**values).clone(), PatchStrategy::default()),
        _ => (Shape::Anything, PatchStrategy::default()),
    }
}

/// Merges a list by `key`, or as a set where the key is empty.
fn merge_list(
    (shape, key): (&Shape, &str),
    target: &mut Value,
    patch: Vec<Value>,
    order: Option<&Vec<Value>>,
) -> Result<(), ApiError> {
    let item_shape = match shape {
        Shape::List(items) => (**items).clone(),
        _ => Shape::Anything,
    };
    let server = match target {
        Value::Array(items) => std::mem::take(items),
        _ => Vec::new(),
    };
    let mut merged = server.clone();
    let mut replaced = false;
    let mut rest = Vec::new();
    for mut item in patch {
        let directive = match item.as_object_mut() {
            Some(fields) if !key.is_empty() => take_directive(fields)?,
            _ => None,
        };
        match directive {
            Some(Directive::Replace) => {
                replaced = true;
                if item.as_object().is_some_and(|fields| !fields.is_empty()) {
                    rest.push(item);
                }
            }
            Some(Directive::Delete) => {
                let wanted = key_of(&item, key)?;
                merged.retain(|one| one.get(key) != Some(&wanted));
            }
            Some(Directive::Merge) | None => rest.push(item),
        }
    }
    if replaced {
        let items = rest
            .into_iter()
            .map(|item| without_directives(&item_shape, item));
        *target = Value::Array(items.collect());
        return Ok(());
    }
    for item in rest {
        if key.is_empty() {
            if !merged.contains(&item) {
                merged.push(item);
            }
            continue;
        }
        let wanted = key_of(&item, key)?;
        match merged.iter_mut().find(|one| one.get(key) == Some(&wanted)) {
            Some(one) => merge(&item_shape, one, item)?,
            None => merged.push(without_directives(&item_shape, item)),
        }
    }
    if let Some(order) = order {
        merged = sort_by(order, merged, &server, key);
    }
    *target = Value::Array(merged);
    Ok(())
}

fn key_of(item: &Value, key: &str) -> Result<Value, ApiError> {
    match item.get(key) {
        Some(value) if !value.is_null() => Ok(value.clone()),
        _ => Err(bad(format!(
            "map: {item} does not contain declared merge key: {key}"
        ))),
    }
}

/// A part that is new: nothing to merge with, so directives and nulls have done their work.
fn without_directives(shape: &Shape, patch: Value) -> Value {
    let mut target = Value::Null;
    match merge(shape, &mut target, patch.clone()) {
        Ok(()) => target,
        Err(_) => patch,
    }
}

/// Sorts the listed entries as `order` has them and leaves the others where they stood.
///
/// Entries that only the server has keep their place among those of the server's
/// that are listed.
fn sort_by(order: &[Value], merged: Vec<Value>, server: &[Value], key: &str) -> Vec<Value> {
    let name = |item: &Value| match key {
        "" => item.clone(),
        key => item.get(key).cloned().unwrap_or(Value::Null),
    };
    let listed = |item: &Value| {
        order
            .iter()
            .position(|one| *one == name(item) || (!key.is_empty() && name(one) == name(item)))
    };
    let at_server = |item: &Value| server.iter().position(|one| name(one) == name(item));
    let (mut ordered, others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| listed(item).is_some());
    ordered.sort_by_key(|item| listed(item));
    let mut sorted = Vec::with_capacity(ordered.len() + others.len());
    let mut ordered = ordered.into_iter().peekable();
    for other in others {
        let place = at_server(&other);
        while let Some(next) = ordered.next_if(|next| match (at_server(next), place) {
            (Some(next), Some(other)) => next < other,
            _ => true,
        }) {
            sorted.push(next);
        }
        sorted.push(other);
    }
    sorted.extend(ordered);
    sorted
}

fn bad(why: String) -> ApiError {
    ApiError::unprocessable(why)
}

fn within(field: &str, mut error: ApiError) -> ApiError {
    error.message = format!("{field}: {}", error.message);
    error
}
