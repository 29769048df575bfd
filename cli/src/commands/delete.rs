//! `berth delete`: ends objects of the cluster, and waits until they are gone.

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use http::{Method, StatusCode};
use kube::Client;
use serde_json::json;

use super::apply::read_objects;
use crate::cluster::api::{self, ClusterArguments, NamespaceArguments};
use crate::cluster::kinds::{self, title};
use crate::cluster::request::{AS_JSON, Ask, collection, object, query, send};
use crate::error::{Context, Error, Result};
use crate::output::print_line;
use crate::settings::Settings;
use berth_scheduler::api::kind::Kind;

/// `berth delete`.
#[derive(Debug, Args)]
pub struct DeleteArguments {
    /// KIND NAME…, KIND/NAME…, or KIND with -l or --all
    #[arg(value_name = "KIND NAME", required_unless_present = "filenames")]
    pub words: Vec<String>,
    /// The objects of manifests; - is standard input
    #[arg(
        short,
        long = "filename",
        value_name = "FILE",
        conflicts_with = "words"
    )]
    pub filenames: Vec<String>,
    /// Those with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// All of the kind in the namespace
    #[arg(long)]
    pub all: bool,
    /// How long pods have to end, in seconds
    #[arg(long, value_name = "SECONDS")]
    pub grace_period: Option<u32>,
    /// What becomes of what they own
    #[arg(long, value_enum, default_value_t = Cascade::Background)]
    pub cascade: Cascade,
    /// Do not wait until they are gone
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub timeout: u64,
    /// Say nothing of what is not there
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Which namespace
    #[command(flatten)]
    pub namespace: NamespaceArguments,
    /// Which cluster
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// What becomes of what an object owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cascade {
    /// It goes after the object.
    Background,
    /// It goes before the object.
    Foreground,
    /// It stays.
    Orphan,
}

/// Deletes, prints what is deleted, and waits.
///
/// # Errors
///
/// An object is not there, the API refuses, or an object does not go in time.
pub async fn run(settings: &Settings, arguments: &DeleteArguments) -> Result<u8> {
    let client = api::connect(settings, &arguments.cluster).await?;
    let targets = choose(&client, arguments).await?;
    let mut failures = Vec::new();
    let mut going = Vec::new();
    for target in targets {
        match delete(&client, arguments, &target).await {
            Ok(Deleted::Going { uid }) => {
                print_line(&format!("{} deleted", title(target.kind, &target.name)))?;
                going.push((target, uid));
            }
            Ok(Deleted::Absent) => {}
            Err(error) => failures.push(error.chain()),
        }
    }
    if !arguments.no_wait {
        let deadline = Instant::now() + Duration::from_secs(arguments.timeout);
        for (target, uid) in &going {
            if let Err(error) = wait_gone(&client, target, uid, deadline).await {
                failures.push(error.chain());
            }
        }
    }
    if failures.is_empty() {
        return Ok(0);
    }
    Err(Error::new(failures.join("\n")))
}

/// An object to delete.
struct Target {
    kind: &'static Kind,
    namespace: String,
    name: String,
}

enum Deleted {
    Going { uid: String },
    Absent,
}

async fn choose(client: &Client, arguments: &DeleteArguments) -> Result<Vec<Target>> {
    if !arguments.filenames.is_empty() {
        let namespace = arguments.namespace.namespace.as_deref();
        let objects = read_objects(&arguments.filenames, namespace)?;
        let target = |object: super::apply::Wanted| Target {
            kind: object.kind,
            namespace: object.namespace,
            name: object.name,
        };
        // In the opposite order: a namespace takes long while others are in it.
        return Ok(objects.into_iter().rev().map(target).collect());
    }
    let namespace = match &arguments.namespace.namespace {
        Some(namespace) => namespace.clone(),
        None => client.default_namespace().to_owned(),
    };
    let mut targets = Vec::new();
    for wanted in kinds::parse(&arguments.words)? {
        let target = |name: String| Target {
            kind: wanted.kind,
            namespace: namespace.clone(),
            name,
        };
        if let Some(name) = wanted.name.clone() {
            targets.push(target(name));
            continue;
        }
        if arguments.selector.is_none() && !arguments.all {
            return Err(Error::new(format!(
                "which {}? expected a NAME, -l LABELS or --all; nothing was deleted",
                wanted.kind.plural
            )));
        }
        let path = collection(wanted.kind, Some(&namespace))
            + &query(&[("labelSelector", arguments.selector.as_deref())]);
        let list = send(client, Ask::get(path)).await?.success()?;
        let items = list["items"].as_array().into_iter().flatten();
        let names = items.filter_map(|item| item["metadata"]["name"].as_str());
        targets.extend(names.map(|name| target(name.to_owned())));
    }
    Ok(targets)
}

async fn delete(client: &Client, arguments: &DeleteArguments, target: &Target) -> Result<Deleted> {
    let attempt = || format!("delete {}", title(target.kind, &target.name));
    let policy = match arguments.cascade {
        Cascade::Background => "Background",
        Cascade::Foreground => "Foreground",
        Cascade::Orphan => "Orphan",
    };
    let options = json!({
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": policy,
        "gracePeriodSeconds": arguments.grace_period,
    });
    let bytes = serde_json::to_vec(&options).context(attempt())?;
    let ask = Ask {
        method: Method::DELETE,
        path: object(target.kind, &target.namespace, &target.name),
        accept: AS_JSON,
        body: Some(("application/json", bytes)),
    };
    let answer = send(client, ask).await.context(attempt())?;
    if answer.status == StatusCode::NOT_FOUND && arguments.ignore_not_found {
        return Ok(Deleted::Absent);
    }
    let value = answer.success().context(attempt())?;
    // A Status names the uid in its details, the object in its metadata.
    let uid = [&value["metadata"]["uid"], &value["details"]["uid"]];
    let uid = uid.iter().find_map(|uid| uid.as_str()).unwrap_or_default();
    Ok(Deleted::Going {
        uid: uid.to_owned(),
    })
}

async fn wait_gone(client: &Client, target: &Target, uid: &str, deadline: Instant) -> Result<()> {
    let what = title(target.kind, &target.name);
    loop {
        let path = object(target.kind, &target.namespace, &target.name);
        let answer = send(client, Ask::get(path)).await?;
        let there = answer.value["metadata"]["uid"].as_str().unwrap_or_default();
        // Another one of the same name is none of ours.
        if answer.status == StatusCode::NOT_FOUND || (!uid.is_empty() && there != uid) {
            return Ok(());
        }
        answer.success().context(format!("wait for {what}"))?;
        if Instant::now() > deadline {
            return Err(Error::new(format!(
                "{what} is still there; it is deleted and goes when nothing holds it"
            )));
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}
