//! `berth-bench-server DIRECTORY PORT`: the API, its store and placement, without controllers.
//!
//! What a scheduler's benchmark needs of a server. Controllers would look after
//! nodes that nobody pretends to be alive, and count in the time. Whoever connects
//! may do everything, so it listens on the loopback only.

use std::{convert::Infallible, net::Ipv4Addr, path::Path, sync::Arc};

use anyhow::{Context, Result};
use axum::Router;
use berth_scheduler::{
    api::{self, Api, ApiConfig, Identity},
    placement::{self, PlacementConfig},
    store::embedded::EmbeddedStore,
};
use http::Request;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().context("expected a directory")?;
    let port: u16 = arguments.next().context("expected a port")?.parse()?;
    let store = EmbeddedStore::open(&Path::new(&directory).join("state.redb"))?;
    let api = Api::open(Arc::new(store), ApiConfig::default())
        .await
        .map_err(|error| anyhow::anyhow!("opening the API: {}", error.message))?;
    let client = api::local::client(api.clone(), Identity::master("placement"));
    tokio::spawn(placement::run(
        client,
        PlacementConfig::default(),
        CancellationToken::new(),
    ));
    serve(api::http::router(api), port).await
}

async fn serve(router: Router, port: u16) -> Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(tls()?));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(connection(acceptor.clone(), stream, router.clone()));
    }
}

/// A certificate of our own for the loopback; the benchmark's client asks for no more.
fn tls() -> Result<rustls::ServerConfig> {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let key = PrivateKeyDer::from_pem_slice(certified.signing_key.serialize_pem().as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

async fn connection(acceptor: TlsAcceptor, stream: TcpStream, router: Router) {
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move {
            let mut request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(Identity::master("bench"));
            Ok::<_, Infallible>(match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            })
        }
    });
    // A client that went away is no failure of the server.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
}
