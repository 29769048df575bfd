//! `berth cluster`: several machines as one.

use clap::{Args, Subcommand};

use crate::error::{Error, Result};
use crate::node;
use crate::settings::Settings;

/// `berth cluster init`.
pub mod init;
/// `berth cluster join`.
pub mod join;
/// `berth cluster leave`.
pub mod leave;
/// What init and join have in common: what holds before, and until the node is ready.
mod membership;
/// `berth cluster nodes`.
pub mod nodes;
/// `berth cluster status`.
pub mod status;
/// `berth cluster token`.
pub mod token;

/// `berth cluster`.
#[derive(Debug, Args)]
pub struct ClusterCommandArguments {
    /// What to do
    #[command(subcommand)]
    pub command: ClusterCommand,
}

/// What `berth cluster` can do.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Begin a cluster on this machine
    Init(init::InitArguments),
    /// Bring this machine into a cluster
    Join(join::JoinArguments),
    /// Take this machine out of its cluster
    Leave(leave::LeaveArguments),
    /// List the machines of the cluster
    Nodes(nodes::NodesArguments),
    /// Show what this machine is in its cluster, and how that is
    Status(status::StatusArguments),
    /// Make, show and take back what lets machines join
    Token(token::TokenArguments),
}

impl ClusterCommandArguments {
    /// Whether this process becomes the node's.
    pub fn serves(&self) -> bool {
        match &self.command {
            ClusterCommand::Init(words) => words.foreground,
            ClusterCommand::Join(words) => words.foreground,
            _ => false,
        }
    }
}

/// Does what was asked.
///
/// # Errors
///
/// Those of the subcommand.
pub fn run(settings: &Settings, arguments: &ClusterCommandArguments) -> Result<u8> {
    node::block_on(async {
        match &arguments.command {
            ClusterCommand::Init(words) => init::run(settings, words).await,
            ClusterCommand::Join(words) => join::run(settings, words).await,
            ClusterCommand::Leave(words) => leave::run(settings, words).await,
            ClusterCommand::Nodes(words) => nodes::run(settings, words).await,
            ClusterCommand::Status(words) => status::run(settings, words).await,
            ClusterCommand::Token(words) => token::run(settings, words).await,
        }
    })
}

/// What makes and joins networks of the kernel is root's.
fn need_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new(
        "not root: a node's namespaces, links and files need it; expected 'sudo berth cluster …'",
    ))
}
