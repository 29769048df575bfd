//! The server's port: TLS connections, each with its identity, bounded and ended in order.
//!
//! Who a request is from is what the connection's certificate says: the common name
//! is the user and the organizations are the groups. A certificate is looked at by
//! rustls once, when the connection is made, and a watch lives for days; so here
//! every request asks the register whether it was revoked meanwhile, and a
//! connection ends when its certificate does, or is revoked.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse as _;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::refusal::Refused;
use crate::api::Identity;
use crate::trust::connect::bound_silence;
use crate::trust::credential::{Subject, subject};
use crate::trust::register::{Register, is_in_date};

/// How long an answer may take that was begun before its certificate was revoked.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Bounds of the port.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once; the next waits to be accepted.
    pub connections: usize,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// How long a request's head may take.
    pub head: Duration,
    /// How long a peer may be silent, on the level of TCP.
    pub silence: Duration,
    /// How long requests that are under way may take at the end.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 8192,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(30),
            silence: Duration::from_secs(30),
            grace: Duration::from_secs(5),
        }
    }
}

/// Who is at the other end, in the extensions of every request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// From where.
    pub address: SocketAddr,
    /// What the certificate says, if one was shown and is not refused.
    pub subject: Option<Arc<Subject>>,
}

/// What serves a port.
#[derive(Clone)]
pub struct Port {
    /// What the connections are made with.
    pub tls: Arc<ServerConfig>,
    /// What answers.
    pub router: Router,
    /// Whose certificates are refused.
    pub register: Arc<Register>,
    /// Bounds.
    pub limits: Limits,
}

/// Serves until `shutdown`, and then until what is under way has ended or had its grace.
pub async fn serve(port: Port, listener: TcpListener, shutdown: CancellationToken) {
    let connections = TaskTracker::new();
    let free = Arc::new(Semaphore::new(port.limits.connections));
    let cut = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &free) => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, address, permit)) => {
                let connection = connection(port.clone(), stream, address, shutdown.clone());
                let cut = cut.clone();
                connections.spawn(async move {
                    tokio::select! {
                        () = connection => {}
                        () = cut.cancelled() => {}
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                // No descriptors are left, say: others will be closed.
                tracing::warn!("accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    // Watches never end by themselves.
    let _ = tokio::time::timeout(port.limits.grace, connections.wait()).await;
    cut.cancel();
    connections.wait().await;
}

async fn accept(
    listener: &TcpListener,
    free: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = free
        .clone()
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    Ok((stream, address, permit))
}

async fn connection(
    port: Port,
    stream: TcpStream,
    address: SocketAddr,
    shutdown: CancellationToken,
) {
    if let Err(error) = bound_silence(&stream, port.limits.silence) {
        tracing::debug!(%address, "bound a connection's silence: {error}");
    }
    let handshake = TlsAcceptor::from(port.tls.clone()).accept(stream);
    let stream = match tokio::time::timeout(port.limits.handshake, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%address, "a handshake failed: {error}");
            return;
        }
        Err(_) => {
            tracing::debug!(%address, "a handshake took too long");
            return;
        }
    };
    let subject = shown_by(&stream).map(Arc::new);
    let ends = subject.as_ref().map(|subject| subject.not_after);
    let was_revoked = subject
        .as_ref()
        .is_some_and(|subject| port.register.is_revoked(&subject.serial));
    let revoked = async {
        match &subject {
            Some(subject) => port.register.revoked(&subject.serial).await,
            None => std::future::pending().await,
        }
    };
    let service = service_fn(|request: Request<Incoming>| {
        let peer = Peer {
            address,
            subject: subject.clone(),
        };
        answer(port.router.clone(), port.register.clone(), peer, request)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(port.limits.head);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(512)
        .keep_alive_interval(Some(port.limits.silence))
        .keep_alive_timeout(port.limits.silence);
    let mut connection =
        pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = revoked => {
            tracing::debug!(%address, "a connection's certificate was revoked");
            // Who comes with such a one is told so: that takes one request.
            if !was_revoked {
                connection.as_mut().graceful_shutdown();
            }
            // A node that leaves hears that it has left; a watch is cut, for it would
            // tell on what is no longer its business.
            let grace = tokio::time::timeout(LAST_WORDS, connection);
            grace.await.unwrap_or(Ok(()))
        }
        () = until(ends) => {
            tracing::debug!(%address, "a connection's certificate has ended");
            connection.as_mut().graceful_shutdown();
            // A watch would go on for ever; its client comes back with a new certificate.
            let grace = tokio::time::timeout(port.limits.grace, connection);
            grace.await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%address, "a connection failed: {error}");
    }
}

fn shown_by(stream: &TlsStream<TcpStream>) -> Option<Subject> {
    let certificates = stream.get_ref().1.peer_certificates()?;
    match subject(certificates.first()?) {
        Ok(subject) => Some(subject),
        Err(error) => {
            tracing::debug!("a certificate of the authority cannot be read: {error}");
            None
        }
    }
}

async fn until(end: Option<SystemTime>) {
    let Some(end) = end else {
        return std::future::pending().await;
    };
    while let Ok(left) = end.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(Duration::from_hours(1))).await;
    }
}

async fn answer(
    router: Router,
    register: Arc<Register>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    if let Some(reason) = refused(&register, &peer) {
        return Ok(Refused::unauthorized(reason).into_response());
    }
    let mut request = request.map(Body::new);
    if let Some(subject) = &peer.subject {
        request.extensions_mut().insert(Identity {
            user: subject.user.clone(),
            groups: subject.groups.clone(),
        });
    }
    request.extensions_mut().insert(peer);
    router.oneshot(request).await
}

/// Why what this peer shows counts for nothing.
fn refused(register: &Register, peer: &Peer) -> Option<String> {
    let subject = peer.subject.as_ref()?;
    if register.is_revoked(&subject.serial) {
        let user = &subject.user;
        return Some(format!(
            "the certificate of {user} was revoked: it left the cluster or was removed; join again with a token"
        ));
    }
    (!is_in_date(subject, SystemTime::now()))
        .then(|| format!("the certificate of {} is out of date", subject.user))
}
