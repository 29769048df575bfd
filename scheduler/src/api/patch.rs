//! Changes to an object: four ways of saying them, and the book of who said what.
//!
//! | media type | what the body is |
//! |---|---|
//! | `application/json-patch+json` | a list of operations (RFC 6902) |
//! | `application/merge-patch+json` | an object laid over the old one (RFC 7386) |
//! | `application/strategic-merge-patch+json` | the same, with lists merged by keys and `$` directives |
//! | `application/apply-patch+yaml` | all that one manager wants, merged with what others own |
//!
//! Every write, by whichever of them or by a plain PUT, is noted in
//! `metadata.managedFields`: see [`managed`].

use serde_json::Value;

use super::{error::ApiError, kind::Kind, schema::types};

/// Server-side apply.
mod apply;
/// `managedFields`: which manager owns which field.
pub mod managed;
/// Laying an object over another (RFC 7386).
mod merge;
/// Sets of fields, and their form in JSON (`FieldsV1`).
pub mod paths;
/// The strategic merge patch.
mod strategic;

/// How a body is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own.
    Strategic,
    /// Server-side apply.
    Apply(Apply),
}

/// Who applies, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apply {
    /// The field manager.
    pub manager: String,
    /// Whether fields of others are taken over instead of being a conflict.
    pub force: bool,
    /// Through which subresource, as `status`.
    pub subresource: Option<&'static str>,
    /// The time of the note.
    pub now: jiff::Timestamp,
}

/// What `current` becomes by a patch; the result is not defaulted nor checked yet.
///
/// Only an apply can begin with nothing: it then creates the object.
/// The result of an apply has its `managedFields` already; after the other three
/// (and after a create or an update) call [`managed::track`].
///
/// # Errors
///
/// 400 for a body that cannot be read, 404 without an object, 409 for an apply that meets
/// fields of others, 422 for a patch that does not fit the object.
pub fn patch(
    kind: &Kind,
    how: &PatchKind,
    current: Option<&Value>,
    body: &[u8],
) -> Result<Value, ApiError> {
    if let PatchKind::Apply(apply) = how {
        let wanted = read_yaml(body)?;
        return apply::apply(kind, apply, current, wanted);
    }
    let Some(current) = current else {
        return Err(ApiError::not_found(kind, ""));
    };
    let mut patched = current.clone();
    match how {
        PatchKind::Json => apply_operations(&mut patched, body)?,
        PatchKind::Merge => merge::merge(&mut patched, read_json(body)?),
        _ => {
            let patch = read_json(body)?;
            strategic::merge(types().shape_of(kind), &mut patched, patch)?;
        }
    }
    Ok(patched)
}

/// More operations than any sensible patch has; Kubernetes has the same limit.
const MOST_OPERATIONS: usize = 10_000;

fn apply_operations(object: &mut Value, body: &[u8]) -> Result<(), ApiError> {
    let patch: json_patch::Patch = serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    if patch.0.len() > MOST_OPERATIONS {
        return Err(ApiError::too_large(format!(
            "The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {}",
            patch.0.len()
        )));
    }
    json_patch::patch(object, &patch).map_err(|error| {
        ApiError::unprocessable(format!(
            "the server rejected our request due to an error in our request: {error}"
        ))
    })
}

/// A patch's body that must be an object.
fn read_json(body: &[u8]) -> Result<Value, ApiError> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    if value.is_object() {
        return Ok(value);
    }
    Err(ApiError::bad_request(
        "error decoding patch: expected an object",
    ))
}

/// An applied configuration: YAML, which JSON is too.
fn read_yaml(body: &[u8]) -> Result<Value, ApiError> {
    let value: Value = match serde_json::from_slice(body) {
        Ok(value) => value,
        Err(_) => serde_saphyr::from_slice(body)
            .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))?,
    };
    if value.is_object() {
        return Ok(value);
    }
    Err(ApiError::bad_request(
        "error decoding YAML: expected an object",
    ))
}

#[cfg(test)]
mod tests;
