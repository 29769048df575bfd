//! `berth wait`: until containers have ended, or a pod is ready.

use std::time::{Duration, Instant};

use berth_cri::service::CriService;
use berth_cri::v1;
use clap::{Args, ValueEnum};

use super::run::outcome::{Progress, progress};
use crate::amounts::read_seconds;
use crate::error::{Error, Result};
use crate::objects::{
    FoundPod, container_name, find_container, find_pod, match_pods, observe_pods,
};
use crate::output::print_line;
use crate::settings::Settings;
use crate::workers::WorkerFiles;

/// Between two looks. A pod's files say when it is ready; nothing announces it.
const POLL: Duration = Duration::from_millis(100);

/// `berth wait`.
#[derive(Debug, Args)]
pub struct WaitArguments {
    /// Pods, POD/CONTAINER, or ids
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// What to wait for
    #[arg(long = "for", value_enum, default_value_t, value_name = "STATE")]
    pub until: Until,
    /// Give up after a time
    #[arg(long, value_parser = read_seconds, value_name = "TIME")]
    pub timeout: Option<Duration>,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Until {
    /// Every container has ended for good; prints their exit codes.
    #[default]
    Ended,
    /// The pod is ready.
    Ready,
    /// The pod is gone.
    Removed,
}

/// Waits for each name in turn; the exit code is 1 when one did not end well.
///
/// # Errors
///
/// A name means nothing, a pod fails before it is ready, or the time is over.
pub async fn run(
    settings: &Settings,
    service: &dyn CriService,
    arguments: &WaitArguments,
) -> Result<u8> {
    let deadline = arguments.timeout.map(|timeout| Instant::now() + timeout);
    for name in &arguments.names {
        // What is not there when the wait begins is a mistake, except where
        // that is what is waited for.
        let mut seen = arguments.until == Until::Removed;
        loop {
            let pods = observe_pods(service).await?;
            let done = match arguments.until {
                Until::Removed => match_pods(&pods, name).is_empty(),
                _ if seen && find_container(&pods, name, None).is_err() => {
                    return Err(Error::new(format!("{name} was removed")));
                }
                Until::Ready => is_ready(settings, find_pod(&pods, name)?)?,
                Until::Ended => has_ended(settings, &pods, name)?,
            };
            if done {
                break;
            }
            seen = true;
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                let until = arguments.until.to_possible_value();
                let until = until.map_or(String::new(), |value| value.get_name().to_owned());
                return Err(Error::new(format!("{name} is not {until} in time")));
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(0)
}

fn is_ready(settings: &Settings, pod: &FoundPod) -> Result<bool> {
    let files = WorkerFiles::new(&settings.workers_dir(), pod.namespace(), pod.name());
    if files.worker().is_none() {
        return Err(Error::new(format!(
            "nobody looks after pod {}, so nobody knows whether it is ready",
            pod.title()
        )));
    }
    match files.read_status()?.map(|status| progress(&status)) {
        Some(Progress::Ready) => Ok(true),
        Some(Progress::Failed(reason)) => {
            Err(Error::new(format!("pod {} failed: {reason}", pod.title())))
        }
        _ => Ok(false),
    }
}

/// Prints the exit codes once every container has ended and nobody will start
/// one again.
fn has_ended(settings: &Settings, pods: &[FoundPod], name: &str) -> Result<bool> {
    let whole_pod = !match_pods(pods, name).is_empty();
    let (pod, containers) = if whole_pod {
        let pod = find_pod(pods, name)?;
        (pod, pod.latest())
    } else {
        let found = find_container(pods, name, None)?;
        (found.pod, vec![found.container])
    };
    let exited = v1::ContainerState::ContainerExited;
    let files = WorkerFiles::new(&settings.workers_dir(), pod.namespace(), pod.name());
    let ended = containers
        .iter()
        .all(|container| container.state() == exited);
    if !ended || (whole_pod && files.worker().is_some()) {
        return Ok(false);
    }
    for container in containers {
        let title = format!("{}/{}", pod.title(), container_name(container));
        print_line(&format!("{title} {}", container.exit_code))?;
    }
    Ok(true)
}
