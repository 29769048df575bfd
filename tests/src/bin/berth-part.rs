//! One part of a cluster as a process of its own, so that a suite can kill it:
//!
//! ```text
//! berth-part server DIRECTORY ADDRESS [controllers]           the API over plain HTTP, for everybody
//! berth-part agent NODE SERVER SOCKET DIRECTORY [NAME=NUMBER…]   an agent without TLS
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::Extension;
use berth_cri::service::socket::CriSocket;
use berth_scheduler::agent::settings::AgentConfig;
use berth_scheduler::api::{Api, ApiConfig, Identity, http::router, local};
use berth_scheduler::controllers::{self, ControllersConfig};
use berth_scheduler::pod::settings::Backoff;
use berth_scheduler::store::embedded::EmbeddedStore;
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["server", directory, address] => {
            server(Path::new(directory), address.parse()?, Loops::None).await
        }
        ["server", directory, address, "controllers"] => {
            server(Path::new(directory), address.parse()?, Loops::All).await
        }
        ["agent", node, server, socket, directory, others @ ..] => {
            let mut config = settings(node, Path::new(directory));
            others.iter().try_for_each(|word| set(&mut config, word))?;
            agent(config, server, Path::new(socket)).await
        }
        _ => bail!(
            "usage: berth-part server DIRECTORY ADDRESS [controllers] | \
             agent NODE SERVER SOCKET DIRECTORY [NAME=NUMBER…]"
        ),
    }
}

/// Which control loops run beside the API.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loops {
    None,
    All,
}

/// The API, with whoever asks as its master.
async fn server(directory: &Path, address: SocketAddr, loops: Loops) -> Result<()> {
    let store = EmbeddedStore::open(&directory.join("store.redb"))?;
    let api = Api::open(Arc::new(store), ApiConfig::default()).await?;
    if loops == Loops::All {
        let client = local::client(api.clone(), Identity::master("controllers"));
        let config = ControllersConfig::default();
        tokio::spawn(controllers::run(client, config, CancellationToken::new()));
    }
    let master = Identity::master("admin");
    let router = router(api).layer(Extension(master));
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("ready");
    Ok(axum::serve(listener, router).await?)
}

/// Shorter waits than a cluster's, and directories of its own.
fn settings(node: &str, directory: &Path) -> AgentConfig {
    let mut config = AgentConfig::new(directory.join("agent"));
    config.node.name = node.to_owned();
    config.node.addresses = vec![std::net::Ipv4Addr::LOCALHOST.into()];
    config.listen = Some(SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), 0));
    config.logs_dir = directory.join("pod-logs");
    config.log_links_dir = Some(directory.join("log-links"));
    if let Ok(parent) = std::env::var("BERTH_CGROUP_PARENT") {
        config.cgroup_parent = parent;
    }
    config.restart_backoff = Backoff {
        initial: Duration::from_millis(200),
        ..Backoff::KUBELET
    };
    config.pull_backoff = Backoff {
        initial: Duration::from_millis(500),
        max: Duration::from_secs(2),
        ..Backoff::KUBELET
    };
    // The machine's own disk may be nearly full.
    config.pressure.disk_percent = 0;
    config.logs.file_bytes = 64 << 10;
    config.logs.files = 3;
    let periods = &mut config.periods;
    periods.objects = Duration::from_millis(500);
    periods.missing = Duration::from_millis(300);
    periods.sweep = Duration::from_secs(2);
    periods.tidy = Duration::from_secs(1);
    periods.pressure = Duration::from_secs(1);
    periods.node = Duration::from_secs(1);
    periods.retry = (Duration::from_millis(100), Duration::from_secs(1));
    config
}

/// What a test wants otherwise.
fn set(config: &mut AgentConfig, word: &str) -> Result<()> {
    let (name, value) = word.split_once('=').context("NAME=NUMBER")?;
    let number: u64 = value.parse().with_context(|| word.to_owned())?;
    match name {
        "images-high-percent" => config.images.high_percent = u8::try_from(number)?,
        "images-low-percent" => config.images.low_percent = u8::try_from(number)?,
        "images-unused-seconds" => config.images.unused_for = Duration::from_secs(number),
        "pressure-memory-bytes" => config.pressure.memory_bytes = number,
        "pressure-look-seconds" => config.periods.pressure = Duration::from_secs(number),
        "pressure-holds-seconds" => config.pressure.holds = Duration::from_secs(number),
        "pressure-disk-percent" => config.pressure.disk_percent = u8::try_from(number)?,
        _ => bail!("{name} is no setting"),
    }
    Ok(())
}

async fn agent(config: AgentConfig, server: &str, socket: &Path) -> Result<()> {
    let uri = format!("http://{server}").parse().context("SERVER")?;
    let client = kube::Client::try_from(kube::Config::new(uri))?;
    let service = Arc::new(CriSocket::at(&PathBuf::from(socket))?);
    println!("ready");
    berth_scheduler::agent::run(client, service, config, CancellationToken::new()).await?;
    Ok(())
}
