//! Streaming: exec, attach and port-forward, over HTTP connections of their own.
//!
//! ```text
//! kubelet ──gRPC Exec──▶ Streams::exec: is it allowed, does the container run?
//!         ◀─ http://127.0.0.1:PORT/exec/TOKEN   (once, within a minute)
//! kubelet ──POST + Upgrade──▶ endpoint ─▶ negotiate ─▶ SPDY or WebSocket
//!                                                        │ channels
//!                                            command, forward ─▶ Engine
//! ```
//!
//! gRPC carries messages, and a terminal is a stream that lives for hours; so the
//! CRI hands out a URL instead and the bytes go around gRPC. One endpoint serves
//! every protocol, chosen by the request: a kubelet passes on whatever its own
//! client spoke.
//!
//! Read more: docs/streaming.md.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_runtime::monitor::protocol::PodNamespace;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use self::command::{Command, Wanted, What};
use self::endpoint::Endpoint;
use self::forward::ForwardTarget;
use crate::engine::error::{Error, ErrorKind};
use crate::engine::exec::ExecRequest;
use crate::engine::spec::namespaces::PodNamespaces;
use crate::v1;

/// One stream of a connection, as something to read or to write.
pub mod channel;
/// Exec and attach, whatever the streams came over.
pub mod command;
/// The HTTP server.
pub(super) mod endpoint;
/// Port-forward: a connection to a port of a pod.
pub mod forward;
/// How long a connection has been silent.
mod idle;
/// Which protocol a request is to be served with.
pub mod negotiate;
/// SPDY/3.1.
pub mod spdy;
/// How a program ended, in the words of the client's protocol.
pub mod status;
/// One-time tokens.
pub(super) mod tokens;
/// WebSocket.
pub mod websocket;

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a connection may be silent in both directions.
    pub idle: Duration,
    /// How long a client may take to open the streams that it asked for.
    pub creation: Duration,
}

/// The server of all streams of an engine. It ends when this is dropped; streams
/// that have begun go on.
#[derive(Debug)]
pub struct Streams {
    endpoint: Arc<Endpoint>,
    address: SocketAddr,
    listening: AbortHandle,
}

/// What a URL stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Exec or attach.
    Command(Command),
    /// Port-forward.
    Forward(ForwardTarget),
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Streams {
    /// Listens on `address`; port 0 is any that is free.
    ///
    /// There is no encryption and no password but the token, so it should be an
    /// address that only this machine reaches.
    ///
    /// # Errors
    ///
    /// `Network` when the address cannot be had.
    pub(super) async fn start(endpoint: Endpoint, address: SocketAddr) -> Result<Self, Error> {
        let failed = |error| {
            Error::caused(
                ErrorKind::Network,
                format!("listen for streaming clients on {address}"),
                error,
            )
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let endpoint = Arc::new(endpoint);
        let listening = tokio::spawn(endpoint::listen(endpoint.clone(), listener));
        Ok(Self {
            endpoint,
            address,
            listening: listening.abort_handle(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL for one more program in a container.
    ///
    /// # Errors
    ///
    /// `Invalid` for the request, `NotFound`, `WrongState` when the container does
    /// not run, `Unavailable` while too many URLs wait.
    pub async fn exec(&self, request: v1::ExecRequest) -> Result<v1::ExecResponse, Error> {
        if request.cmd.first().is_none_or(String::is_empty) {
            return Err(Error::invalid(
                "cmd: must not be empty; nothing was started",
            ));
        }
        let streams = check_streams(Wanted {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.tty,
        })?;
        let container = self.running(&request.container_id).await?.record.id.clone();
        let what = What::Exec(ExecRequest {
            arguments: request.cmd,
            terminal: request.tty,
            ..ExecRequest::default()
        });
        let url = self.url(Asked::Command(Command {
            container,
            what,
            streams,
            limits: self.endpoint.limits,
        }))?;
        Ok(v1::ExecResponse { url })
    }

    /// A URL for the streams of a container that runs.
    ///
    /// # Errors
    ///
    /// As [`Streams::exec`].
    pub async fn attach(&self, request: v1::AttachRequest) -> Result<v1::AttachResponse, Error> {
        let streams = check_streams(Wanted {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.tty,
        })?;
        let record = self.running(&request.container_id).await?.record;
        let stdin_once = record.config.0.stdin_once;
        let url = self.url(Asked::Command(Command {
            container: record.id.clone(),
            what: What::Attach { stdin_once },
            streams,
            limits: self.endpoint.limits,
        }))?;
        Ok(v1::AttachResponse { url })
    }

    /// A URL for connections to a sandbox's ports.
    ///
    /// # Errors
    ///
    /// `Invalid` for a port, `NotFound`, `WrongState` when the sandbox is not
    /// ready, `Unavailable` while too many URLs wait.
    pub async fn port_forward(
        &self,
        request: v1::PortForwardRequest,
    ) -> Result<v1::PortForwardResponse, Error> {
        let ports = check_ports(&request.port)?;
        let engine = &self.endpoint.engine;
        let pod = engine.sandbox(&request.pod_sandbox_id)?;
        if engine.sandbox_state(&pod).await != v1::PodSandboxState::SandboxReady {
            return Err(Error::new(
                ErrorKind::WrongState,
                format!("sandbox {}: is not ready; no port was forwarded", pod.id),
            ));
        }
        let pod_dir = engine.paths().pod(&pod.id);
        let netns = PodNamespaces::plan(&pod.config.0, &pod_dir)?.path(PodNamespace::Net);
        let url = self.url(Asked::Forward(ForwardTarget {
            sandbox: pod.id,
            netns,
            ports,
            limits: self.endpoint.limits,
        }))?;
        Ok(v1::PortForwardResponse { url })
    }

    async fn running(&self, wanted: &str) -> Result<crate::engine::view::ContainerView, Error> {
        let view = self.endpoint.engine.view(wanted).await?;
        if view.state == v1::ContainerState::ContainerRunning {
            return Ok(view);
        }
        Err(Error::new(
            ErrorKind::WrongState,
            format!(
                "container {}: does not run; no stream was opened",
                view.record.id
            ),
        ))
    }

    fn url(&self, asked: Asked) -> Result<String, Error> {
        let call = asked.call();
        let token = self.endpoint.tokens.issue(Instant::now(), asked)?;
        Ok(format!("http://{}/{call}/{token}", self.address))
    }
}

fn check_streams(streams: Wanted) -> Result<Wanted, Error> {
    if streams.terminal && streams.stderr {
        return Err(Error::invalid(
            "stderr: a terminal has no standard error of its own; ask for tty or for stderr",
        ));
    }
    if !(streams.stdin || streams.stdout || streams.stderr) {
        return Err(Error::invalid(
            "stdin, stdout, stderr: at least one must be asked for",
        ));
    }
    Ok(streams)
}

fn check_ports(ports: &[i32]) -> Result<Vec<u16>, Error> {
    if ports.len() > websocket::forward::PORT_LIMIT {
        return Err(Error::invalid(format!(
            "port: {} ports, at most {} can be named",
            ports.len(),
            websocket::forward::PORT_LIMIT
        )));
    }
    let check = |port: &i32| match u16::try_from(*port) {
        Ok(port @ 1..) => Ok(port),
        _ => Err(Error::invalid(format!("port: {port}: expected 1 to 65535"))),
    };
    ports.iter().map(check).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_client_could_use_is_refused_at_once() {
        let none = Wanted::default();
        assert!(check_streams(none).is_err());
        let terminal = Wanted {
            stdout: true,
            terminal: true,
            ..none
        };
        assert_eq!(check_streams(terminal).unwrap(), terminal);
        let both = Wanted {
            stderr: true,
            ..terminal
        };
        let error = check_streams(both).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(check_ports(&[80, 443]).unwrap(), [80, 443]);
        assert!(check_ports(&[0]).is_err());
        assert!(check_ports(&[65536]).is_err());
        assert!(check_ports(&[1; 128]).is_err());
    }
}
