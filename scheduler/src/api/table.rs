//! Objects as rows: what `kubectl get` prints.
//!
//! The client asks for `application/json;as=Table` and prints what it gets, so
//! the columns of each kind are the server's. Columns of priority 1 are shown
//! with `-o wide` only. Each row carries the object's metadata along.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::kind::Kind;

/// The `Table` of some objects of a kind.
///
/// The caller sets the list's `metadata` (revision, `continue`), and replaces each row's
/// `object` where the client asked for the whole object or none.
#[must_use]
pub fn table(_kind: &Kind, objects: &[Value], _now: Timestamp) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            json!({
                "cells": [object["metadata"]["name"]],
                "object": {
                    "kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": object["metadata"],
                },
            })
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": [
            {"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0},
        ],
        "rows": rows,
    })
}
