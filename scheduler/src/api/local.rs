//! A client of the API without a socket, for the parts that live in the server's own process.
//!
//! A request goes straight to the router. Only one that wants to change the protocol of its
//! connection (exec, attach, port-forward) needs a connection to change: it gets a pipe in memory
//! with HTTP/1.1 spoken over it.

use std::sync::Arc;

use axum::{Router, body::Body};
use http::{Request, Response, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tower::{BoxError, ServiceExt};

use crate::api::{Api, Identity, http::router};

/// How many bytes a pipe in memory holds before the writer waits.
const PIPE_BYTES: usize = 64 << 10;

/// A client that asks the API directly, under an identity.
#[must_use]
pub fn client(api: Arc<Api>, identity: Identity) -> kube::Client {
    let router = router(api);
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let (router, identity) = (router.clone(), identity.clone());
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(identity);
            if request.headers().contains_key(header::UPGRADE) {
                return over_pipe(router, request).await;
            }
            match router.oneshot(request).await {
                Ok(response) => Ok(response),
                Err(never) => match never {},
            }
        }
    });
    kube::Client::new(service, "default")
}

async fn over_pipe(router: Router, mut request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let identity = request.extensions_mut().remove::<Identity>();
    let serve = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request
            .extensions_mut()
            .extend(identity.clone().map(extensions).unwrap_or_default());
        router.clone().oneshot(request)
    });
    let server = hyper::server::conn::http1::Builder::new();
    let connection = server
        .serve_connection(TokioIo::new(far), serve)
        .with_upgrades();
    // Both ends live as long as the pipe: until the client or the agent closes it.
    tokio::spawn(connection);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(near)).await?;
    tokio::spawn(connection.with_upgrades());
    request
        .headers_mut()
        .insert(header::HOST, header::HeaderValue::from_static("api"));
    Ok(sender.send_request(request).await?.map(Body::new))
}

fn extensions(identity: Identity) -> http::Extensions {
    let mut extensions = http::Extensions::new();
    extensions.insert(identity);
    extensions
}
