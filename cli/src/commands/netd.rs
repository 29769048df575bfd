//! `berth netd`: the cluster's network on this machine, alone.

use clap::Args;

use super::node::{Part, run_part};
use crate::cluster::ConfigArgument;
use crate::error::Result;
use crate::settings::Settings;

/// `berth netd`.
#[derive(Debug, Clone, Args)]
pub struct NetdArguments {
    /// Where node.toml is
    #[command(flatten)]
    pub config: ConfigArgument,
}

/// Keeps overlay, services and names until SIGTERM or SIGINT; they stay after it.
///
/// # Errors
///
/// This machine is in no cluster, or the kernel refuses.
pub fn run(settings: &Settings, arguments: &NetdArguments) -> Result<u8> {
    run_part(settings, &arguments.config, Part::Network)
}
