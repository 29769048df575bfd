//! Where Prometheus asks: `GET /metrics`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::exposition::{Form, Labels, Page};
use super::process;
use crate::engine::error::{Error, ErrorKind};
use crate::server::CriServer;
use crate::service::CriService;
use crate::v1;

/// How long a client may take to send its request.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

type Body = Full<bytes::Bytes>;

/// The endpoint; it ends when this is dropped.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    listening: AbortHandle,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Endpoint {
    /// Listens; port 0 is any that is free.
    ///
    /// # Errors
    ///
    /// `Network` when the address cannot be had.
    pub async fn start(server: CriServer, address: SocketAddr) -> Result<Endpoint, Error> {
        let failed = |error| {
            let text = format!("metrics.address: listen on {address}");
            Error::caused(ErrorKind::Network, text, error)
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let listening = tokio::spawn(listen(server, listener)).abort_handle();
        Ok(Endpoint { address, listening })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn listen(server: CriServer, listener: TcpListener) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Out of descriptors, most likely: trying at once would spin.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let server = server.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let server = server.clone();
                async move { Ok::<_, Infallible>(answer(&server, &request).await) }
            });
            let outcome = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_LIMIT)
                .serve_connection(TokioIo::new(client), service)
                .await;
            if let Err(error) = outcome {
                tracing::debug!("a client of the metrics: {error}");
            }
        });
    }
}

async fn answer(server: &CriServer, request: &Request<Incoming>) -> Response<Body> {
    if request.uri().path() != "/metrics" {
        return text(StatusCode::NOT_FOUND, "expected /metrics\n");
    }
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "expected GET\n");
    }
    let accept = request.headers().get(ACCEPT);
    let accept = accept.and_then(|value| value.to_str().ok());
    let form = Form::choose(accept.unwrap_or_default());
    let mut response = Response::new(Body::from(page(server, form).await));
    let kind = HeaderValue::from_static(form.content_type());
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Everything, one family after the other.
async fn page(server: &CriServer, form: Form) -> String {
    let mut page = Page::new(form);
    page.gauge(
        "berth_build_info",
        "Which berth this is; always 1.",
        &[(&[("version", env!("CARGO_PKG_VERSION"))], 1.0)],
    );
    write_calls(&mut page, server);
    write_objects(&mut page, server).await;
    write_images(&mut page, server);
    write_streams(&mut page, server);
    process::write(&mut page);
    page.finish()
}

fn write_calls(page: &mut Page, server: &CriServer) {
    let calls = &server.telemetry.calls;
    let counted = calls.read();
    let labels: Vec<_> = counted
        .keys()
        .map(|(method, code)| [("method", method.as_str()), ("code", *code)])
        .collect();
    let samples: Vec<(Labels<'_>, f64)> = labels
        .iter()
        .zip(counted.values())
        .map(|(labels, count)| (labels.as_slice(), *count as f64))
        .collect();
    page.counter(
        "berth_cri_calls_total",
        "gRPC calls that have ended, by method and code.",
        &samples,
    );
    page.gauge(
        "berth_cri_calls_in_flight",
        "gRPC calls that have not ended yet.",
        &[(&[], calls.in_flight() as f64)],
    );
    let durations = calls.durations();
    let labels: Vec<_> = durations
        .keys()
        .map(|method| [("method", method.as_str())])
        .collect();
    let series: Vec<_> = labels
        .iter()
        .zip(durations.values())
        .map(|(labels, histogram)| (labels.as_slice(), histogram.clone()))
        .collect();
    page.histogram(
        "berth_cri_call_duration_seconds",
        "How long gRPC calls took, by method.",
        &series,
    );
}

/// Pods and containers by state, as a kubelet would list them.
async fn write_objects(page: &mut Page, server: &CriServer) {
    let request = v1::ListPodSandboxRequest::default();
    if let Ok(list) = server.engine.list_pod_sandbox(request).await {
        let states = [
            ("ready", v1::PodSandboxState::SandboxReady as i32),
            ("not_ready", v1::PodSandboxState::SandboxNotready as i32),
        ];
        let found = list.items.iter().map(|pod| pod.state);
        let counts = count(&states, found);
        page.gauge("berth_pods", "Pods by state.", &by_state(&counts));
    }
    let request = v1::ListContainersRequest::default();
    if let Ok(list) = server.engine.list_containers(request).await {
        let states = [
            ("created", v1::ContainerState::ContainerCreated as i32),
            ("running", v1::ContainerState::ContainerRunning as i32),
            ("exited", v1::ContainerState::ContainerExited as i32),
            ("unknown", v1::ContainerState::ContainerUnknown as i32),
        ];
        let found = list.containers.iter().map(|container| container.state);
        let counts = count(&states, found);
        let help = "Containers by state.";
        page.gauge("berth_containers", help, &by_state(&counts));
    }
}

type Counts<'a> = Vec<([(&'static str, &'a str); 1], f64)>;

/// How many of each state, of those too that nobody has.
fn count<'a>(states: &[(&'a str, i32)], found: impl Iterator<Item = i32>) -> Counts<'a> {
    let mut numbers: BTreeMap<i32, f64> = BTreeMap::new();
    for state in found {
        *numbers.entry(state).or_default() += 1.0;
    }
    states
        .iter()
        .map(|(name, state)| {
            let number = numbers.get(state).copied().unwrap_or_default();
            ([("state", *name)], number)
        })
        .collect()
}

fn by_state<'a>(counts: &'a Counts<'a>) -> Vec<(Labels<'a>, f64)> {
    counts
        .iter()
        .map(|(labels, number)| (labels.as_slice(), *number))
        .collect()
}

fn write_images(page: &mut Page, server: &CriServer) {
    let pulls = &server.telemetry.pulls;
    let succeeded = pulls.succeeded.load(Ordering::Relaxed) as f64;
    let failed = pulls.failed.load(Ordering::Relaxed) as f64;
    page.counter(
        "berth_image_pulls_total",
        "Pulls of images, by outcome.",
        &[
            (&[("outcome", "success")], succeeded),
            (&[("outcome", "failure")], failed),
        ],
    );
    page.counter(
        "berth_image_pulled_bytes_total",
        "Bytes of layers that registries sent, as they are compressed.",
        &[(&[], server.engine.images().fetched_bytes() as f64)],
    );
    let durations = pulls.durations.read().into_values();
    let series: Vec<(Labels<'_>, _)> = durations.map(|histogram| (&[][..], histogram)).collect();
    page.histogram(
        "berth_image_pull_duration_seconds",
        "How long pulls took, of images that were there already too.",
        &series,
    );
}

fn write_streams(page: &mut Page, server: &CriServer) {
    let sessions = &server.telemetry.sessions;
    let kinds = [
        ("exec", &sessions.exec),
        ("attach", &sessions.attach),
        ("portforward", &sessions.forward),
    ];
    let labels = kinds.map(|(kind, _)| [("kind", kind)]);
    let samples = |read: fn(&super::Session) -> u64| -> Vec<(Labels<'_>, f64)> {
        let numbers = kinds.iter().map(|(_, session)| read(session) as f64);
        labels
            .iter()
            .map(|one| one.as_slice())
            .zip(numbers)
            .collect()
    };
    page.counter(
        "berth_streams_total",
        "Streams that clients have begun, by kind.",
        &samples(super::Session::begun),
    );
    page.gauge(
        "berth_streams_open",
        "Streams that are open, by kind.",
        &samples(super::Session::open),
    );
}
