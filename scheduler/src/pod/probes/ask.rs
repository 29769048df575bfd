//! Asking: a command, a request, a connection, a health service.
//!
//! Requests go to the pod's own address over the node's network, as a client's
//! would: a program that listens on the pod's loopback only is not ready for
//! anybody else. Hooks of a container's life are asked the same way.

use std::{net::IpAddr, str::FromStr, sync::Arc, sync::OnceLock, time::Duration};

use berth_cri::{service::CriService, v1};
use http::{HeaderMap, HeaderName, HeaderValue};
use k8s_openapi::{
    api::core::v1::{Container, ExecAction, GRPCAction, HTTPGetAction, Probe, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::machine::Answer;

/// How much of an answer an event shows.
const SHOWN_BYTES: usize = 1024;

/// A container that can be asked.
#[derive(Clone)]
pub struct Respondent {
    /// Who runs commands in it.
    pub service: Arc<dyn CriService>,
    /// Its id.
    pub container_id: String,
    /// Its spec, for the names of its ports.
    pub spec: Container,
    /// Its pod's address.
    pub address: Option<IpAddr>,
}

impl Respondent {
    /// Asks one probe's question; too late is a failure.
    pub async fn ask(&self, probe: &Probe) -> Answer {
        let seconds = u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1);
        let timeout = Duration::from_secs(seconds.max(1));
        let asked = async {
            if let Some(action) = &probe.exec {
                return self.try_exec(action, timeout).await;
            }
            if let Some(action) = &probe.http_get {
                return Ok(self.http_get(action).await);
            }
            if let Some(action) = &probe.tcp_socket {
                return Ok(self.tcp_socket(action).await);
            }
            if let Some(action) = &probe.grpc {
                return Ok(self.grpc(action).await);
            }
            Ok(Ok(()))
        };
        // A command has the runtime's own timeout, which kills it; this one is
        // for a runtime that does not answer, and so a little later.
        let patience = match probe.exec {
            Some(_) => timeout + Duration::from_secs(2),
            None => timeout,
        };
        match tokio::time::timeout(patience, asked).await {
            Ok(Ok(Ok(()))) => Answer::Success,
            Ok(Ok(Err(reason))) => Answer::Failure(reason),
            Ok(Err(away)) => Answer::Unasked(away),
            Err(_) => Answer::Failure(format!("no answer within {seconds} s")),
        }
    }

    /// Runs a command in the container; its exit code is the answer.
    ///
    /// # Errors
    ///
    /// The command's output, or what the runtime said.
    pub async fn exec(&self, action: &ExecAction, timeout: Duration) -> Result<(), String> {
        self.try_exec(action, timeout).await?
    }

    /// The same; the outer error is of a runtime that did not take the question.
    async fn try_exec(
        &self,
        action: &ExecAction,
        timeout: Duration,
    ) -> Result<Result<(), String>, String> {
        let request = v1::ExecSyncRequest {
            container_id: self.container_id.clone(),
            cmd: action.command.clone().unwrap_or_default(),
            timeout: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        };
        match self.service.exec_sync(request).await {
            Ok(reply) if reply.exit_code == 0 => Ok(Ok(())),
            Ok(reply) => {
                let mut output = reply.stdout;
                output.extend_from_slice(&reply.stderr);
                let output = shown(&output);
                Ok(Err(match output.is_empty() {
                    true => format!("command exited with {}", reply.exit_code),
                    false => format!("command exited with {}: {output}", reply.exit_code),
                }))
            }
            Err(status) if status.code() == Code::DeadlineExceeded => Ok(Err(format!(
                "command timed out after {} s",
                timeout.as_secs()
            ))),
            // A socket that nobody answers, or a connection that broke on the way.
            Err(status)
                if matches!(
                    status.code(),
                    Code::Unavailable | Code::Unknown | Code::Cancelled
                ) =>
            {
                Err(status.message().to_owned())
            }
            Err(status) => Ok(Err(status.message().to_owned())),
        }
    }

    /// Sends a request; 200 to 399 is a success.
    ///
    /// # Errors
    ///
    /// The status and the beginning of the body, or why there was no answer.
    pub async fn http_get(&self, action: &HTTPGetAction) -> Result<(), String> {
        let host = self.host(action.host.as_deref())?;
        let port = self.port(&action.port)?;
        let scheme = action.scheme.as_deref().unwrap_or("HTTP");
        let path = action.path.as_deref().unwrap_or("/");
        let slash = if path.starts_with('/') { "" } else { "/" };
        let scheme = scheme.to_ascii_lowercase();
        let url = format!("{scheme}://{}:{port}{slash}{path}", bracketed(&host));
        let mut headers = HeaderMap::new();
        for header in action.http_headers.iter().flatten() {
            let name = HeaderName::from_str(&header.name)
                .map_err(|_| format!("httpHeaders: {:?} is no header's name", header.name))?;
            let value = HeaderValue::from_str(&header.value).map_err(|_| {
                format!(
                    "httpHeaders: {:?} has a value that cannot be sent",
                    header.name
                )
            })?;
            headers.append(name, value);
        }
        let client = http_client()?;
        let reply = client.get(&url).headers(headers).send().await;
        let reply = reply.map_err(|error| format!("GET {url}: {}", innermost(&error)))?;
        let status = reply.status();
        if status.is_success() || status.is_redirection() {
            return Ok(());
        }
        Err(format!("GET {url}: status {}", status.as_u16()))
    }

    /// Opens a connection and closes it.
    ///
    /// # Errors
    ///
    /// Why there was none.
    pub async fn tcp_socket(&self, action: &TCPSocketAction) -> Result<(), String> {
        let host = self.host(action.host.as_deref())?;
        let port = self.port(&action.port)?;
        match tokio::net::TcpStream::connect((host.as_str(), port)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("connect {}:{port}: {error}", bracketed(&host))),
        }
    }

    /// Asks the health service.
    ///
    /// # Errors
    ///
    /// What it said instead of SERVING, or why it said nothing.
    pub async fn grpc(&self, action: &GRPCAction) -> Result<(), String> {
        let host = self.host(None)?;
        let url = format!("http://{}:{}", bracketed(&host), action.port);
        let endpoint = tonic::transport::Endpoint::from_shared(url.clone())
            .map_err(|error| format!("{url}: {error}"))?;
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| format!("{url}: {}", innermost(&error)))?;
        let request = HealthCheckRequest {
            service: action.service.clone().unwrap_or_default(),
        };
        let reply = HealthClient::new(channel)
            .check(request)
            .await
            .map_err(|status| format!("{url}: {}", status.message()))?
            .into_inner();
        match reply.status() {
            ServingStatus::Serving => Ok(()),
            other => Err(format!(
                "service unhealthy (responded with {:?})",
                other.as_str_name()
            )),
        }
    }

    fn host(&self, named: Option<&str>) -> Result<String, String> {
        match (named, self.address) {
            (Some(host), _) if !host.is_empty() => Ok(host.to_owned()),
            (_, Some(address)) => Ok(address.to_string()),
            (_, None) => Err("the pod has no address".to_owned()),
        }
    }

    /// A port's number, by number or by the name that the container gives it.
    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let number = match port {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => self
                .spec
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_deref() == Some(name))
                .map(|port| port.container_port)
                .or_else(|| name.parse().ok()),
        };
        number
            .and_then(|number| u16::try_from(number).ok())
            .filter(|number| *number > 0)
            .ok_or_else(|| {
                format!(
                    "port {port:?}: expected a number or the name of a port of container {:?}",
                    self.spec.name
                )
            })
    }
}

/// One client for all probes: no proxy, no certificate checks, no idle connections.
///
/// A probe asks whether the program answers, not who it is; pods have
/// certificates that nobody signed. A connection is not kept, because the next
/// probe has to find out whether a new one can be made.
fn http_client() -> Result<&'static reqwest::Client, String> {
    static CLIENT: OnceLock<Result<reqwest::Client, String>> = OnceLock::new();
    CLIENT
        .get_or_init(|| {
            // An error only says that somebody else in this process was first.
            let _ = rustls::crypto::ring::default_provider().install_default();
            reqwest::Client::builder()
                .no_proxy()
                .http1_only()
                .user_agent("berth-probe/1")
                .pool_max_idle_per_host(0)
                .tls_danger_accept_invalid_certs(true)
                .redirect(reqwest::redirect::Policy::custom(follow_on_host))
                .build()
                .map_err(|error| innermost(&error))
        })
        .as_ref()
        .map_err(Clone::clone)
}

/// Follows a redirect on the same host; one to elsewhere is the answer itself.
///
/// A pod must not be able to send the node's probe to where the node alone can
/// reach (a metadata service, another pod).
fn follow_on_host(attempt: reqwest::redirect::Attempt<'_>) -> reqwest::redirect::Action {
    const LONGEST: usize = 10;
    let first = attempt.previous().first().and_then(|url| url.host_str());
    if attempt.previous().len() > LONGEST {
        attempt.error("too many redirects")
    } else if attempt.url().host_str() == first {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

/// An IPv6 address has brackets in a URL.
fn bracketed(host: &str) -> String {
    match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    }
}

/// The end of an error's chain, which says what the kernel said.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// The beginning of an output, as text.
fn shown(output: &[u8]) -> String {
    let part = &output[..output.len().min(SHOWN_BYTES)];
    String::from_utf8_lossy(part).trim().to_owned()
}
