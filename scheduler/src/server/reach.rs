//! Connections to agents: the server shows that it is the server, and the agent that
//! it is the node.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::trust::TrustError;
use crate::trust::authority::node_host;
use crate::trust::connect::bound_silence;
use crate::trust::tls::{self, Shown};

/// How long a node may take to answer a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a node may be silent: `exec` and `logs -f` are so for hours, and then the
/// kernel's probes say whether it is still there.
const SILENCE: Duration = Duration::from_secs(30);

/// Reaches agents by mutual TLS.
#[derive(Clone)]
pub struct Reach {
    tls: Arc<ClientConfig>,
}

impl Reach {
    /// Reaches them as the one who `shown` is.
    ///
    /// # Errors
    ///
    /// The authority is not a certificate.
    pub fn new(shown: &Arc<Shown>) -> Result<Reach, TrustError> {
        let tls = Arc::new(tls::client(shown)?);
        Ok(Reach { tls })
    }

    /// A connection to a node's agent, and to no one else who has its address now.
    ///
    /// # Errors
    ///
    /// Nobody answers there, or it is not that node.
    pub async fn connect(
        &self,
        node: &str,
        address: IpAddr,
        port: u16,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(node_host(node)).map_err(io::Error::other)?;
        let connecting = async {
            let stream = TcpStream::connect(SocketAddr::new(address, port)).await?;
            bound_silence(&stream, SILENCE)?;
            TlsConnector::from(self.tls.clone())
                .connect(name, stream)
                .await
        };
        tokio::time::timeout(PATIENCE, connecting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
