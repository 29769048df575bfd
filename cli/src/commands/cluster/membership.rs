//! What init and join have in common: what must hold before, what is undone after a
//! failure, and the wait until the node is ready.
//!
//! ```text
//!   nothing ──▶ begun ──▶ files ──▶ node.toml ──▶ process ──▶ Ready ──▶ member
//!                 │         a failure: all of it is undone                ▲
//!                 └── kill -9: the next try finds `begun` and goes on ────┘
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use berth_scheduler::trust::connect;
use berth_scheduler::trust::credential::Credential;
use berth_scheduler::trust::files;
use berth_scheduler::trust::tls::Shown;
use k8s_openapi::api::core::v1::Node;
use kube::Api;

use crate::cluster::Places;
use crate::cluster::file::NodeFile;
use crate::cluster::parts::known_servers;
use crate::cluster::process::{self, Started};
use crate::error::{Context, Error, Result};
use crate::settings::Settings;

/// Where this machine stands.
#[derive(Debug)]
pub enum Standing {
    /// In no cluster.
    Stranger,
    /// An init or a join was begun and not ended.
    Begun,
    /// In a cluster.
    Member(Box<NodeFile>),
}

/// Looks where this machine stands.
///
/// # Errors
///
/// `node.toml` cannot be read.
pub fn observe(places: &Places) -> Result<Standing> {
    if places.begun().exists() {
        return Ok(Standing::Begun);
    }
    Ok(match NodeFile::read(&places.config)? {
        Some(file) => Standing::Member(Box::new(file)),
        None => Standing::Stranger,
    })
}

/// Writes down that something was begun, and what.
///
/// # Errors
///
/// The file system refuses.
pub fn begin(places: &Places, what: &str) -> Result<()> {
    files::write(&places.begun(), what.as_bytes()).context("begin")
}

/// Writes down that it has ended well.
///
/// # Errors
///
/// The file system refuses.
pub fn end(places: &Places) -> Result<()> {
    files::remove(&places.begun()).context("end")
}

/// Takes back all that was made here; the words of what stayed.
pub async fn undo(settings: &Settings, places: &Places) -> Vec<String> {
    let mut left = Vec::new();
    let mut note = |outcome: Result<()>| left.extend(outcome.err().map(|error| error.chain()));
    note(process::stop(settings, places, Duration::from_secs(20)).await);
    let attempt = "take back what was made";
    note(files::remove(&places.config).context(attempt));
    note(files::remove(&places.server).context(attempt));
    note(files::remove(&places.node).context(attempt));
    left
}

/// Adds what stayed to an error.
pub fn with_remains(error: Error, left: &[String]) -> Error {
    if left.is_empty() {
        return Error::new(format!("{}\nnothing was left behind", error.chain()));
    }
    Error::new(format!(
        "{}\nwhat could not be taken back: {}",
        error.chain(),
        left.join("; ")
    ))
}

/// This machine's name, as a node's may be.
///
/// # Errors
///
/// The kernel's name for this machine cannot be a node's.
pub fn node_name(asked: Option<&str>) -> Result<String> {
    let name = match asked {
        Some(name) => name.to_owned(),
        None => {
            let name = rustix::system::uname();
            name.nodename().to_string_lossy().to_lowercase()
        }
    };
    berth_scheduler::trust::check_node_name(&name)
        .context("name this node (--name chooses another)")?;
    Ok(name)
}

/// Every address of this machine, in the family of one.
pub fn any_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The address by which this machine would reach another one: no packet is sent.
///
/// # Errors
///
/// There is no way to it.
pub fn address_towards(target: SocketAddr) -> Result<IpAddr> {
    let any = any_of(target.ip());
    let find = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(target)?;
        Ok(socket.local_addr()?.ip())
    };
    find().context(format!(
        "find this machine's address towards {target} (--advertise-addr chooses one); nothing was changed"
    ))
}

/// Refuses an address that others cannot reach this machine by.
///
/// # Errors
///
/// It is not this machine's, or is nobody else's way to it.
pub fn check_address(address: IpAddr) -> Result<()> {
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        return Err(Error::new(format!(
            "--advertise-addr {address}: other machines cannot reach this one by it; expected an address of one of its networks; nothing was changed"
        )));
    }
    match TcpListener::bind((address, 0)) {
        Ok(_) => Ok(()),
        Err(error) => Err(error).context(format!(
            "--advertise-addr {address}: it is not an address of this machine; nothing was changed"
        )),
    }
}

/// Refuses a port that somebody listens on.
///
/// # Errors
///
/// Somebody does.
pub fn check_port(address: SocketAddr, whose: &str) -> Result<()> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) => Err(error).context(format!(
            "listen on {address} for {whose}; nothing was changed"
        )),
    }
}

/// Starts the node's process unless it lives, and waits until the cluster shows the node
/// as ready.
///
/// # Errors
///
/// The process ends, or the time is over.
pub async fn start_and_wait(
    settings: &Settings,
    places: &Places,
    file: &NodeFile,
    patience: Duration,
) -> Result<()> {
    let mut started = match process::live(places) {
        Some(_) => None,
        None => Some(process::start(settings, places)?),
    };
    let deadline = Instant::now() + patience;
    let mut last = "it has not answered yet".to_owned();
    while Instant::now() < deadline {
        if let Some(reason) = ended(started.as_mut(), places)? {
            return Err(Error::new(format!("start the node's process: {reason}")));
        }
        match readiness(places, file).await {
            Ok(None) => return Ok(()),
            Ok(Some(reason)) => last = reason,
            Err(error) => last = error.chain(),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(Error::new(format!(
        "node {} is not ready after {} seconds: {last}\n{}",
        file.name,
        patience.as_secs(),
        process::last_words(settings, places)
    )))
}

fn ended(started: Option<&mut Started>, places: &Places) -> Result<Option<String>> {
    match started {
        Some(started) => started.failure(places),
        None if process::live(places).is_none() => Ok(Some("it has ended".to_owned())),
        None => Ok(None),
    }
}

/// Why the node is not ready, asked with the node's own certificate.
async fn readiness(places: &Places, file: &NodeFile) -> Result<Option<String>> {
    let attempt = "ask the cluster";
    let Some(credential) = Credential::read(&places.node_pki(), "node").context(attempt)? else {
        return Ok(Some("it has no certificate yet".to_owned()));
    };
    let shown = Shown::new(credential).context(attempt)?;
    let client = connect::client(&known_servers(places, file), &shown).context(attempt)?;
    let asking = Api::<Node>::all(client);
    let found = tokio::time::timeout(Duration::from_secs(5), asking.get_opt(&file.name)).await;
    let found = match found {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Ok(Some(crate::cluster::api::words(&error))),
        Err(_) => return Ok(Some("the server does not answer".to_owned())),
    };
    Ok(match found {
        None => Some("the cluster does not know it yet".to_owned()),
        Some(node) => not_ready(&node),
    })
}

/// Why a node is not ready.
pub fn not_ready(node: &Node) -> Option<String> {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready");
    match ready {
        Some(ready) if ready.status == "True" => None,
        Some(ready) => Some(
            ready
                .message
                .clone()
                .unwrap_or_else(|| "it says no more".to_owned()),
        ),
        None => Some("it has said nothing of itself yet".to_owned()),
    }
}
