//! A machine as a member of a cluster: its file, its process, its way to the API.
//!
//! ```text
//! /etc/berth/node.toml       what `cluster init` or `join` wrote; an operator may edit it
//! DATA/server/               only where a server is
//!     pki/                   the authority, the server's certificates, admin.crt
//!     state.redb             the cluster's memory, unless that is etcd
//!     admin.kubeconfig       for kubectl
//! DATA/node/
//!     pki/                   ca.crt, node.crt, node.key
//!     servers.json           where servers are, as this node has learned
//!     begun                  there while an init or a join is under way
//!     berth.log              what the node's process says, where no systemd is
//! RUN/node.lock              flock(2) while the node's process lives; its pid inside
//! ```

/// The way to the API for commands.
pub mod api;
/// `node.toml`.
pub mod file;
/// Words for kinds and objects: `pod/web`, `deploy`, `nodes`.
pub mod kinds;
/// The parts of a node's process.
pub mod parts;
/// What the parts are told.
pub mod plans;
/// Starting, finding and ending the node's process.
pub mod process;
/// Single requests to the API.
pub mod request;

use std::path::PathBuf;

use crate::settings::Settings;

/// Where a member's files are.
#[derive(Debug, Clone)]
pub struct Places {
    /// `node.toml`.
    pub config: PathBuf,
    /// `DATA/server`.
    pub server: PathBuf,
    /// `DATA/node`.
    pub node: PathBuf,
    /// `RUN/node.lock`.
    pub lock: PathBuf,
}

/// Where `node.toml` is looked for when nothing else is said.
pub const DEFAULT_CONFIG: &str = "/etc/berth/node.toml";

/// The option of every command that reads `node.toml`.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigArgument {
    /// What this machine is in its cluster; written by init and join
    #[arg(
        long,
        env = "BERTH_NODE_CONFIG",
        value_name = "FILE",
        default_value = DEFAULT_CONFIG,
        hide_env_values = true
    )]
    pub config: PathBuf,
}

impl Places {
    /// Those of this machine.
    pub fn new(settings: &Settings, config: &ConfigArgument) -> Places {
        Places {
            config: std::path::absolute(&config.config).unwrap_or_else(|_| config.config.clone()),
            server: settings.data_dir.join("server"),
            node: settings.data_dir.join("node"),
            lock: settings.run_dir.join("node.lock"),
        }
    }

    /// `DATA/node/pki`.
    pub fn node_pki(&self) -> PathBuf {
        self.node.join("pki")
    }

    /// `DATA/server/pki`.
    pub fn server_pki(&self) -> PathBuf {
        self.server.join("pki")
    }

    /// `DATA/server/admin.kubeconfig`.
    pub fn kubeconfig(&self) -> PathBuf {
        self.server.join("admin.kubeconfig")
    }

    /// Where the cluster's servers are, as this node has learned.
    pub fn known_servers(&self) -> PathBuf {
        self.node.join("servers.json")
    }

    /// There while an init or a join is under way.
    pub fn begun(&self) -> PathBuf {
        self.node.join("begun")
    }

    /// What the node's process says.
    pub fn log(&self) -> PathBuf {
        self.node.join("berth.log")
    }
}
