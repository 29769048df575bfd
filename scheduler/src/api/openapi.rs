//! What the API says about itself: discovery, and OpenAPI documents of two versions.
//!
//! Clients know nothing of an API beforehand. `kubectl get po` asks discovery
//! what `po` is; `kubectl explain` and `kubectl apply` read the types and the ways
//! of merging from OpenAPI, version 3 (a document for each group) or 2 (one).
//!
//! A document is some hundred kilobytes to megabytes of text that is asked for
//! once in a while, so each is made when it is first asked for and kept
//! compressed, as nearly every client takes it.

use std::{
    io::{Read, Write},
    sync::OnceLock,
};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::kind::group_versions;

/// Which groups, kinds and verbs there are.
pub mod discovery;
/// The paths of a document: what can be asked of which kind.
mod operations;
/// The schemas of a document: types with the facts of merging.
mod schemas;

/// A document as it is kept.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its JSON, compressed by gzip.
    pub gzip: Bytes,
    /// A hash of the JSON, without quotes: an `ETag` and a cache's key.
    pub hash: String,
}

/// Which of the two formats a document has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    V2,
    V3,
}

/// `/openapi/v2`: all groups.
#[must_use]
pub fn v2() -> &'static Document {
    static DOCUMENT: OnceLock<Document> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let mut paths = Map::new();
        for (group, version) in group_versions() {
            paths.append(&mut operations::paths(Format::V2, group, version));
        }
        Document::new(&json!({
            "swagger": "2.0",
            "info": info(),
            "paths": paths,
            "definitions": schemas::all(Format::V2),
        }))
    })
}

/// `/openapi/v3`: where the document of each group is.
#[must_use]
pub fn v3_index() -> Value {
    let paths = documents_v3().iter().map(|(path, document)| {
        let url = format!("/openapi/v3/{path}?hash={}", document.hash);
        (path.clone(), json!({"serverRelativeURL": url}))
    });
    json!({"paths": paths.collect::<Map<String, Value>>()})
}

/// `/openapi/v3/PATH`, where the path is `api/v1` or `apis/GROUP/VERSION`.
#[must_use]
pub fn v3(path: &str) -> Option<&'static Document> {
    documents_v3()
        .iter()
        .find(|(known, _)| known == path)
        .map(|(_, document)| document)
}

fn documents_v3() -> &'static [(String, Document)] {
    static DOCUMENTS: OnceLock<Vec<(String, Document)>> = OnceLock::new();
    DOCUMENTS.get_or_init(|| {
        // The types of all groups are made once, and dropped when all documents are.
        let schemas = schemas::all(Format::V3);
        group_versions()
            .into_iter()
            .map(|(group, version)| {
                let paths = operations::paths(Format::V3, group, version);
                let document = json!({
                    "openapi": "3.0.0",
                    "info": info(),
                    "components": {"schemas": schemas::reached(&schemas, group, version)},
                    "paths": paths,
                });
                (root(group, version), Document::new(&document))
            })
            .collect()
    })
}

/// `api/v1` or `apis/apps/v1`.
fn root(group: &str, version: &str) -> String {
    match group {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    }
}

fn info() -> Value {
    json!({"title": "berth", "version": env!("CARGO_PKG_VERSION")})
}

impl Document {
    fn new(document: &Value) -> Document {
        let text = document.to_string();
        let hash = Sha256::digest(text.as_bytes());
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        // Writing into memory does not fail; if it did, the text alone would be lost.
        let gzip = match encoder.write_all(text.as_bytes()) {
            Ok(()) => encoder.finish().unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        Document {
            gzip: Bytes::from(gzip),
            hash: hash.iter().map(|byte| format!("{byte:02X}")).collect(),
        }
    }

    /// The JSON, for the few clients that take no gzip.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(self.gzip.as_ref());
        match decoder.read_to_end(&mut text) {
            Ok(_) => text,
            Err(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
