//! `berth apply -f FILE`: objects as the cluster shall have them, by server-side apply.

use std::io::Read as _;

use berth_scheduler::api::kind::{KINDS, Kind, by_kind};
use clap::Args;
use http::Method;
use kube::Client;
use serde_json::Value;

use crate::cluster::api::{self, ClusterArguments, NamespaceArguments};
use crate::cluster::kinds::title;
use crate::cluster::request::{AS_JSON, Ask, object, query, send};
use crate::error::{Context, Error, Result};
use crate::output::{Format, print_line, print_list};
use crate::settings::Settings;

/// `berth apply`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  berth apply -f web.yaml
  berth apply -f - < web.yaml
  berth apply -f web.yaml --dry-run")]
pub struct ApplyArguments {
    /// Manifests; - is standard input
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    pub filenames: Vec<String>,
    /// Check all and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Take over fields that others have set
    #[arg(long)]
    pub force_conflicts: bool,
    /// Who sets the fields
    #[arg(
        long,
        value_name = "NAME",
        default_value = "berth",
        hide_short_help = true
    )]
    pub field_manager: String,
    /// Which namespace, for objects that name none
    #[command(flatten)]
    pub namespace: NamespaceArguments,
    /// Which cluster
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// Applies every object of the files; what fails does not hinder the others.
///
/// # Errors
///
/// A file cannot be read, or an object was refused.
pub async fn run(settings: &Settings, arguments: &ApplyArguments) -> Result<u8> {
    let objects = read_objects(
        &arguments.filenames,
        arguments.namespace.namespace.as_deref(),
    )?;
    let client = api::connect(settings, &arguments.cluster).await?;
    let mut failures = Vec::new();
    let mut applied = Vec::new();
    for object in in_order(&objects) {
        match apply(&client, arguments, object).await {
            Ok((word, value)) => {
                if settings.format == Format::Table {
                    let dry = if arguments.dry_run { " (dry run)" } else { "" };
                    print_line(&format!("{} {word}{dry}", object.title()))?;
                }
                applied.push(value);
            }
            Err(error) => failures.push(error.chain()),
        }
    }
    if settings.format != Format::Table {
        let name = |value: &Value| {
            let words = |path: &str| value.pointer(path).and_then(Value::as_str);
            let kind = by_kind(
                words("/apiVersion").unwrap_or_default(),
                words("/kind").unwrap_or_default(),
            );
            let name = words("/metadata/name").unwrap_or_default();
            kind.map_or(name.to_owned(), |kind| title(kind, name))
        };
        print_list(settings.format, &applied, name, || crate::output::Rows {
            heads: vec!["NAME"],
            wide_columns: 0,
            rows: applied.iter().map(|value| vec![name(value)]).collect(),
        })?;
    }
    if failures.is_empty() {
        return Ok(0);
    }
    Err(Error::new(failures.join("\n")))
}

/// An object of a file.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its kind.
    pub kind: &'static Kind,
    /// Its namespace; the default one if it names none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// All of it.
    pub value: Value,
}

impl Wanted {
    /// As answers name it.
    pub fn title(&self) -> String {
        title(self.kind, &self.name)
    }
}

/// Reads the objects of files. Every mistake is told at once: nothing of a file with one
/// is applied.
///
/// # Errors
///
/// A file cannot be read, is no YAML, or holds what is no object of a served kind.
pub fn read_objects(files: &[String], namespace: Option<&str>) -> Result<Vec<Wanted>> {
    let mut objects = Vec::new();
    let mut mistakes = Vec::new();
    for file in files {
        let text = match file.as_str() {
            "-" => {
                let mut text = String::new();
                std::io::stdin()
                    .read_to_string(&mut text)
                    .context("read standard input; nothing was applied")?;
                text
            }
            path => std::fs::read_to_string(path)
                .context(format!("read {path}; nothing was applied"))?,
        };
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text)
            .map_err(|error| Error::new(format!("{file}: {error}; nothing was applied")))?;
        for (number, value) in documents.into_iter().flat_map(items).enumerate() {
            match wanted(value, namespace) {
                Ok(object) => objects.push(object),
                Err(reason) => mistakes.push(format!("{file}: object {}: {reason}", number + 1)),
            }
        }
    }
    if !mistakes.is_empty() {
        mistakes.push("nothing was applied".to_owned());
        return Err(Error::new(mistakes.join("\n")));
    }
    if objects.is_empty() {
        return Err(Error::new(format!("{}: no object in it", files.join(", "))));
    }
    Ok(objects)
}

/// The objects of a List; nothing of an empty document.
fn items(value: Value) -> Vec<Value> {
    if value.is_null() {
        return Vec::new();
    }
    let is_list = value["kind"].as_str() == Some("List");
    match value.get("items").and_then(Value::as_array) {
        Some(items) if is_list => items.clone(),
        _ => vec![value],
    }
}

fn wanted(value: Value, namespace: Option<&str>) -> std::result::Result<Wanted, String> {
    let text = |path: &str| value.pointer(path).and_then(Value::as_str);
    let api_version = text("/apiVersion").ok_or("apiVersion is missing")?;
    let kind_name = text("/kind").ok_or("kind is missing")?;
    let kind = by_kind(api_version, kind_name).ok_or_else(|| {
        let nearest = KINDS.iter().find(|kind| kind.kind == kind_name);
        let hint = nearest.map_or_else(String::new, |kind| {
            format!("; expected apiVersion {}", kind.api_version())
        });
        format!("{api_version} {kind_name} is not served{hint}")
    })?;
    let name = text("/metadata/name").ok_or("metadata.name is missing")?;
    let own = text("/metadata/namespace");
    if let (Some(own), Some(asked)) = (own, namespace)
        && kind.namespaced()
        && own != asked
    {
        return Err(format!(
            "metadata.namespace is {own}, and --namespace says {asked}"
        ));
    }
    let namespace = own.or(namespace).unwrap_or("default").to_owned();
    Ok(Wanted {
        kind,
        namespace,
        name: name.to_owned(),
        value,
    })
}

/// Namespaces first: others are in them. Classes next to them: pods name them. The order is the file's otherwise.
fn in_order(objects: &[Wanted]) -> Vec<&Wanted> {
    let is_first = |object: &&Wanted| {
        !matches!(
            object.kind.plural,
            "namespaces" | "priorityclasses" | "runtimeclasses"
        )
    };
    let mut ordered: Vec<&Wanted> = objects.iter().collect();
    ordered.sort_by_key(is_first);
    ordered
}

async fn apply(
    client: &Client,
    arguments: &ApplyArguments,
    wanted: &Wanted,
) -> Result<(&'static str, Value)> {
    let attempt = || format!("apply {}", wanted.title());
    let place = object(wanted.kind, &wanted.namespace, &wanted.name);
    let before = send(client, Ask::get(place.clone()))
        .await
        .context(attempt())?;
    let path = place
        + &query(&[
            ("fieldManager", Some(&arguments.field_manager)),
            ("fieldValidation", Some("Strict")),
            ("force", arguments.force_conflicts.then_some("true")),
            ("dryRun", arguments.dry_run.then_some("All")),
        ]);
    let bytes = serde_json::to_vec(&wanted.value).context(attempt())?;
    let ask = Ask {
        method: Method::PATCH,
        path,
        accept: AS_JSON,
        body: Some(("application/apply-patch+yaml", bytes)),
    };
    let value = send(client, ask)
        .await
        .and_then(|answer| answer.success())
        .context(attempt())?;
    let version = |value: &Value| value["metadata"]["resourceVersion"].clone();
    let word = match before.status.is_success() {
        false => "created",
        true if version(&before.value) == version(&value) => "unchanged",
        true => "configured",
    };
    Ok((word, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, namespace: Option<&str>) -> Result<Vec<Wanted>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        std::fs::write(&path, text).unwrap();
        read_objects(&[path.display().to_string()], namespace)
    }

    #[test]
    fn files_hold_several_objects_and_lists() {
        let text = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: other}}
---
---
apiVersion: v1
kind: Namespace
metadata: {name: other}
";
        let objects = read(text, None).unwrap();
        let places: Vec<_> = in_order(&objects)
            .iter()
            .map(|object| format!("{} {}", object.namespace, object.title()))
            .collect();
        assert_eq!(
            places,
            [
                "default namespace/other",
                "default configmap/a",
                "other configmap/b"
            ]
        );
    }

    #[test]
    fn all_mistakes_are_told_at_once_and_nothing_is_applied() {
        let text = "
{apiVersion: v1, kind: Gadget, metadata: {name: a}}
---
{apiVersion: v1, kind: Deployment, metadata: {name: a}}
---
{apiVersion: v1, kind: Pod, metadata: {}}
---
{kind: Pod}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: b}}
";
        let words = read(text, Some("c")).unwrap_err().chain();
        for expected in [
            "object 1: v1 Gadget is not served",
            "expected apiVersion apps/v1",
            "object 3: metadata.name",
            "object 4: apiVersion",
            "--namespace says c",
            "nothing was applied",
        ] {
            assert!(words.contains(expected), "{expected}: {words}");
        }
        assert!(read("", None).is_err());
        assert!(read("a: [", None).is_err());
    }
}
