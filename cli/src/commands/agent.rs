//! `berth agent`: the cluster's pods on this machine, alone: the runtime is another
//! process, `berth cri` or any that speaks the CRI.

use clap::Args;

use super::node::{Part, run_part};
use crate::cluster::ConfigArgument;
use crate::error::Result;
use crate::settings::Settings;

/// `berth agent`.
#[derive(Debug, Clone, Args)]
pub struct AgentArguments {
    /// Where node.toml is
    #[command(flatten)]
    pub config: ConfigArgument,
}

/// Keeps pods until SIGTERM or SIGINT; they run on after it.
///
/// # Errors
///
/// This machine is in no cluster, or the agent cannot begin.
pub fn run(settings: &Settings, arguments: &AgentArguments) -> Result<u8> {
    run_part(settings, &arguments.config, Part::Agent)
}
