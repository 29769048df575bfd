//! Where the cluster's servers are, as a node knows it.
//!
//! A node begins with the servers that `node.toml` names. From then on it reads the
//! EndpointSlices of Service `kubernetes`, which hold the servers that are alive, and
//! keeps them on disk: a node that starts while its first server is away finds the others.
//!
//! ```text
//!   node.toml ──┐                          ┌── good: new connections go there first
//!   slices ─────┴──▶ known, in this order ─┤
//!      ▲                  │                └── given up: its connections end at once
//!      └── file ◀─────────┘
//! ```
//!
//! A server that was killed closes its connections, and one whose machine is gone is found
//! by the kernel's probes. One that is *frozen* answers both, for the kernel does that for
//! it. So a request without an answer makes a probe: a new TLS handshake, which only a process
//! that runs can answer. If that fails too, all connections to this server end, and with
//! them the watches that would have waited on it for ever.
//!
//! One that has *lost its store* answers too, and refuses everything (`/readyz`). It is left
//! in the same way as soon as another is found that can serve; while none can, nobody moves.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio_util::sync::CancellationToken;

use super::files;

/// The slice that every cluster has.
pub const SLICE: &str = "kubernetes";
/// The slices of Service `kubernetes`.
pub const OF_SERVERS: &str = "kubernetes.io/service-name=kubernetes";
/// The annotation of a slice that says which server leads.
pub const LEADER: &str = "berth.dev/leader";
/// How often a server is asked whether it lives, by those who else only listen.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Where servers are; shared by all who ask them.
#[derive(Debug)]
pub struct Servers {
    configured: Vec<SocketAddr>,
    file: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Those that are alive as far as the API told, by the order of its slices.
    learned: Vec<SocketAddr>,
    /// Where connections were made last.
    good: Option<SocketAddr>,
    /// Ends the connections to a server.
    lines: HashMap<SocketAddr, CancellationToken>,
    /// Servers that are being probed.
    probed: Vec<SocketAddr>,
}

impl Servers {
    /// These and no others.
    pub fn fixed(servers: &[SocketAddr]) -> Arc<Servers> {
        Arc::new(Servers {
            configured: servers.to_vec(),
            file: None,
            state: Mutex::default(),
        })
    }

    /// These, and those that were learned before and are kept in a file.
    pub fn remembered(configured: Vec<SocketAddr>, file: PathBuf) -> Arc<Servers> {
        // A file that cannot be read is one that has nothing to tell: it is written anew.
        let text = files::read(&file).ok().flatten().unwrap_or_default();
        let learned = serde_json::from_str(&text).unwrap_or_default();
        let state = Mutex::new(State {
            learned,
            ..State::default()
        });
        Arc::new(Servers {
            configured,
            file: Some(file),
            state,
        })
    }

    /// All that are known, the best to ask first: the one that answered last, then the
    /// first of the configuration if it is alive, the others that are, and the rest.
    pub fn known(&self) -> Vec<SocketAddr> {
        let state = self.state();
        let mut known: Vec<SocketAddr> = Vec::new();
        let alive = |address: &&SocketAddr| state.learned.contains(*address);
        let order = state
            .good
            .iter()
            .chain(self.configured.iter().filter(alive))
            .chain(&state.learned)
            .chain(&self.configured);
        for address in order {
            if !known.contains(address) {
                known.push(*address);
            }
        }
        known
    }

    /// Takes in which servers are alive. None is no news: without servers nobody could tell.
    pub fn learn(&self, alive: Vec<SocketAddr>) {
        if alive.is_empty() || self.state().learned == alive {
            return;
        }
        tracing::info!(servers = ?alive, "the cluster's servers");
        if let Some(file) = &self.file {
            let text = serde_json::to_string(&alive).unwrap_or_default();
            if let Err(error) = files::write(file, text.as_bytes()) {
                let chain = berth_runtime::causes::chain(&error);
                tracing::warn!("the servers are not remembered: {chain}");
            }
        }
        self.state().learned = alive;
    }

    /// A connection was made to this server; what ends it.
    pub(super) fn reached(&self, address: SocketAddr) -> CancellationToken {
        let mut state = self.state();
        state.good = Some(address);
        state.lines.entry(address).or_default().clone()
    }

    /// What ends connections to this server, also one that is being made.
    pub(super) fn line(&self, address: SocketAddr) -> CancellationToken {
        self.state().lines.entry(address).or_default().clone()
    }

    /// Whom to probe after a request without an answer; none if that is done already, or
    /// there is nobody else to go to.
    pub(super) fn suspect(&self) -> Option<SocketAddr> {
        let others = self.known().len() > 1;
        let mut state = self.state();
        let address = state.good.filter(|_| others)?;
        if state.probed.contains(&address) {
            return None;
        }
        state.probed.push(address);
        Some(address)
    }

    /// The end of a probe: a server that did not answer, or cannot serve, is given up.
    pub(super) fn judge(&self, address: SocketAddr, verdict: Verdict) {
        let mut state = self.state();
        state.probed.retain(|probed| *probed != address);
        let next = match verdict {
            Verdict::Alive => return,
            Verdict::Silent => None,
            Verdict::Unable { other } => Some(other),
        };
        if let Some(lines) = state.lines.remove(&address) {
            lines.cancel();
        }
        if state.good == Some(address) {
            state.good = next;
        }
        // Asked last from now on, until the API says that it lives.
        state.learned.retain(|known| *known != address);
        drop(state);
        match next {
            None => {
                tracing::warn!(server = %address, "a server does not answer: going on with another");
            }
            Some(other) => {
                tracing::warn!(server = %address, %other, "a server cannot serve: going on with another");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It serves, or no other does.
    Alive,
    /// Nobody answers.
    Silent,
    /// It answers and cannot serve.
    Unable {
        /// One that can.
        other: SocketAddr,
    },
}

/// Learns which servers there are, for ever.
pub async fn follow(client: kube::Client, servers: Arc<Servers>) {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let only = watcher::Config::default().labels(OF_SERVERS);
    let mut changes = watcher(slices, only).default_backoff().boxed();
    let mut known: HashMap<String, EndpointSlice> = HashMap::new();
    let following = async {
        while let Some(change) = changes.next().await {
            let name = |slice: &EndpointSlice| slice.metadata.name.clone().unwrap_or_default();
            match change {
                Ok(watcher::Event::Init) => known.clear(),
                Ok(watcher::Event::InitApply(slice)) => {
                    known.insert(name(&slice), slice);
                    continue;
                }
                Ok(watcher::Event::Apply(slice)) => drop(known.insert(name(&slice), slice)),
                Ok(watcher::Event::Delete(slice)) => drop(known.remove(&name(&slice))),
                Ok(watcher::Event::InitDone) => {}
                Err(error) => tracing::debug!("watch which servers there are: {error}"),
            }
            servers.learn(addresses(known.values()));
        }
    };
    tokio::join!(following, beat(client, &servers));
}

/// Asks something small again and again, so that a server that froze, or lost its store, is
/// found out.
async fn beat(client: kube::Client, servers: &Servers) {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        if servers.known().len() > 1 {
            let request = http::Request::get("/readyz").body(Vec::new());
            if let Ok(request) = request {
                // Whoever does not answer is found out on the way.
                let asked = client.request_text(request);
                let _ = tokio::time::timeout(HEARTBEAT, asked).await;
            }
        }
    }
}

/// The servers of slices that are ready.
pub fn addresses<'a>(slices: impl Iterator<Item = &'a EndpointSlice>) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let port = ports
            .filter_map(|port| u16::try_from(port.port?).ok())
            .next();
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.as_ref();
            if conditions.and_then(|conditions| conditions.ready) == Some(false) {
                continue;
            }
            let parsed = endpoint.addresses.iter().filter_map(|one| one.parse().ok());
            let (Some(address), Some(port)) = (parsed.into_iter().next(), port) else {
                continue;
            };
            found.push(SocketAddr::new(address, port));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 6443))
    }

    #[test]
    fn learned_servers_outlive_the_process_and_the_configured_ones_come_last() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("servers.json");
        let servers = Servers::remembered(vec![at(1)], file.clone());
        assert_eq!(servers.known(), [at(1)]);
        servers.learn(vec![at(2), at(3)]);
        servers.learn(Vec::new());
        assert_eq!(servers.known(), [at(2), at(3), at(1)]);
        let again = Servers::remembered(vec![at(1)], file);
        assert_eq!(again.known(), [at(2), at(3), at(1)]);
        again.learn(vec![at(1), at(2)]);
        assert_eq!(again.known(), [at(1), at(2)]);
    }

    #[test]
    fn a_server_that_is_given_up_loses_its_lines_and_its_place() {
        let servers = Servers::fixed(&[at(1), at(2)]);
        servers.learn(vec![at(1), at(2)]);
        let line = servers.reached(at(1));
        assert_eq!(servers.suspect(), Some(at(1)));
        assert_eq!(servers.suspect(), None, "it is probed already");
        servers.judge(at(1), Verdict::Alive);
        assert!(!line.is_cancelled());
        assert_eq!(servers.suspect(), Some(at(1)));
        servers.judge(at(1), Verdict::Silent);
        assert!(line.is_cancelled());
        assert_eq!(servers.known(), [at(2), at(1)]);
        // One that cannot serve is left for one that can.
        let line = servers.reached(at(2));
        servers.learn(vec![at(1), at(2), at(3)]);
        assert_eq!(servers.suspect(), Some(at(2)));
        servers.judge(at(2), Verdict::Unable { other: at(3) });
        assert!(line.is_cancelled());
        assert_eq!(servers.known(), [at(3), at(1), at(2)]);
        // One alone is never given up: there is nowhere else to go.
        let alone = Servers::fixed(&[at(1)]);
        alone.reached(at(1));
        assert_eq!(alone.suspect(), None);
    }

    #[test]
    fn addresses_are_those_of_ready_endpoints() {
        let slice = serde_json::json!({
            "addressType": "IPv4",
            "endpoints": [
                { "addresses": ["10.0.0.2"] },
                { "addresses": ["10.0.0.1"], "conditions": { "ready": true } },
                { "addresses": ["10.0.0.3"], "conditions": { "ready": false } },
                { "addresses": ["nonsense"] },
            ],
            "ports": [{ "port": 6443 }],
        });
        let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
        assert_eq!(addresses([&slice].into_iter()), [at(1), at(2)]);
    }
}
