//! Sets of fields, and their form in JSON (`FieldsV1`).
//!
//! A set of fields is a tree of steps. A step is written as structured-merge-diff
//! writes it, and that text is the key here too, so reading and writing a set is
//! nearly a copy:
//!
//! ```text
//! f:replicas              a field, or a key of a map
//! k:{"name":"web"}        an entry of a list map, by its keys
//! v:"10.0.0.1"            an entry of a set
//! .                       the value itself, beside steps below it
//! ```
//!
//! A leaf is a member of the set. An inner node is one only if it says so: who
//! owns an entry's `image` need not own the entry.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::api::schema::{Shape, Types, facts::Merge, key_default, types};

/// A set of fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fields {
    /// Whether the value at this place is in the set.
    pub member: bool,
    /// What is below, by step; none of them is empty.
    pub below: BTreeMap<String, Fields>,
}

/// Where a walk over a value stands in its type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    shape: &'static Shape,
    merge: Merge,
}

/// A part of a value that has owners of its own.
#[derive(Debug)]
pub(super) struct Part<'a> {
    /// Its step.
    pub step: String,
    /// Its type.
    pub place: Place,
    /// Its value.
    pub value: &'a Value,
    /// Whether the type names it; keys and entries are the user's choice.
    pub named: bool,
}

/// Why a value has no parts where its type says that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misfit(pub String);

const SELF: &str = ".";

impl Fields {
    /// Whether nothing is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    /// Reads `FieldsV1`. What is no such text is an empty set.
    #[must_use]
    pub fn from_json(value: &Value) -> Fields {
        let mut fields = Fields::default();
        for (step, value) in value.as_object().into_iter().flatten() {
            if step == SELF {
                fields.member = true;
            } else {
                let mut child = Fields::from_json(value);
                child.member |= child.below.is_empty();
                fields.below.insert(canonical_step(step), child);
            }
        }
        fields
    }

    /// Writes `FieldsV1`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.below.is_empty() {
            map.insert(SELF.to_owned(), json!({}));
        }
        for (step, child) in &self.below {
            map.insert(step.clone(), child.to_json());
        }
        Value::Object(map)
    }

    /// Puts the value at a path into the set.
    pub fn insert(&mut self, path: &[String]) {
        match path.split_first() {
            None => self.member = true,
            Some((step, rest)) => self.below.entry(step.clone()).or_default().insert(rest),
        }
    }

    /// Adds all of another set.
    pub fn add(&mut self, other: &Fields) {
        self.member |= other.member;
        for (step, child) in &other.below {
            self.below.entry(step.clone()).or_default().add(child);
        }
    }

    /// Takes all of another set away.
    pub fn remove(&mut self, other: &Fields) {
        self.member &= !other.member;
        for (step, gone) in &other.below {
            if let Some(child) = self.below.get_mut(step) {
                child.remove(gone);
                if child.is_empty() {
                    self.below.remove(step);
                }
            }
        }
    }

    /// What is in both sets.
    #[must_use]
    pub fn common(&self, other: &Fields) -> Fields {
        let below = self.below.iter().filter_map(|(step, child)| {
            let common = child.common(other.below.get(step)?);
            (!common.is_empty()).then(|| (step.clone(), common))
        });
        Fields {
            member: self.member && other.member,
            below: below.collect(),
        }
    }

    /// Keeps of the top level what `keep` says.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.below.retain(|step, _| keep(step));
    }

    /// The members' paths as people read them: `.spec.containers[name="web"].image`.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect_paths("", &mut found);
        found
    }

    fn collect_paths(&self, path: &str, found: &mut Vec<String>) {
        if self.member {
            found.push(path.to_owned());
        }
        for (step, child) in &self.below {
            child.collect_paths(&format!("{path}{}", readable(step)), found);
        }
    }
}

/// One spelling for each step: keys sorted, no blanks.
fn canonical_step(step: &str) -> String {
    for prefix in ["k:", "v:"] {
        if let Some(text) = step.strip_prefix(prefix)
            && let Ok(value) = serde_json::from_str::<Value>(text)
        {
            return format!("{prefix}{value}");
        }
    }
    step.to_owned()
}

/// A step as messages have it.
fn readable(step: &str) -> String {
    if let Some(field) = step.strip_prefix("f:") {
        return format!(".{field}");
    }
    if let Some(value) = step.strip_prefix("v:") {
        return format!("[={value}]");
    }
    let keys = step.strip_prefix("k:").unwrap_or(step);
    match serde_json::from_str::<Map<String, Value>>(keys) {
        Ok(keys) => {
            let pairs: Vec<String> = keys
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            format!("[{}]", pairs.join(","))
        }
        Err(_) => format!("[{step}]"),
    }
}

impl Place {
    /// The place of a whole object.
    pub(super) fn of(shape: &'static Shape) -> Place {
        Place {
            shape,
            merge: Merge::AsUsual,
        }
    }

    /// The keys by which entries of this list are told apart, if it is a list map.
    pub(super) fn list_keys(self) -> Option<&'static [&'static str]> {
        match self.merge {
            Merge::Map(keys) => Some(keys),
            _ => None,
        }
    }

    /// Whether a value here is merged part by part.
    pub(super) fn has_parts(self) -> bool {
        match self.shape {
            Shape::Object(id) => self.merge != Merge::Atomic && !types().at(*id).atomic,
            Shape::Map(_) => self.merge != Merge::Atomic,
            Shape::List(_) => matches!(self.merge, Merge::Map(_) | Merge::Set),
            _ => false,
        }
    }

    /// The parts of a value, in its order; `None` where it has one owner as a whole.
    ///
    /// # Errors
    ///
    /// An entry of a list map without its keys, or a field that the type has not.
    pub(super) fn parts<'a>(self, value: &'a Value) -> Result<Option<Vec<Part<'a>>>, Misfit> {
        if !self.has_parts() {
            return Ok(None);
        }
        let types: &'static Types = types();
        match (self.shape, value) {
            (Shape::Object(id), Value::Object(fields)) => {
                let parts = fields.iter().map(|(name, value)| {
                    let field = types
                        .field(*id, name)
                        .ok_or_else(|| Misfit(format!(".{name}: field not declared in schema")))?;
                    Ok(Part {
                        step: format!("f:{name}"),
                        place: Place {
                            shape: &field.shape,
                            merge: field.merge,
                        },
                        value,
                        named: true,
                    })
                });
                parts.collect::<Result<Vec<Part<'a>>, Misfit>>().map(Some)
            }
            (Shape::Map(values), Value::Object(entries)) => {
                let parts = entries.iter().map(|(key, value)| Part {
                    step: format!("f:{key}"),
                    place: Place::of(values),
                    value,
                    named: false,
                });
                Ok(Some(parts.collect()))
            }
            (Shape::List(items), Value::Array(values)) => {
                let parts = values.iter().enumerate().map(|(index, value)| {
                    Ok(Part {
                        step: self.item_step(items, index, value)?,
                        place: Place::of(items),
                        value,
                        named: false,
                    })
                });
                parts.collect::<Result<Vec<Part<'a>>, Misfit>>().map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The step of an entry of a list map or set.
    fn item_step(self, items: &Shape, index: usize, value: &Value) -> Result<String, Misfit> {
        let Some(keys) = self.list_keys() else {
            return Ok(format!("v:{value}"));
        };
        let mut found = Map::new();
        for key in keys {
            let default = || match items {
                Shape::Object(id) => {
                    key_default(&types().at(*id).name, key).map(|text| json!(text))
                }
                _ => None,
            };
            let given = value.get(key).filter(|value| !value.is_null()).cloned();
            let Some(value) = given.or_else(default) else {
                return Err(Misfit(format!(
                    ": element {index}: associative list with keys has an element that omits key field {key:?} (and doesn't have default value)"
                )));
            };
            found.insert((*key).to_owned(), value);
        }
        Ok(format!("k:{}", Value::Object(found)))
    }
}

/// All fields that a value sets.
///
/// # Errors
///
/// A field that the type has not, an entry without its keys, or two with the same.
pub(super) fn fields_of(place: Place, value: &Value) -> Result<Fields, Misfit> {
    let mut fields = Fields::default();
    let Some(parts) = place.parts(value)? else {
        fields.member = true;
        return Ok(fields);
    };
    for part in parts {
        let inside = |misfit: Misfit| Misfit(format!("{}{}", readable(&part.step), misfit.0));
        if part.value.is_null() {
            continue;
        }
        let mut child = fields_of(part.place, part.value).map_err(inside)?;
        // An empty object is somebody's wish too; a key or an entry is one beside
        // what is in it.
        child.member |= child.below.is_empty() || !part.named;
        if fields.below.insert(part.step.clone(), child).is_some() {
            return Err(Misfit(format!(
                ": duplicate entries for key {}",
                readable(&part.step)
            )));
        }
    }
    Ok(fields)
}

/// What differs between two values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    pub added: Fields,
    pub modified: Fields,
    pub removed: Fields,
}

/// Compares two values of one type.
pub(super) fn compare(place: Place, before: &Value, after: &Value) -> Comparison {
    let mut comparison = Comparison::default();
    let named = true;
    let mut path = Vec::new();
    compare_at(
        (place, named),
        Some(before),
        Some(after),
        &mut path,
        &mut comparison,
    );
    comparison
}

fn compare_at(
    (place, named): (Place, bool),
    before: Option<&Value>,
    after: Option<&Value>,
    path: &mut Vec<String>,
    found: &mut Comparison,
) {
    let old = before.map(|value| parts_by_step(place, value));
    let new = after.map(|value| parts_by_step(place, value));
    let is_empty = |side: &Option<Option<BTreeMap<String, Part<'_>>>>| match side {
        None => true,
        Some(Some(parts)) => parts.is_empty(),
        Some(None) => false,
    };
    let leaf = matches!(old, Some(None)) || matches!(new, Some(None));
    if leaf || (is_empty(&old) && is_empty(&new)) {
        match (before, after) {
            (None, Some(_)) => found.added.insert(path),
            (Some(_), None) => found.removed.insert(path),
            (Some(before), Some(after)) if before != after => found.modified.insert(path),
            _ => {}
        }
        return;
    }
    let (old, new) = (
        old.flatten().unwrap_or_default(),
        new.flatten().unwrap_or_default(),
    );
    let mut steps: Vec<&String> = old.keys().chain(new.keys()).collect();
    steps.sort();
    steps.dedup();
    for step in steps {
        let (was, is) = (old.get(step), new.get(step));
        let Some(part) = is.or(was) else { continue };
        path.push(step.clone());
        compare_at(
            (part.place, part.named),
            was.map(|part| part.value),
            is.map(|part| part.value),
            path,
            found,
        );
        path.pop();
    }
    if !named || matches!(place.shape, Shape::Map(_) | Shape::List(_)) {
        match (before, after) {
            (None, Some(_)) => found.added.insert(path),
            (Some(_), None) => found.removed.insert(path),
            _ => {}
        }
    }
}

/// Parts by their step; of two with the same the last counts. `None` for a leaf.
fn parts_by_step(place: Place, value: &Value) -> Option<BTreeMap<String, Part<'_>>> {
    let parts = place.parts(value).ok().flatten()?;
    Some(
        parts
            .into_iter()
            .filter(|part| !part.value.is_null())
            .map(|part| (part.step.clone(), part))
            .collect(),
    )
}
