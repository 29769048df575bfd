//! The tree against the schema: unknown fields, wrong types, missing fields.
//!
//! The Kubernetes types publish a JSON schema (the `schemars` feature of
//! `k8s-openapi`), so the table of known fields is made from the very types
//! that the object is read into, and cannot drift from them. The walk also
//! turns the tree into JSON and notes where each field stood.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value as Json, json};
use strsim::levenshtein;

use super::{
    Problem, fields,
    tree::{Node, Position, Value},
};

/// The kinds that a manifest may hold, with their `apiVersion`.
const KINDS: [(&str, &str); 6] = [
    ("v1", "Pod"),
    ("apps/v1", "Deployment"),
    ("batch/v1", "Job"),
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
    ("v1", "List"),
];

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";

/// The two fields that say what a document is.
#[derive(Debug)]
pub(super) struct Header {
    pub api_version: String,
    pub kind: String,
}

/// Reads `apiVersion` and `kind`.
pub(super) fn read_header(document: &Node) -> Result<Header, Problem> {
    if document.entries().is_none() {
        return Err(Problem {
            position: document.at,
            path: String::new(),
            message: format!(
                "expected a mapping with apiVersion and kind, found {}",
                document.value.describe()
            ),
        });
    }
    Ok(Header {
        api_version: read_header_field(document, "apiVersion", "v1")?,
        kind: read_header_field(document, "kind", "Pod")?,
    })
}

fn read_header_field(document: &Node, name: &str, example: &str) -> Result<String, Problem> {
    let problem = |position, message| {
        Err(Problem {
            position,
            path: name.to_owned(),
            message,
        })
    };
    match document.field(name) {
        None => problem(
            document.at,
            format!("required field is missing, as in `{name}: {example}`"),
        ),
        Some(entry) => match &entry.value.value {
            Value::String(text) => Ok(text.clone()),
            other => problem(
                entry.value.at,
                format!(
                    "expected a string such as {example}, found {}",
                    other.describe()
                ),
            ),
        },
    }
}

/// The items of a `List`.
pub(super) fn list_items(document: Node) -> Result<Vec<Node>, Problem> {
    let at = document.at;
    let Value::Mapping(entries) = document.value else {
        return Ok(Vec::new());
    };
    for entry in entries {
        match (entry.key.as_str(), entry.value.value) {
            ("items", Value::Sequence(items)) => return Ok(items),
            ("items", other) => {
                return Err(Problem {
                    position: entry.value.at,
                    path: "items".to_owned(),
                    message: format!("expected a list, found {}", other.describe()),
                });
            }
            _ => {}
        }
    }
    Err(Problem {
        position: at,
        path: "items".to_owned(),
        message: "required field is missing".to_owned(),
    })
}

/// Says why a document's kind cannot be read.
pub(super) fn unknown_kind(document: &Node, header: &Header) -> Problem {
    let Header { api_version, kind } = header;
    let of_kind = KINDS.iter().find(|(_, known)| known == kind);
    let (field, message) = match of_kind {
        Some((expected, _)) => (
            "apiVersion",
            format!("{kind} has apiVersion {expected}, found {api_version:?}"),
        ),
        None => {
            let names: Vec<&str> = KINDS.iter().map(|(_, known)| *known).collect();
            let hint = match nearest(kind, names.iter().copied()) {
                Some(name) => format!("; did you mean {name}?"),
                None => format!("; expected one of {}", names.join(", ")),
            };
            (
                "kind",
                format!("{api_version} {kind} is not a kind that runs on one machine{hint}"),
            )
        }
    };
    let position = document
        .field(field)
        .map_or(document.at, |entry| entry.value.at);
    Problem {
        position,
        path: field.to_owned(),
        message,
    }
}

/// A document after the walk.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub value: Json,
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
    /// Where each field stood, by its path.
    pub places: BTreeMap<String, Position>,
}

/// Walks a document beside the schema of `K`.
pub(super) fn check<K: schemars::JsonSchema>(document: &Node) -> Checked {
    let mut generator = schemars::SchemaGenerator::default();
    let root = generator.subschema_for::<K>().to_value();
    let definitions = generator.take_definitions(true);
    let mut walk = Walk {
        definitions: &definitions,
        checked: Checked::default(),
    };
    let value = walk.value(document, &root, "");
    walk.checked.value = value.unwrap_or(Json::Null);
    walk.checked
}

/// All fields of a type, by the name of its schema.
#[cfg(test)]
pub(super) fn definitions_of<K: schemars::JsonSchema>() -> Map<String, Json> {
    let mut generator = schemars::SchemaGenerator::default();
    generator.subschema_for::<K>();
    generator.take_definitions(true)
}

struct Walk<'schema> {
    definitions: &'schema Map<String, Json>,
    checked: Checked,
}

impl<'schema> Walk<'schema> {
    fn problem(&mut self, position: Position, path: &str, message: String) {
        self.checked.problems.push(Problem {
            position,
            path: path.to_owned(),
            message,
        });
    }

    /// Follows a reference; the name of the definition tells special types.
    fn resolve<'a>(&self, schema: &'a Json) -> (&'a Json, &'a str)
    where
        'schema: 'a,
    {
        let reference = schema.get("$ref").and_then(Json::as_str);
        match reference.and_then(|reference| reference.strip_prefix("#/$defs/")) {
            Some(name) => (self.definitions.get(name).unwrap_or(schema), name),
            None => (schema, ""),
        }
    }

    /// JSON of one node, or nothing if it is null or wrong.
    fn value(&mut self, node: &Node, schema: &'schema Json, path: &str) -> Option<Json> {
        self.checked.places.insert(path.to_owned(), node.at);
        // `field:` with nothing behind it means "not set", as in the API.
        if node.value == Value::Null {
            return None;
        }
        let (schema, definition) = self.resolve(schema);
        if definition == QUANTITY {
            return self.quantity(node, path);
        }
        if schema.get("x-kubernetes-int-or-string").is_some() {
            return match &node.value {
                Value::Integer(value) => Some(json!(value)),
                Value::String(text) => Some(json!(text)),
                _ => self.wrong_type(node, path, "a number or a string"),
            };
        }
        match schema.get("type").and_then(Json::as_str) {
            Some("object") => self.object(node, schema, definition, path),
            Some("array") => self.array(node, schema, path),
            Some("string") => match &node.value {
                Value::String(text) => Some(json!(text)),
                _ => self.wrong_type(node, path, "a string (put it in quotes)"),
            },
            Some("integer") => self.integer(node, schema, path),
            Some("number") => match &node.value {
                Value::Integer(value) => Some(json!(value)),
                Value::Float(value, _) => Number::from_f64(*value).map(Json::Number),
                _ => self.wrong_type(node, path, "a number"),
            },
            Some("boolean") => match &node.value {
                Value::Boolean(value) => Some(json!(value)),
                // YAML 1.1's spellings, which Kubernetes still reads.
                Value::String(text) if ["yes", "on"].contains(&text.as_str()) => Some(json!(true)),
                Value::String(text) if ["no", "off"].contains(&text.as_str()) => Some(json!(false)),
                _ => self.wrong_type(node, path, "true or false"),
            },
            // A schema without a type allows anything (managedFields).
            _ => Some(plain_json(node)),
        }
    }

    fn wrong_type(&mut self, node: &Node, path: &str, expected: &str) -> Option<Json> {
        self.problem(
            node.at,
            path,
            format!("expected {expected}, found {}", node.value.describe()),
        );
        None
    }

    fn quantity(&mut self, node: &Node, path: &str) -> Option<Json> {
        let text = match &node.value {
            Value::Integer(value) => value.to_string(),
            Value::Float(_, text) | Value::String(text) => text.clone(),
            _ => return self.wrong_type(node, path, "a quantity such as 500m or 64Mi"),
        };
        if let Err(error) = super::quantity::parse(&text) {
            self.problem(node.at, path, error.to_string());
            return None;
        }
        Some(json!(text))
    }

    fn integer(&mut self, node: &Node, schema: &Json, path: &str) -> Option<Json> {
        let Value::Integer(value) = node.value else {
            return self.wrong_type(node, path, "a whole number");
        };
        let narrow = schema.get("format").and_then(Json::as_str) == Some("int32");
        if narrow && i32::try_from(value).is_err() {
            self.problem(node.at, path, format!("{value} does not fit into 32 bits"));
            return None;
        }
        Some(json!(value))
    }

    fn array(&mut self, node: &Node, schema: &'schema Json, path: &str) -> Option<Json> {
        let Value::Sequence(items) = &node.value else {
            return self.wrong_type(node, path, "a list");
        };
        let Some(item_schema) = schema.get("items") else {
            return Some(plain_json(node));
        };
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let item_path = format!("{path}[{index}]");
            if item.value == Value::Null {
                self.problem(item.at, &item_path, "an empty list item".to_owned());
            }
            values.extend(self.value(item, item_schema, &item_path));
        }
        Some(Json::Array(values))
    }

    fn object(
        &mut self,
        node: &Node,
        schema: &'schema Json,
        definition: &str,
        path: &str,
    ) -> Option<Json> {
        let Some(entries) = node.entries() else {
            return self.wrong_type(node, path, "a mapping");
        };
        let properties = schema.get("properties").and_then(Json::as_object);
        let additional = schema
            .get("additionalProperties")
            .filter(|value| value.is_object());
        let mut values = Map::new();
        let mut seen: BTreeMap<&str, Position> = BTreeMap::new();
        for entry in entries {
            let field_path = join(path, &entry.key, properties.is_some());
            if let Some(first) = seen.insert(&entry.key, entry.key_at) {
                let message = format!("stands twice; the first is at line {}", first.line);
                self.problem(entry.key_at, &field_path, message);
                continue;
            }
            let field_schema = match properties.and_then(|known| known.get(&entry.key)) {
                Some(field_schema) => field_schema,
                None => match (additional, properties) {
                    (Some(field_schema), _) => field_schema,
                    (None, Some(known)) => {
                        let message = unknown_field(&entry.key, known);
                        self.problem(entry.key_at, &field_path, message);
                        continue;
                    }
                    (None, None) => {
                        values.insert(entry.key.clone(), plain_json(&entry.value));
                        continue;
                    }
                },
            };
            if let Some(value) = self.value(&entry.value, field_schema, &field_path) {
                self.judge(definition, &entry.key, &value, (entry.key_at, &field_path));
                values.insert(entry.key.clone(), value);
            }
        }
        self.required(schema, &seen, (node.at, path));
        Some(Json::Object(values))
    }

    /// Looks a field up in the table of what berth does with it.
    fn judge(&mut self, definition: &str, name: &str, value: &Json, place: (Position, &str)) {
        let (position, path) = place;
        let Some(field) = fields::find(definition, name) else {
            return;
        };
        let text = match value {
            Json::String(text) => text.clone(),
            other => other.to_string(),
        };
        if field.harmless.contains(&text.as_str()) {
            return;
        }
        let problem = Problem {
            position,
            path: path.to_owned(),
            message: field.note.to_owned(),
        };
        match field.judgement {
            fields::Judgement::Honoured => {}
            fields::Judgement::Warned => self.checked.warnings.push(Problem {
                message: format!("not honoured: {}", field.note),
                ..problem
            }),
            fields::Judgement::Refused => self.checked.problems.push(Problem {
                message: format!("not supported: {}", field.note),
                ..problem
            }),
        }
    }

    fn required(&mut self, schema: &Json, seen: &BTreeMap<&str, Position>, at: (Position, &str)) {
        let required = schema.get("required").and_then(Json::as_array);
        for name in required.into_iter().flatten().filter_map(Json::as_str) {
            if !seen.contains_key(name) {
                let path = join(at.1, name, true);
                self.problem(at.0, &path, "required field is missing".to_owned());
            }
        }
    }
}

/// `spec` + `containers` → `spec.containers`; a map's key stands in brackets.
fn join(path: &str, name: &str, is_field: bool) -> String {
    match (path.is_empty(), is_field) {
        (true, _) => name.to_owned(),
        (false, true) => format!("{path}.{name}"),
        (false, false) => format!("{path}[{name}]"),
    }
}

fn unknown_field(name: &str, known: &Map<String, Json>) -> String {
    match nearest(name, known.keys().map(String::as_str)) {
        Some(nearest) => format!("unknown field; did you mean {nearest}?"),
        None => "unknown field".to_owned(),
    }
}

/// The known name that is few keystrokes away, if there is one.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).clamp(1, 4);
    known
        .map(|candidate| {
            (
                levenshtein(&name.to_lowercase(), &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// JSON of a node whose type nothing prescribes.
fn plain_json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Boolean(value) => json!(value),
        Value::Integer(value) => json!(value),
        Value::Float(value, _) => json!(value),
        Value::String(text) => json!(text),
        Value::Sequence(items) => items.iter().map(plain_json).collect(),
        Value::Mapping(entries) => Json::Object(
            entries
                .iter()
                .map(|entry| (entry.key.clone(), plain_json(&entry.value)))
                .collect(),
        ),
    }
}
