//! From JSON as a client sent it to JSON as it is kept.
//!
//! A server in Go decodes into its types, and three things happen on the way that
//! nobody wrote down as a rule: `null` becomes "not set", fields that no type has
//! are lost, and a quantity is written back in its canonical form (`1000m` as `1`).
//! Clients rely on all three. Here they are done on the JSON itself.

use serde_json::Value;

use super::{Shape, Types, types};
use crate::{
    api::{error::FieldError, kind::Kind},
    manifest::quantity,
};

/// Drops nulls and fields that no type has, and writes quantities canonically.
pub fn settle(kind: &Kind, object: &mut Value) {
    settle_value(types(), types().shape_of(kind), object);
}

/// Writes quantities canonically, and leaves all else as it is.
///
/// `1000m` and `1` are the same wish: a manager that applies one of them agrees
/// with another that applied the other.
pub fn write_quantities(kind: &Kind, object: &mut Value) {
    write_quantity(types(), types().shape_of(kind), object);
}

/// The paths of fields that no type has, as `spec.containers[0].imagee`.
#[must_use]
pub fn unknown_fields(kind: &Kind, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    find_unknown(
        types(),
        types().shape_of(kind),
        object,
        &mut Path::default(),
        &mut found,
    );
    found
}

/// Values whose JSON type is not the field's.
#[must_use]
pub fn wrong_types(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut found = Vec::new();
    find_wrong(
        types(),
        types().shape_of(kind),
        object,
        &mut Path::default(),
        &mut found,
    );
    found
}

/// Where a walk stands.
#[derive(Debug, Default)]
struct Path(String);

impl Path {
    /// Runs `walk` one step deeper.
    fn within(&mut self, step: &str, walk: impl FnOnce(&mut Path)) {
        let before = self.0.len();
        if !self.0.is_empty() && !step.starts_with('[') {
            self.0.push('.');
        }
        self.0.push_str(step);
        walk(self);
        self.0.truncate(before);
    }
}

fn settle_value(types: &Types, shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Object(id), Value::Object(fields)) => {
            fields.retain(|name, value| !value.is_null() && types.field(*id, name).is_some());
            for (name, value) in fields.iter_mut() {
                if let Some(field) = types.field(*id, name) {
                    settle_value(types, &field.shape, value);
                }
            }
        }
        (Shape::Map(values), Value::Object(entries)) => {
            entries.retain(|_, value| !value.is_null());
            for value in entries.values_mut() {
                settle_value(types, values, value);
            }
        }
        (Shape::List(items), Value::Array(values)) => {
            for value in values {
                settle_value(types, items, value);
            }
        }
        (Shape::Quantity, value) => write_quantity(types, shape, value),
        _ => {}
    }
}

fn write_quantity(types: &Types, shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Object(id), Value::Object(fields)) => {
            for (name, value) in fields.iter_mut() {
                if let Some(field) = types.field(*id, name) {
                    write_quantity(types, &field.shape, value);
                }
            }
        }
        (Shape::Map(values), Value::Object(entries)) => {
            for value in entries.values_mut() {
                write_quantity(types, values, value);
            }
        }
        (Shape::List(items), Value::Array(values)) => {
            for value in values {
                write_quantity(types, items, value);
            }
        }
        (Shape::Quantity, value) => {
            let text = match &*value {
                Value::Number(number) => number.to_string(),
                Value::String(text) => text.clone(),
                _ => return,
            };
            if let Some(canonical) = quantity::canonical(&text) {
                *value = Value::String(canonical);
            }
        }
        _ => {}
    }
}

fn find_unknown(
    types: &Types,
    shape: &Shape,
    value: &Value,
    path: &mut Path,
    found: &mut Vec<String>,
) {
    match (shape, value) {
        (Shape::Object(id), Value::Object(fields)) => {
            for (name, value) in fields {
                path.within(name, |path| match types.field(*id, name) {
                    Some(field) => find_unknown(types, &field.shape, value, path, found),
                    None => found.push(path.0.clone()),
                });
            }
        }
        (Shape::Map(values), Value::Object(entries)) => {
            for (name, value) in entries {
                path.within(name, |path| {
                    find_unknown(types, values, value, path, found);
                });
            }
        }
        (Shape::List(items), Value::Array(values)) => {
            for (index, value) in values.iter().enumerate() {
                path.within(&format!("[{index}]"), |path| {
                    find_unknown(types, items, value, path, found);
                });
            }
        }
        _ => {}
    }
}

fn find_wrong(
    types: &Types,
    shape: &Shape,
    value: &Value,
    path: &mut Path,
    found: &mut Vec<FieldError>,
) {
    let expected = match (shape, value) {
        (_, Value::Null) | (Shape::Anything, _) => return,
        (Shape::Object(id), Value::Object(fields)) => {
            for (name, value) in fields {
                if let Some(field) = types.field(*id, name) {
                    path.within(name, |path| {
                        find_wrong(types, &field.shape, value, path, found);
                    });
                }
            }
            return;
        }
        (Shape::Map(values), Value::Object(entries)) => {
            for (name, value) in entries {
                path.within(&format!("[{name}]"), |path| {
                    find_wrong(types, values, value, path, found);
                });
            }
            return;
        }
        (Shape::List(items), Value::Array(values)) => {
            for (index, value) in values.iter().enumerate() {
                path.within(&format!("[{index}]"), |path| {
                    if value.is_null() {
                        found.push(FieldError::required(path.0.clone(), ""));
                    }
                    find_wrong(types, items, value, path, found);
                });
            }
            return;
        }
        (shape, value) => match expectation(shape, value) {
            Some(expected) => expected,
            None => return,
        },
    };
    found.push(FieldError::invalid(
        path.0.clone(),
        value.clone(),
        &format!("must be {expected}"),
    ));
}

/// What a value of this shape would have been, unless it is one.
fn expectation(shape: &Shape, value: &Value) -> Option<&'static str> {
    let (right, expected) = match shape {
        Shape::Text => (value.is_string(), "a string"),
        Shape::Integer { narrow: true } => (
            value
                .as_i64()
                .is_some_and(|number| i32::try_from(number).is_ok()),
            "a whole number of 32 bits",
        ),
        Shape::Integer { narrow: false } => (value.is_i64(), "a whole number"),
        Shape::Number => (value.is_number(), "a number"),
        Shape::Boolean => (value.is_boolean(), "true or false"),
        Shape::IntOrString => (
            value.is_string()
                || value
                    .as_i64()
                    .is_some_and(|number| i32::try_from(number).is_ok()),
            "a whole number or a string",
        ),
        Shape::Quantity => {
            let right = match value {
                Value::String(text) => quantity::parse(text).is_ok(),
                Value::Number(number) => quantity::parse(&number.to_string()).is_ok(),
                _ => false,
            };
            (right, "a quantity such as 500m, 2 or 64Mi")
        }
        Shape::Time => {
            let right = value
                .as_str()
                .is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok());
            (right, "a time such as 2006-01-02T15:04:05Z")
        }
        Shape::Bytes => {
            use base64::Engine as _;
            let right = value.as_str().is_some_and(|text| {
                base64::engine::general_purpose::STANDARD
                    .decode(text)
                    .is_ok()
            });
            (right, "base64")
        }
        Shape::Object(_) | Shape::Map(_) => (value.is_object(), "an object"),
        Shape::List(_) => (value.is_array(), "a list"),
        Shape::Anything => (true, "anything"),
    };
    (!right).then_some(expected)
}
