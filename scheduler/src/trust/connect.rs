//! A `kube::Client` that speaks as a credential, to whichever server answers.
//!
//! The URL of a request says nothing of where it goes: a cluster may have several
//! servers, and every one is known as `kubernetes` in its certificate. The
//! connector tries the servers in turn and stays with the one that answered.
//!
//! A server whose host is cut off closes no connection. `TCP_USER_TIMEOUT` ends one
//! whose bytes are not acknowledged, and keep-alive probes one that only listens, as
//! a watch does (tcp(7)); so a client notices within [`Lines::silence`]. A server whose
//! process is frozen, or that has lost its store, is found by [`Lines::answer`]: see
//! [`super::servers`].

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::ConfigExt as _;
use rustix::net::sockopt;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::{Layer as _, Service};

use super::TrustError;
use super::authority::SERVER_HOST;
use super::servers::{Servers, Verdict};
use super::tls::{self, Shown};

/// How connections are made and given up.
#[derive(Debug, Clone)]
pub struct Lines {
    /// How long one server may take to answer a connection.
    pub patience: Duration,
    /// How long a peer may be silent before its connection ends.
    pub silence: Duration,
    /// How long a server may think about a request until it is asked whether it lives.
    pub answer: Duration,
    /// How long it may take to say so.
    pub probe: Duration,
    /// How long one that has no store, as no other has, is left alone before it is asked again.
    pub forbearance: Duration,
}

impl Default for Lines {
    fn default() -> Lines {
        Lines {
            patience: Duration::from_secs(4),
            silence: Duration::from_secs(8),
            // Together with a renewal's period less than the time after which a node
            // counts as dead: it must not be found dead because its server is.
            answer: Duration::from_millis(1500),
            probe: Duration::from_secs(2),
            forbearance: Duration::from_secs(5),
        }
    }
}

/// A client of the API on these servers, that is who `shown` is.
///
/// # Errors
///
/// The authority is not a certificate.
pub fn client(servers: &Arc<Servers>, shown: &Arc<Shown>) -> Result<kube::Client, TrustError> {
    client_with(servers, shown, Lines::default())
}

/// The same with chosen time limits.
///
/// # Errors
///
/// The authority is not a certificate.
pub fn client_with(
    servers: &Arc<Servers>,
    shown: &Arc<Shown>,
    lines: Lines,
) -> Result<kube::Client, TrustError> {
    let connector = Connector {
        servers: servers.clone(),
        tls: Arc::new(tls::client(shown)?),
        lines,
    };
    let transport = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .build(connector.clone());
    let watched = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        connector.clone().attend(transport.request(request))
    });
    let config = kube::Config::new(Uri::from_static("https://kubernetes"));
    let service = config.base_uri_layer().layer(watched);
    Ok(kube::Client::new(service, config.default_namespace))
}

/// Gives the kernel the time after which a silent peer counts as gone.
///
/// # Errors
///
/// The descriptor is no TCP socket.
pub fn bound_silence(stream: &TcpStream, silence: Duration) -> io::Result<()> {
    let probe = (silence / 4).max(Duration::from_secs(1));
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, probe)?;
    sockopt::set_tcp_keepintvl(stream, probe)?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    let limit = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, limit)?;
    stream.set_nodelay(true)
}

/// Connects to the first server that answers, the last good one first.
#[derive(Clone)]
struct Connector {
    servers: Arc<Servers>,
    tls: Arc<ClientConfig>,
    lines: Lines,
}

impl Service<Uri> for Connector {
    type Response = Line;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Line>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect().await })
    }
}

impl Connector {
    async fn connect(&self) -> io::Result<Line> {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "no server is known");
        for address in self.servers.known() {
            let line = self.servers.line(address);
            let reaching = tokio::time::timeout(self.lines.patience, self.reach(address));
            let attempt = tokio::select! {
                attempt = reaching => attempt,
                // It was given up meanwhile.
                () = line.cancelled() => Ok(Err(io::ErrorKind::ConnectionAborted.into())),
            };
            match attempt.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => return Ok(Line::new(stream, self.servers.reached(address))),
                Err(error) => {
                    failure = io::Error::new(error.kind(), format!("{address}: {error}"));
                }
            }
        }
        Err(failure)
    }

    async fn reach(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        bound_silence(&stream, self.lines.silence)?;
        let name = ServerName::try_from(SERVER_HOST).map_err(io::Error::other)?;
        let connector = TlsConnector::from(self.tls.clone());
        connector.connect(name, stream).await
    }

    /// Waits for an answer; a server that takes long, or says that it is unable, is asked
    /// how it is.
    async fn attend<B, E>(
        self,
        asked: impl Future<Output = Result<http::Response<B>, E>>,
    ) -> Result<http::Response<B>, E> {
        let mut asked = std::pin::pin!(asked);
        let mut patience = self.lines.answer;
        loop {
            match tokio::time::timeout(patience, &mut asked).await {
                Ok(answer) => {
                    if let Ok(answer) = &answer
                        && answer.status().is_server_error()
                    {
                        self.doubt();
                    }
                    return answer;
                }
                Err(_) => {
                    self.doubt();
                    // One that lives and is slow is not made slower.
                    patience *= 2;
                }
            }
        }
    }

    /// Has the server probed that was reached last, unless that is under way.
    fn doubt(&self) {
        if let Some(address) = self.servers.suspect() {
            // A task of its own: who asked may give up meanwhile.
            tokio::spawn(self.clone().probe(address));
        }
    }

    /// Finds out how a server is, and goes to another one if that is better.
    async fn probe(self, address: SocketAddr) {
        let verdict = match self.observe_state(address).await {
            State::Ready => Verdict::Alive,
            State::Silent => Verdict::Silent,
            State::Unable => match self.find_ready(address).await {
                Some(other) => Verdict::Unable { other },
                // The store is away for all of them, so there is nowhere to go.
                None => {
                    tokio::time::sleep(self.lines.forbearance).await;
                    Verdict::Alive
                }
            },
        };
        self.servers.judge(address, verdict);
    }

    async fn find_ready(&self, but: SocketAddr) -> Option<SocketAddr> {
        for other in self.servers.known() {
            if other != but && self.observe_state(other).await == State::Ready {
                return Some(other);
            }
        }
        None
    }

    async fn observe_state(&self, address: SocketAddr) -> State {
        let reached = tokio::time::timeout(self.lines.probe, self.reach(address)).await;
        let Ok(Ok(mut stream)) = reached else {
            return State::Silent;
        };
        match tokio::time::timeout(self.lines.probe, ask_ready(&mut stream)).await {
            Ok(Ok(true)) => State::Ready,
            _ => State::Unable,
        }
    }
}

/// How a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It serves.
    Ready,
    /// Its process answers, and cannot serve: it does not reach its store.
    Unable,
    /// Nobody answers.
    Silent,
}

/// Asks a server on a connection of its own whether it can serve.
async fn ask_ready(stream: &mut TlsStream<TcpStream>) -> io::Result<bool> {
    let request =
        format!("GET /readyz HTTP/1.1\r\nHost: {SERVER_HOST}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    // Nothing counts but the status, which stands in the first twelve bytes.
    let mut status = [0; 12];
    stream.read_exact(&mut status).await?;
    Ok(status.ends_with(b" 200"))
}

/// One connection to a server.
struct Line {
    stream: TokioIo<TlsStream<TcpStream>>,
    /// The server was given up.
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Line {
    fn new(stream: TlsStream<TcpStream>, end: CancellationToken) -> Line {
        Line {
            stream: TokioIo::new(stream),
            ended: Box::pin(end.cancelled_owned()),
        }
    }

    /// Fails, and wakes who waits, when the server is given up.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.ended.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the server does not answer",
            )),
            Poll::Pending => Ok(()),
        }
    }
}

impl Connection for Line {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
