//! `berth events`: what happens, as it happens.

use std::collections::BTreeMap;

use berth_cri::engine::Engine;
use berth_cri::engine::events::{Change, EngineEvent};
use berth_runtime::monitor::protocol::Event;
use clap::Args;
use futures::StreamExt;
use serde_json::json;

use super::ps::moment;
use crate::error::{Context, Result};
use crate::objects::{container_name, observe_pods};
use crate::output::{Format, print_line};
use crate::settings::Settings;

/// `berth events`.
#[derive(Debug, Args)]
pub struct EventsArguments {
    /// Only of these pods
    #[arg(value_name = "POD")]
    pub pods: Vec<String>,
}

/// Prints events until interrupted: a line each, or a line of JSON.
///
/// # Errors
///
/// The node does not answer, or standard output is closed.
pub async fn run(settings: &Settings, engine: &Engine, arguments: &EventsArguments) -> Result<u8> {
    let mut events = engine.events();
    let mut names = Names::default();
    names.learn(engine).await?;
    while let Some(event) = events.next().await {
        let line = describe(&event);
        if !names.knows(&event.pod_id, line.container.as_deref()) {
            names.learn(engine).await?;
        }
        let pod = names.pod(&event.pod_id);
        let wanted = |word: &String| *word == pod || event.pod_id.starts_with(word.as_str());
        if !arguments.pods.is_empty() && !arguments.pods.iter().any(wanted) {
            continue;
        }
        print(settings.format, &event.pod_id, &pod, &names, &line)?;
    }
    Ok(0)
}

/// An event in words.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    at: i64,
    container: Option<String>,
    what: &'static str,
    detail: String,
}

fn describe(event: &EngineEvent) -> Line {
    let of_pod = |at: &i64, what| Line {
        at: *at,
        container: None,
        what,
        detail: String::new(),
    };
    let of_container = |at: &i64, id: &String, what| Line {
        container: Some(id.clone()),
        ..of_pod(at, what)
    };
    match &event.change {
        Change::SandboxReady { at } => of_pod(at, "pod-up"),
        Change::SandboxStopped { at } => of_pod(at, "pod-stopped"),
        Change::SandboxRemoved { at } => of_pod(at, "pod-removed"),
        Change::Container(Event::Created { id, at }) => of_container(at, id, "created"),
        Change::Container(Event::Started { id, at }) => of_container(at, id, "started"),
        Change::Container(Event::OomKilled { id, at }) => of_container(at, id, "oom-killed"),
        Change::Container(Event::Deleted { id, at }) => of_container(at, id, "deleted"),
        Change::Container(Event::Exited(exit)) => {
            let oom = if exit.oom_killed {
                ", out of memory"
            } else {
                ""
            };
            let signal = exit
                .signal
                .map_or(String::new(), |signal| format!(", signal {signal}"));
            Line {
                detail: format!("exit code {}{signal}{oom}", exit.exit_code),
                ..of_container(&exit.finished_at, &exit.id, "exited")
            }
        }
    }
}

fn print(format: Format, pod_id: &str, pod: &str, names: &Names, line: &Line) -> Result<()> {
    let at = moment(line.at).unwrap_or_default();
    if format == Format::Json {
        let value = json!({
            "at": at,
            "podId": pod_id,
            "pod": pod,
            "containerId": line.container,
            "container": line.container.as_deref().map(|id| names.container(id)),
            "event": line.what,
            "detail": line.detail,
        });
        return print_line(&serde_json::to_string(&value).context("write JSON")?);
    }
    let subject = match &line.container {
        Some(id) => format!("{pod}/{}", names.container(id)),
        None => pod.to_owned(),
    };
    print_line(format!("{at} {subject} {} {}", line.what, line.detail).trim_end())
}

/// What ids are called. Events carry ids alone, and the last events of a pod
/// come when its records are gone.
#[derive(Debug, Default)]
struct Names {
    pods: BTreeMap<String, String>,
    containers: BTreeMap<String, String>,
}

impl Names {
    async fn learn(&mut self, engine: &Engine) -> Result<()> {
        for pod in observe_pods(engine).await? {
            self.pods.insert(pod.sandbox.id.clone(), pod.title());
            for container in &pod.containers {
                self.containers
                    .insert(container.id.clone(), container_name(container).to_owned());
            }
        }
        Ok(())
    }

    fn knows(&self, pod: &str, container: Option<&str>) -> bool {
        self.pods.contains_key(pod) && container.is_none_or(|id| self.containers.contains_key(id))
    }

    fn pod(&self, id: &str) -> String {
        self.pods
            .get(id)
            .map_or_else(|| id.to_owned(), String::clone)
    }

    fn container(&self, id: &str) -> String {
        self.containers
            .get(id)
            .map_or_else(|| id.to_owned(), String::clone)
    }
}
