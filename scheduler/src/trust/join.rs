//! Asking a server for membership, and for a certificate's renewal.
//!
//! ```text
//!   machine                                         server
//!      │ ── TLS, shows nothing ───────────────────▶ │
//!      │ ◀── server.crt, ca.crt ─────────────────── │
//!      │   is sha256(ca's public key) the token's?  │   no: hang up, nothing was told
//!      │ ── POST /berth/v1/join                     │
//!      │    {id, secret, node, role, request} ────▶ │   known? proved? in date? unspent?
//!      │ ◀── {certificate, cluster, server?} ────── │   may it let in a server?
//! ```
//!
//! A further server gets the authority's key and the way to the store in the same answer.
//! By then both have proved who they are: the server by the key that the token pins, the
//! machine by the token's secret, which must be one that was made for servers. The key is
//! told to nobody else, in no log, and is in no store.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::authority::{self, SERVER_HOST};
use super::credential::Credential;
use super::tls::{self, Found, Pinned, Shown};
use super::token::Token;
use super::{TrustError, check_node_name};

/// Where machines join.
pub const JOIN_PATH: &str = "/berth/v1/join";
/// Where a node renews its certificate.
pub const RENEW_PATH: &str = "/berth/v1/renew";
/// Where a node leaves.
pub const LEAVE_PATH: &str = "/berth/v1/leave";
/// Where the authority's certificate is shown.
pub const AUTHORITY_PATH: &str = "/berth/v1/ca";
/// Longer answers are nobody's.
const LONGEST_ANSWER_BYTES: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// What a machine asks with.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequest {
    /// The token's name.
    pub token_id: String,
    /// The token's secret.
    pub token_secret: String,
    /// What the node wants to be called.
    pub node: String,
    /// As what it wants to come in.
    #[serde(default)]
    pub role: Role,
    /// A certificate request (PEM) for a key that stays with the node.
    pub request: String,
}

/// As what a machine comes in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It runs pods.
    #[default]
    Node,
    /// It serves the API as well.
    Server,
}

/// What a member gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinAnswer {
    /// The node's certificate, PEM.
    pub certificate: String,
    /// How the cluster is laid out.
    pub cluster: ClusterLayout,
    /// What it needs to be a server, if it asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Grant>,
}

/// What makes a machine a server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// The authority's key, PEM.
    pub authority_key: String,
    /// `HOST:PORT` of each member of etcd.
    pub etcd: Vec<String>,
    /// What to speak TLS with etcd with; plain text without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_tls: Option<EtcdTls>,
    /// How long nodes' certificates hold.
    pub node_certificate_seconds: u64,
}

/// The contents of the files that a server speaks TLS with etcd with, PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdTls {
    /// Who signed the members' certificates.
    pub authority: String,
    /// Who a server is to etcd, and the key to prove it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<(String, String)>,
}

/// A key is not for logs.
impl std::fmt::Debug for Grant {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(formatter, "Grant({})", self.etcd.join(","))
    }
}

/// A key is not for logs.
impl std::fmt::Debug for EtcdTls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("EtcdTls")
    }
}

/// What a node asks a renewal with.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RenewRequest {
    /// A certificate request (PEM) for a new key.
    pub request: String,
}

/// Who leaves, and how.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaveRequest {
    /// End it now: the Node is removed and its certificates are refused, whatever runs there.
    pub finish: bool,
}

/// How far leaving is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaveAnswer {
    /// `namespace/name` of the pods that still run there and are not a DaemonSet's.
    pub pods: Vec<String>,
    /// The node is no member any more.
    pub left: bool,
}

/// What every node must know of the cluster, and cannot find out by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterLayout {
    /// Where servers answer, `ADDRESS:PORT`.
    pub servers: Vec<SocketAddr>,
    /// Where pods have their addresses.
    pub pod_ranges: Vec<String>,
    /// Where Services have theirs.
    pub service_range: String,
    /// Where a cluster's names are looked up.
    pub dns: IpAddr,
    /// What cluster names end in.
    pub domain: String,
    /// Which ports Services may have on every node.
    pub node_ports: (u16, u16),
}

impl Default for ClusterLayout {
    fn default() -> ClusterLayout {
        ClusterLayout {
            servers: Vec::new(),
            pod_ranges: vec!["10.210.0.0/16".to_owned()],
            service_range: "10.211.0.0/16".to_owned(),
            dns: IpAddr::from([10, 211, 0, 10]),
            domain: "cluster.local".to_owned(),
            node_ports: (30000, 32767),
        }
    }
}

/// Why a machine is no member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nobody answers there.
    #[error("reach the server at {address}; nothing was told to it")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Somebody answers, but in another language.
    #[error("speak TLS with {address}; nothing was told to it")]
    Handshake {
        /// Where.
        address: SocketAddr,
        /// What TLS said.
        source: std::io::Error,
    },
    /// Another cluster's token, or another machine's address.
    #[error(
        "the server at {address} does not belong to the cluster that the token is for: its authority has another key than the token pins; the secret was not told to it"
    )]
    Foreign {
        /// Where.
        address: SocketAddr,
    },
    /// The server said no.
    #[error("the server at {address} refused: {reason}")]
    Refused {
        /// Where.
        address: SocketAddr,
        /// The HTTP status.
        status: u16,
        /// Its words.
        reason: String,
    },
    /// The answer cannot be read.
    #[error("read the answer of {address}: {reason}")]
    Answer {
        /// Where.
        address: SocketAddr,
        /// What is wrong with it.
        reason: String,
    },
}

/// A machine that has become a member.
#[derive(Debug, Clone)]
pub struct Membership {
    /// The node's own certificate, and the authority it trusts.
    pub credential: Credential,
    /// How the cluster is laid out.
    pub cluster: ClusterLayout,
    /// What makes it a server, if it asked for that.
    pub server: Option<Grant>,
}

/// Joins the cluster of a token. Nothing is written.
///
/// # Errors
///
/// [`JoinError`], each with what was told and what was not; the name cannot be a node's.
pub async fn join(
    address: SocketAddr,
    token: &Token,
    node: &str,
    role: Role,
) -> Result<Membership, TrustError> {
    check_node_name(node)?;
    let (key, request) = authority::request()?;
    let pin = Pinned::new(token.authority);
    let exchange = Exchange {
        address,
        tls: Arc::new(tls::pinned(pin.clone())?),
    };
    let body = JoinRequest {
        token_id: token.invitation.id.clone(),
        token_secret: token.invitation.secret().to_owned(),
        node: node.to_owned(),
        role,
        request,
    };
    let answered: Result<JoinAnswer, JoinError> = exchange.post(JOIN_PATH, &body).await;
    let (answer, authority) = match (answered, pin.found()) {
        (_, Found::Foreign) => return Err(JoinError::Foreign { address }.into()),
        (Ok(answer), Found::Authority(authority)) => (answer, authority),
        (Err(error), _) => return Err(error.into()),
        (Ok(_), Found::Nothing) => {
            unreachable!("rustls asks the verifier in every handshake, and there is no resumption")
        }
    };
    let credential = Credential {
        certificate: answer.certificate,
        key,
        authority: pem(&authority),
    };
    // A certificate that is not for our key, or not of our authority, is found out
    // before anything relies on it.
    tls::Shown::new(credential.clone())?;
    Ok(Membership {
        credential,
        cluster: answer.cluster,
        server: answer.server,
    })
}

/// A new certificate for the node that `shown` is, with a new key. Nothing is written.
///
/// # Errors
///
/// [`JoinError`].
pub async fn renew(address: SocketAddr, shown: &Arc<Shown>) -> Result<Credential, TrustError> {
    let (key, request) = authority::request()?;
    let exchange = Exchange {
        address,
        tls: Arc::new(tls::client(shown)?),
    };
    let answer: JoinAnswer = exchange.post(RENEW_PATH, &RenewRequest { request }).await?;
    let credential = Credential {
        certificate: answer.certificate,
        key,
        authority: shown.credential().authority,
    };
    tls::Shown::new(credential.clone())?;
    Ok(credential)
}

/// Tells the server that this node leaves.
///
/// # Errors
///
/// [`JoinError`].
pub async fn leave(
    address: SocketAddr,
    shown: &Arc<Shown>,
    request: &LeaveRequest,
) -> Result<LeaveAnswer, TrustError> {
    let exchange = Exchange {
        address,
        tls: Arc::new(tls::client(shown)?),
    };
    Ok(exchange.post(LEAVE_PATH, request).await?)
}

/// One request on one connection.
struct Exchange {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl Exchange {
    async fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<A, JoinError> {
        let address = self.address;
        let unreadable = |reason: String| JoinError::Answer { address, reason };
        let body = serde_json::to_vec(body).map_err(|error| unreadable(error.to_string()))?;
        let exchange = tokio::time::timeout(PATIENCE, self.send(path, body));
        let (status, bytes) = exchange.await.map_err(|_| JoinError::Unreachable {
            address,
            source: std::io::ErrorKind::TimedOut.into(),
        })??;
        if !status.is_success() {
            return Err(JoinError::Refused {
                address,
                status: status.as_u16(),
                reason: refusal(&bytes).unwrap_or_else(|| status.to_string()),
            });
        }
        serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))
    }

    async fn send(&self, path: &str, body: Vec<u8>) -> Result<(StatusCode, Bytes), JoinError> {
        let address = self.address;
        let unreadable = |error: &dyn std::error::Error| JoinError::Answer {
            address,
            reason: berth_runtime::causes::chain(error),
        };
        let stream = TcpStream::connect(address)
            .await
            .map_err(|source| JoinError::Unreachable { address, source })?;
        let name = ServerName::try_from(SERVER_HOST).map_err(|error| unreadable(&error))?;
        let stream = TlsConnector::from(self.tls.clone())
            .connect(name, stream)
            .await
            .map_err(|source| JoinError::Handshake { address, source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreadable(&error))?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(http::header::HOST, SERVER_HOST)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| unreadable(&error))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| unreadable(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| unreadable(error.as_ref()))?;
        connection.abort();
        Ok((status, body.to_bytes()))
    }
}

/// The words of a `metav1.Status`.
fn refusal(body: &[u8]) -> Option<String> {
    let status: serde_json::Value = serde_json::from_slice(body).ok()?;
    status.get("message")?.as_str().map(str::to_owned)
}

fn pem(certificate: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}
