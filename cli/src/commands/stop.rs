//! `berth stop`: ends pods in order, whoever looks after them.

use std::time::Duration;

use berth_cri::service::CriService;
use clap::Args;
use rustix::process::Signal;

use super::takeover::stop_unattended;
use crate::amounts::read_seconds;
use crate::error::{Error, Result};
use crate::objects::{FoundPod, find_pod, observe_pods};
use crate::output::print_line;
use crate::settings::Settings;
use crate::workers::{StopOrder, WorkerFiles};

/// `berth stop`.
#[derive(Debug, Args)]
pub struct StopArguments {
    /// Pods
    #[arg(required_unless_present = "all", value_name = "POD")]
    pub pods: Vec<String>,
    /// Every pod that is up
    #[arg(short, long, conflicts_with = "pods")]
    pub all: bool,
    /// Between the stop signal and the kill, instead of the pod's own time
    #[arg(short = 't', long = "time", value_parser = read_seconds, value_name = "TIME")]
    pub grace: Option<Duration>,
}

/// Stops pods, all at once, and prints the name of each that has ended.
///
/// # Errors
///
/// A name means no pod, or a pod did not end; the others are stopped all the same.
pub async fn run(
    settings: &Settings,
    service: &dyn CriService,
    arguments: &StopArguments,
) -> Result<u8> {
    let pods = observe_pods(service).await?;
    let chosen = choose(&pods, &arguments.pods, arguments.all, FoundPod::is_up)?;
    let stops = chosen.iter().map(|pod| async {
        stop(settings, service, pod, arguments.grace)
            .await
            .map(|()| pod.title())
    });
    report(futures::future::join_all(stops).await)
}

/// The pods that words mean, each once, or all that fit.
///
/// # Errors
///
/// A word means none.
pub fn choose<'a>(
    pods: &'a [FoundPod],
    words: &[String],
    all: bool,
    fits: impl Fn(&FoundPod) -> bool,
) -> Result<Vec<&'a FoundPod>> {
    if all {
        return Ok(pods.iter().filter(|pod| fits(pod)).collect());
    }
    let mut chosen: Vec<&FoundPod> = Vec::new();
    for word in words {
        let pod = find_pod(pods, word)?;
        if chosen
            .iter()
            .all(|known| known.sandbox.id != pod.sandbox.id)
        {
            chosen.push(pod);
        }
    }
    Ok(chosen)
}

/// Prints the names of what succeeded, and ends with all that did not.
///
/// # Errors
///
/// Those of the outcomes, one a line.
pub fn report(outcomes: Vec<Result<String>>) -> Result<u8> {
    let mut failures = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(name) => print_line(&name)?,
            Err(error) => failures.push(error.chain()),
        }
    }
    if failures.is_empty() {
        Ok(0)
    } else {
        Err(Error::new(failures.join("\n")))
    }
}

/// Ends one pod: asks its worker, or does the worker's part when there is none.
///
/// # Errors
///
/// The worker cannot be asked, or the node does not do it.
pub async fn stop(
    settings: &Settings,
    service: &dyn CriService,
    pod: &FoundPod,
    grace: Option<Duration>,
) -> Result<()> {
    let files = WorkerFiles::new(&settings.workers_dir(), pod.namespace(), pod.name());
    let Some(worker) = files.worker() else {
        return stop_unattended(service, pod, grace).await;
    };
    let grace_seconds = grace.map(|grace| grace.as_secs());
    files.write_stop_order(StopOrder { grace_seconds })?;
    worker.signal(Signal::TERM)?;
    worker.ended().await;
    Ok(())
}
