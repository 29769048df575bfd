//! `berth run -d`: a process in the background looks after the pod.
//!
//! ```text
//! berth run -d ──── spawns ────▶ berth worker        one a pod, one a job
//!      │  ── WorkerOrder, JSON ──▶ stdin │
//!      │  ◀── messages, JSON ─── stdout │  pulls, warnings, ready or failed
//!      ▼ returns                        ▼ stays until the pod has ended
//! ```

use std::process::Stdio;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::attend::identity;
use super::audience::{Audience, Message};
use super::flags::RunArguments;
use super::foreground::talk;
use super::{Request, pods};
use crate::error::{Context, ENGINE_FAILED, Error, Result};
use crate::logs::print::Style;
use crate::objects::title;
use crate::output::print_line;
use crate::screen::Screen;
use crate::settings::Settings;
use crate::workers::WorkerFiles;

/// What a process in the background is to do.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct WorkerOrder {
    /// Pods to look after.
    pub pods: Vec<Pod>,
    /// Jobs to run.
    pub jobs: Vec<Job>,
    /// What they may refer to.
    pub config_maps: Vec<ConfigMap>,
    /// What they may refer to.
    pub secrets: Vec<Secret>,
    /// Nothing stays of what has ended.
    pub remove: bool,
}

/// Starts a worker for each pod and job, and returns when all are ready.
///
/// # Errors
///
/// One failed before it was ready; the others run on.
pub async fn run(settings: &Settings, arguments: &RunArguments, request: Request) -> Result<u8> {
    let screen = Arc::new(Screen::new(talk(settings, arguments), Style::default()));
    let mut starts = Vec::new();
    for order in orders(arguments, &request)? {
        starts.push(start(settings, order, Arc::clone(&screen)));
    }
    let mut failures: Vec<Error> = Vec::new();
    for outcome in futures::future::join_all(starts).await {
        match outcome {
            Ok(name) => print_line(&name)?,
            Err(error) => failures.push(error),
        }
    }
    if failures.is_empty() {
        return Ok(0);
    }
    let code = failures.first().map_or(ENGINE_FAILED, Error::exit_code);
    let lines: Vec<String> = failures.iter().map(Error::chain).collect();
    Err(Error::new(lines.join("\n")).with_exit_code(code))
}

fn orders(arguments: &RunArguments, request: &Request) -> Result<Vec<WorkerOrder>> {
    let shared = WorkerOrder {
        config_maps: request.manifests.config_maps.clone(),
        secrets: request.manifests.secrets.clone(),
        remove: arguments.rm,
        ..WorkerOrder::default()
    };
    let pods = pods(&request.manifests)?;
    let of_pods = pods.into_iter().map(|pod| WorkerOrder {
        pods: vec![pod],
        ..shared.clone()
    });
    let jobs = request.manifests.jobs.iter().cloned();
    let of_jobs = jobs.map(|job| WorkerOrder {
        jobs: vec![job],
        ..shared.clone()
    });
    Ok(of_pods.chain(of_jobs).collect())
}

/// Starts one worker and waits until what it runs is ready; the name of that.
async fn start(settings: &Settings, order: WorkerOrder, screen: Arc<Screen>) -> Result<String> {
    let (namespace, name) = match (order.pods.first(), order.jobs.first()) {
        (Some(pod), _) => identity(pod),
        (None, job) => {
            let metadata = job.map(|job| job.metadata.clone()).unwrap_or_default();
            (
                metadata.namespace.unwrap_or_default(),
                metadata.name.unwrap_or_default(),
            )
        }
    };
    let title = title(&namespace, &name);
    let attempt = format!("start a worker for {title}");
    let files = WorkerFiles::new(&settings.workers_dir(), &namespace, &name);
    let mut child = spawn(settings, &files).context(attempt.clone())?;
    if let Some(mut input) = child.stdin.take() {
        let text = serde_json::to_vec(&order).context(attempt.clone())?;
        // A worker that has failed already says why on its output.
        let _ = input.write_all(&text).await;
    }
    let is_job = !order.jobs.is_empty();
    let outcome = tokio::select! {
        outcome = hear(&mut child, &screen, is_job) => outcome.context(attempt)?,
        () = interrupted() => {
            screen.say("stopping in order");
            if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let _ = child.wait().await;
            return Err(Error::silent(130));
        }
    };
    match outcome {
        Heard::Ready => Ok(name),
        Heard::Failed { reason, exit_code } => {
            Err(Error::new(format!("{title}: {reason}")).with_exit_code(exit_code))
        }
        Heard::Gone => {
            let status = child.wait().await.context("wait for the worker")?;
            let log = files.log_path();
            let reason = format!(
                "its worker ended too early ({status}); see {}",
                log.display()
            );
            Err(Error::new(format!("{title}: {reason}")).with_exit_code(ENGINE_FAILED))
        }
    }
}

fn spawn(settings: &Settings, files: &WorkerFiles) -> Result<Child> {
    let log = files.open_log()?;
    let mut command = Command::from(settings.this_program()?);
    command
        .arg("worker")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(log))
        .spawn()
        .context("run it")
}

/// What a worker had to say in the end.
enum Heard {
    Ready,
    Failed {
        reason: String,
        exit_code: u8,
    },
    /// It ended without a word.
    Gone,
}

async fn hear(child: &mut Child, screen: &Screen, is_job: bool) -> Result<Heard> {
    let Some(output) = child.stdout.take() else {
        return Ok(Heard::Gone);
    };
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = lines
        .next_line()
        .await
        .context("read what the worker says")?
    {
        match serde_json::from_str(&line).context("read what the worker says")? {
            Message::Say { line } => screen.say(&line),
            Message::Warn { line } => screen.warn(&line),
            Message::Layer(report) => screen.show_layer(&report),
            Message::EndPull { image } => screen.end_pull(&image),
            Message::Ready { pod, line } => {
                Audience::ready(screen, &pod, &line);
                return Ok(Heard::Ready);
            }
            // One pod of a job may fail and the job succeed.
            Message::Failed { pod, reason, .. } if is_job && !pod.is_empty() => {
                screen.say(&format!("warning: {pod}: {reason}"));
            }
            Message::Failed {
                reason, exit_code, ..
            } => {
                // The worker is about to end; nothing is left when it has.
                child.wait().await.context("wait for the worker")?;
                return Ok(Heard::Failed { reason, exit_code });
            }
            Message::Struggles { reason, .. } => {
                return Ok(Heard::Failed {
                    reason,
                    exit_code: 1,
                });
            }
        }
    }
    Ok(Heard::Gone)
}

async fn interrupted() {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
    match kinds.map(signal) {
        [Ok(mut interrupt), Ok(mut terminate)] => tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        },
        _ => std::future::pending().await,
    }
}
