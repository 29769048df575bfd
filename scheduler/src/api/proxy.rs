//! Logs, exec, attach and port-forward: the API passes them on to the agent of the pod's node.
//!
//! The agent serves the paths of a kubelet. A request that upgrades its connection (SPDY/3.1 or
//! WebSocket) is passed on with its headers, and after the agent's 101 the two connections are
//! joined byte by byte: what runs over them is between the client and the agent.

use std::{io, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use axum::body::Body;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::api::{
    Api,
    error::ApiError,
    http::existing,
    kind::{Subresource, by_plural},
    request::{Parameters, Target},
    write::Place,
};

/// A connection to an agent.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Makes connections to agents: with mTLS in a cluster, plain in tests.
#[async_trait]
pub trait NodeDialer: Send + Sync + 'static {
    /// Connects to the agent of a node.
    async fn dial(&self, node: &str, host: IpAddr, port: u16) -> io::Result<Box<dyn Stream>>;
}

/// Connects without encryption: for tests, and where the network is the process's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainDialer;

#[async_trait]
impl NodeDialer for PlainDialer {
    async fn dial(&self, _node: &str, host: IpAddr, port: u16) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(
            tokio::net::TcpStream::connect((host, port)).await?,
        ))
    }
}

/// Headers that are about one connection only (RFC 9110, section 7.6.1).
const HOP_BY_HOP: &[HeaderName] = &[
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
];

/// Passes a request on to the agent of the pod's node.
///
/// # Errors
///
/// 404 and 400 for pods and containers that are not there, 502-like 500 where the agent cannot be reached.
pub async fn to_agent(
    api: &Arc<Api>,
    target: &Target,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let pod = existing(api, target).await?.value;
    let parameters = Parameters::read(request.uri())?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        let name = target.name.as_deref().unwrap_or_default();
        return Err(ApiError::bad_request(format!(
            "pod {name} does not have a host assigned"
        )));
    }
    let uri = agent_uri(target, &pod, &parameters, request.uri())?;
    let (host, port) = agent_address(api, node).await?;
    let dialed = tokio::time::timeout(
        api.config.dial_timeout,
        api.config.nodes.dial(node, host, port),
    )
    .await;
    let unreachable = |why: String| {
        ApiError::internal(format!(
            "error dialing the agent of node {node} at {host} port {port}: {why}"
        ))
    };
    let stream = dialed
        .map_err(|_| unreachable("it did not answer in time".into()))?
        .map_err(|error| unreachable(error.to_string()))?;
    pass_on(stream, uri, request).await
}

/// Where the agent of a node listens.
async fn agent_address(api: &Api, node: &str) -> Result<(IpAddr, u16), ApiError> {
    let kind = by_plural("", "nodes").ok_or_else(|| ApiError::internal("nodes are not served"))?;
    let place = Place {
        kind,
        namespace: String::new(),
        name: node.to_owned(),
    };
    let node_object = api.read(&place).await?.value;
    let status = &node_object["status"];
    let addresses = status["addresses"].as_array().into_iter().flatten();
    let host = addresses
        .filter(|one| one["type"] == "InternalIP")
        .find_map(|one| one["address"].as_str()?.parse().ok())
        .ok_or_else(|| ApiError::internal(format!("node {node} has no InternalIP address yet")))?;
    let port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        .as_u64()
        .and_then(|port| u16::try_from(port).ok());
    Ok((host, port.filter(|port| *port > 0).unwrap_or(10250)))
}

/// The path that the agent serves for this, with the client's parameters.
fn agent_uri(
    target: &Target,
    pod: &Value,
    parameters: &Parameters,
    asked: &Uri,
) -> Result<String, ApiError> {
    let (namespace, name) = (
        target.namespace.as_deref().unwrap_or_default(),
        target.name.as_deref().unwrap_or_default(),
    );
    let place = format!("{namespace}/{name}");
    let query = asked
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let path = match target.subresource {
        Some(Subresource::Log) => format!(
            "/containerLogs/{place}/{}",
            container(pod, name, parameters)?
        ),
        Some(Subresource::Exec) => format!("/exec/{place}/{}", container(pod, name, parameters)?),
        Some(Subresource::Attach) => {
            format!("/attach/{place}/{}", container(pod, name, parameters)?)
        }
        _ => format!("/portForward/{place}"),
    };
    // The parameters of the API's exec are those of the agent under other names.
    let query = match target.subresource {
        Some(Subresource::Exec | Subresource::Attach) => rename_streams(&query),
        _ => query,
    };
    Ok(path + &query)
}

/// `stdin`, `stdout`, `stderr` are `input`, `output`, `error` to an agent, as to a kubelet.
fn rename_streams(query: &str) -> String {
    let renamed = query.trim_start_matches('?').split('&').filter_map(|term| {
        let (key, value) = term.split_once('=').unwrap_or((term, ""));
        let key = match key {
            "stdin" => "input",
            "stdout" => "output",
            "stderr" => "error",
            "container" => return None,
            other => other,
        };
        match (key, value) {
            ("input" | "output" | "error" | "tty", "true" | "1") => Some(format!("{key}=1")),
            ("input" | "output" | "error" | "tty", _) => None,
            _ => Some(format!("{key}={value}")),
        }
    });
    let terms: Vec<String> = renamed.collect();
    if terms.is_empty() {
        String::new()
    } else {
        format!("?{}", terms.join("&"))
    }
}

/// The container that is meant: the named one, or the only one.
fn container<'a>(pod: &'a Value, name: &str, parameters: &Parameters) -> Result<&'a str, ApiError> {
    let names = |field: &str| -> Vec<&'a str> {
        let all = pod["spec"][field].as_array().into_iter().flatten();
        all.filter_map(|one| one["name"].as_str()).collect()
    };
    let (containers, first) = (names("containers"), names("initContainers"));
    match parameters.text("container") {
        Some(wanted) => containers
            .iter()
            .chain(&first)
            .find(|one| **one == wanted)
            .copied()
            .ok_or_else(|| {
                ApiError::bad_request(format!("container {wanted} is not valid for pod {name}"))
            }),
        None if containers.len() == 1 => Ok(containers[0]),
        None => {
            let choose = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                containers.join(" ")
            );
            let more = if first.is_empty() {
                String::new()
            } else {
                format!(" or one of the init containers: [{}]", first.join(" "))
            };
            Err(ApiError::bad_request(choose + &more))
        }
    }
}

async fn pass_on(
    stream: Box<dyn Stream>,
    uri: String,
    mut request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let broken =
        |error: hyper::Error| ApiError::internal(format!("the agent did not answer: {error}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // Lives until both directions are closed; it ends with the connection.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "the connection to an agent ended");
        }
    });
    let upgrade = request.headers().get(header::UPGRADE).cloned();
    let client_side = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let mut passed = Request::new(body);
    *passed.method_mut() = parts.method;
    *passed.uri_mut() = uri
        .parse()
        .map_err(|error| ApiError::bad_request(format!("the path cannot be passed on: {error}")))?;
    *passed.headers_mut() = end_to_end(&parts.headers);
    passed
        .headers_mut()
        .insert(header::HOST, header::HeaderValue::from_static("agent"));
    if let Some(protocol) = &upgrade {
        passed
            .headers_mut()
            .insert(header::UPGRADE, protocol.clone());
        passed.headers_mut().insert(
            header::CONNECTION,
            header::HeaderValue::from_static("Upgrade"),
        );
    }
    let mut response = sender.send_request(passed).await.map_err(broken)?;
    let headers = response.headers().clone();
    if let (StatusCode::SWITCHING_PROTOCOLS, Some(client_side)) = (response.status(), client_side) {
        let agent_side = hyper::upgrade::on(&mut response);
        tokio::spawn(join_sides(client_side, agent_side));
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = headers;
        return Ok(answer);
    }
    let status = response.status();
    let mut answer = Response::new(Body::new(response.into_body()));
    *answer.status_mut() = status;
    *answer.headers_mut() = end_to_end(&headers);
    Ok(answer)
}

async fn join_sides(client: hyper::upgrade::OnUpgrade, agent: hyper::upgrade::OnUpgrade) {
    let (client, agent) = match tokio::try_join!(client, agent) {
        Ok(sides) => sides,
        Err(error) => return tracing::debug!(%error, "a connection was not upgraded"),
    };
    let (mut client, mut agent) = (TokioIo::new(client), TokioIo::new(agent));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut agent).await {
        tracing::debug!(%error, "a stream through the API ended");
    }
}

fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let kept = headers
        .iter()
        .filter(|(name, _)| !HOP_BY_HOP.contains(name));
    kept.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
