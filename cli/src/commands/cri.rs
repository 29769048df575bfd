//! `berth cri`: the runtime of a kubelet, on a Unix socket.

use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_cri::configuration::Configuration;
use berth_cri::server::admin::LogLevel as _;
use berth_cri::server::notify::ServiceManager;
use berth_cri::server::socket::{self, Place};
use berth_cri::server::streaming::Limits;
use berth_cri::server::telemetry::traces;
use berth_cri::server::{CriServer, Program, ServerConfig};
use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::logging::Log;
use crate::error::{Context, Error, Result};
use crate::node;
use crate::settings::Settings;

/// `berth cri config`: the file's keys, and whether a file is sound.
pub mod configuration;
/// `berth cri log-level`: how much a server that runs says.
pub mod log_level;
/// What the server says, and how much of it.
mod logging;

/// `berth cri [--config FILE] [--socket PATH] [--streaming ADDRESS:PORT]`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct CriArguments {
    /// What else than to serve
    #[command(subcommand)]
    pub command: Option<CriCommand>,
    /// What the server is told; flags win over it
    /// [default: /etc/berth/cri.toml if there is one]
    #[arg(long, env = "BERTH_CRI_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where a kubelet finds it; default: berth.sock in the run directory
    #[arg(long, env = "BERTH_CRI_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Where exec, attach and port-forward are served, with no more protection
    /// than a one-time token; port 0 is any that is free [default: 127.0.0.1:0]
    #[arg(long, env = "BERTH_CRI_STREAMING", value_name = "ADDRESS:PORT")]
    pub streaming: Option<SocketAddr>,
    /// Where Prometheus asks for the server's own numbers [default: nowhere]
    #[arg(long, env = "BERTH_CRI_METRICS", value_name = "ADDRESS:PORT")]
    pub metrics: Option<SocketAddr>,
    /// Where CNI configurations are: with it, plugins make the pods' networks
    #[arg(long, env = "BERTH_CRI_CNI_CONF_DIR", value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Where CNI plugins are, several with ',' between [default: /opt/cni/bin]
    #[arg(
        long,
        env = "BERTH_CRI_CNI_BIN_DIR",
        value_name = "DIR",
        value_delimiter = ','
    )]
    pub cni_bin_dir: Vec<PathBuf>,
}

/// What else than to serve.
#[derive(Debug, Clone, Subcommand)]
pub enum CriCommand {
    /// The server's file: every key with its default, or a check of one
    Config(configuration::ConfigArguments),
    /// Have a server that runs say more or less
    LogLevel(log_level::LogLevelArguments),
}

impl CriArguments {
    /// Whether these words ask for the server itself.
    pub fn serves(&self) -> bool {
        self.command.is_none()
    }

    /// The file with the flags over it.
    fn configuration(&self, settings: &Settings) -> Result<Configuration> {
        let mut configuration = Configuration::load(self.config.as_deref())
            .context("read the server's configuration; nothing was started")?;
        if let Some(path) = &self.socket {
            let path = std::path::absolute(path).context("find the socket's path")?;
            configuration.socket.path = Some(path);
        }
        if let Some(address) = self.streaming {
            configuration.streaming.address = address;
        }
        if self.metrics.is_some() {
            configuration.metrics.address = self.metrics;
        }
        let absolute = |path: &PathBuf| std::path::absolute(path);
        let attempt = "find the directories of CNI";
        if let Some(path) = &self.cni_conf_dir {
            configuration.cni.conf_dir = Some(absolute(path).context(attempt)?);
        }
        if !self.cni_bin_dir.is_empty() {
            let paths: std::io::Result<_> = self.cni_bin_dir.iter().map(absolute).collect();
            configuration.cni.bin_dirs = paths.context(attempt)?;
        }
        if let Some(level) = logging::level_of(settings.verbose) {
            configuration.log.level = level.to_owned();
        }
        Ok(configuration)
    }
}

/// Serves until SIGTERM or SIGINT, or does what else was asked for. Pods run on
/// without a server.
///
/// # Errors
///
/// The configuration holds a mistake, another server answers on the socket, or
/// the engine cannot be opened.
pub fn run(settings: &Settings, arguments: &CriArguments) -> Result<u8> {
    match &arguments.command {
        Some(CriCommand::Config(words)) => configuration::run(words),
        Some(CriCommand::LogLevel(words)) => node::block_on(log_level::run(settings, words)),
        None => {
            let configuration = arguments.configuration(settings)?;
            let handed = socket::take_over().context("begin")?;
            node::block_on(serve(settings, arguments, configuration, handed))
        }
    }
}

async fn serve(
    settings: &Settings,
    arguments: &CriArguments,
    configuration: Configuration,
    handed: Option<UnixListener>,
) -> Result<u8> {
    let (spans, layer) = traces::start(&configuration.traces)
        .context("send traces")?
        .unzip();
    let log = logging::start(&configuration.log, layer)?;
    let attempt = "wait for signals";
    let mut terminate = signal(SignalKind::terminate()).context(attempt)?;
    let mut interrupt = signal(SignalKind::interrupt()).context(attempt)?;
    let mut hangup = signal(SignalKind::hangup()).context(attempt)?;
    let config = server_config(settings, &configuration)?;
    let engine = node::open_with(settings, |engine| {
        configuration
            .apply(engine)
            .context("apply the configuration")
    })
    .await?;
    let server = CriServer::new(engine, &config)
        .await
        .context("serve streams")?;
    let manager = Arc::new(ServiceManager::observe());
    let reloading = server.clone();
    let watching = watch(manager.clone(), server.clone());
    let stop = async {
        let mut current = configuration;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {
                    manager.reloading();
                    current = reload(settings, arguments, &reloading, &log, current).await;
                    manager.ready();
                }
            }
        }
        manager.stopping();
    };
    let program = Program {
        handed,
        ready: {
            let manager = manager.clone();
            Box::new(move || manager.ready())
        },
        log: Arc::new(log.clone()),
    };
    let outcome = server.serve(&config, program, stop).await;
    watching.abort();
    if let Some(spans) = spans {
        spans.end().await;
    }
    outcome.context("serve the CRI")?;
    Ok(0)
}

/// Serves as a part of a node's process, on the socket in the run directory, until
/// `shutdown`.
///
/// # Errors
///
/// As [`run`].
pub async fn serve_in_node(
    settings: &Settings,
    ready: impl FnOnce() + Send + 'static,
    shutdown: CancellationToken,
) -> Result<()> {
    let configuration = Configuration::load(None)
        .context("read the runtime's configuration; nothing was started")?;
    let config = ServerConfig {
        metrics: configuration.metrics.address,
        ..server_config(settings, &configuration)?
    };
    let engine = node::open_with(settings, |engine| {
        configuration
            .apply(engine)
            .context("apply the configuration")
    })
    .await?;
    let server = CriServer::new(engine, &config)
        .await
        .context("serve streams")?;
    let program = Program {
        handed: None,
        ready: Box::new(ready),
        log: Arc::new(logging::Fixed),
    };
    let stop = async move { shutdown.cancelled().await };
    server
        .serve(&config, program, stop)
        .await
        .context("serve the CRI")
}

/// Tells the service manager that the server works, as often as it wants to hear.
fn watch(manager: Arc<ServiceManager>, server: CriServer) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let Some(pause) = manager.watchdog() else {
            return;
        };
        loop {
            if server.is_alive().await {
                manager.alive();
            }
            tokio::time::sleep(pause).await;
        }
    })
}

/// Takes over what can be taken over now; the configuration in force.
async fn reload(
    settings: &Settings,
    arguments: &CriArguments,
    server: &CriServer,
    log: &Log,
    old: Configuration,
) -> Configuration {
    let outcome = async {
        let new = arguments.configuration(settings)?;
        server.reload(&new).await.context("reload")?;
        // What an operator set by hand stays until the file says something new.
        if new.log.level != old.log.level {
            log.set_level(&new.log.level)
                .context("change the log's level")?;
        }
        Ok::<_, Error>(new)
    };
    match outcome.await {
        Ok(new) => {
            let differences = old.differences(&new);
            let words = |keys: &std::collections::BTreeSet<&str>| {
                keys.iter().copied().collect::<Vec<_>>().join(", ")
            };
            tracing::info!(changed = %words(&differences.reload), "the configuration was reloaded");
            if !differences.restart.is_empty() {
                let keys = words(&differences.restart);
                tracing::warn!(%keys, "changes of the configuration that need a restart");
            }
            // What needs a restart is still as it was.
            old.reloaded(new)
        }
        Err(error) => {
            tracing::error!("the configuration stays as it was: {}", error.chain());
            old
        }
    }
}

fn server_config(settings: &Settings, configuration: &Configuration) -> Result<ServerConfig> {
    let socket = &configuration.socket;
    Ok(ServerConfig {
        socket: Place {
            path: match &socket.path {
                Some(path) => path.clone(),
                None => default_socket(&settings.run_dir),
            },
            mode: socket.mode,
            group: socket.group.as_deref().map(group_number).transpose()?,
        },
        streaming: configuration.streaming.address,
        limits: Limits {
            idle: configuration.streaming.idle_timeout,
            creation: configuration.streaming.creation_timeout,
        },
        metrics: configuration.metrics.address,
    })
}

fn default_socket(run_dir: &Path) -> PathBuf {
    run_dir.join("berth.sock")
}

/// The number of a group that is told by name or number.
fn group_number(group: &str) -> Result<u32> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    match nix::unistd::Group::from_name(group).context("look up socket.group")? {
        Some(found) => Ok(found.gid.as_raw()),
        None => Err(Error::new(format!(
            "socket.group: there is no group {group:?}; nothing was started"
        ))),
    }
}
