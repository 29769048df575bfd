//! Commands, terminals and ports of containers: the runtime's streaming server behind
//! the agent's port.
//!
//! The CRI answers `Exec` with a URL that is good for one request. The client's own
//! request is sent there, upgrade and all, and from then on bytes are copied both ways:
//! SPDY and WebSocket alike, the agent reads neither.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, Query, Request, State},
    http::{HeaderValue, StatusCode, Uri, header},
    response::Response,
};
use berth_cri::v1;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tracing::debug;

use super::{
    Refusal,
    place::{ContainerPlace, PodPlace, find_running, find_sandbox},
};
use crate::agent::pods::Shared;

/// `/exec`: a new process in a container.
pub async fn exec(
    State(shared): State<Arc<Shared>>,
    Path(place): Path<ContainerPlace>,
    request: Request,
) -> Result<Response, Refusal> {
    let wanted = Wanted::read(request.uri());
    if wanted.command.is_empty() {
        let text = "command: expected at least one, found none";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    }
    let container_id = find_running(&shared.service, &place).await?;
    let asked = v1::ExecRequest {
        container_id,
        cmd: wanted.command,
        tty: wanted.tty,
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        // A terminal has one way out.
        stderr: wanted.stderr && !wanted.tty,
    };
    let reply = shared.service.exec(asked).await?;
    forward(&reply.url, request).await
}

/// `/attach`: the container's own process.
pub async fn attach(
    State(shared): State<Arc<Shared>>,
    Path(place): Path<ContainerPlace>,
    request: Request,
) -> Result<Response, Refusal> {
    let wanted = Wanted::read(request.uri());
    let container_id = find_running(&shared.service, &place).await?;
    let asked = v1::AttachRequest {
        container_id,
        tty: wanted.tty,
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr && !wanted.tty,
    };
    let reply = shared.service.attach(asked).await?;
    forward(&reply.url, request).await
}

/// `/portForward`: ports of a pod.
pub async fn port_forward(
    State(shared): State<Arc<Shared>>,
    Path(place): Path<PodPlace>,
    request: Request,
) -> Result<Response, Refusal> {
    let sandbox = find_sandbox(&shared.service, &place).await?;
    let asked = v1::PortForwardRequest {
        pod_sandbox_id: sandbox.id,
        port: Wanted::read(request.uri()).ports,
    };
    let reply = shared.service.port_forward(asked).await?;
    forward(&reply.url, request).await
}

/// What a request's query asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    command: Vec<String>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
    ports: Vec<i32>,
}

impl Wanted {
    /// A kubelet's words are `input`, `output`, `error`; the API's own are heard too.
    fn read(uri: &Uri) -> Wanted {
        let mut wanted = Wanted::default();
        // A query that is none asks for nothing.
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri);
        for (key, value) in pairs.map(|Query(pairs)| pairs).unwrap_or_default() {
            let yes = matches!(value.as_str(), "1" | "true" | "True" | "t");
            match key.as_str() {
                "command" => wanted.command.push(value),
                "input" | "stdin" => wanted.stdin |= yes,
                "output" | "stdout" => wanted.stdout |= yes,
                "error" | "stderr" => wanted.stderr |= yes,
                "tty" => wanted.tty |= yes,
                "port" | "ports" => wanted
                    .ports
                    .extend(value.split(',').filter_map(|port| port.parse::<i32>().ok())),
                _ => {}
            }
        }
        wanted
    }
}

/// Sends a request to the runtime's streaming server, and what comes back to the client.
async fn forward(url: &str, mut request: Request) -> Result<Response, Refusal> {
    let unreachable = |error: &dyn std::fmt::Display| {
        let text = format!("the runtime's streaming server did not answer: {error}");
        Refusal::new(StatusCode::BAD_GATEWAY, text)
    };
    let target: Uri = url
        .parse()
        .map_err(|error: http::uri::InvalidUri| unreachable(&error))?;
    let authority = target
        .authority()
        .ok_or_else(|| unreachable(&"its URL has no host"))?;
    let address = match authority.port() {
        Some(_) => authority.to_string(),
        None => format!("{authority}:80"),
    };
    let stream = TcpStream::connect(&address)
        .await
        .map_err(|error| unreachable(&error))?;
    // A keystroke must not wait for the next one.
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            debug!(%error, "a stream of the runtime's broke off");
        }
    });
    let client = hyper::upgrade::on(&mut request);
    let mut asked = Request::new(Body::empty());
    *asked.method_mut() = request.method().clone();
    *asked.headers_mut() = request.headers().clone();
    let host = HeaderValue::from_str(&address).map_err(|error| unreachable(&error))?;
    asked.headers_mut().insert(header::HOST, host);
    let path = target.path_and_query().map_or("/", |path| path.as_str());
    *asked.uri_mut() = path
        .parse()
        .map_err(|error: http::uri::InvalidUri| unreachable(&error))?;
    let mut reply = sender
        .send_request(asked)
        .await
        .map_err(|error| unreachable(&error))?;
    if reply.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(reply.map(Body::new));
    }
    let runtime = hyper::upgrade::on(&mut reply);
    tokio::spawn(async move {
        let (Ok(client), Ok(runtime)) = tokio::join!(client, runtime) else {
            return;
        };
        let (mut client, mut runtime) = (TokioIo::new(client), TokioIo::new(runtime));
        // However it ends, both see the end of the other.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut runtime).await;
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = reply.status();
    *response.headers_mut() = reply.headers().clone();
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::Wanted;

    #[test]
    fn the_query_says_what_is_wanted() {
        let uri = "/exec/a/b/c?command=sh&command=-c&command=echo+a%26b&input=1&output=true&tty=0&error=1";
        let wanted = Wanted::read(&uri.parse().unwrap());
        assert_eq!(wanted.command, ["sh", "-c", "echo a&b"]);
        assert!(wanted.stdin && wanted.stdout && wanted.stderr && !wanted.tty);
        let ports = Wanted::read(&"/portForward/a/b?port=80&ports=81,82".parse().unwrap()).ports;
        assert_eq!(ports, [80, 81, 82]);
    }
}
