//! The way to the API for commands: by a kubeconfig, as kubectl has it, or as this
//! machine's administrator.

use std::path::PathBuf;

use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::error::{Context, Error, Result};
use crate::settings::Settings;

/// Which cluster is meant, and as whom.
#[derive(Debug, Clone, Default, Args)]
pub struct ClusterArguments {
    /// The kubeconfig; default: the administrator's where a server is
    #[arg(long, env = "KUBECONFIG", value_name = "FILE", hide_env_values = true)]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub context: Option<String>,
}

/// Which namespace is meant.
#[derive(Debug, Clone, Default, Args)]
pub struct NamespaceArguments {
    /// The namespace
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
}

/// A client of the cluster's API.
///
/// # Errors
///
/// No kubeconfig is found or it cannot be read.
pub async fn connect(settings: &Settings, arguments: &ClusterArguments) -> Result<Client> {
    let path = match &arguments.kubeconfig {
        Some(path) if !path.as_os_str().is_empty() => path.clone(),
        _ => settings.data_dir.join("server").join("admin.kubeconfig"),
    };
    if !path.exists() {
        return Err(Error::new(format!(
            "no kubeconfig at {}: run this where the cluster's server is, or copy the file from there and name it with --kubeconfig or KUBECONFIG",
            path.display()
        )));
    }
    let attempt = || format!("read {}", path.display());
    let kubeconfig = Kubeconfig::read_from(&path)
        .map_err(|error| Error::new(format!("{}: {error}", attempt())))?;
    let options = KubeConfigOptions {
        context: arguments.context.clone(),
        ..KubeConfigOptions::default()
    };
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|error| Error::new(format!("{}: {error}", attempt())))?;
    // A server that answers 503 has tried for ten seconds already: whoever asked is told,
    // and does not wait for minutes.
    config.default_retry = false;
    Client::try_from(config).context("speak with the cluster")
}

/// What the API said, in its own words.
pub fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => berth_runtime::causes::chain(error),
    }
}
