//! Answers: objects in the form that the client asked for.
//!
//! | `Accept` | form |
//! |---|---|
//! | `application/json` | the object |
//! | `application/json;as=Table;v=v1;g=meta.k8s.io` | rows for people |
//! | `application/json;as=PartialObjectMetadata(List);…` | metadata only |
//! | `application/yaml` | the object, in YAML |
//!
//! The first that is served wins. Protocol buffers are not served: a client that takes nothing
//! else is told so with 406.

use std::{io::Write as _, sync::Arc};

use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::api::{
    error::ApiError, events, kind::Kind, list::Listed, object::Object, request::Parameters, table,
    watch::Signal,
};

/// Bodies above this are compressed for clients that take it: below, the header costs more than it saves.
const COMPRESS_FROM_BYTES: usize = 128 << 10;

/// In which form objects are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    Object,
    /// As rows, with so much of each object.
    Table(Include),
    /// Their metadata.
    Metadata,
}

/// How much of the object stands in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// The metadata.
    Metadata,
    /// All.
    Object,
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// JSON without spaces.
    Json,
    /// JSON for people.
    PrettyJson,
    /// YAML.
    Yaml,
}

/// What the client takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// The objects' form.
    pub form: Form,
    /// The body's script.
    pub script: Script,
    /// Whether it unpacks gzip.
    pub gzip: Gzip,
}

/// Whether a client unpacks gzip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gzip {
    /// It does.
    Taken,
    /// It did not say so.
    Refused,
}

impl Wish {
    /// Reads `Accept` and `Accept-Encoding`.
    ///
    /// # Errors
    ///
    /// 406 where nothing that is served is taken.
    pub fn read(headers: &HeaderMap, parameters: &Parameters) -> Result<Self, ApiError> {
        let encodings = headers
            .get(header::ACCEPT_ENCODING)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let gzip = if encodings
            .split(',')
            .any(|one| one.trim().starts_with("gzip"))
        {
            Gzip::Taken
        } else {
            Gzip::Refused
        };
        let mut accept: Vec<&str> = Vec::new();
        for value in headers.get_all(header::ACCEPT) {
            accept.extend(value.to_str().unwrap_or_default().split(',').map(str::trim));
        }
        accept.retain(|one| !one.is_empty());
        if accept.is_empty() {
            accept.push("*/*");
        }
        let include = match parameters.text("includeObject") {
            None | Some("Metadata") => Include::Metadata,
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "includeObject is {other:?}; expected None, Metadata or Object"
                )));
            }
        };
        let Some((form, mut script)) = accept.iter().find_map(|one| read_range(one, include))
        else {
            return Err(ApiError::not_acceptable(
                "only the following media types are accepted: application/json, application/yaml, \
                 application/json;as=Table;v=v1;g=meta.k8s.io, \
                 application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
            ));
        };
        if script == Script::Json && parameters.is_true("pretty") {
            script = Script::PrettyJson;
        }
        Ok(Self { form, script, gzip })
    }
}

/// One part of an `Accept` header, if it can be served.
fn read_range(range: &str, include: Include) -> Option<(Form, Script)> {
    let mut parts = range.split(';').map(str::trim);
    let script = match parts.next()? {
        "application/json" | "*/*" | "application/*" | "text/plain" => Script::Json,
        "application/yaml" => Script::Yaml,
        _ => return None,
    };
    let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
    let value = |name: &str| {
        parameters
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| *value)
    };
    let form = match (value("as"), value("g"), value("v")) {
        (None, ..) => Form::Object,
        (Some("Table"), Some("meta.k8s.io"), Some("v1")) => Form::Table(include),
        (
            Some("PartialObjectMetadata" | "PartialObjectMetadataList"),
            Some("meta.k8s.io"),
            Some("v1"),
        ) => Form::Metadata,
        _ => return None,
    };
    Some((form, script))
}

/// A `Status` for a failure.
#[must_use]
pub fn failure(error: &ApiError) -> Response<Body> {
    let mut response = json_response(
        StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        &error.to_status(),
    );
    if let Some(seconds) = error
        .details
        .as_ref()
        .map(|details| details.retry_after_seconds)
        .filter(|seconds| *seconds > 0)
    {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// A value as it is.
#[must_use]
pub fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// One object.
///
/// # Errors
///
/// None for objects of the store.
pub fn object(
    kind: &'static Kind,
    status: StatusCode,
    value: Value,
    wish: Wish,
) -> Result<Response<Body>, ApiError> {
    let value = events::shape(kind, value);
    let value = match wish.form {
        Form::Object => value,
        Form::Metadata => metadata_of(&value),
        Form::Table(include) => {
            let mut table = rows(kind, &[value], include);
            table["metadata"]["resourceVersion"] =
                table["rows"][0]["object"]["metadata"]["resourceVersion"].take();
            if table["metadata"]["resourceVersion"].is_null() {
                table["metadata"] = json!({});
            }
            table
        }
    };
    Ok(written(status, &value, wish))
}

/// An object that is shared with other readers.
///
/// # Errors
///
/// None for objects of the store.
pub fn shared(
    kind: &'static Kind,
    object: &Object,
    wish: Wish,
) -> Result<Response<Body>, ApiError> {
    if wish.form == Form::Object && wish.script == Script::Json && !events::is_newer(kind) {
        return Ok(bytes_response(
            StatusCode::OK,
            object.bytes.clone(),
            "application/json",
            wish.gzip,
        ));
    }
    self::object(kind, StatusCode::OK, object.value()?, wish)
}

/// A list.
///
/// # Errors
///
/// None for objects of the store.
pub fn list(kind: &'static Kind, listed: &Listed, wish: Wish) -> Result<Response<Body>, ApiError> {
    let mut metadata = json!({ "resourceVersion": listed.revision.to_string() });
    if let Some(token) = &listed.token {
        metadata["continue"] = json!(token);
    }
    if let Some(remaining) = listed.remaining {
        metadata["remainingItemCount"] = json!(remaining);
    }
    if wish.form == Form::Object && wish.script == Script::Json && !events::is_newer(kind) {
        return Ok(joined_list(kind, &metadata, &listed.objects, wish.gzip));
    }
    let mut values = Vec::with_capacity(listed.objects.len());
    for object in &listed.objects {
        values.push(events::shape(kind, object.value()?));
    }
    let value = match wish.form {
        Form::Object => list_value(
            &kind.api_version(),
            &format!("{}List", kind.kind),
            metadata,
            values,
        ),
        Form::Metadata => {
            let values = values.iter().map(metadata_of).collect();
            list_value(
                "meta.k8s.io/v1",
                "PartialObjectMetadataList",
                metadata,
                values,
            )
        }
        Form::Table(include) => {
            let mut table = rows(kind, &values, include);
            table["metadata"] = metadata;
            table
        }
    };
    Ok(written(StatusCode::OK, &value, wish))
}

fn list_value(api_version: &str, kind: &str, metadata: Value, items: Vec<Value>) -> Value {
    json!({ "kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items })
}

/// A list whose items are the shared bytes: nothing is decoded or encoded.
fn joined_list(
    kind: &Kind,
    metadata: &Value,
    objects: &[Arc<Object>],
    gzip: Gzip,
) -> Response<Body> {
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
        kind.kind,
        kind.api_version()
    );
    let size: usize = objects.iter().map(|object| object.bytes.len() + 1).sum();
    if size > COMPRESS_FROM_BYTES && gzip == Gzip::Refused {
        // Sent piece by piece, so that a large list is in memory once, however many ask for it.
        let items: Vec<Arc<Object>> = objects.to_vec();
        let pieces = items.into_iter().enumerate().map(|(at, object)| {
            if at == 0 {
                return object.bytes.clone();
            }
            let mut piece = Vec::with_capacity(object.bytes.len() + 1);
            piece.push(b',');
            piece.extend_from_slice(&object.bytes);
            Bytes::from(piece)
        });
        let all = std::iter::once(Bytes::from(head))
            .chain(pieces)
            .chain(std::iter::once(Bytes::from_static(b"]}\n")));
        let mut response = Response::new(Body::from_stream(futures::stream::iter(
            all.map(Ok::<_, std::convert::Infallible>),
        )));
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        return response;
    }
    let mut body = Vec::with_capacity(head.len() + size + 3);
    body.extend_from_slice(head.as_bytes());
    for (at, object) in objects.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&object.bytes);
    }
    body.extend_from_slice(b"]}\n");
    bytes_response(StatusCode::OK, Bytes::from(body), "application/json", gzip)
}

/// A watch: one JSON object a line.
#[must_use]
pub fn watch(
    kind: &'static Kind,
    signals: impl Stream<Item = Signal> + Send + 'static,
    wish: Wish,
) -> Response<Body> {
    let mut is_first = true;
    let lines = signals.map(move |signal| {
        let line = signal_line(kind, &signal, wish.form, is_first);
        is_first = false;
        line
    });
    let mut response = Response::new(Body::from_stream(
        lines.map(Ok::<_, std::convert::Infallible>),
    ));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

fn signal_line(kind: &'static Kind, signal: &Signal, form: Form, is_first: bool) -> Bytes {
    let (word, object) = match signal {
        Signal::Added(object) => ("ADDED", object),
        Signal::Modified(object) => ("MODIFIED", object),
        Signal::Deleted(object) => ("DELETED", object),
        Signal::Error(error) => return value_line("ERROR", &error.to_status()),
        Signal::Bookmark {
            revision,
            ends_initial,
        } => {
            return value_line("BOOKMARK", &bookmark(kind, *revision, *ends_initial, form));
        }
    };
    if form == Form::Object && !events::is_newer(kind) {
        let mut line = Vec::with_capacity(object.bytes.len() + 32);
        // Writing to a vector cannot fail.
        let _ = write!(line, "{{\"type\":\"{word}\",\"object\":");
        line.extend_from_slice(&object.bytes);
        line.extend_from_slice(b"}\n");
        return Bytes::from(line);
    }
    let value = match object.value() {
        Ok(value) => events::shape(kind, value),
        Err(error) => return value_line("ERROR", &error.to_status()),
    };
    match form {
        Form::Object => value_line(word, &value),
        Form::Metadata => value_line(word, &metadata_of(&value)),
        Form::Table(include) => {
            let mut table = rows(kind, &[value], include);
            if !is_first {
                // The client knows the columns from the first event.
                table["columnDefinitions"] = Value::Null;
            }
            table["metadata"] = json!({ "resourceVersion": object.modified.to_string() });
            value_line(word, &table)
        }
    }
}

fn bookmark(kind: &Kind, revision: u64, ends_initial: bool, form: Form) -> Value {
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    if ends_initial {
        metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
    }
    match form {
        Form::Object => {
            json!({ "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata })
        }
        Form::Metadata => {
            json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata })
        }
        Form::Table(_) => json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": { "resourceVersion": revision.to_string() },
            "columnDefinitions": null,
            "rows": [{ "cells": [], "object": {
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata } }],
        }),
    }
}

fn value_line(word: &str, value: &Value) -> Bytes {
    Bytes::from(format!("{{\"type\":\"{word}\",\"object\":{value}}}\n"))
}

fn metadata_of(value: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": value["metadata"] })
}

fn rows(kind: &Kind, values: &[Value], include: Include) -> Value {
    let mut table = table::table(kind, values, jiff::Timestamp::now());
    for (row, value) in table["rows"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .zip(values)
    {
        match include {
            Include::Metadata => {}
            Include::Object => row["object"] = value.clone(),
            Include::None => row["object"] = Value::Null,
        }
    }
    table
}

fn written(status: StatusCode, value: &Value, wish: Wish) -> Response<Body> {
    let (text, media) = match wish.script {
        Script::Json => (value.to_string() + "\n", "application/json"),
        // Falls back to the plain form, which cannot fail.
        Script::PrettyJson => (
            serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string()) + "\n",
            "application/json",
        ),
        Script::Yaml => match serde_saphyr::to_string(value) {
            Ok(text) => (text, "application/yaml"),
            Err(_) => (value.to_string() + "\n", "application/json"),
        },
    };
    bytes_response(status, Bytes::from(text), media, wish.gzip)
}

fn bytes_response(
    status: StatusCode,
    body: Bytes,
    media: &'static str,
    gzip: Gzip,
) -> Response<Body> {
    let (body, packed) = match gzip {
        Gzip::Taken if body.len() > COMPRESS_FROM_BYTES => match pack(&body) {
            Some(packed) => (packed, true),
            None => (body, false),
        },
        _ => (body, false),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    if packed {
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
            .headers_mut()
            .insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

fn pack(body: &[u8]) -> Option<Bytes> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(body).ok()?;
    packer.finish().ok().map(Bytes::from)
}
