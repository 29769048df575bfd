//! `berth kill`: a signal to containers.
//!
//! Unlike `berth stop` this ends nothing by itself: when a program dies of the
//! signal, its pod's restart policy decides what follows.

use std::path::Path;

use berth_cri::service::CriService;
use berth_cri::v1;
use berth_runtime::monitor::client;
use berth_runtime::monitor::protocol::{FailureKind, Reply, Request};
use clap::Args;
use nix::sys::signal::Signal;

use super::stop::report;
use crate::error::{Context, Error, Result};
use crate::objects::{container_name, find_container, find_pod, match_pods, observe_pods};
use crate::settings::Settings;

/// `berth kill`.
#[derive(Debug, Args)]
pub struct KillArguments {
    /// Pods, for all their containers; POD/CONTAINER; or ids
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// One container of a pod
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// The signal: a name or a number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = read_signal)]
    pub signal: Signal,
}

/// `KILL`, `SIGKILL`, `9`.
fn read_signal(text: &str) -> std::result::Result<Signal, String> {
    let wrong = || format!("{text:?} is no signal: expected a name such as TERM, or a number");
    if let Ok(number) = text.parse::<i32>() {
        return Signal::try_from(number).map_err(|_| wrong());
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    name.parse().map_err(|_| wrong())
}

/// Sends the signal to the first process of each container.
///
/// # Errors
///
/// A name means nothing, or nothing that runs.
pub async fn run(
    settings: &Settings,
    service: &dyn CriService,
    arguments: &KillArguments,
) -> Result<u8> {
    let pods = observe_pods(service).await?;
    let mut outcomes = Vec::new();
    for name in &arguments.names {
        let whole_pod = arguments.container.is_none() && !match_pods(&pods, name).is_empty();
        let (pod, containers) = if whole_pod {
            let pod = find_pod(&pods, name)?;
            (pod, pod.latest())
        } else {
            let found = find_container(&pods, name, arguments.container.as_deref())?;
            (found.pod, vec![found.container])
        };
        let running: Vec<&v1::ContainerStatus> = containers
            .into_iter()
            .filter(|container| container.state() == v1::ContainerState::ContainerRunning)
            .collect();
        if running.is_empty() {
            outcomes.push(Err(Error::new(format!("nothing of {name} runs"))));
            continue;
        }
        let pod_dir = settings.run_dir.join("pods").join(&pod.sandbox.id);
        for container in running {
            let title = format!("{}/{}", pod.title(), container_name(container));
            outcomes.push(send(&pod_dir, &container.id, arguments.signal).map(|()| title));
        }
    }
    report(outcomes)
}

fn send(pod_dir: &Path, id: &str, signal: Signal) -> Result<()> {
    let attempt = || format!("signal container {id}");
    let mut monitor = client::connect(pod_dir).context(attempt())?;
    let request = Request::Kill {
        id: id.to_owned(),
        signal: signal as i32,
        all: false,
    };
    match monitor.call(&request).context(attempt())? {
        // It has ended since it was looked at.
        Reply::Done
        | Reply::Failed {
            kind: FailureKind::WrongState,
            ..
        } => Ok(()),
        Reply::Failed { message, .. } => Err(Error::new(message)).context(attempt()),
        other => Err(Error::new(format!("the monitor answered {other:?}"))).context(attempt()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_three_spellings() {
        for text in ["KILL", "sigkill", "9"] {
            assert_eq!(read_signal(text), Ok(Signal::SIGKILL), "{text}");
        }
        for text in ["", "0", "99", "HELLO"] {
            assert!(read_signal(text).is_err(), "{text}");
        }
    }
}
