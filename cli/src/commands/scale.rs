//! `berth scale`: how many replicas there shall be.

use clap::Args;
use serde_json::json;

use berth_scheduler::api::kind::Subresource;

use crate::cluster::api::{self, ClusterArguments, NamespaceArguments};
use crate::cluster::kinds::{self, title};
use crate::cluster::request::merge;
use crate::error::{Error, Result};
use crate::output::print_line;
use crate::settings::Settings;

/// `berth scale --replicas N KIND/NAME…`.
#[derive(Debug, Args)]
pub struct ScaleArguments {
    /// KIND NAME… or KIND/NAME…
    #[arg(required = true, value_name = "KIND NAME")]
    pub words: Vec<String>,
    /// How many
    #[arg(long, value_name = "NUMBER")]
    pub replicas: u32,
    /// Which namespace
    #[command(flatten)]
    pub namespace: NamespaceArguments,
    /// Which cluster
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// Scales each.
///
/// # Errors
///
/// A kind has no replicas, an object is not there, or the API refuses.
pub async fn run(settings: &Settings, arguments: &ScaleArguments) -> Result<u8> {
    let wanted = kinds::parse(&arguments.words)?;
    for one in &wanted {
        if !one.kind.has(Subresource::Scale) {
            return Err(Error::new(format!(
                "{} have no replicas; nothing was scaled",
                one.kind.plural
            )));
        }
        if one.name.is_none() {
            return Err(Error::new(format!(
                "which {}? expected a NAME; nothing was scaled",
                one.kind.plural
            )));
        }
    }
    let client = api::connect(settings, &arguments.cluster).await?;
    let namespace = match &arguments.namespace.namespace {
        Some(namespace) => namespace.clone(),
        None => client.default_namespace().to_owned(),
    };
    for one in wanted {
        let name = one.name.unwrap_or_default();
        let patch = json!({ "spec": { "replicas": arguments.replicas } });
        merge(&client, one.kind, (&namespace, &name), "/scale", &patch).await?;
        print_line(&format!("{} scaled", title(one.kind, &name)))?;
    }
    Ok(0)
}
