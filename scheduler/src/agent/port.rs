//! The agent's port: what the server asks of a node on behalf of people.
//!
//! ```text
//! kubectl ─▶ server ─▶ agent ─┬─▶ log files                /containerLogs
//!                             └─▶ CRI's streaming server   /exec /attach /portForward
//! ```
//!
//! Paths are a kubelet's. Whoever may ask here may run anything in any container, so the
//! TLS settings let nobody in but the API server ([`crate::trust::tls::agent_server`]).

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{any, get},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use k8s_openapi::api::core::v1::Pod;
use kube::core::ObjectList;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::debug;

use super::pods::Shared;

/// What a container wrote.
pub mod logs;
/// A few numbers.
pub mod metrics;
/// A pod's container on the runtime.
pub mod place;
/// Commands, terminals and ports of containers.
pub mod streams;

/// How long a client may take to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A request that the agent does not fulfil.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    /// With this status and text.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal {
            status,
            message: message.into(),
        }
    }
}

impl From<tonic::Status> for Refusal {
    fn from(status: tonic::Status) -> Refusal {
        let code = match status.code() {
            tonic::Code::NotFound => StatusCode::NOT_FOUND,
            tonic::Code::InvalidArgument | tonic::Code::FailedPrecondition => {
                StatusCode::BAD_REQUEST
            }
            tonic::Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal::new(code, status.message())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, self.message).into_response()
    }
}

/// What is answered where.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/pods", get(list_pods))
        .route("/metrics", get(metrics::answer))
        .route(
            "/containerLogs/{namespace}/{pod}/{container}",
            get(logs::answer),
        )
        .route("/exec/{namespace}/{pod}/{container}", any(streams::exec))
        .route(
            "/attach/{namespace}/{pod}/{container}",
            any(streams::attach),
        )
        .route("/portForward/{namespace}/{pod}", any(streams::port_forward))
        .with_state(shared)
}

/// The pods that are here, as a kubelet lists them.
async fn list_pods(State(shared): State<Arc<Shared>>) -> Response {
    let items: Vec<Pod> = shared.pods().iter().map(|pod| Pod::clone(pod)).collect();
    let list = ObjectList {
        types: kube::core::TypeMeta {
            api_version: "v1".to_owned(),
            kind: "PodList".to_owned(),
        },
        metadata: kube::core::ListMeta::default(),
        items,
    };
    axum::Json(list).into_response()
}

/// Answers for ever.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let router = router(Arc::clone(&shared));
    let acceptor = shared.config.tls.clone().map(TlsAcceptor::from);
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors, mostly: some will be given back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let router = router.clone();
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let answered = match acceptor {
                None => answer(stream, router).await,
                Some(acceptor) => match shake_hands(stream, &acceptor).await {
                    Ok(stream) => answer(stream, router).await,
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = answered {
                debug!(%peer, %error, "a client of the agent's port was left");
            }
        });
    }
}

async fn shake_hands(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
) -> io::Result<TlsStream<TcpStream>> {
    let accepted = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
    accepted.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
) -> io::Result<()> {
    let builder = Builder::new(TokioExecutor::new());
    let service = TowerToHyperService::new(router);
    builder
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await
        .map_err(io::Error::other)
}
