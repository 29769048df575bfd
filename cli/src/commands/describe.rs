//! `berth describe`: one object at a glance: what it is, its conditions, what happened to it.

use clap::Args;
use jiff::Timestamp;
use kube::Client;
use serde_json::Value;

use berth_scheduler::api::kind::by_plural;

use crate::amounts::write_age_since;
use crate::cluster::api::{self, ClusterArguments, NamespaceArguments};
use crate::cluster::kinds::{self, Wanted};
use crate::cluster::request::{Ask, collection, query, read, send};
use crate::error::{Error, Result};
use crate::output::{Format, Rows, print_line};
use crate::settings::Settings;

/// `berth describe`.
#[derive(Debug, Args)]
pub struct DescribeArguments {
    /// KIND NAME… or KIND/NAME…
    #[arg(required = true, value_name = "KIND NAME")]
    pub words: Vec<String>,
    /// Which namespace
    #[command(flatten)]
    pub namespace: NamespaceArguments,
    /// Which cluster
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// Prints each object, its conditions and its events.
///
/// # Errors
///
/// An object is not there, or the API refuses.
pub async fn run(settings: &Settings, arguments: &DescribeArguments) -> Result<u8> {
    let wanted = kinds::parse(&arguments.words)?;
    let client = api::connect(settings, &arguments.cluster).await?;
    let namespace = match &arguments.namespace.namespace {
        Some(namespace) => namespace.clone(),
        None => client.default_namespace().to_owned(),
    };
    for (place, one) in wanted.iter().enumerate() {
        if place > 0 {
            print_line("\n")?;
        }
        describe(&client, one, &namespace).await?;
    }
    Ok(0)
}

async fn describe(client: &Client, wanted: &Wanted, namespace: &str) -> Result<()> {
    let kind = wanted.kind;
    let name = wanted
        .name
        .as_deref()
        .ok_or_else(|| Error::new(format!("which {}? expected a NAME", kind.plural)))?;
    let value = read(client, kind, namespace, name).await?;
    let metadata = &value["metadata"];
    line("Name", name)?;
    if kind.namespaced() {
        line("Namespace", namespace)?;
    }
    line("Kind", &format!("{} ({})", kind.kind, kind.api_version()))?;
    line(
        "Made",
        metadata["creationTimestamp"].as_str().unwrap_or("?"),
    )?;
    pairs("Labels", &metadata["labels"])?;
    pairs("Annotations", &metadata["annotations"])?;
    for owner in metadata["ownerReferences"].as_array().into_iter().flatten() {
        line(
            "Owned by",
            &format!("{}/{}", text(&owner["kind"]), text(&owner["name"])),
        )?;
    }
    if let Some(deleted) = metadata["deletionTimestamp"].as_str() {
        line("Deleted", deleted)?;
    }
    for part in ["spec", "data", "status"] {
        body(kind.plural, part, &value[part])?;
    }
    conditions(&value["status"]["conditions"])?;
    events(client, kind.kind, namespace, name).await
}

fn line(head: &str, text: &str) -> Result<()> {
    print_line(&format!("{:<14}{text}", format!("{head}:")))
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        value => value.to_string(),
    }
}

fn pairs(head: &str, map: &Value) -> Result<()> {
    let mut head = head;
    for (key, value) in map.as_object().into_iter().flatten() {
        line_or_more(head, &format!("{key}={}", text(value)))?;
        head = "";
    }
    Ok(())
}

fn line_or_more(head: &str, text: &str) -> Result<()> {
    match head {
        "" => print_line(&format!("{:<14}{text}", "")),
        head => line(head, text),
    }
}

/// The rest as YAML; a Secret's values are told by their size alone.
fn body(plural: &str, part: &str, value: &Value) -> Result<()> {
    let mut value = value.clone();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("conditions");
        if plural == "secrets" && part == "data" {
            for field in fields.values_mut() {
                // Base64 has four letters for three bytes.
                let bytes = text(field).trim_end_matches('=').len() * 3 / 4;
                *field = Value::String(format!("{bytes} bytes"));
            }
        }
    }
    if value.as_object().is_none_or(serde_json::Map::is_empty) {
        return Ok(());
    }
    let yaml = serde_saphyr::to_string(&value)
        .map_err(|error| Error::new(format!("write YAML: {error}")))?;
    let mut head = part.to_owned();
    head[..1].make_ascii_uppercase();
    print_line(&format!("{head}:"))?;
    yaml.lines()
        .try_for_each(|line| print_line(&format!("  {line}")))
}

fn conditions(conditions: &Value) -> Result<()> {
    let Some(conditions) = conditions.as_array().filter(|all| !all.is_empty()) else {
        return Ok(());
    };
    let row = |condition: &Value| {
        ["type", "status", "reason", "message"]
            .iter()
            .map(|key| text(&condition[*key]))
            .collect()
    };
    print_line("Conditions:")?;
    indent(&Rows {
        heads: vec!["TYPE", "STATUS", "REASON", "MESSAGE"],
        wide_columns: 0,
        rows: conditions.iter().map(row).collect(),
    })
}

async fn events(client: &Client, kind: &str, namespace: &str, name: &str) -> Result<()> {
    let events = by_plural("", "events").expect("the table of kinds has events");
    let about = format!("involvedObject.kind={kind},involvedObject.name={name}");
    let path = collection(events, Some(namespace)) + &query(&[("fieldSelector", Some(&about))]);
    let list = send(client, Ask::get(path)).await?.success()?;
    let mut found: Vec<&Value> = list["items"].as_array().into_iter().flatten().collect();
    if found.is_empty() {
        return print_line("Events:       none");
    }
    found.sort_by_key(|event| time(event));
    let row = |event: &&Value| {
        let age = time(event).map(|time| {
            let nanoseconds = i64::try_from(time.as_nanosecond()).unwrap_or_default();
            write_age_since(nanoseconds, Timestamp::now())
        });
        let count = event["series"]["count"]
            .as_i64()
            .or(event["count"].as_i64());
        let times = count.filter(|count| *count > 1);
        let mut message = text(&event["message"]);
        if let Some(times) = times {
            message.push_str(&format!(" ({times} times)"));
        }
        vec![
            text(&event["type"]),
            text(&event["reason"]),
            age.unwrap_or_default(),
            text(&event["reportingComponent"]),
            message,
        ]
    };
    print_line("Events:")?;
    indent(&Rows {
        heads: vec!["TYPE", "REASON", "AGE", "FROM", "MESSAGE"],
        wide_columns: 0,
        rows: found.iter().map(row).collect(),
    })
}

fn time(event: &Value) -> Option<Timestamp> {
    let places = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ];
    places.iter().find_map(|place| place.as_str()?.parse().ok())
}

fn indent(rows: &Rows) -> Result<()> {
    let table = rows.render(Format::Wide);
    table
        .lines()
        .try_for_each(|line| print_line(&format!("  {line}")))
}
