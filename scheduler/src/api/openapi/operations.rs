//! The paths of a document: what can be asked of which kind.
//!
//! Clients look here for two things: that a kind's PATCH takes `fieldValidation`
//! and `dryRun` (`kubectl apply` asks before it relies on them), and which paths
//! there are.

use serde_json::{Map, Value, json};

use super::{
    Format,
    discovery::subresource_facts,
    root,
    schemas::{DELETE_OPTIONS, STATUS, reference},
};
use crate::api::{
    kind::{KINDS, Kind},
    schema,
};

const PATCHES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
const JSON: [&str; 1] = ["application/json"];

/// Parameters that are the same for several operations: name, type, meaning.
type Parameter = (&'static str, &'static str, &'static str);

const LIST: &[Parameter] = &[
    ("labelSelector", "string", "Which objects, by their labels."),
    (
        "fieldSelector",
        "string",
        "Which objects, by a few of their fields.",
    ),
    (
        "limit",
        "integer",
        "At most so many objects; the rest by `continue`.",
    ),
    ("continue", "string", "Where the page before ended."),
    (
        "resourceVersion",
        "string",
        "The revision that must have been reached.",
    ),
    (
        "resourceVersionMatch",
        "string",
        "How the revision is meant.",
    ),
    (
        "sendInitialEvents",
        "boolean",
        "A watch begins with the objects that there are.",
    ),
    (
        "allowWatchBookmarks",
        "boolean",
        "A watch also tells revisions at which nothing changed.",
    ),
    (
        "timeoutSeconds",
        "integer",
        "How long a list or a watch may take.",
    ),
    ("watch", "boolean", "Changes instead of objects."),
];
const WRITE: &[Parameter] = &[
    (
        "dryRun",
        "string",
        "`All`: everything but the write itself.",
    ),
    ("fieldManager", "string", "Who writes."),
    (
        "fieldValidation",
        "string",
        "Unknown fields: `Strict`, `Warn` or `Ignore`.",
    ),
];
const PATCH: &[Parameter] = &[
    (
        "dryRun",
        "string",
        "`All`: everything but the write itself.",
    ),
    ("fieldManager", "string", "Who writes."),
    (
        "fieldValidation",
        "string",
        "Unknown fields: `Strict`, `Warn` or `Ignore`.",
    ),
    (
        "force",
        "boolean",
        "An apply takes over fields of other managers.",
    ),
];
const DELETE: &[Parameter] = &[
    (
        "dryRun",
        "string",
        "`All`: everything but the deletion itself.",
    ),
    (
        "gracePeriodSeconds",
        "integer",
        "How long the object may take to end.",
    ),
    (
        "propagationPolicy",
        "string",
        "What becomes of objects that this one owns.",
    ),
];

/// One operation before it is written down.
struct Operation<'a> {
    action: &'static str,
    kind: (&'a str, &'a str, &'a str),
    parameters: &'a [Parameter],
    body: Option<(String, &'a [&'static str])>,
    answer: String,
}

/// The paths of one group.
pub(super) fn paths(format: Format, group: &str, version: &str) -> Map<String, Value> {
    let mut paths = Map::new();
    let kinds = KINDS
        .iter()
        .filter(|kind| kind.group == group && kind.version == version);
    for kind in kinds {
        let root = format!("/{}", root(group, version));
        let (collection, everywhere) = match kind.namespaced() {
            true => (
                format!("{root}/namespaces/{{namespace}}/{}", kind.plural),
                Some(format!("{root}/{}", kind.plural)),
            ),
            false => (format!("{root}/{}", kind.plural), None),
        };
        if let Some(everywhere) = everywhere {
            let path = json!({"get": operation(format, kind, "list")});
            paths.insert(everywhere, path);
        }
        let mut path = json!({
            "get": operation(format, kind, "list"),
            "post": operation(format, kind, "post"),
            "delete": operation(format, kind, "deletecollection"),
        });
        add_place(format, kind, &mut path, &[]);
        paths.insert(collection.clone(), path);
        let mut path = json!({
            "get": operation(format, kind, "get"),
            "put": operation(format, kind, "put"),
            "patch": operation(format, kind, "patch"),
            "delete": operation(format, kind, "delete"),
        });
        add_place(format, kind, &mut path, &["name"]);
        paths.insert(format!("{collection}/{{name}}"), path);
        for subresource in kind.subresources {
            let (response, verbs) = subresource_facts(kind, *subresource);
            let answer = match response.kind {
                name if name == kind.kind || name.ends_with("Options") => type_of(kind),
                name => {
                    let group = if response.group.is_empty() {
                        "core"
                    } else {
                        response.group
                    };
                    format!("io.k8s.api.{group}.{}.{name}", response.version)
                }
            };
            let mut path = json!({});
            for verb in verbs {
                let (method, action) = match *verb {
                    "create" => ("post", "post"),
                    "update" => ("put", "put"),
                    "patch" => ("patch", "patch"),
                    _ => ("get", "get"),
                };
                path[method] = write(
                    format,
                    &Operation {
                        kind: (response.group, response.version, response.kind),
                        answer: answer.clone(),
                        ..of(kind, action)
                    },
                );
            }
            add_place(format, kind, &mut path, &["name"]);
            paths.insert(
                format!("{collection}/{{name}}/{}", subresource.path()),
                path,
            );
        }
    }
    paths
}

fn type_of(kind: &Kind) -> String {
    format!("io.k8s.{}", schema::definition(kind))
}

/// What an action takes and gives.
fn of<'a>(kind: &'a Kind, action: &'static str) -> Operation<'a> {
    let own = type_of(kind);
    let (parameters, body, answer): (&[Parameter], _, _) = match action {
        "list" => (LIST, None, own),
        "post" | "put" => (WRITE, Some((own.clone(), &JSON[..])), own),
        "patch" => (PATCH, Some((String::new(), &PATCHES[..])), own),
        "delete" | "deletecollection" => {
            let body = Some((DELETE_OPTIONS.to_owned(), &JSON[..]));
            (DELETE, body, STATUS.to_owned())
        }
        _ => (&[], None, own),
    };
    Operation {
        action,
        kind: (kind.group, kind.version, kind.kind),
        parameters,
        body,
        answer,
    }
}

fn operation(format: Format, kind: &Kind, action: &'static str) -> Value {
    write(format, &of(kind, action))
}

fn write(format: Format, operation: &Operation<'_>) -> Value {
    let (group, version, kind) = operation.kind;
    let mut parameters: Vec<Value> = operation
        .parameters
        .iter()
        .map(|(name, kind, meaning)| {
            let mut parameter = json!({"name": name, "in": "query", "description": meaning});
            match format {
                Format::V2 => parameter["type"] = json!(kind),
                Format::V3 => parameter["schema"] = json!({"type": kind}),
            }
            parameter
        })
        .collect();
    let schema = |name: &str| match name {
        "" => json!({"type": "object"}),
        name => reference(format, name),
    };
    let mut written = json!({
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
    });
    let answer = schema(&operation.answer);
    written["responses"] = match format {
        Format::V2 => json!({"200": {"description": "OK", "schema": answer}}),
        Format::V3 => {
            json!({"200": {"description": "OK", "content": {"application/json": {"schema": answer}}}})
        }
    };
    if let Some((body, media)) = &operation.body {
        let body = schema(body);
        match format {
            Format::V2 => {
                written["consumes"] = json!(media);
                parameters
                    .push(json!({"name": "body", "in": "body", "required": true, "schema": body}));
            }
            Format::V3 => {
                let content: Map<String, Value> = media
                    .iter()
                    .map(|media| ((*media).to_owned(), json!({"schema": body})))
                    .collect();
                written["requestBody"] = json!({"content": content, "required": true});
            }
        }
    }
    written["parameters"] = json!(parameters);
    written
}

/// The parameters that stand in the path itself.
fn add_place(format: Format, kind: &Kind, path: &mut Value, more: &[&str]) {
    let namespace = kind.namespaced().then_some("namespace");
    let parameters: Vec<Value> = more
        .iter()
        .copied()
        .chain(namespace)
        .map(|name| {
            let mut parameter = json!({"name": name, "in": "path", "required": true});
            match format {
                Format::V2 => parameter["type"] = json!("string"),
                Format::V3 => parameter["schema"] = json!({"type": "string"}),
            }
            parameter
        })
        .collect();
    if !parameters.is_empty() {
        path["parameters"] = json!(parameters);
    }
}
