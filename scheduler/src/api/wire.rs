//! Bodies in Kubernetes' protocol buffers, read into the JSON that the API works with.
//!
//! kubectl's generators and Go's typed clients (a kubelet, a kube-scheduler) write them.
//! Answers stay JSON, which all of these take. A body is an envelope around an object:
//!
//! ```text
//!  'k' 's' 0 '8'...                          four bytes: k8s and a zero
//!  +--------+-----------------------------+
//!  | 1 typeMeta     { 1 apiVersion        |  what the object is: its bytes do not say it
//!  |                  2 kind }            |
//!  | 2 raw          the object's fields   |
//!  | 3 contentEncoding  nothing but ""    |
//!  | 4 contentType                        |
//!  +--------------------------------------+
//! ```
//!
//! On the wire a field has a number and no name, and a message does not say which it is. So the
//! reader goes along a table: [`fields`] knows each type that a body can reach. What a Go client
//! would have written as JSON comes out, byte order aside, as if it had: zeros that its types
//! leave out are left out, those that it shows are there.
//!
//! Nothing here trusts the body: a length may not lead out of it, the number of values that it
//! may become is bounded ([`VALUES_LIMIT`]: two bytes of an empty message can become an object
//! of many fields), and the table has no type within itself, so objects nest as deep as it and
//! no deeper.
//!
//! Read more: <https://protobuf.dev/programming-guides/encoding/>, and "Kubernetes Protobuf
//! encoding" in <https://kubernetes.io/docs/reference/using-api/api-concepts/>.

use std::fmt;

use serde_json::Value;

use self::{
    fields::table,
    read::Reading,
    scan::{Content, Scanner},
};
use super::{kind::by_kind, schema::definition};

/// The table of types: what a number means.
pub mod fields;
/// Types that have a JSON form of their own: times, quantities and the like.
pub mod leaves;
/// From a message to an object, along the table.
pub mod read;
/// The grammar: keys, numbers, lengths.
pub mod scan;

/// The form's name in `Content-Type`.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// How many values a body may become. An object of three megabytes that people write has some
/// thousands.
pub const VALUES_LIMIT: usize = 1 << 17;

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Why a body could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireError {
    /// Where, from the innermost step outwards: `ports`, `[0]`, `containers`, `spec`.
    steps: Vec<String>,
    what: String,
}

impl WireError {
    fn new(what: impl Into<String>) -> Self {
        Self {
            steps: Vec::new(),
            what: what.into(),
        }
    }

    /// The same one step further out.
    fn within(mut self, step: impl Into<String>) -> Self {
        self.steps.push(step.into());
        self
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.steps.iter().rev().enumerate() {
            let dot = if index == 0 || step.starts_with('[') {
                ""
            } else {
                "."
            };
            write!(formatter, "{dot}{step}")?;
        }
        let colon = if self.steps.is_empty() { "" } else { ": " };
        write!(formatter, "{colon}{}", self.what)
    }
}

impl std::error::Error for WireError {}

/// What is in the envelope.
#[derive(Debug, Default, PartialEq, Eq)]
struct Envelope<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
}

/// The object of a body, with its `apiVersion` and `kind`.
///
/// # Errors
///
/// If the body is no envelope, holds a kind that is not served, or breaks the grammar; the error
/// names the field.
pub fn read_body(body: &[u8]) -> Result<Value, WireError> {
    let envelope = open(body)?;
    let Some(message) = type_of(&envelope).and_then(|name| table().named(&name)) else {
        return Err(WireError::new(format!(
            "no kind {:?} of version {:?} is served",
            envelope.kind, envelope.api_version
        )));
    };
    let mut object = Reading::new(table(), VALUES_LIMIT).object(message, envelope.raw)?;
    object.insert("apiVersion".to_owned(), Value::String(envelope.api_version));
    object.insert("kind".to_owned(), Value::String(envelope.kind));
    Ok(Value::Object(object))
}

fn open(body: &[u8]) -> Result<Envelope<'_>, WireError> {
    let Some(rest) = body.strip_prefix(MAGIC) else {
        return Err(WireError::new("it does not begin with k8s and a zero byte"));
    };
    let mut envelope = Envelope::default();
    let mut scanner = Scanner::new(rest);
    while let Some((number, content)) = scanner.next_field()? {
        match (number, content) {
            (1, Content::Bytes(meta)) => {
                read_type_meta(meta, &mut envelope).map_err(|error| error.within("typeMeta"))?;
            }
            (2, Content::Bytes(raw)) => envelope.raw = raw,
            (3, Content::Bytes([])) => {}
            (3, Content::Bytes(_)) => {
                return Err(WireError::new("contentEncoding: none is known"));
            }
            (1..=4, other) => other.bytes().map(drop)?,
            _ => {}
        }
    }
    Ok(envelope)
}

fn read_type_meta(meta: &[u8], envelope: &mut Envelope<'_>) -> Result<(), WireError> {
    let mut scanner = Scanner::new(meta);
    while let Some((number, content)) = scanner.next_field()? {
        match number {
            1 => envelope.api_version = content.text()?,
            2 => envelope.kind = content.text()?,
            _ => {}
        }
    }
    Ok(())
}

/// The table's name of an envelope's type: the kinds that are served, and what is sent to their
/// subresources.
fn type_of(envelope: &Envelope<'_>) -> Option<String> {
    let name = match (envelope.api_version.as_str(), envelope.kind.as_str()) {
        // Each group has them under its own name.
        (_, "DeleteOptions") => "apimachinery.pkg.apis.meta.v1.DeleteOptions",
        ("v1", "Binding") => "api.core.v1.Binding",
        ("policy/v1", "Eviction") => "api.policy.v1.Eviction",
        ("autoscaling/v1", "Scale") => "api.autoscaling.v1.Scale",
        (version, kind) => return by_kind(version, kind).map(definition),
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests;
