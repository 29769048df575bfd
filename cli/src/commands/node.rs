//! `berth node`: everything that a machine of a cluster runs, in one process.
//!
//! ```text
//!   server? ──▶ certificate ──▶ runtime (CRI) ──▶ agent, netd ──▶ ready
//!                                                     until SIGTERM, or until one fails
//! ```
//!
//! `berth server`, `berth cri`, `berth netd` and `berth agent` are the same parts,
//! each alone.

use std::time::Duration;

use berth_cri::server::notify::ServiceManager;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cluster::file::NodeFile;
use crate::cluster::parts::{Member, Parts};
use crate::cluster::{ConfigArgument, Places, process};
use crate::error::{Context, Error, Result};
use crate::node;
use crate::settings::Settings;

/// `berth node`.
#[derive(Debug, Clone, Args)]
pub struct NodeArguments {
    /// Start it in the background and return when it is this node's process
    #[arg(short, long, conflicts_with = "own_session")]
    pub detach: bool,
    /// Leave the terminal's session: for those who start it in the background
    #[arg(long, hide = true)]
    pub own_session: bool,
    /// Where node.toml is
    #[command(flatten)]
    pub config: ConfigArgument,
}

/// Which parts of a node run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The API, its store, controllers and placement.
    Server,
    /// The agent.
    Agent,
    /// The network.
    Network,
}

/// Runs the node's process until SIGTERM or SIGINT.
///
/// # Errors
///
/// This machine is in no cluster, the process runs already, or a part fails.
pub fn run(settings: &Settings, arguments: &NodeArguments) -> Result<u8> {
    if arguments.own_session {
        rustix::process::setsid().context("leave the session")?;
    }
    let places = Places::new(settings, &arguments.config);
    let file = NodeFile::expect(&places.config)?;
    if arguments.detach {
        if let Some(process) = process::live(&places) {
            return Err(Error::new(format!(
                "the node's process runs already ({})",
                process.pid()
            )));
        }
        process::start(settings, &places)?.until_live(&places)?;
        return Ok(0);
    }
    node::block_on(serve(settings, &places, file))
}

/// Runs one part alone: `berth server`, `berth agent`, `berth netd`.
///
/// # Errors
///
/// As [`run`].
pub fn run_part(settings: &Settings, config: &ConfigArgument, part: Part) -> Result<u8> {
    let places = Places::new(settings, config);
    let file = NodeFile::expect(&places.config)?;
    let member = Member {
        settings: settings.clone(),
        places,
        file,
    };
    node::block_on(until_told(async move |parts: &mut Parts| match part {
        Part::Server => parts.server(&member).await,
        Part::Agent => parts.agent(&member).await,
        Part::Network => parts.network(&member).await,
    }))
}

/// Is the node's process.
///
/// # Errors
///
/// As [`run`].
pub async fn serve(settings: &Settings, places: &Places, file: NodeFile) -> Result<u8> {
    let _claim = process::claim(places)?;
    let member = Member {
        settings: settings.clone(),
        places: places.clone(),
        file,
    };
    until_told(async move |parts: &mut Parts| {
        if member.file.server.is_some() {
            parts.server(&member).await?;
        }
        if member.file.agent.runtime.is_none() {
            parts.runtime(&member).await?;
        }
        parts.network(&member).await?;
        parts.agent(&member).await
    })
    .await
}

/// Starts parts, says that all is ready, and ends them all when told to or when one fails.
async fn until_told(start: impl AsyncFnOnce(&mut Parts) -> Result<()>) -> Result<u8> {
    let attempt = "wait for signals";
    let mut terminate = signal(SignalKind::terminate()).context(attempt)?;
    let mut interrupt = signal(SignalKind::interrupt()).context(attempt)?;
    let shutdown = CancellationToken::new();
    let mut parts = Parts::new(shutdown.clone());
    let manager = ServiceManager::observe();
    let outcome = tokio::select! {
        outcome = async {
            start(&mut parts).await?;
            manager.ready();
            tracing::info!("the node's process is ready");
            parts.failure().await
        } => outcome,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    manager.stopping();
    shutdown.cancel();
    let ended = parts.ended(Duration::from_secs(15)).await;
    outcome.and(ended).map(|()| 0)
}
