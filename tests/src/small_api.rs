//! An API that lists and watches Nodes, Services and EndpointSlices, in memory.
//!
//! A client is a service of this process without a socket, so netd's threads in
//! another network namespace reach it as if it were on the wire.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::stream;
use serde_json::{Value, json};
use tokio::sync::broadcast;

/// The API; copies are the same one.
#[derive(Debug, Clone)]
pub struct SmallApi {
    state: Arc<Mutex<Objects>>,
    news: broadcast::Sender<(String, String)>,
}

#[derive(Debug, Default)]
struct Objects {
    revision: u64,
    by_plural: BTreeMap<String, BTreeMap<String, Value>>,
    is_away: bool,
}

impl Default for SmallApi {
    fn default() -> Self {
        Self::new()
    }
}

impl SmallApi {
    /// One without objects.
    pub fn new() -> SmallApi {
        SmallApi {
            state: Arc::default(),
            news: broadcast::channel(65_536).0,
        }
    }

    /// A client that needs no socket.
    pub fn client(&self) -> kube::Client {
        let router = Router::new()
            .route("/api/v1/{plural}", get(serve))
            .route("/apis/discovery.k8s.io/v1/{plural}", get(serve))
            .with_state(self.clone());
        kube::Client::new(router, "default")
    }

    /// Creates or replaces.
    pub fn put(&self, plural: &str, mut object: Value) {
        let mut state = self.objects();
        state.revision += 1;
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        let key = key(&object);
        let objects = state.by_plural.entry(plural.to_owned()).or_default();
        let kind = match objects.insert(key, object.clone()) {
            Some(_) => "MODIFIED",
            None => "ADDED",
        };
        self.tell(plural, kind, &object);
    }

    /// Deletes `NAMESPACE/NAME`.
    pub fn delete(&self, plural: &str, key: &str) {
        let mut state = self.objects();
        state.revision += 1;
        let objects = state.by_plural.entry(plural.to_owned()).or_default();
        if let Some(object) = objects.remove(key) {
            self.tell(plural, "DELETED", &object);
        }
    }

    /// From now on every request fails, and the watches end; or no longer.
    pub fn set_away(&self, is_away: bool) {
        self.objects().is_away = is_away;
        if is_away {
            self.tell("", "AWAY", &Value::Null);
        }
    }

    fn objects(&self) -> std::sync::MutexGuard<'_, Objects> {
        // A test that panicked under the lock has failed already.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn tell(&self, plural: &str, kind: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        let _ = self.news.send((plural.to_owned(), line));
    }
}

fn key(object: &Value) -> String {
    let part = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    format!("{}/{}", part("namespace"), part("name"))
}

async fn serve(
    State(api): State<SmallApi>,
    Path(plural): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let is_watch = query.get("watch").is_some_and(|value| value != "false");
    let state = api.objects();
    if state.is_away {
        return (axum::http::StatusCode::SERVICE_UNAVAILABLE, "{}").into_response();
    }
    if !is_watch {
        let items: Vec<&Value> = state
            .by_plural
            .get(&plural)
            .into_iter()
            .flat_map(BTreeMap::values)
            .collect();
        let list = json!({
            "kind": "List", "apiVersion": "v1",
            "metadata": {"resourceVersion": state.revision.to_string()},
            "items": items,
        });
        return axum::Json(list).into_response();
    }
    // Under the lock, so that nothing falls between the listing's revision and
    // the first line.
    let since: u64 = query
        .get("resourceVersion")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let receiver = api.news.subscribe();
    if since != state.revision {
        // Something came between: a new listing is as good as a history.
        let gone = json!({"type": "ERROR", "object": {
            "kind": "Status", "apiVersion": "v1", "status": "Failure",
            "reason": "Expired", "message": "too old", "code": 410}});
        return format!("{gone}\n").into_response();
    }
    drop(state);
    let lines = stream::unfold((receiver, plural), |(mut receiver, plural)| async move {
        loop {
            match receiver.recv().await {
                Ok((kind, line)) if kind == plural => {
                    let line = Ok::<Bytes, Infallible>(Bytes::from(line));
                    return Some((line, (receiver, plural)));
                }
                Ok((kind, _)) if kind.is_empty() => return None,
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    });
    Body::from_stream(lines).into_response()
}
