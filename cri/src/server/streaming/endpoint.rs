//! The HTTP server: a token, an upgrade, and then whatever was agreed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use super::forward::ForwardTarget;
use super::negotiate::{
    ACCEPTED_PROTOCOLS, Messages, Purpose, Refusal, STREAM_PROTOCOL, Upgrade, WEBSOCKET_PROTOCOL,
    plan_upgrade,
};
use super::tokens::Tokens;
use super::websocket::command::Form;
use super::{Asked, Limits, command::Command, command::What, spdy, websocket};
use crate::engine::Engine;
use crate::server::telemetry::{self, Telemetry};

/// The largest head of a request.
const HEAD_LIMIT_BYTES: usize = 64 << 10;
/// How long a client may take to send it.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

type Body = Full<bytes::Bytes>;

/// What the endpoint needs.
#[derive(Debug)]
pub struct Endpoint {
    /// Whose pods they are.
    pub engine: Arc<Engine>,
    /// How long clients may take.
    pub limits: Limits,
    /// Where they are counted.
    pub telemetry: Arc<Telemetry>,
    /// What was asked for and waits for its client.
    pub tokens: Tokens<Asked>,
}

/// Serves clients for ever.
pub async fn listen(endpoint: Arc<Endpoint>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                tokio::spawn(serve(endpoint.clone(), client));
            }
            Err(error) => {
                // Out of descriptors, most likely: trying at once would spin.
                tracing::warn!("a streaming client was not accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(endpoint: Arc<Endpoint>, client: TcpStream) {
    // Keys of a terminal are single bytes: they must not wait for each other.
    let _ = client.set_nodelay(true);
    let service = service_fn(move |request| {
        let endpoint = endpoint.clone();
        async move { Ok::<_, Infallible>(answer(&endpoint, request)) }
    });
    let outcome = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_LIMIT_BYTES)
        .serve_connection(TokioIo::new(client), service)
        .with_upgrades()
        .await;
    if let Err(error) = outcome {
        tracing::debug!("a streaming client: {error}");
    }
}

fn answer(endpoint: &Arc<Endpoint>, request: Request<Incoming>) -> Response<Body> {
    if request.method() != Method::GET && request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "expected GET or POST");
    }
    let Some(asked) = redeem(endpoint, request.uri().path()) else {
        // One answer for all: whether a token was ever good is nobody's business.
        return text(StatusCode::NOT_FOUND, "no such stream, or no longer");
    };
    let purpose = match &asked {
        Asked::Command(_) => Purpose::Command,
        Asked::Forward(_) => Purpose::Forward,
    };
    match plan_upgrade(purpose, request.method(), request.headers()) {
        Ok(upgrade) => {
            let response = switch(&upgrade);
            tokio::spawn(carry_on(endpoint.clone(), request, asked, upgrade));
            response
        }
        Err(refusal) => refuse(&refusal),
    }
}

fn redeem(endpoint: &Endpoint, path: &str) -> Option<Asked> {
    let (call, token) = path.strip_prefix('/')?.split_once('/')?;
    let asked = endpoint.tokens.redeem(Instant::now(), token)?;
    (asked.call() == call).then_some(asked)
}

/// Waits until the response is out and the connection is ours, and serves it.
async fn carry_on(
    endpoint: Arc<Endpoint>,
    request: Request<Incoming>,
    asked: Asked,
    upgrade: Upgrade,
) {
    let transport = match hyper::upgrade::on(request).await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => {
            tracing::debug!("a streaming client went during its upgrade: {error}");
            return;
        }
    };
    let _counted = endpoint.telemetry.stream(asked.purpose());
    let engine = &endpoint.engine;
    match (asked, upgrade) {
        (Asked::Command(command), Upgrade::Spdy { speech, .. }) => {
            spdy::command::serve(engine, transport, speech, &command).await;
        }
        (Asked::Command(command), Upgrade::WebSocket { messages, .. }) => {
            if let Messages::Channels {
                encoding,
                half_close,
                wording,
            } = messages
            {
                let form = Form {
                    encoding,
                    half_close,
                    wording,
                };
                websocket::command::serve(engine, transport, form, &command).await;
            }
        }
        (Asked::Forward(target), Upgrade::Spdy { .. }) => {
            spdy::forward::serve(Arc::new(target), transport).await;
        }
        (Asked::Forward(target), Upgrade::WebSocket { messages, .. }) => match messages {
            Messages::Tunnel => {
                let transport = websocket::tunnel::open(transport).await;
                spdy::forward::serve(Arc::new(target), transport).await;
            }
            Messages::Channels { encoding, .. } => {
                websocket::forward::serve(Arc::new(target), transport, encoding).await;
            }
        },
    }
}

impl Asked {
    fn purpose(&self) -> telemetry::Purpose {
        match self {
            Asked::Command(Command {
                what: What::Exec(_),
                ..
            }) => telemetry::Purpose::Exec,
            Asked::Command(_) => telemetry::Purpose::Attach,
            Asked::Forward(_) => telemetry::Purpose::Forward,
        }
    }

    /// The first part of the URL's path.
    pub fn call(&self) -> &'static str {
        match self {
            Asked::Command(Command {
                what: What::Exec(_),
                ..
            }) => "exec",
            Asked::Command(_) => "attach",
            Asked::Forward(ForwardTarget { .. }) => "portforward",
        }
    }
}

fn switch(upgrade: &Upgrade) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    match upgrade {
        Upgrade::Spdy { protocol, .. } => {
            headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
            if let Ok(protocol) = HeaderValue::from_str(protocol) {
                headers.insert(STREAM_PROTOCOL, protocol);
            }
        }
        Upgrade::WebSocket {
            protocol, accept, ..
        } => {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            if let Ok(accept) = HeaderValue::from_str(accept) {
                headers.insert(http::header::SEC_WEBSOCKET_ACCEPT, accept);
            }
            let protocol = protocol.as_deref().map(HeaderValue::from_str);
            if let Some(Ok(protocol)) = protocol {
                headers.insert(WEBSOCKET_PROTOCOL, protocol);
            }
        }
    }
    response
}

fn refuse(refusal: &Refusal) -> Response<Body> {
    let mut response = text(refusal.status, &refusal.text);
    for protocol in refusal.accepted {
        response
            .headers_mut()
            .append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(protocol));
    }
    response
}

fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{text}\n")));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
