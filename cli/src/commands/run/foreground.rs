//! `berth run` while a person watches: until all has ended, or Ctrl-C.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use k8s_openapi::api::core::v1::Pod;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::crew::{Crew, Ended, Patience, ShowReady, Urgency};
use super::flags::RunArguments;
use super::lookout::{Lookout, Output};
use super::outcome::{exit_code, start_failure_code};
use super::watched::Watched;
use super::{Request, pods};
use crate::error::{ENGINE_FAILED, Error, Result};
use crate::logs::print::Style;
use crate::node;
use crate::screen::{Screen, Talk};
use crate::settings::Settings;
use crate::streams::Input;

/// SIGINT, of which a shell says that a program ended by it with this code.
const INTERRUPTED: u8 = 130;

/// Runs all, follows the output, and leaves nothing.
///
/// # Errors
///
/// A pod could not be run, or one failed.
pub async fn run(settings: &Settings, arguments: &RunArguments, request: Request) -> Result<u8> {
    let pods = pods(&request.manifests)?;
    let output = output(arguments, &request, &pods);
    let screen = Arc::new(Screen::new(talk(settings, arguments), style(output, &pods)));
    let (felt, urgency) = watch::channel(Urgency::None);
    let last_signal = Arc::new(AtomicI32::new(0));
    // From here on a Ctrl-C during a pull ends the pull in order.
    let feeling = tokio::spawn(feel(felt, Arc::clone(&last_signal), Arc::clone(&screen)));
    let engine = node::open(settings)
        .await
        .map_err(|error| error.with_exit_code(ENGINE_FAILED))?;
    let lookout = Arc::new(Lookout::new(
        Arc::clone(&engine),
        settings.run_dir.clone(),
        Arc::clone(&screen) as _,
        output,
    ));
    let crew = Arc::new(Crew {
        settings: settings.clone(),
        service: Arc::new(Watched {
            node: engine.clone(),
            onlooker: Arc::clone(&lookout) as _,
        }),
        changes: Some(node::changes(&engine)),
        audience: Arc::clone(&screen) as _,
        config_maps: request.manifests.config_maps.clone(),
        secrets: request.manifests.secrets.clone(),
        remove: true,
        patience: if request.from_image {
            Patience::None
        } else {
            Patience::Endless
        },
        show_ready: if request.from_image {
            ShowReady::No
        } else {
            ShowReady::Yes
        },
        urgency,
    });
    let ended = crew.run(pods, request.manifests.jobs.clone()).await;
    lookout.finish().await;
    feeling.abort();
    let ended = ended.map_err(|error| error.with_exit_code(ENGINE_FAILED))?;
    let signal = last_signal.load(Ordering::Relaxed);
    if request.from_image {
        image_outcome(&ended)
    } else {
        manifest_outcome(&ended, signal)
    }
}

/// The container's exit code, as `docker run` has it.
fn image_outcome(ended: &Ended) -> Result<u8> {
    let code = ended.statuses.first().map_or(ENGINE_FAILED, exit_code);
    match ended.failures.first() {
        // It never began: the reason is berth's to tell.
        Some(reason) if !began(ended) => {
            let code = start_failure_code(reason);
            Err(Error::new(reason.clone()).with_exit_code(code))
        }
        _ => Ok(code),
    }
}

fn began(ended: &Ended) -> bool {
    let containers = ended
        .statuses
        .iter()
        .flat_map(|status| status.container_statuses.iter());
    containers.flatten().any(|container| {
        let states = [container.state.as_ref(), container.last_state.as_ref()];
        states.into_iter().flatten().any(|state| {
            state.running.is_some()
                || state.terminated.as_ref().is_some_and(|end| {
                    !matches!(
                        end.reason.as_deref(),
                        Some("StartError" | "ContainerCannotRun")
                    )
                })
        })
    })
}

fn manifest_outcome(ended: &Ended, signal: i32) -> Result<u8> {
    // What was stopped because somebody asked for it has not failed.
    match signal {
        0 if ended.failures.is_empty() => Ok(0),
        0 if ended.never_began => {
            Err(Error::new(ended.failures.join("\n")).with_exit_code(ENGINE_FAILED))
        }
        0 => Err(Error::new(ended.failures.join("\n"))),
        signal if signal == SignalKind::interrupt().as_raw_value() => Ok(INTERRUPTED),
        _ => Ok(0),
    }
}

/// How much is said.
pub fn talk(settings: &Settings, arguments: &RunArguments) -> Talk {
    match (arguments.quiet, settings.verbose) {
        (true, _) => Talk::Quiet,
        (false, 0) => Talk::Normal,
        (false, _) => Talk::Verbose,
    }
}

fn output(arguments: &RunArguments, request: &Request, pods: &[Pod]) -> Output {
    if !request.from_image {
        let many = pods.len() > 1 || !request.manifests.jobs.is_empty();
        return if many {
            Output::LinesOfPods
        } else {
            Output::Lines
        };
    }
    Output::Streams(match (arguments.image.interactive, arguments.image.tty) {
        (false, _) => Input::None,
        (true, false) => Input::Pipe,
        (true, true) => Input::Terminal,
    })
}

fn style(output: Output, pods: &[Pod]) -> Style {
    let mut names = Vec::new();
    for pod in pods {
        let Some(spec) = &pod.spec else { continue };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        for container in spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
        {
            names.push(match output {
                Output::LinesOfPods => format!("{name}/{}", container.name),
                _ => container.name.clone(),
            });
        }
    }
    match output {
        Output::Lines | Output::LinesOfPods => {
            Style::default().with_names(names.iter().map(String::as_str).chain([""]))
        }
        _ => Style::default(),
    }
}

/// Turns signals into urgency: the first stops in order, the next kills.
async fn feel(felt: watch::Sender<Urgency>, last: Arc<AtomicI32>, screen: Arc<Screen>) {
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else {
        return;
    };
    loop {
        let kind = tokio::select! {
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = terminate.recv() => SignalKind::terminate(),
            _ = hangup.recv() => SignalKind::hangup(),
        };
        last.store(kind.as_raw_value(), Ordering::Relaxed);
        felt.send_modify(|urgency| {
            *urgency = match *urgency {
                Urgency::None => {
                    screen.say("stopping in order; once more to kill");
                    Urgency::Stop
                }
                _ => {
                    screen.say("killing");
                    Urgency::Kill
                }
            };
        });
    }
}
