//! What the API fills in where an object is silent.
//!
//! A stored object says everything: whoever reads it never asks "and if it is
//! not set?". The defaults are Kubernetes' own, so that a client which knows
//! them by heart reads here what it would read there.

use serde_json::Value;

use super::{kind::Kind, schema::settle::settle};

/// Settles an object (nulls, unknown fields, quantities) and sets what was left out.
///
/// Call [`super::validate::unknown_fields`] before, for afterwards they are gone.
pub fn set_defaults(kind: &Kind, object: &mut Value) {
    settle(kind, object);
}
