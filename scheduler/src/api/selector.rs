//! Selectors: which objects of a list are meant, by their labels or by a few fields.
//!
//! The text in a request's `labelSelector` is a small language; the object in a
//! Deployment's `spec.selector` says the same in JSON. Both become one list of
//! requirements, and an object is selected when it meets all of them.
//!
//! ```text
//! selector    = [ requirement { "," requirement } ]
//! requirement = key                      the label is there, whatever its value
//!             | "!" key                  it is not there
//!             | key ("=" | "==") value
//!             | key "!=" value           also met where the label is not there
//!             | key "in" "(" values ")"
//!             | key "notin" "(" values ")"   likewise
//!             | key (">" | "<") number
//! ```
//!
//! Read more: Kubernetes' page "Labels and Selectors".

use std::fmt;

use serde_json::Value;

use super::{error::ApiError, kind::Kind};

/// Selection by fields, for the few fields that each kind offers.
pub mod fields;
/// From text to requirements.
mod parse;

pub use fields::FieldSelector;

/// All of these must be met; none selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    /// The requirements, in the order of the text.
    pub requirements: Vec<Requirement>,
}

/// What one label must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What is asked of its value.
    pub test: Test,
}

/// What is asked of a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
    /// It has one of these values.
    In(Vec<String>),
    /// It has none of these values, or is not there.
    NotIn(Vec<String>),
    /// It is a whole number above this one.
    GreaterThan(i64),
    /// It is a whole number below this one.
    LessThan(i64),
}

/// Reads a `labelSelector`.
///
/// # Errors
///
/// 400 with the place where the text stops being a selector.
pub fn parse_labels(text: &str) -> Result<LabelSelector, ApiError> {
    parse::read(text).map_err(|why| {
        ApiError::bad_request(format!(
            "unable to parse requirement: {why} (labelSelector {text:?})"
        ))
    })
}

/// Reads a `fieldSelector` for a kind.
///
/// # Errors
///
/// 400 for a text that is no selector, or a field that this kind does not offer.
pub fn parse_fields(kind: &Kind, text: &str) -> Result<FieldSelector, ApiError> {
    fields::parse(kind, text)
}

impl LabelSelector {
    /// Reads the selector of an object (`matchLabels`, `matchExpressions`).
    ///
    /// An empty one selects everything; `None` for one that says nothing sensible.
    #[must_use]
    pub fn from_object(selector: &Value) -> Option<LabelSelector> {
        let mut requirements = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            requirements.push(Requirement {
                key: key.clone(),
                test: Test::In(vec![value.as_str()?.to_owned()]),
            });
        }
        for expression in selector["matchExpressions"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let values = || -> Option<Vec<String>> {
                let values = expression["values"].as_array()?.iter();
                values
                    .map(|value| Some(value.as_str()?.to_owned()))
                    .collect()
            };
            requirements.push(Requirement {
                key: expression["key"].as_str()?.to_owned(),
                test: match expression["operator"].as_str()? {
                    "In" => Test::In(values()?),
                    "NotIn" => Test::NotIn(values()?),
                    "Exists" => Test::Exists,
                    "DoesNotExist" => Test::DoesNotExist,
                    _ => return None,
                },
            });
        }
        Some(LabelSelector { requirements })
    }

    /// Whether an object's `metadata.labels` meet all requirements.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.matches_labels(|key| labels.get(key).and_then(Value::as_str))
    }

    /// Whether labels, looked up by their key, meet all requirements.
    #[must_use]
    pub fn matches_labels<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.test.is_met_by(label(&requirement.key)))
    }

    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl Test {
    fn is_met_by(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match self {
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
            Test::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
            Test::NotIn(values) => value.is_none_or(|value| values.iter().all(|one| one != value)),
            Test::GreaterThan(limit) => number().is_some_and(|number| number > *limit),
            Test::LessThan(limit) => number().is_some_and(|number| number < *limit),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                out.write_str(",")?;
            }
            requirement.fmt(out)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.test {
            Test::Exists => write!(out, "{key}"),
            Test::DoesNotExist => write!(out, "!{key}"),
            Test::In(values) if values.len() == 1 => write!(out, "{key}={}", values[0]),
            Test::NotIn(values) if values.len() == 1 => write!(out, "{key}!={}", values[0]),
            Test::In(values) => write!(out, "{key} in ({})", values.join(",")),
            Test::NotIn(values) => write!(out, "{key} notin ({})", values.join(",")),
            Test::GreaterThan(limit) => write!(out, "{key}>{limit}"),
            Test::LessThan(limit) => write!(out, "{key}<{limit}"),
        }
    }
}

#[cfg(test)]
mod tests;
