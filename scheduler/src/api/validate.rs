//! What an object must be to be stored: every broken rule at once, in Kubernetes' words.
//!
//! The order of a write is: read, [`unknown_fields`], defaults, addresses handed
//! out, then [`create`] or [`update`], so rules may count on defaults.

use serde_json::Value;

use super::{error::FieldError, kind::Kind, schema::settle};

/// Names, labels and keys: what may stand in them.
pub mod names;

/// The broken rules of an object that is to be created.
#[must_use]
pub fn create(kind: &Kind, object: &Value) -> Vec<FieldError> {
    settle::wrong_types(kind, object)
}

/// The broken rules of an object that is to take the place of another.
#[must_use]
pub fn update(kind: &Kind, object: &Value, _before: &Value) -> Vec<FieldError> {
    create(kind, object)
}

/// The paths of fields that no type has, as `spec.containers[0].imagee`.
///
/// With `fieldValidation=Strict` they are an error (`strict decoding error: unknown field
/// "…"`), with `Warn` a warning each, with `Ignore` nothing.
#[must_use]
pub fn unknown_fields(kind: &Kind, object: &Value) -> Vec<String> {
    settle::unknown_fields(kind, object)
}

/// Fields that are kept but not carried out, a sentence each for a `Warning` header.
#[must_use]
pub fn not_honoured(_kind: &Kind, _object: &Value) -> Vec<String> {
    Vec::new()
}
