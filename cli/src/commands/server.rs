//! `berth server`: the cluster's API, store, controllers and placement, alone.

use clap::Args;

use super::node::{Part, run_part};
use crate::cluster::ConfigArgument;
use crate::error::Result;
use crate::settings::Settings;

/// `berth server`.
#[derive(Debug, Clone, Args)]
pub struct ServerArguments {
    /// Where node.toml is
    #[command(flatten)]
    pub config: ConfigArgument,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
///
/// The file has no `[server]`, or the server cannot begin.
pub fn run(settings: &Settings, arguments: &ServerArguments) -> Result<u8> {
    run_part(settings, &arguments.config, Part::Server)
}
