//! `berth cri log-level`: how much a server that runs says.

use std::path::PathBuf;

use berth_cri::admin_v1::admin_client::AdminClient;
use berth_cri::admin_v1::{GetLogLevelRequest, SetLogLevelRequest};
use berth_cri::configuration::keys::LEVELS;
use clap::Args;
use clap::builder::PossibleValuesParser;
use tonic::transport::Endpoint;

use crate::error::{Context, Error, Result};
use crate::settings::Settings;

/// `berth cri log-level [LEVEL]`.
#[derive(Debug, Clone, Args)]
pub struct LogLevelArguments {
    /// What it is from now on, until the next start; without it, what it is
    #[arg(value_name = "LEVEL", value_parser = PossibleValuesParser::new(LEVELS))]
    pub level: Option<String>,
    /// The server's socket; default: berth.sock in the run directory
    #[arg(long, env = "BERTH_CRI_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Asks the server.
///
/// # Errors
///
/// No server answers.
pub async fn run(settings: &Settings, arguments: &LogLevelArguments) -> Result<u8> {
    let socket = match &arguments.socket {
        Some(path) => path.clone(),
        None => super::default_socket(&settings.run_dir),
    };
    let socket = std::path::absolute(socket).context("find the socket's path")?;
    let unreachable = |error: tonic::transport::Error| {
        Error::new(format!(
            "no server answers on {}: {}; nothing was changed",
            socket.display(),
            berth_runtime::causes::chain(&error)
        ))
    };
    let channel = Endpoint::from_shared(format!("unix:{}", socket.display()))
        .map_err(unreachable)?
        .connect()
        .await
        .map_err(unreachable)?;
    let mut admin = AdminClient::new(channel);
    match &arguments.level {
        None => {
            let answer = admin.get_log_level(GetLogLevelRequest {}).await;
            let answer = answer.context("read the log's level")?.into_inner();
            println!("{}", answer.level);
        }
        Some(level) => {
            let level = level.clone();
            let answer = admin.set_log_level(SetLogLevelRequest { level }).await;
            answer.context("change the log's level")?;
        }
    }
    Ok(0)
}
