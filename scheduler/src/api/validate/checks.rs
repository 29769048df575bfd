//! The list of broken rules, and the few checks that most rules are made of.

use serde_json::{Value, json};

use super::names;
use crate::api::error::FieldError;

/// Broken rules so far.
#[derive(Debug, Default)]
pub(super) struct Checks {
    pub found: Vec<FieldError>,
}

/// Where a number must lie, and how Kubernetes says so.
pub(super) const IMMUTABLE: &str = "field is immutable";

impl Checks {
    pub(super) fn add(&mut self, error: FieldError) {
        self.found.push(error);
    }

    pub(super) fn required(&mut self, field: &str, detail: &str) {
        self.add(FieldError::required(field, detail));
    }

    pub(super) fn invalid(&mut self, field: &str, value: &Value, detail: &str) {
        self.add(FieldError::invalid(field, value.clone(), detail));
    }

    pub(super) fn forbidden(&mut self, field: &str, detail: &str) {
        self.add(FieldError::forbidden(field, detail));
    }

    /// A text that a check has a reason against.
    pub(super) fn named(&mut self, field: &str, text: &str, check: fn(&str) -> Option<String>) {
        if let Some(why) = check(text) {
            self.invalid(field, &json!(text), &why);
        }
    }

    /// A word of a small set, where it is set.
    pub(super) fn one_of(&mut self, field: &str, value: &Value, supported: &[&str]) {
        if let Some(word) = value.as_str()
            && !supported.contains(&word)
        {
            self.add(FieldError::not_supported(field, word, supported));
        }
    }

    /// A number that must not be negative, where it is set.
    pub(super) fn not_negative(&mut self, field: &str, value: &Value) {
        if value.as_i64().is_some_and(|number| number < 0) {
            self.invalid(field, value, "must be greater than or equal to 0");
        }
    }

    /// A number that must be above zero, where it is set.
    pub(super) fn positive(&mut self, field: &str, value: &Value) {
        if value.as_i64().is_some_and(|number| number <= 0) {
            self.invalid(field, value, "must be greater than 0");
        }
    }

    /// A port's number, where it is set.
    pub(super) fn port(&mut self, field: &str, value: &Value) {
        if value
            .as_i64()
            .is_some_and(|number| !(1..=65535).contains(&number))
        {
            self.invalid(field, value, "must be between 1 and 65535, inclusive");
        }
    }

    /// A port's number or name.
    pub(super) fn port_or_name(&mut self, field: &str, value: &Value) {
        match value.as_str() {
            Some(name) => self.named(field, name, names::port_name_problem),
            None => self.port(field, value),
        }
    }

    /// An address, where it is set.
    pub(super) fn address(&mut self, field: &str, value: &Value) {
        if let Some(text) = value.as_str()
            && text.parse::<std::net::IpAddr>().is_err()
        {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            self.invalid(field, value, why);
        }
    }

    /// A field that an update must leave as it was.
    pub(super) fn unchanged(&mut self, field: &str, now: &Value, before: &Value) {
        if now != before {
            self.invalid(field, now, IMMUTABLE);
        }
    }

    /// Keys and values of labels.
    pub(super) fn labels(&mut self, field: &str, labels: &Value) {
        for (key, value) in labels.as_object().into_iter().flatten() {
            self.named(field, key, names::label_key_problem);
            self.named(
                field,
                value.as_str().unwrap_or_default(),
                names::label_value_problem,
            );
        }
    }

    /// A selector of labels (`matchLabels`, `matchExpressions`).
    pub(super) fn selector(&mut self, field: &str, selector: &Value) {
        self.labels(&format!("{field}.matchLabels"), &selector["matchLabels"]);
        for (index, expression) in items(&selector["matchExpressions"]) {
            let field = format!("{field}.matchExpressions[{index}]");
            let values = items(&expression["values"]).count();
            match text(expression, "operator") {
                "In" | "NotIn" if values == 0 => self.required(
                    &format!("{field}.values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                ),
                "Exists" | "DoesNotExist" if values > 0 => self.forbidden(
                    &format!("{field}.values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ),
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                _ => self.invalid(
                    &format!("{field}.operator"),
                    &expression["operator"],
                    "not a valid selector operator",
                ),
            }
            self.named(
                &format!("{field}.key"),
                text(expression, "key"),
                names::label_key_problem,
            );
        }
    }
}

/// The entries of a list with their places.
pub(super) fn items(list: &Value) -> impl Iterator<Item = (usize, &Value)> {
    list.as_array().into_iter().flatten().enumerate()
}

/// A text that is empty where it is not set.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or("")
}

/// Whether a field is set and not empty.
pub(super) fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}
