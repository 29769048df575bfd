//! `berth get`: objects of the cluster, as tables of the server, JSON, YAML or names.

use clap::Args;
use futures::StreamExt as _;
use futures::io::AsyncBufReadExt as _;
use kube::Client;
use serde_json::{Value, json};

use crate::cluster::api::{self, ClusterArguments, NamespaceArguments};
use crate::cluster::kinds::{self, Wanted, title};
use crate::cluster::request::{AS_JSON, AS_TABLE, Ask, collection, object, query, send};
use crate::error::{Context, Error, Result};
use crate::output::{Format, print_json, print_line, print_yaml};
use crate::settings::Settings;

/// `berth get`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  berth get pods -A -o wide
  berth get deploy/web -o yaml
  berth get pods -l app=web -w")]
pub struct GetArguments {
    /// KIND, KIND NAME…, KIND/NAME…, or kinds with ',' between
    #[arg(required = true, value_name = "KIND [NAME]")]
    pub words: Vec<String>,
    /// Of all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// Only objects with these fields
    #[arg(long, value_name = "FIELDS")]
    pub field_selector: Option<String>,
    /// Go on with what changes
    #[arg(short, long)]
    pub watch: bool,
    /// Which namespace
    #[command(flatten)]
    pub namespace: NamespaceArguments,
    /// Which cluster
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// Prints what was asked for.
///
/// # Errors
///
/// A kind is not served, an object is not there, or the API refuses.
pub async fn run(settings: &Settings, arguments: &GetArguments) -> Result<u8> {
    let wanted = kinds::parse(&arguments.words)?;
    if arguments.watch && wanted.len() != 1 {
        return Err(Error::new(
            "-w watches one kind or one object; expected KIND or KIND/NAME",
        ));
    }
    let client = api::connect(settings, &arguments.cluster).await?;
    let namespace = match &arguments.namespace.namespace {
        Some(namespace) => namespace.clone(),
        None => client.default_namespace().to_owned(),
    };
    let get = Get {
        client,
        namespace,
        arguments,
        format: settings.format,
    };
    match settings.format {
        Format::Table | Format::Wide => get.tables(&wanted).await?,
        Format::Json | Format::Yaml | Format::Name => get.objects(&wanted).await?,
    }
    Ok(0)
}

struct Get<'a> {
    client: Client,
    namespace: String,
    arguments: &'a GetArguments,
    format: Format,
}

impl Get<'_> {
    /// Where what is wanted is.
    fn place(&self, wanted: &Wanted) -> String {
        match &wanted.name {
            Some(name) if !self.arguments.watch => object(wanted.kind, &self.namespace, name),
            _ => {
                let namespace = (!self.arguments.all_namespaces).then_some(&*self.namespace);
                collection(wanted.kind, namespace)
            }
        }
    }

    fn selection(&self, wanted: &Wanted) -> String {
        let mut fields = self.arguments.field_selector.clone();
        if let (true, Some(name)) = (self.arguments.watch, &wanted.name) {
            let own = format!("metadata.name={name}");
            fields = Some(fields.map_or(own.clone(), |fields| format!("{fields},{own}")));
        } else if wanted.name.is_some() {
            return String::new();
        }
        query(&[
            ("labelSelector", self.arguments.selector.as_deref()),
            ("fieldSelector", fields.as_deref()),
        ])
    }

    async fn ask(&self, wanted: &Wanted, accept: &'static str) -> Result<Value> {
        let ask = Ask {
            accept,
            ..Ask::get(self.place(wanted) + &self.selection(wanted))
        };
        send(&self.client, ask).await?.success()
    }

    /// One table a kind, with a line between.
    async fn tables(&self, wanted: &[Wanted]) -> Result<()> {
        let mut tables: Vec<(&Wanted, Value)> = Vec::new();
        for one in wanted {
            let table = self.ask(one, AS_TABLE).await?;
            match tables.last_mut() {
                // Several objects of a kind are one table.
                Some((last, before)) if last.kind == one.kind => {
                    let more = table["rows"].as_array().cloned().unwrap_or_default();
                    if let Some(rows) = before["rows"].as_array_mut() {
                        rows.extend(more);
                    }
                }
                _ => tables.push((one, table)),
            }
        }
        let several = tables.len() > 1;
        let mut printer = Printer::new(self.format, self.arguments.all_namespaces);
        let mut first = true;
        for (one, table) in &tables {
            if rows(table).is_empty() {
                continue;
            }
            if !first {
                print_line("")?;
            }
            first = false;
            printer.prefix = several.then(|| title(one.kind, ""));
            printer.print(table, Heads::Shown)?;
        }
        if first && !self.arguments.watch {
            let place = match self.arguments.all_namespaces {
                true => String::new(),
                false => format!(" in namespace {}", self.namespace),
            };
            eprintln!("No objects found{place}.");
        }
        match (self.arguments.watch, tables.first()) {
            (true, Some((one, table))) => {
                let version = table["metadata"]["resourceVersion"].clone();
                self.watch(one, &version, async |event| {
                    let table = &event["object"];
                    let heads = if first { Heads::Shown } else { Heads::Hidden };
                    first = false;
                    printer.print(table, heads)
                })
                .await
            }
            _ => Ok(()),
        }
    }

    async fn objects(&self, wanted: &[Wanted]) -> Result<()> {
        let mut found = Vec::new();
        let mut version = Value::Null;
        for one in wanted {
            let mut value = self.ask(one, AS_JSON).await?;
            version = value["metadata"]["resourceVersion"].clone();
            match value.get_mut("items").and_then(Value::as_array_mut) {
                Some(items) => {
                    // A list's items leave out what all have in common.
                    for item in items.iter_mut() {
                        item["apiVersion"] = json!(one.kind.api_version());
                        item["kind"] = json!(one.kind.kind);
                    }
                    found.append(items);
                }
                None => found.push(value),
            }
        }
        let one = wanted.len() == 1 && wanted.iter().all(|wanted| wanted.name.is_some());
        match (self.format, found.as_slice(), one) {
            (Format::Name, found, _) => found.iter().try_for_each(print_name)?,
            (_, [found], true) => self.print(found)?,
            (_, found, _) => self.print(&json!({
                "apiVersion": "v1",
                "kind": "List",
                "items": found,
            }))?,
        }
        match (self.arguments.watch, wanted.first()) {
            (true, Some(one)) => {
                self.watch(one, &version, async |event| match self.format {
                    Format::Name => print_name(&event["object"]),
                    _ => self.print(&event["object"]),
                })
                .await
            }
            _ => Ok(()),
        }
    }

    fn print(&self, value: &Value) -> Result<()> {
        match self.format {
            Format::Yaml => print_line("---").and_then(|()| print_yaml(value)),
            _ => print_json(value),
        }
    }

    /// Goes on from a version until the server ends it, and then again from there.
    async fn watch(
        &self,
        one: &Wanted,
        version: &Value,
        mut show: impl AsyncFnMut(&Value) -> Result<()>,
    ) -> Result<()> {
        let mut version = version.as_str().unwrap_or_default().to_owned();
        let is_table = matches!(self.format, Format::Table | Format::Wide);
        loop {
            let selection = self.selection(one);
            let join = if selection.is_empty() { '?' } else { '&' };
            let path = format!(
                "{}{selection}{join}watch=true&allowWatchBookmarks=true&resourceVersion={version}",
                self.place(one)
            );
            let ask = Ask {
                accept: if is_table { AS_TABLE } else { AS_JSON },
                ..Ask::get(path)
            };
            let stream = self.client.request_stream(ask.request()?).await;
            let mut lines = stream
                .map_err(|error| Error::new(format!("watch: {}", api::words(&error))))?
                .lines();
            while let Some(line) = lines.next().await {
                let Ok(line) = line else { break };
                let event: Value = serde_json::from_str(&line).context("read a change")?;
                let told = event["object"]["metadata"]["resourceVersion"].as_str();
                if let Some(told) = told.filter(|told| !told.is_empty()) {
                    version = told.to_owned();
                }
                match event["type"].as_str() {
                    Some("BOOKMARK") => {}
                    Some("ERROR") => {
                        let words = event["object"]["message"].as_str().unwrap_or("it failed");
                        return Err(Error::new(format!("watch: {words}")));
                    }
                    _ => show(&event).await?,
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }
}

fn print_name(value: &Value) -> Result<()> {
    let text = |path: &str| {
        value
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let kind = berth_scheduler::api::kind::by_kind(text("/apiVersion"), text("/kind"));
    let name = text("/metadata/name");
    print_line(&kind.map_or_else(|| name.to_owned(), |kind| title(kind, name)))
}

/// Whether a table's heads are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heads {
    Shown,
    Hidden,
}

/// Prints tables of the server; columns keep their width while a watch goes on.
struct Printer {
    format: Format,
    namespaces: bool,
    prefix: Option<String>,
    widths: Vec<usize>,
    columns: Vec<Value>,
}

impl Printer {
    fn new(format: Format, namespaces: bool) -> Printer {
        Printer {
            format,
            namespaces,
            prefix: None,
            widths: Vec::new(),
            columns: Vec::new(),
        }
    }

    fn print(&mut self, table: &Value, heads: Heads) -> Result<()> {
        // In a watch only the first table names its columns.
        if let Some(columns) = table["columnDefinitions"].as_array()
            && !columns.is_empty()
        {
            self.columns = columns.clone();
        }
        let shown: Vec<usize> = (0..self.columns.len())
            .filter(|column| {
                let priority = self.columns[*column]["priority"].as_i64().unwrap_or(0);
                priority == 0 || self.format == Format::Wide
            })
            .collect();
        let mut lines: Vec<Vec<String>> = Vec::new();
        if heads == Heads::Shown {
            self.widths.clear();
            let names = shown.iter().map(|column| {
                let name = self.columns[*column]["name"].as_str();
                name.unwrap_or_default().to_uppercase()
            });
            let namespace = self.namespaces.then(|| "NAMESPACE".to_owned());
            lines.push(namespace.into_iter().chain(names).collect());
        }
        for row in rows(table) {
            let mut cells: Vec<String> = Vec::new();
            if self.namespaces {
                cells.push(cell(&row["object"]["metadata"]["namespace"]));
            }
            cells.extend(shown.iter().map(|column| cell(&row["cells"][*column])));
            if let (Some(prefix), Some(name)) =
                (&self.prefix, cells.get_mut(usize::from(self.namespaces)))
            {
                name.insert_str(0, prefix);
            }
            lines.push(cells);
        }
        for line in &lines {
            for (column, cell) in line.iter().enumerate() {
                let width = cell.chars().count();
                match self.widths.get_mut(column) {
                    Some(known) => *known = (*known).max(width),
                    None => self.widths.push(width),
                }
            }
        }
        for line in &lines {
            let padded = line.iter().zip(&self.widths);
            let text: String = padded
                .map(|(cell, width)| format!("{cell:width$}   "))
                .collect();
            print_line(text.trim_end())?;
        }
        Ok(())
    }
}

fn rows(table: &Value) -> &[Value] {
    table["rows"].as_array().map_or(&[], Vec::as_slice)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}
