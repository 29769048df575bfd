//! `berth cri`: the runtime of a kubelet, on a Unix socket.

use std::net::SocketAddr;
use std::path::PathBuf;

use berth_cri::server::{CriServer, ServerConfig};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Context, Result};
use crate::node;
use crate::settings::Settings;

/// `berth cri [--socket PATH] [--streaming ADDRESS:PORT]`.
#[derive(Debug, Clone, Args)]
pub struct CriArguments {
    /// Where a kubelet finds it; default: berth.sock in the run directory
    #[arg(long, env = "BERTH_CRI_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Where exec, attach and port-forward are served, with no more protection
    /// than a one-time token; port 0 is any that is free
    #[arg(
        long,
        env = "BERTH_CRI_STREAMING",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:0"
    )]
    pub streaming: SocketAddr,
}

/// Serves until SIGTERM or SIGINT. Pods run on without it.
///
/// # Errors
///
/// Another server answers on the socket, or the engine cannot be opened.
pub fn run(settings: &Settings, arguments: &CriArguments) -> Result<u8> {
    let config = ServerConfig {
        socket: match &arguments.socket {
            Some(path) => std::path::absolute(path).context("find the socket's path")?,
            None => settings.run_dir.join("berth.sock"),
        },
    };
    node::block_on(async {
        let attempt = "wait for signals";
        let mut terminate = signal(SignalKind::terminate()).context(attempt)?;
        let mut interrupt = signal(SignalKind::interrupt()).context(attempt)?;
        let engine = node::open(settings).await?;
        let server = CriServer::new(engine, arguments.streaming)
            .await
            .context("serve streams")?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        server.serve(&config, stop).await.context("serve the CRI")?;
        Ok(0)
    })
}
