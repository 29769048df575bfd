//! A server in memory: enough of the API for an agent, and a switch that takes it away.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::body::{Body, Bytes};
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::watch;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    revision: u64,
    /// Every change: its revision, the object's path, and what a watch says of it.
    changes: Vec<(u64, String, Value)>,
    requests: Vec<String>,
}

/// The server.
pub struct StandIn {
    state: Mutex<State>,
    revision: watch::Sender<u64>,
    away: watch::Sender<bool>,
}

impl StandIn {
    pub fn new() -> Arc<StandIn> {
        Arc::new(StandIn {
            state: Mutex::default(),
            revision: watch::channel(0).0,
            away: watch::channel(false).0,
        })
    }

    pub fn client(self: &Arc<Self>) -> Client {
        let server = Arc::clone(self);
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let server = Arc::clone(&server);
            async move { server.answer(request).await }
        });
        Client::new(service, "default")
    }

    /// Takes the server away, or brings it back. Watches break off.
    pub fn set_away(&self, away: bool) {
        self.away.send_replace(away);
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.lock().objects.get(path).cloned()
    }

    /// Puts an object where it belongs, as the server would have it.
    pub fn put(&self, path: &str, object: Value) {
        self.write(path, Some(object));
    }

    pub fn delete(&self, path: &str) {
        self.write(path, None);
    }

    /// Changes fields of an object.
    pub fn merge(&self, path: &str, patch: &Value) {
        let mut object = self.get(path).unwrap();
        json_patch::merge(&mut object, patch);
        self.put(path, object);
    }

    /// Objects below a path.
    pub fn list(&self, prefix: &str) -> Vec<Value> {
        let state = self.lock();
        let found = state.objects.iter();
        found
            .filter(|(path, _)| path.starts_with(prefix))
            .map(|(_, object)| object.clone())
            .collect()
    }

    fn write(&self, path: &str, object: Option<Value>) -> Option<Value> {
        let mut state = self.lock();
        state.revision += 1;
        let revision = state.revision;
        let existed = state.objects.contains_key(path);
        let (kind, mut told) = match object {
            Some(object) if existed => ("MODIFIED", object),
            Some(object) => ("ADDED", object),
            None => ("DELETED", state.objects.remove(path)?),
        };
        told["metadata"]["resourceVersion"] = json!(revision.to_string());
        if told["metadata"]["uid"].is_null() {
            told["metadata"]["uid"] = json!(format!("uid-{revision}"));
        }
        if kind != "DELETED" {
            state.objects.insert(path.to_owned(), told.clone());
        }
        let event = json!({"type": kind, "object": told});
        state.changes.push((revision, path.to_owned(), event));
        self.revision.send_replace(revision);
        Some(told)
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<kube::client::Body>,
    ) -> Result<Response<Body>, io::Error> {
        if *self.away.borrow() {
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
        }
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        self.lock()
            .requests
            .push(format!("{} {path}", parts.method));
        let name = path.strip_suffix("/status").unwrap_or(&path);
        Ok(match parts.method {
            Method::GET if query.contains("watch=true") => self.stream(path, query),
            Method::GET => match self.get(&path) {
                Some(object) => reply(StatusCode::OK, &object),
                None if is_collection(&path) => self.page(&path, &query),
                None => missing(),
            },
            Method::POST => {
                let own = body["metadata"]["name"].as_str().unwrap();
                let path = format!("{path}/{own}");
                match self.get(&path) {
                    Some(_) => status(StatusCode::CONFLICT, "AlreadyExists"),
                    None => reply(StatusCode::CREATED, &self.write(&path, Some(body)).unwrap()),
                }
            }
            Method::PATCH => match self.get(name) {
                None => missing(),
                Some(object) if conflicts(&object, &body) => {
                    status(StatusCode::CONFLICT, "Conflict")
                }
                Some(mut object) => {
                    json_patch::merge(&mut object, &body);
                    reply(StatusCode::OK, &self.write(name, Some(object)).unwrap())
                }
            },
            Method::DELETE => match self.get(name) {
                None => missing(),
                Some(object) => {
                    let wanted = &body["preconditions"]["uid"];
                    if !wanted.is_null() && *wanted != object["metadata"]["uid"] {
                        return Ok(status(StatusCode::CONFLICT, "Conflict"));
                    }
                    self.delete(name);
                    reply(StatusCode::OK, &object)
                }
            },
            _ => status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        })
    }

    fn page(&self, path: &str, query: &str) -> Response<Body> {
        let revision = self.lock().revision;
        let items: Vec<Value> = self
            .list("")
            .into_iter()
            .zip(self.lock().objects.keys().cloned().collect::<Vec<_>>())
            .filter(|(object, key)| is_in(key, path) && chosen(object, query))
            .map(|(object, _)| object)
            .collect();
        let list = json!({"metadata": {"resourceVersion": revision.to_string()}, "items": items});
        reply(StatusCode::OK, &list)
    }

    fn stream(self: &Arc<Self>, path: String, query: String) -> Response<Body> {
        let since = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("resourceVersion="))
            .and_then(|text| text.parse::<u64>().ok());
        let since = since.unwrap_or_default();
        let server = Arc::clone(self);
        let revisions = (self.revision.subscribe(), self.away.subscribe());
        let events = futures::stream::unfold((since, revisions), move |(since, mut receivers)| {
            let (server, path, query) = (Arc::clone(&server), path.clone(), query.clone());
            async move {
                let (revision, away) = &mut receivers;
                tokio::select! {
                    // What changes while it is away is not told.
                    biased;
                    _ = away.wait_for(|away| *away) => return None,
                    _ = revision.wait_for(|revision| *revision > since) => {}
                }
                let state = server.lock();
                let lines: String = state
                    .changes
                    .iter()
                    .filter(|(revision, key, event)| {
                        *revision > since && is_in(key, &path) && chosen(&event["object"], &query)
                    })
                    .map(|(_, _, event)| format!("{event}\n"))
                    .collect();
                let now = state.revision;
                drop(state);
                Some((Ok::<_, Infallible>(Bytes::from(lines)), (now, receivers)))
            }
        });
        Response::new(Body::from_stream(events.boxed()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// Waits until something holds.
pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_collection(path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or_default();
    ["pods", "nodes", "services"].contains(&last)
}

/// Whether an object's path is in a collection, of all namespaces or one.
fn is_in(key: &str, collection: &str) -> bool {
    let plural = collection.rsplit('/').next().unwrap_or_default();
    key.contains(&format!("/{plural}/"))
}

fn chosen(object: &Value, query: &str) -> bool {
    let query = query.replace("%3D", "=");
    let value = |prefix: &str| {
        let at = query.find(prefix)? + prefix.len();
        query[at..].split('&').next().map(str::to_owned)
    };
    let name = value("fieldSelector=metadata.name=");
    let node = value("fieldSelector=spec.nodeName=");
    name.is_none_or(|name| object["metadata"]["name"] == json!(name))
        && node.is_none_or(|node| object["spec"]["nodeName"] == json!(node))
}

fn conflicts(object: &Value, patch: &Value) -> bool {
    ["uid", "resourceVersion"].iter().any(|field| {
        let wanted = &patch["metadata"][field];
        !wanted.is_null() && *wanted != object["metadata"][field]
    })
}

fn reply(code: StatusCode, object: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(object.to_string()));
    *response.status_mut() = code;
    response
}

fn missing() -> Response<Body> {
    status(StatusCode::NOT_FOUND, "NotFound")
}

fn status(code: StatusCode, reason: &str) -> Response<Body> {
    reply(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {},
        "reason": reason, "message": reason, "code": code.as_u16()}),
    )
}
