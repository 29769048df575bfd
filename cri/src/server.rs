//! The CRI v1 server: the engine, behind gRPC on a Unix socket.
//!
//! ```text
//!  kubelet ──gRPC──▶ socket ─▶ runtime_calls, image_calls ─▶ Engine
//!          ──HTTP──▶ streaming (exec, attach, port-forward) ─▶ Engine
//! ```
//!
//! The server keeps nothing of its own that a restart could lose: records, the
//! pods' monitors and their exit files hold the truth (see [`crate::engine`]),
//! so `kill -9` of the server costs a client one connection and a pod nothing.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server as Transport;

use crate::admin_v1::admin_server::AdminServer;
use crate::configuration::Configuration;
use crate::engine::Engine;
use crate::engine::error::{Error, ErrorKind};
use crate::engine::monitor_link::blocking;
use crate::v1::image_service_server::ImageServiceServer;
use crate::v1::runtime_service_server::RuntimeServiceServer;

/// What an operator may ask of a server that runs.
pub mod admin;
/// What pods do, as a stream of the CRI's events.
mod container_events;
/// What each configured OCI runtime can do.
mod handlers;
/// The image service's calls.
mod image_calls;
/// The metrics that a kubelet passes on to Prometheus.
mod metrics;
/// Telling the service manager how things are.
pub mod notify;
/// Long lists, a piece at a time.
mod pages;
/// The runtime service's calls.
mod runtime_calls;
/// The socket: made, taken over from systemd, and left in order.
pub mod socket;
/// Who we are and whether pods can be run.
mod status;
/// Exec, attach and port-forward, over HTTP connections of their own.
pub mod streaming;
/// The server's own numbers and traces.
pub mod telemetry;

/// The kubelet's own limit of a message, in bytes.
const MESSAGE_LIMIT_BYTES: usize = 16 << 20;

/// How long calls that have begun may take once the server is to end. What is
/// broken off then is undone or taken up again by the next server.
const FAREWELL: Duration = Duration::from_secs(10);

/// What the server is told at its start.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where a kubelet finds it.
    pub socket: socket::Place,
    /// Where exec, attach and port-forward are served.
    pub streaming: SocketAddr,
    /// How long streaming clients may take.
    pub limits: streaming::Limits,
    /// Where Prometheus asks, if anywhere.
    pub metrics: Option<SocketAddr>,
}

/// What the program around a server brings along.
pub struct Program {
    /// The socket that the service manager bound, see [`socket::take_over`].
    pub handed: Option<std::os::unix::net::UnixListener>,
    /// Called once calls are answered.
    pub ready: Box<dyn FnOnce() + Send>,
    /// The choice of what its log says.
    pub log: Arc<dyn admin::LogLevel>,
}

/// One server; cheap to clone.
#[derive(Debug, Clone)]
pub struct CriServer {
    engine: Arc<Engine>,
    handlers: Arc<RwLock<handlers::Handlers>>,
    streams: Arc<streaming::Streams>,
    telemetry: Arc<telemetry::Telemetry>,
}

impl CriServer {
    /// A server of an engine that is open; its streams are served from now on.
    ///
    /// # Errors
    ///
    /// `Network` when the address for streams cannot be had.
    pub async fn new(engine: Arc<Engine>, config: &ServerConfig) -> Result<CriServer, Error> {
        let handlers = handlers::Handlers::observe(&engine).await;
        let telemetry = Arc::new(telemetry::Telemetry::default());
        let endpoint = streaming::endpoint::Endpoint {
            engine: engine.clone(),
            limits: config.limits,
            telemetry: telemetry.clone(),
            tokens: streaming::tokens::Tokens::default(),
        };
        let streams = streaming::Streams::start(endpoint, config.streaming).await?;
        // Plugins take their time, and pods need not wait for it.
        let collecting = engine.clone();
        tokio::spawn(async move { collecting.collect_network_garbage().await });
        Ok(CriServer {
            streams: Arc::new(streams),
            telemetry,
            engine,
            handlers: Arc::new(RwLock::new(handlers)),
        })
    }

    /// Takes over what a configuration may change while the server runs: the OCI
    /// runtimes and the registries.
    ///
    /// # Errors
    ///
    /// `Image` when the registries' file cannot be read; then nothing changed.
    pub async fn reload(&self, configuration: &Configuration) -> Result<(), Error> {
        let registries = configuration.registries()?;
        self.engine.images().replace_registries(registries);
        self.engine.replace_runtimes(configuration.runtimes());
        let handlers = handlers::Handlers::observe(&self.engine).await;
        let mut known = self
            .handlers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *known = handlers;
        Ok(())
    }

    /// Whether the server still gets anything done: for a watchdog.
    pub async fn is_alive(&self) -> bool {
        let records = self.engine.records().clone();
        // A disk that hangs keeps the thread, and the watchdog unanswered.
        blocking(move || records.pod_ids()).await.is_ok()
    }

    fn handler_list(&self) -> Vec<crate::v1::RuntimeHandler> {
        let handlers = self.handlers.read();
        handlers.unwrap_or_else(PoisonError::into_inner).list()
    }

    /// Answers calls until `stop` is done; calls that have begun are finished.
    ///
    /// # Errors
    ///
    /// `Conflict` when another server answers on the socket, `Storage` when the
    /// socket cannot be made.
    pub async fn serve(
        self,
        config: &ServerConfig,
        program: Program,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let metrics = match config.metrics {
            Some(address) => {
                let endpoint = telemetry::endpoint::Endpoint::start(self.clone(), address).await?;
                tracing::info!("metrics are on http://{}/metrics", endpoint.address());
                Some(endpoint)
            }
            None => None,
        };
        let listener = socket::listen(&config.socket, program.handed).await?;
        let watch = telemetry::calls::WatchLayer::new(self.telemetry.clone());
        let runtime = RuntimeServiceServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_LIMIT_BYTES)
            .max_encoding_message_size(MESSAGE_LIMIT_BYTES);
        let images = ImageServiceServer::new(self)
            .max_decoding_message_size(MESSAGE_LIMIT_BYTES)
            .max_encoding_message_size(MESSAGE_LIMIT_BYTES);
        let operator = AdminServer::new(admin::AdminService { log: program.log });
        // The socket listens: a call that comes now waits in its queue.
        (program.ready)();
        let (tell, told) = tokio::sync::oneshot::channel();
        let stop = async {
            stop.await;
            // Received below, as long as there is somebody to receive it.
            let _ = tell.send(());
        };
        let serving = Transport::builder()
            .layer(watch)
            .add_service(operator)
            .add_service(runtime)
            .add_service(images)
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener.socket), stop);
        let farewell = async {
            match told.await {
                Ok(()) => tokio::time::sleep(FAREWELL).await,
                Err(_) => std::future::pending().await,
            }
        };
        let outcome = tokio::select! {
            outcome = serving => outcome,
            // A client that hangs keeps its connection, and would keep us.
            () = farewell => Ok(()),
        };
        drop(metrics);
        socket::leave(listener.made);
        outcome.map_err(|error| Error::caused(ErrorKind::Storage, "serve the CRI", error))
    }
}
