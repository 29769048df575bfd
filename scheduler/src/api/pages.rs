//! Pages about the server itself: health, version, metrics, discovery, OpenAPI.

use std::sync::atomic::Ordering;

use axum::body::Body;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::api::{
    Api, answer,
    error::ApiError,
    openapi::{self, Document, discovery},
};

/// The version of Kubernetes whose API is served: clients decide by it what to try.
const KUBERNETES_MINOR: &str = "37";

/// Pages that need no identity: health and version.
pub async fn open(api: &Api, method: &Method, path: &str) -> Option<Response<Body>> {
    if method != Method::GET && method != Method::HEAD {
        return None;
    }
    match path {
        "/livez" | "/healthz" => Some(text(StatusCode::OK, "ok")),
        "/readyz" => Some(match api.is_current().await {
            Ok(true) => text(StatusCode::OK, "ok"),
            Ok(false) => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the store's changes are not followed closely enough\n",
            ),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        }),
        "/version" => Some(answer::json_response(StatusCode::OK, &version())),
        _ => None,
    }
}

fn version() -> Value {
    json!({
        "major": "1", "minor": KUBERNETES_MINOR,
        "gitVersion": format!("v1.{KUBERNETES_MINOR}.0-berth.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    })
}

/// Pages for everybody who is known; `None` where the path is none of them.
pub fn page(
    api: &Api,
    request: &Request<Body>,
    path: &str,
) -> Option<Result<Response<Body>, ApiError>> {
    let path = path.trim_end_matches('/');
    let steps: Vec<&str> = path.split('/').skip(1).collect();
    let is_page = matches!(
        steps.as_slice(),
        [] | ["api" | "apis" | "metrics"]
            | ["api", _]
            | ["apis", _]
            | ["apis", _, _]
            | ["openapi", ..]
    );
    if !is_page {
        return None;
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Some(Err(ApiError::method_not_allowed()));
    }
    let accept = request
        .headers()
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let aggregated = accept.split(',').any(|one| {
        one.contains("as=APIGroupDiscoveryList") && one.contains("v=v2") && !one.contains("v2beta1")
    });
    let found = match steps.as_slice() {
        [] => Some(
            json!({ "paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"] }),
        ),
        ["api"] if aggregated => return Some(Ok(aggregate(&discovery::aggregated_core()))),
        ["apis"] if aggregated => return Some(Ok(aggregate(&discovery::aggregated_groups()))),
        ["api"] => Some(discovery::core_versions()),
        ["apis"] => Some(discovery::groups()),
        ["api", version] => discovery::resources("", version),
        ["apis", group] => discovery::group(group),
        ["apis", group, version] => discovery::resources(group, version),
        ["openapi", "v2"] => return Some(openapi_v2(accept, request)),
        ["openapi", "v3"] => Some(openapi::v3_index()),
        ["openapi", "v3", rest @ ..] => match openapi::v3(&rest.join("/")) {
            Some(document) => return Some(Ok(document_answer(document, request))),
            None => None,
        },
        ["metrics"] => return Some(Ok(text(StatusCode::OK, &metrics(api)))),
        _ => None,
    };
    Some(match found {
        Some(value) => Ok(answer::json_response(StatusCode::OK, &value)),
        None => Err(ApiError::no_such_resource()),
    })
}

/// Go clients ask for version 2 in protocol buffers only, which are not served: they go on without.
fn openapi_v2(accept: &str, request: &Request<Body>) -> Result<Response<Body>, ApiError> {
    let takes_json = accept.is_empty()
        || accept
            .split(',')
            .any(|one| one.contains("json") || one.trim().starts_with("*/*"));
    if takes_json {
        return Ok(document_answer(openapi::v2(), request));
    }
    Err(ApiError::not_acceptable(
        "only the following media types are accepted: application/json",
    ))
}

/// The documents are kept packed: they are large, and most clients unpack.
fn document_answer(document: &Document, request: &Request<Body>) -> Response<Body> {
    let quoted = format!("\"{}\"", document.hash);
    let known = request.headers().get(header::IF_NONE_MATCH);
    if known.is_some_and(|known| known.as_bytes() == quoted.as_bytes()) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    let encodings = request.headers().get(header::ACCEPT_ENCODING);
    let unpacks =
        encodings.is_some_and(|value| value.to_str().is_ok_and(|text| text.contains("gzip")));
    let body = if unpacks {
        Body::from(document.gzip.clone())
    } else {
        Body::from(document.json())
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(
        header::VARY,
        HeaderValue::from_static("Accept-Encoding, Accept"),
    );
    if unpacks {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Ok(tag) = HeaderValue::try_from(quoted) {
        headers.insert(header::ETAG, tag);
    }
    response
}

fn aggregate(value: &Value) -> Response<Body> {
    let mut response = answer::json_response(StatusCode::OK, value);
    let media = HeaderValue::from_static(
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    );
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    response
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(text.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

fn metrics(api: &Api) -> String {
    let mut lines = format!(
        "# TYPE berth_api_requests_total counter\nberth_api_requests_total {}\n\
         # TYPE berth_api_revision gauge\nberth_api_revision {}\n# TYPE berth_api_objects gauge\n",
        api.requests.load(Ordering::Relaxed),
        api.cache.revision()
    );
    for (kind, count) in api.cache.counts() {
        lines.push_str(&format!(
            "berth_api_objects{{resource=\"{kind}\"}} {count}\n"
        ));
    }
    lines
}
