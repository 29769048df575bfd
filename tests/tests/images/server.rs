//! A registry that misbehaves on order: what `docker-registry` cannot be made
//! to do. It serves one image from memory and notes what it was asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt as _;
use berth_tests::image::{self, Blob};
use tokio::runtime::Runtime;

/// What goes wrong.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// The connection breaks after so many bytes of a blob's answer.
    pub cut_after: Option<usize>,
    /// Every range is answered with the whole.
    pub ignores_ranges: bool,
    /// Blobs have a byte changed.
    pub changes_blobs: bool,
    /// Blobs lack their last bytes, and their length says so.
    pub truncates_blobs: bool,
    /// So many requests are first refused as too many.
    pub busy: usize,
    /// Only who has a token gets anything.
    pub wants_token: bool,
    /// Each blob's answer takes this long to begin.
    pub delay: Duration,
}

#[derive(Debug, Default)]
struct Contents {
    faults: Faults,
    blobs: BTreeMap<String, Blob>,
    manifests: BTreeMap<String, Blob>,
    asked: Vec<String>,
    connections: usize,
    address: Option<SocketAddr>,
}

/// The server, until dropped.
pub struct Server {
    pub address: SocketAddr,
    contents: Arc<Mutex<Contents>>,
    _runtime: Runtime,
}

type Shared = State<Arc<Mutex<Contents>>>;

impl Server {
    pub fn start(image: &image::Image, faults: Faults) -> Server {
        Server::start_at("127.0.0.1:0", image, faults)
    }

    /// Such a server where another was.
    pub fn start_again(self, image: &image::Image) -> Server {
        let address = self.address.to_string();
        drop(self);
        Server::start_at(&address, image, Faults::default())
    }

    fn start_at(address: &str, image: &image::Image, faults: Faults) -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let mut contents = Contents {
            faults,
            address: Some(address),
            ..Contents::default()
        };
        for blob in image.layers.iter().chain([&image.config]) {
            contents.blobs.insert(blob.digest.clone(), blob.clone());
        }
        for name in ["1", &image.manifest.digest] {
            let manifest = image.manifest.clone();
            contents.manifests.insert(name.to_owned(), manifest);
        }
        let contents = Arc::new(Mutex::new(contents));
        let router = Router::new()
            .route("/v2/team/web/manifests/{version}", get(manifest))
            .route("/v2/team/web/blobs/{digest}", get(blob))
            .route("/token", get(token))
            .with_state(Arc::clone(&contents));
        let counted = Arc::clone(&contents);
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let listener = listener.tap_io(move |_| counted.lock().unwrap().connections += 1);
            axum::serve(listener, router).await.unwrap();
        });
        Server {
            address,
            contents,
            _runtime: runtime,
        }
    }

    /// `docker.io` with these servers for mirrors, in order.
    pub fn mirrors(servers: &[&Server]) -> String {
        let urls: Vec<String> = servers
            .iter()
            .map(|server| format!("\"http://{}\"", server.address))
            .collect();
        format!(
            "[registry.\"docker.io\"]\nmirrors = [{}]\n",
            urls.join(", ")
        )
    }

    pub fn put_manifest(&self, name: &str, blob: Blob) {
        let mut contents = self.contents.lock().unwrap();
        contents.manifests.insert(blob.digest.clone(), blob.clone());
        contents.manifests.insert(name.to_owned(), blob);
    }

    /// What was asked: a kind, a name and, for a part, the range.
    pub fn asked(&self, start: &str) -> Vec<String> {
        let contents = self.contents.lock().unwrap();
        let asked = contents.asked.iter();
        asked
            .filter(|line| line.starts_with(start))
            .cloned()
            .collect()
    }

    /// How many connections came.
    pub fn connections(&self) -> usize {
        self.contents.lock().unwrap().connections
    }

    pub fn set_faults(&self, faults: Faults) {
        self.contents.lock().unwrap().faults = faults;
    }
}

/// The user that the token service knows: `me:secret` in base 64.
const BASIC: &str = "Basic bWU6c2VjcmV0";

async fn token(
    State(contents): Shared,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let mut contents = contents.lock().unwrap();
    let sent = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    contents
        .asked
        .push(format!("token {} {:?}", query["scope"], sent));
    match sent {
        Some(BASIC) => r#"{"token": "good"}"#.into_response(),
        _ => StatusCode::UNAUTHORIZED.into_response(),
    }
}

fn refusal(contents: &mut Contents, headers: &HeaderMap) -> Option<Response> {
    if contents.faults.busy > 0 {
        contents.faults.busy -= 1;
        let wait = [(header::RETRY_AFTER, "0")];
        return Some((StatusCode::TOO_MANY_REQUESTS, wait).into_response());
    }
    let sent = headers.get(header::AUTHORIZATION);
    if contents.faults.wants_token && sent.is_none_or(|value| value != "Bearer good") {
        let address = contents.address?;
        let challenge = format!(
            "Bearer realm=\"http://{address}/token\",service=\"web\",\
             scope=\"repository:team/web:pull\""
        );
        let wanted = [(header::WWW_AUTHENTICATE, challenge)];
        return Some((StatusCode::UNAUTHORIZED, wanted).into_response());
    }
    None
}

async fn manifest(
    State(contents): Shared,
    Path(version): Path<String>,
    headers: HeaderMap,
) -> Response {
    let mut contents = contents.lock().unwrap();
    contents.asked.push(format!("manifest {version}"));
    if let Some(refusal) = refusal(&mut contents, &headers) {
        return refusal;
    }
    match contents.manifests.get(&version) {
        Some(blob) => {
            let kind = [(header::CONTENT_TYPE, blob.media_type)];
            (kind, blob.bytes.clone()).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn blob(State(contents): Shared, Path(digest): Path<String>, headers: HeaderMap) -> Response {
    let range = headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok());
    let (mut bytes, faults) = {
        let mut contents = contents.lock().unwrap();
        let line = format!("blob {digest} {}", range.unwrap_or("whole"));
        contents.asked.push(line);
        if let Some(refusal) = refusal(&mut contents, &headers) {
            return refusal;
        }
        let Some(blob) = contents.blobs.get(&digest) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        (blob.bytes.clone(), contents.faults.clone())
    };
    tokio::time::sleep(faults.delay).await;
    let is_layer = !bytes.starts_with(b"{");
    if is_layer && faults.changes_blobs {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }
    if is_layer && faults.truncates_blobs {
        bytes.truncate(bytes.len() - 10);
    }
    let whole = bytes.len();
    let start: usize = match range {
        Some(range) if !faults.ignores_ranges => {
            let start = range.strip_prefix("bytes=").unwrap().trim_end_matches('-');
            start.parse().unwrap()
        }
        _ => 0,
    };
    if start >= whole && start > 0 {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    }
    let bytes = Bytes::from(bytes).slice(start..);
    let length = bytes.len();
    let body = match faults.cut_after {
        Some(most) if is_layer && most < length => {
            let cut = std::io::Error::other("cut on order");
            let parts = [Ok(bytes.slice(..most)), Err(cut)];
            Body::from_stream(tokio_stream(parts))
        }
        _ => Body::from(bytes),
    };
    let mut answer = Response::builder().header(header::CONTENT_LENGTH, length);
    if range.is_some() && !faults.ignores_ranges {
        let part = format!("bytes {start}-{}/{whole}", whole - 1);
        answer = answer
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, part);
    }
    answer.body(body).unwrap()
}

/// The parts one after the other, with a moment between them, so that the first
/// is on its way before the connection breaks.
fn tokio_stream(
    parts: [Result<Bytes, std::io::Error>; 2],
) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> {
    use futures::StreamExt;
    futures::stream::iter(parts).then(|part| async {
        if part.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        part
    })
}
