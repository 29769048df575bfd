//! The API over HTTP: from a request to a verb on a kind, and from its outcome to an answer.
//!
//! ```text
//!   request -> identity (401) -> path (404) -> verb (405) -> may they? (403) -> the verb -> answer
//! ```
//!
//! What a verb does stands in its own file; this one only reads requests.

use std::sync::Arc;

use axum::{Router, body::Body, extract::State};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::api::{
    Api, Identity,
    answer::{self, Wish},
    authorize::{self, Attempt, Verb},
    delete::{DeleteOptions, Propagation},
    error::ApiError,
    events,
    kind::{Kind, Subresource, by_plural},
    list::Version,
    pages,
    patch::{Apply, PatchKind, patch},
    request::{Parameters, Target, parse_path},
    subresources, wire,
    write::{Account, Current, Part, Place, WriteOptions, Written},
};

/// The largest body that is read.
pub const BODY_LIMIT_BYTES: usize = 3 << 20;

/// Everything below `/api`, `/apis`, `/openapi`, and the pages about the server itself.
///
/// The identity of the client is expected in the request's extensions ([`Identity`]).
pub fn router(api: Arc<Api>) -> Router {
    Router::new().fallback(serve).with_state(api)
}

/// One request, in parts.
pub struct Call {
    /// Who asks.
    pub identity: Identity,
    /// The verb of HTTP.
    pub method: Method,
    /// The headers.
    pub headers: HeaderMap,
    /// The parameters.
    pub parameters: Parameters,
    /// What the client takes.
    pub wish: Wish,
    /// The path as it was sent.
    pub path: String,
}

async fn serve(State(api): State<Arc<Api>>, request: Request<Body>) -> Response<Body> {
    api.requests
        .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    match answer_request(&api, request).await {
        Ok(response) => response,
        Err(error) => {
            if error.code >= 500 {
                tracing::warn!(%error, "a request failed");
            }
            answer::failure(&error)
        }
    }
}

async fn answer_request(
    api: &Arc<Api>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let path = request.uri().path().to_owned();
    if let Some(response) = pages::open(api, request.method(), &path).await {
        return Ok(response);
    }
    let identity = request
        .extensions()
        .get::<Identity>()
        .cloned()
        .ok_or_else(ApiError::unauthorized)?;
    if let Some(response) = pages::page(api, &request, &path) {
        return response;
    }
    let Some(target) = parse_path(&path) else {
        return Err(ApiError::no_such_resource());
    };
    let parameters = Parameters::read(request.uri())?;
    let verb = verb(request.method(), &target, &parameters)?;
    let attempt = Attempt {
        identity: &identity,
        verb,
        target: &target,
        parameters: &parameters,
    };
    authorize::check(api, &attempt).await?;
    if let Some(
        Subresource::Exec | Subresource::Attach | Subresource::PortForward | Subresource::Log,
    ) = target.subresource
    {
        return crate::api::proxy::to_agent(api, &target, request).await;
    }
    let wish = Wish::read(request.headers(), &parameters)?;
    let (parts, body) = request.into_parts();
    let call = Call {
        identity,
        method: parts.method,
        headers: parts.headers,
        parameters,
        wish,
        path,
    };
    match verb {
        Verb::Get => get(api, &call, &target).await,
        Verb::List => list(api, &call, &target).await,
        Verb::Watch => watch(api, &call, &target).await,
        Verb::Create => {
            let body = read_body(api, body).await?;
            create(api, &call, &target, &body).await
        }
        Verb::Update => {
            let body = read_body(api, body).await?;
            update(api, &call, &target, &body).await
        }
        Verb::Patch => {
            let body = read_body(api, body).await?;
            change(api, &call, &target, &body).await
        }
        Verb::Delete | Verb::DeleteCollection => {
            let body = read_body(api, body).await?;
            delete(api, &call, &target, &body).await
        }
    }
}

/// What is asked for, in the words that permissions use.
fn verb(method: &Method, target: &Target, parameters: &Parameters) -> Result<Verb, ApiError> {
    let watches = parameters.is_true("watch");
    let streams = matches!(
        target.subresource,
        Some(Subresource::Exec | Subresource::Attach | Subresource::PortForward)
    );
    let acts = matches!(
        target.subresource,
        Some(Subresource::Binding | Subresource::Eviction)
    );
    Ok(match (method, &target.name, target.subresource) {
        (&Method::GET | &Method::POST, Some(_), Some(_)) if streams => Verb::Create,
        (&Method::POST, Some(_), Some(_)) if acts => Verb::Create,
        (&Method::PUT, Some(_), Some(Subresource::Finalize)) => Verb::Update,
        (_, _, Some(Subresource::Finalize)) => return Err(ApiError::method_not_allowed()),
        (_, Some(_), Some(_)) if streams || acts => return Err(ApiError::method_not_allowed()),
        (&Method::GET | &Method::HEAD, None, None) if watches => Verb::Watch,
        (&Method::GET | &Method::HEAD, Some(_), None) if watches => Verb::Watch,
        (&Method::GET | &Method::HEAD, Some(_), _) => Verb::Get,
        (_, _, Some(Subresource::Log)) => return Err(ApiError::method_not_allowed()),
        (&Method::GET | &Method::HEAD, None, _) => Verb::List,
        (&Method::POST, None, None) if target.kind.namespaced() == target.namespace.is_some() => {
            Verb::Create
        }
        (&Method::PUT, Some(_), _) => Verb::Update,
        (&Method::PATCH, Some(_), _) => Verb::Patch,
        (&Method::DELETE, Some(_), None) => Verb::Delete,
        (&Method::DELETE, None, None) if target.kind.namespaced() == target.namespace.is_some() => {
            Verb::DeleteCollection
        }
        _ => return Err(ApiError::method_not_allowed()),
    })
}

impl Target {
    /// The object's place under the kind that is stored.
    #[must_use]
    pub fn place(&self) -> Place {
        let stored = if events::is_newer(self.kind) {
            by_plural("", "events")
        } else {
            None
        };
        Place {
            kind: stored.unwrap_or(self.kind),
            namespace: self.namespace.clone().unwrap_or_default(),
            name: self.name.clone().unwrap_or_default(),
        }
    }
}

impl Call {
    /// `dryRun`, `fieldManager`, `fieldValidation`.
    ///
    /// # Errors
    ///
    /// 400 for values that cannot be read.
    pub fn write_options(&self) -> Result<WriteOptions, ApiError> {
        let agent = self
            .headers
            .get(header::USER_AGENT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("unknown");
        // As Kubernetes does where a client does not name itself: the program's name.
        let agent = agent.split('/').next().unwrap_or(agent);
        let manager = self.parameters.text("fieldManager").unwrap_or(agent);
        if manager.len() > 128 {
            return Err(ApiError::bad_request(
                "fieldManager is longer than 128 bytes",
            ));
        }
        Ok(WriteOptions {
            mode: self.parameters.mode()?,
            manager: manager.to_owned(),
            validation: self.parameters.field_validation()?,
            account: Account::Noted,
        })
    }

    /// The answer to a write.
    ///
    /// # Errors
    ///
    /// None for objects of the store.
    pub fn written(
        &self,
        kind: &'static Kind,
        written: Written,
    ) -> Result<Response<Body>, ApiError> {
        let status = if written.created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        let mut response = answer::object(kind, status, written.object, self.wish)?;
        warn(&mut response, &written.warnings);
        Ok(response)
    }
}

/// `Warning` headers, as RFC 7234 has them.
fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let text: String = warning
            .chars()
            .map(|sign| if sign.is_control() { ' ' } else { sign })
            .collect();
        let quoted = format!(
            "299 - \"{}\"",
            text.replace('\\', "\\\\").replace('"', "\\\"")
        );
        if let Ok(value) = HeaderValue::try_from(quoted) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

async fn get(api: &Arc<Api>, call: &Call, target: &Target) -> Result<Response<Body>, ApiError> {
    let place = target.place();
    if target.subresource == Some(Subresource::Scale) {
        let current = api.read(&place).await?;
        return answer::object(
            target.kind,
            StatusCode::OK,
            subresources::scale_of(&current.value),
            call.wish,
        );
    }
    let found = api
        .store
        .read(&place.key())
        .await
        .map_err(crate::api::cache::store_error)?;
    let entry = found
        .entry
        .ok_or_else(|| ApiError::not_found(target.kind, &place.name))?;
    let rest = crate::api::cache::rest_of_key(place.kind, &place.namespace, &place.name);
    answer::shared(
        target.kind,
        api.shared_object(place.kind, &rest, &entry)?.as_ref(),
        call.wish,
    )
}

async fn list(api: &Arc<Api>, call: &Call, target: &Target) -> Result<Response<Body>, ApiError> {
    let listed = api.list(&call.parameters.list(target)?).await?;
    answer::list(target.kind, &listed, call.wish)
}

async fn watch(api: &Arc<Api>, call: &Call, target: &Target) -> Result<Response<Body>, ApiError> {
    // Not all at once: a thousand agents that came together would come back together.
    let longest = api
        .config
        .watch_timeout
        .mul_f64(1.0 + rand::random::<f64>());
    let query = call.parameters.watch(target, longest)?;
    let signals = api.watch(query).await?;
    Ok(answer::watch(target.kind, signals, call.wish))
}

async fn create(
    api: &Arc<Api>,
    call: &Call,
    target: &Target,
    body: &Bytes,
) -> Result<Response<Body>, ApiError> {
    let body = read_object(&call.headers, body)?;
    let attempt = Attempt {
        identity: &call.identity,
        verb: Verb::Create,
        target,
        parameters: &call.parameters,
    };
    authorize::check_created(&attempt, &body)?;
    let options = call.write_options()?;
    match target.subresource {
        Some(Subresource::Binding) => subresources::bind(api, &target.place(), &body, &options)
            .await
            .map(|()| created()),
        Some(Subresource::Eviction) => subresources::evict(api, &target.place(), &body, &options)
            .await
            .map(|()| created()),
        _ => {
            let written = api
                .create(&target.place(), events::stored(target.kind, body), &options)
                .await?;
            call.written(target.kind, written)
        }
    }
}

fn created() -> Response<Body> {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 });
    answer::json_response(StatusCode::CREATED, &status)
}

async fn update(
    api: &Arc<Api>,
    call: &Call,
    target: &Target,
    body: &Bytes,
) -> Result<Response<Body>, ApiError> {
    let body = read_object(&call.headers, body)?;
    let options = call.write_options()?;
    let place = target.place();
    match target.subresource {
        Some(Subresource::Scale) => {
            let edit = |_: &Value| Ok(body.clone());
            let scale = subresources::change_scale(api, &place, &options, &edit).await?;
            call.written(target.kind, scale)
        }
        Some(Subresource::Finalize) => {
            let written = subresources::finalize(api, &place, &body, &options).await?;
            call.written(target.kind, written)
        }
        part => {
            let body = events::stored(target.kind, body);
            let written = api
                .change(&place, half(part), &options, &|_| Ok(body.clone()))
                .await?;
            call.written(target.kind, written)
        }
    }
}

fn half(subresource: Option<Subresource>) -> Part {
    match subresource {
        Some(Subresource::Status) => Part::Status,
        Some(Subresource::Resize) => Part::Resize,
        _ => Part::Wanted,
    }
}

async fn change(
    api: &Arc<Api>,
    call: &Call,
    target: &Target,
    body: &Bytes,
) -> Result<Response<Body>, ApiError> {
    let mut options = call.write_options()?;
    let how = patch_kind(call, target)?;
    let place = target.place();
    if target.subresource == Some(Subresource::Scale) {
        let edit = |current: &Value| patch_scale(&how, current, body);
        let scale = subresources::change_scale(api, &place, &options, &edit).await?;
        return call.written(target.kind, scale);
    }
    let edit = |current: &Value| {
        let current = events::shape(target.kind, current.clone());
        Ok(events::stored(
            target.kind,
            patch(target.kind, &how, Some(&current), body)?,
        ))
    };
    if !matches!(how, PatchKind::Apply(_)) {
        let written = api
            .change(&place, half(target.subresource), &options, &edit)
            .await?;
        return call.written(target.kind, written);
    }
    options.account = Account::Kept;
    // An apply makes what is not there; whoever else makes it meanwhile is merged with.
    loop {
        match api
            .change(&place, half(target.subresource), &options, &edit)
            .await
        {
            Err(error) if is_absent(&error, &place) && target.subresource.is_none() => {}
            outcome => return call.written(target.kind, outcome?),
        }
        let fresh = events::stored(target.kind, patch(target.kind, &how, None, body)?);
        match api.create(&place, fresh, &options).await {
            Err(error) if error.reason == "AlreadyExists" => {}
            outcome => return call.written(target.kind, outcome?),
        }
    }
}

/// Whether the object itself is missing, not something that it needs.
fn is_absent(error: &ApiError, place: &Place) -> bool {
    let names_it = |details: &crate::api::error::Details| {
        details.name == place.name && details.kind == place.kind.plural
    };
    error.code == 404 && error.details.as_deref().is_some_and(names_it)
}

/// A scale is no kind of the table: it is patched as plain JSON.
fn patch_scale(how: &PatchKind, current: &Value, body: &Bytes) -> Result<Value, ApiError> {
    let wrong =
        |error: serde_json::Error| ApiError::bad_request(format!("error decoding patch: {error}"));
    let mut scale = current.clone();
    match how {
        PatchKind::Json => {
            let patch: json_patch::Patch = serde_json::from_slice(body).map_err(wrong)?;
            json_patch::patch(&mut scale, &patch)
                .map_err(|error| ApiError::unprocessable(error.to_string()))?;
        }
        PatchKind::Merge | PatchKind::Strategic => {
            let patch: Value = serde_json::from_slice(body).map_err(wrong)?;
            json_patch::merge(&mut scale, &patch);
        }
        PatchKind::Apply(_) => {
            return Err(ApiError::unsupported_media_type(
                "server-side apply of a scale is not served; apply the object itself",
            ));
        }
    }
    Ok(scale)
}

fn patch_kind(call: &Call, target: &Target) -> Result<PatchKind, ApiError> {
    match media_type(&call.headers) {
        "application/json-patch+json" => Ok(PatchKind::Json),
        "application/merge-patch+json" => Ok(PatchKind::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchKind::Strategic),
        "application/apply-patch+yaml" => {
            let Some(manager) = call.parameters.text("fieldManager") else {
                return Err(ApiError::bad_request(
                    "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
                ));
            };
            Ok(PatchKind::Apply(Apply {
                manager: manager.to_owned(),
                force: call.parameters.is_true("force"),
                subresource: half(target.subresource)
                    .subresource()
                    .map(Subresource::path),
                now: jiff::Timestamp::now(),
            }))
        }
        other => Err(ApiError::unsupported_media_type(format!(
            "the body of the request was in an unknown format ({other:?}) - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, \
             application/strategic-merge-patch+json, application/apply-patch+yaml"
        ))),
    }
}

async fn delete(
    api: &Arc<Api>,
    call: &Call,
    target: &Target,
    body: &Bytes,
) -> Result<Response<Body>, ApiError> {
    let options = delete_options(call, body)?;
    let place = target.place();
    if target.name.is_some() {
        let deletion = api.delete(&place, &options).await?;
        // Where the object says what was taken away (or is still there), the client gets it.
        let tells =
            !deletion.gone || matches!(target.kind.kind, "Pod" | "Service" | "ServiceAccount");
        if tells {
            return answer::object(target.kind, StatusCode::OK, deletion.object, call.wish);
        }
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {
                "name": place.name, "group": target.kind.group, "kind": target.kind.plural,
                "uid": deletion.object["metadata"]["uid"],
            },
        });
        return Ok(answer::json_response(StatusCode::OK, &status));
    }
    let mut query = call.parameters.list(target)?;
    if query.token.is_none() && query.version == Version::Any {
        query.version = Version::Newest;
    }
    let listed = api.list(&query).await?;
    for object in &listed.objects {
        let place = Place {
            kind: place.kind,
            namespace: object.namespace.clone(),
            name: object.name.clone(),
        };
        match api.delete(&place, &options).await {
            // Somebody else deleted it meanwhile.
            Err(error) if error.code == 404 => {}
            outcome => drop(outcome?),
        }
    }
    answer::list(target.kind, &listed, call.wish)
}

/// The options of a deletion: in the body, or as parameters.
fn delete_options(call: &Call, body: &Bytes) -> Result<DeleteOptions, ApiError> {
    let body = if body.is_empty() {
        Value::Null
    } else {
        read_object(&call.headers, body)?
    };
    let grace = match call.parameters.text("gracePeriodSeconds") {
        Some(text) => {
            let number = text.parse::<i64>();
            Some(number.map_err(|_| {
                ApiError::bad_request(format!(
                    "gracePeriodSeconds is {text:?}; expected a whole number"
                ))
            })?)
        }
        None => body["gracePeriodSeconds"].as_i64(),
    };
    let orphans = match call.parameters.text("orphanDependents") {
        Some(text) => Some(text == "true"),
        None => body["orphanDependents"].as_bool(),
    };
    let propagation = call
        .parameters
        .text("propagationPolicy")
        .or(body["propagationPolicy"].as_str());
    let propagation = match (propagation, orphans) {
        (Some(text), _) => Some(Propagation::parse(text)?),
        (None, Some(true)) => Some(Propagation::Orphan),
        (None, Some(false)) => Some(Propagation::Background),
        (None, None) => None,
    };
    let mut mode = call.parameters.mode()?;
    if body["dryRun"]
        .as_array()
        .is_some_and(|words| words.iter().any(|word| word == "All"))
    {
        mode = crate::api::write::Mode::DryRun;
    }
    let precondition = |field: &str| body["preconditions"][field].as_str().map(str::to_owned);
    Ok(DeleteOptions {
        grace_seconds: grace,
        uid: precondition("uid"),
        resource_version: precondition("resourceVersion"),
        propagation,
        mode,
    })
}

fn media_type(headers: &HeaderMap) -> &str {
    let text = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("application/json");
    text.split(';').next().unwrap_or(text).trim()
}

async fn read_body(api: &Api, body: Body) -> Result<Bytes, ApiError> {
    let read = axum::body::to_bytes(body, BODY_LIMIT_BYTES);
    match tokio::time::timeout(api.config.body_timeout, read).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => {
            let too_large = std::error::Error::source(&error)
                .is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
            Err(if too_large {
                ApiError::too_large(format!(
                    "Request entity too large: limit is {BODY_LIMIT_BYTES}"
                ))
            } else {
                ApiError::bad_request(format!("the body could not be read: {error}"))
            })
        }
        Err(_) => Err(ApiError::timeout("the body did not arrive in time")),
    }
}

/// A body that must be an object, in JSON, YAML or Kubernetes' protocol buffers.
fn read_object(headers: &HeaderMap, body: &Bytes) -> Result<Value, ApiError> {
    let value: Value = match media_type(headers) {
        "application/json" | "*/*" | "" => serde_json::from_slice(body)
            .map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}")))?,
        "application/yaml" => serde_saphyr::from_slice(body)
            .map_err(|error| ApiError::bad_request(format!("the body is not YAML: {error}")))?,
        wire::MEDIA_TYPE => wire::read_body(body).map_err(|error| {
            ApiError::bad_request(format!(
                "the body is no object in Kubernetes' protocol buffers: {error}"
            ))
        })?,
        other => {
            return Err(ApiError::unsupported_media_type(format!(
                "the body of the request was in an unknown format ({other:?}) - accepted media types include: \
                 application/json, application/yaml, {}",
                wire::MEDIA_TYPE
            )));
        }
    };
    if value.is_object() {
        Ok(value)
    } else {
        Err(ApiError::bad_request("the body is not an object"))
    }
}

/// For proxies: an object must exist before anything is asked of its node.
///
/// # Errors
///
/// 404 if there is none.
pub async fn existing(api: &Api, target: &Target) -> Result<Current, ApiError> {
    api.read(&target.place()).await
}
