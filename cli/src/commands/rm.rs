//! `berth rm`: removes pods wholly.
//!
//! Wholly means: containers, network, cgroups, mounts, volumes, logs and the
//! worker's files. Each step accepts that its part is gone already, so what a
//! crash left half removed is removed by the next try.

use std::time::Duration;

use berth_cri::service::CriService;
use berth_scheduler::pod::{plan::names, volumes::teardown::remove_volumes};
use clap::Args;

use super::stop::{choose, report, stop};
use super::takeover::{remove_sandbox, stop_unattended};
use crate::error::{Context, Error, Result};
use crate::objects::{FoundPod, match_pods, observe_pods, unknown_pod};
use crate::settings::Settings;
use crate::workers::{WorkerFiles, list_workers};

/// `berth rm`.
#[derive(Debug, Args)]
#[command(visible_alias = "remove")]
pub struct RmArguments {
    /// Pods
    #[arg(required_unless_present = "all", value_name = "POD")]
    pub pods: Vec<String>,
    /// Every pod
    #[arg(short, long, conflicts_with = "pods")]
    pub all: bool,
    /// Kill what runs; say nothing of a pod that is not there
    #[arg(short, long)]
    pub force: bool,
}

/// Removes pods and prints the name of each that is gone.
///
/// # Errors
///
/// A pod runs and force was not asked for, or something of it is left.
pub async fn run(
    settings: &Settings,
    service: &dyn CriService,
    arguments: &RmArguments,
) -> Result<u8> {
    let pods = observe_pods(service).await?;
    let mut outcomes = Vec::new();
    if arguments.all {
        for pod in choose(&pods, &[], true, |_| true)? {
            outcomes.push(remove(settings, service, pod, arguments.force).await);
        }
    }
    for word in &arguments.pods {
        outcomes.push(match match_pods(&pods, word).as_slice() {
            [pod] => remove(settings, service, pod, arguments.force).await,
            [] => match remove_files_alone(settings, word)? {
                Some(title) => Ok(title),
                None if arguments.force => continue,
                None => Err(unknown_pod(&pods, word)),
            },
            _ => Err(Error::new(format!(
                "{word:?} means several pods; expected one's id"
            ))),
        });
    }
    report(outcomes)
}

/// Removes the pod of a name, if there is one, whether or not it runs.
///
/// # Errors
///
/// Something of it is left.
pub async fn remove_by_name(
    settings: &Settings,
    service: &dyn CriService,
    namespace: &str,
    name: &str,
) -> Result<()> {
    for pod in observe_pods(service).await? {
        if pod.namespace() == namespace && pod.name() == name {
            remove_parts(settings, service, &pod).await?;
        }
    }
    WorkerFiles::new(&settings.workers_dir(), namespace, name).remove()
}

async fn remove(
    settings: &Settings,
    service: &dyn CriService,
    pod: &FoundPod,
    force: bool,
) -> Result<String> {
    let files = WorkerFiles::new(&settings.workers_dir(), pod.namespace(), pod.name());
    if !force && (pod.is_up() || files.worker().is_some()) {
        let title = pod.title();
        return Err(Error::new(format!(
            "pod {title} is up: 'berth stop {title}' first, or 'berth rm -f {title}'"
        )));
    }
    // Its worker would start again what goes; it ends the pod itself.
    stop(settings, service, pod, Some(Duration::ZERO)).await?;
    remove_parts(settings, service, pod).await?;
    Ok(pod.title())
}

/// All of this is idempotent: the worker may have removed the sandbox too.
async fn remove_parts(settings: &Settings, service: &dyn CriService, pod: &FoundPod) -> Result<()> {
    stop_unattended(service, pod, Some(Duration::ZERO)).await?;
    remove_sandbox(service, pod).await?;
    remove_rest(settings, pod.namespace(), pod.name(), pod.uid())
}

/// Volumes, logs and the worker's files.
fn remove_rest(settings: &Settings, namespace: &str, name: &str, uid: &str) -> Result<()> {
    if !uid.is_empty() {
        // Volumes have mounts in them, which must go first and not be entered.
        remove_volumes(&settings.volumes_dir().join(uid)).context(format!(
            "remove the volumes of pod {}",
            crate::objects::title(namespace, name)
        ))?;
        remove_tree(
            &settings
                .logs_dir()
                .join(names::log_directory(namespace, name, uid)),
        )?;
    }
    WorkerFiles::new(&settings.workers_dir(), namespace, name).remove()
}

/// A worker that was killed before it made a sandbox has left files alone.
fn remove_files_alone(settings: &Settings, word: &str) -> Result<Option<String>> {
    for (namespace, name) in list_workers(&settings.workers_dir())? {
        let title = crate::objects::title(&namespace, &name);
        if word != title && word != format!("{namespace}/{name}") {
            continue;
        }
        let files = WorkerFiles::new(&settings.workers_dir(), &namespace, &name);
        if let Some(worker) = files.worker() {
            let pid = worker.pid();
            return Err(Error::new(format!(
                "process {pid} is about to start pod {title}"
            )));
        }
        let request = files.read_request()?;
        let uid = request
            .and_then(|request| request.pod.metadata.uid)
            .unwrap_or_default();
        remove_rest(settings, &namespace, &name, &uid)?;
        return Ok(Some(title));
    }
    Ok(None)
}

fn remove_tree(path: &std::path::Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
