//! `berth cluster status`: what this machine is in its cluster, and how that is.

use std::time::SystemTime;

use berth_scheduler::trust::credential::Credential;
use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use serde_json::json;

use super::membership::{self, Standing, not_ready};
use super::nodes::{connect_somehow, servers};
use crate::cluster::api::{self, ClusterArguments};
use crate::cluster::file::NodeFile;
use crate::cluster::parts::known_servers;
use crate::cluster::{ConfigArgument, Places, process};
use crate::error::{Context, Result};
use crate::output::{Format, print_line, print_value};
use crate::settings::Settings;

/// `berth cluster status`.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Where node.toml is
    #[command(flatten)]
    pub config: ConfigArgument,
}

/// Shows it; the exit code is 1 where the node is not ready.
///
/// # Errors
///
/// Its files cannot be read.
pub async fn run(settings: &Settings, arguments: &StatusArguments) -> Result<u8> {
    let places = Places::new(settings, &arguments.config);
    let file = match membership::observe(&places)? {
        Standing::Stranger => {
            print_line("This machine is in no cluster.")?;
            return Ok(1);
        }
        Standing::Begun => {
            let what = std::fs::read_to_string(places.begun()).unwrap_or_default();
            print_line(&format!(
                "On this machine 'berth cluster {what}' was begun and has not ended: do it again, or take it back with 'berth cluster leave --force'."
            ))?;
            return Ok(1);
        }
        Standing::Member(file) => *file,
    };
    let process = process::live(&places).map(|process| process.pid());
    let readiness = readiness(settings, &places, &file).await;
    let leader = match readiness {
        Ok(()) => leader(settings, &places).await,
        Err(_) => None,
    };
    let known = known_servers(&places, &file).known();
    let credential =
        Credential::read(&places.node_pki(), "node").context("read the certificate")?;
    let subject = credential.and_then(|credential| credential.subject().ok());
    let time = |time: SystemTime| Timestamp::try_from(time).map(|time| time.to_string()).ok();
    let ends = subject.as_ref().and_then(|subject| time(subject.not_after));
    let renews = subject.as_ref().and_then(|subject| time(subject.renewal()));
    if settings.format != Format::Table && settings.format != Format::Wide {
        print_value(
            settings.format,
            &json!({
                "node": file.name,
                "address": file.address,
                "servers": known,
                "leader": leader,
                "isServer": file.server.is_some(),
                "process": process,
                "ready": readiness.is_ok(),
                "reason": readiness.as_ref().err(),
                "certificate": { "ends": ends, "renews": renews },
                "config": places.config,
            }),
        )?;
    } else {
        let servers: Vec<String> = known.iter().map(ToString::to_string).collect();
        let role = if file.server.is_some() {
            "server and node"
        } else {
            "node"
        };
        let process = process.map_or("does not run".to_owned(), |pid| format!("runs ({pid})"));
        let ready = readiness.as_ref().err().map_or("yes", String::as_str);
        print_line(&format!(
            "Node:         {} ({role}), {}",
            file.name, file.address
        ))?;
        print_line(&format!("Servers:      {}", servers.join(", ")))?;
        if let Some(leader) = leader {
            print_line(&format!("Leader:       {leader}"))?;
        }
        print_line(&format!("Process:      {process}"))?;
        print_line(&format!("Ready:        {ready}"))?;
        if let (Some(ends), Some(renews)) = (ends, renews) {
            print_line(&format!(
                "Certificate:  until {ends}, renewed from {renews} on"
            ))?;
        }
        print_line(&format!("File:         {}", places.config.display()))?;
    }
    Ok(u8::from(readiness.is_err()))
}

/// Which server leads, if that can be found out.
async fn leader(settings: &Settings, places: &Places) -> Option<String> {
    let client = connect_somehow(settings, &ClusterArguments::default(), places).await;
    let asked = tokio::time::timeout(std::time::Duration::from_secs(5), async {
        servers(&client.ok()?).await.ok()?.leader
    });
    asked.await.ok().flatten()
}

async fn readiness(
    settings: &Settings,
    places: &Places,
    file: &NodeFile,
) -> std::result::Result<(), String> {
    let client = connect_somehow(settings, &ClusterArguments::default(), places)
        .await
        .map_err(|error| error.chain())?;
    let asking = Api::<Node>::all(client);
    let asked = tokio::time::timeout(
        std::time::Duration::from_secs(10),
        asking.get_opt(&file.name),
    );
    match asked.await {
        Err(_) => Err("no: the server does not answer".to_owned()),
        Ok(Err(error)) => Err(format!("no: {}", api::words(&error))),
        Ok(Ok(None)) => Err("no: the cluster does not know this node".to_owned()),
        Ok(Ok(Some(node))) => match not_ready(&node) {
            None => Ok(()),
            Some(reason) => Err(format!("no: {reason}")),
        },
    }
}
