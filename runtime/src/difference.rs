//! What differs between two configurations, by meaning and not by text.
//!
//! `diff(1)` of two `config.json` shows moved lines, reformatted lists and
//! defaults that one side writes down. None of that changes a container. Here
//! both sides are first taken apart into *facts*: a path through the
//! configuration and a value. The form of a list decides on its facts:
//!
//! ```text
//! "env": ["A=1", "B=2"]                   process.env[A] = "1", process.env[B] = "2"
//! "bounding": ["CAP_KILL"]                process.capabilities.bounding[CAP_KILL] = true
//! "namespaces": [{"type": "pid"}]         linux.namespaces[pid] = "new"
//! "mounts": [{"destination": "/a", …}]    mounts[/a].type = …, and their order
//! "args": ["sh", "-c", "true"]            process.args = the list, whose order is its meaning
//! ```
//!
//! Two configurations are the same if their facts are. Try
//! `berth-oci diff A B` with two bundles of your container engine, one with
//! `--privileged`.

/// Lists, defaults and words: from JSON to facts.
mod facts;
/// What a difference does to the container.
mod meaning;

use serde::Serialize;
use serde_json::Value;

use facts::Fact;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where, as a path through the configuration.
    pub path: String,
    /// What the first one says; `None`: nothing.
    pub a: Option<Value>,
    /// What the second one says; `None`: nothing.
    pub b: Option<Value>,
    /// What the second one's container has, or may do, that the first one's does not.
    pub means: String,
}

/// All differences between two configurations, ordered by path.
pub fn compare(a: &Value, b: &Value) -> Vec<Difference> {
    let (a, b) = (facts::facts_of(a), facts::facts_of(b));
    let mut paths: Vec<&String> = a.keys().chain(b.keys()).collect();
    paths.sort();
    paths.dedup();
    let differing = paths.into_iter().filter_map(|path| {
        let (left, right) = (a.get(path), b.get(path));
        let value = |fact: Option<&Fact>| fact.map(|fact| fact.value.clone());
        let (left_value, right_value) = (value(left), value(right));
        if left_value == right_value || is_same_order(&left_value, &right_value, path) {
            return None;
        }
        let fact = left.or(right)?;
        Some(Difference {
            path: path.clone(),
            means: meaning::of(&fact.pattern, &fact.key, &left_value, &right_value),
            a: left_value,
            b: right_value,
        })
    });
    differing.collect()
}

/// Two lists of mounts are in the same order if those that both have are: what
/// only one has is told by itself.
fn is_same_order(a: &Option<Value>, b: &Option<Value>, path: &str) -> bool {
    if path != "mounts.order" {
        return false;
    }
    let names = |value: &Option<Value>| {
        value
            .iter()
            .flat_map(Value::as_array)
            .flatten()
            .cloned()
            .collect::<Vec<_>>()
    };
    let (a, b) = (names(a), names(b));
    let both = |names: &[Value], others: &[Value]| {
        let kept = names.iter().filter(|name| others.contains(name));
        kept.cloned().collect::<Vec<_>>()
    };
    both(&a, &b) == both(&b, &a)
}

#[cfg(test)]
mod tests;
