//! `berth explain pod/NAME`: for each node why the pod can or cannot run there.

use berth_scheduler::placement::explain;
use clap::Args;

use crate::cluster::api::{self, ClusterArguments, NamespaceArguments};
use crate::cluster::kinds::parse_one;
use crate::error::{Context, Error, Result};
use crate::output::{Format, print_json, print_line, print_yaml};
use crate::settings::Settings;

/// `berth explain`.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// pod/NAME, or NAME alone
    #[arg(value_name = "POD")]
    pub pod: String,
    /// Which namespace
    #[command(flatten)]
    pub namespace: NamespaceArguments,
    /// Which cluster
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// Explains a pod's placement. Nothing is changed.
///
/// # Errors
///
/// The pod is not there, or the API refuses.
pub async fn run(settings: &Settings, arguments: &ExplainArguments) -> Result<u8> {
    let name = match arguments.pod.contains('/') {
        false => arguments.pod.clone(),
        true => {
            let wanted = parse_one(&arguments.pod)?;
            if wanted.kind.plural != "pods" {
                return Err(Error::new(format!(
                    "{}: only pods are placed; expected pod/NAME",
                    arguments.pod
                )));
            }
            wanted.name.unwrap_or_default()
        }
    };
    let client = api::connect(settings, &arguments.cluster).await?;
    let namespace = match &arguments.namespace.namespace {
        Some(namespace) => namespace.clone(),
        None => client.default_namespace().to_owned(),
    };
    let explanation = explain::load(client, &namespace, &name)
        .await
        .context("explain")?;
    match settings.format {
        Format::Json => print_json(&explanation)?,
        Format::Yaml => print_yaml(&explanation)?,
        _ => print_line(explanation.to_string().trim_end())?,
    }
    Ok(0)
}
