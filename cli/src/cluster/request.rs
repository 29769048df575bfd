//! Single requests to the API, with what comes beside an answer: its status and warnings.

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::Value;

use berth_scheduler::api::kind::Kind;

use super::kinds::title;
use crate::error::{Context, Error, Result};

/// A table for people, as the server makes it.
pub const AS_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// Objects as they are.
pub const AS_JSON: &str = "application/json";

/// One request.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// What to do.
    pub method: Method,
    /// To what: a path with its query.
    pub path: String,
    /// In which form the answer is wanted.
    pub accept: &'a str,
    /// With what, and of which type.
    pub body: Option<(&'a str, Vec<u8>)>,
}

impl Ask<'_> {
    /// To read something.
    pub fn get(path: String) -> Ask<'static> {
        Ask {
            method: Method::GET,
            path,
            accept: AS_JSON,
            body: None,
        }
    }

    /// The request in kube's words.
    ///
    /// # Errors
    ///
    /// The path holds what a URL cannot.
    pub fn request(self) -> Result<Request<Vec<u8>>> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header(header::ACCEPT, self.accept);
        let body = match self.body {
            Some((kind, bytes)) => {
                request = request.header(header::CONTENT_TYPE, kind);
                bytes
            }
            None => Vec::new(),
        };
        request.body(body).context("make a request")
    }
}

/// What the API answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// An object, a list, a table, or a `Status`.
    pub value: Value,
}

impl Answer {
    /// The value of a success.
    ///
    /// # Errors
    ///
    /// The API refused; its own words.
    pub fn success(self) -> Result<Value> {
        if self.status.is_success() {
            return Ok(self.value);
        }
        let words = self.value["message"].as_str();
        Err(Error::new(
            words.map_or_else(|| self.status.to_string(), str::to_owned),
        ))
    }
}

/// Asks, and prints the warnings that come with the answer.
///
/// # Errors
///
/// The server does not answer, or not in JSON.
pub async fn send(client: &Client, ask: Ask<'_>) -> Result<Answer> {
    let attempt = "ask the cluster";
    let request = ask.request()?.map(Body::from);
    let response = client.send(request).await.context(attempt)?;
    for warning in response.headers().get_all(header::WARNING) {
        if let Some(text) = warning.to_str().ok().and_then(warning_text) {
            eprintln!("Warning: {text}");
        }
    }
    let status = response.status();
    let bytes: Bytes = response
        .into_body()
        .collect()
        .await
        .context(attempt)?
        .to_bytes();
    let value = serde_json::from_slice(&bytes).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        serde_json::json!({ "message": text })
    });
    Ok(Answer { status, value })
}

/// `299 - "text"`, as RFC 9111 (5.5 of its predecessor) has it.
fn warning_text(header: &str) -> Option<String> {
    let (_, quoted) = header.split_once('"')?;
    let text = quoted.rsplit_once('"').map_or(quoted, |(text, _)| text);
    Some(text.replace("\\\"", "\"").replace("\\\\", "\\"))
}

/// Where the objects of a kind are; of all namespaces without one.
pub fn collection(kind: &Kind, namespace: Option<&str>) -> String {
    let root = match kind.group {
        "" => format!("/api/{}", kind.version),
        group => format!("/apis/{group}/{}", kind.version),
    };
    match namespace.filter(|_| kind.namespaced()) {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{}", kind.plural),
        None => format!("{root}/{}", kind.plural),
    }
}

/// Where one object is.
pub fn object(kind: &Kind, namespace: &str, name: &str) -> String {
    format!("{}/{name}", collection(kind, Some(namespace)))
}

/// A query of those that are set.
pub fn query(pairs: &[(&str, Option<&str>)]) -> String {
    let escape = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    char::from(byte).to_string()
                }
                byte => format!("%{byte:02X}"),
            })
            .collect()
    };
    let set: Vec<String> = pairs
        .iter()
        .filter_map(|(key, value)| value.map(|value| format!("{key}={}", escape(value))))
        .collect();
    if set.is_empty() {
        String::new()
    } else {
        format!("?{}", set.join("&"))
    }
}

/// Reads one object.
///
/// # Errors
///
/// There is none, or the API refuses; in its words.
pub async fn read(client: &Client, kind: &Kind, namespace: &str, name: &str) -> Result<Value> {
    let answer = send(client, Ask::get(object(kind, namespace, name))).await?;
    answer
        .success()
        .context(format!("read {}", title(kind, name)))
}

/// Changes one object by a merge patch; `below` is a subresource's path or empty.
///
/// # Errors
///
/// There is none, or the API refuses; in its words.
pub async fn merge(
    client: &Client,
    kind: &Kind,
    place: (&str, &str),
    below: &str,
    patch: &Value,
) -> Result<Value> {
    let (namespace, name) = place;
    let bytes = serde_json::to_vec(patch).context("write a patch")?;
    let ask = Ask {
        method: Method::PATCH,
        path: format!("{}{below}", object(kind, namespace, name)),
        accept: AS_JSON,
        body: Some(("application/merge-patch+json", bytes)),
    };
    let answer = send(client, ask).await?;
    answer
        .success()
        .context(format!("change {}", title(kind, name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_scheduler::api::kind::by_plural;

    #[test]
    fn paths_are_those_of_kubernetes() {
        let pods = by_plural("", "pods").unwrap();
        let deployments = by_plural("apps", "deployments").unwrap();
        let nodes = by_plural("", "nodes").unwrap();
        assert_eq!(collection(pods, None), "/api/v1/pods");
        assert_eq!(object(pods, "a", "b"), "/api/v1/namespaces/a/pods/b");
        assert_eq!(
            object(deployments, "a", "b"),
            "/apis/apps/v1/namespaces/a/deployments/b"
        );
        assert_eq!(object(nodes, "a", "b"), "/api/v1/nodes/b");
    }

    #[test]
    fn queries_are_escaped() {
        let pairs = [("a", Some("x in (b,c)")), ("b", None), ("c", Some("1"))];
        assert_eq!(query(&pairs), "?a=x%20in%20%28b%2Cc%29&c=1");
        assert_eq!(query(&[("a", None)]), "");
    }

    #[test]
    fn warnings_are_unquoted() {
        assert_eq!(
            warning_text(r#"299 - "spec.x: \"y\" is not honoured""#).unwrap(),
            r#"spec.x: "y" is not honoured"#
        );
        assert_eq!(warning_text("nothing"), None);
    }
}
