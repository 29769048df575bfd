//! `berth attach`: this terminal to a container that runs.

use berth_cri::service::CriService;
use berth_cri::v1;
use clap::Args;

use crate::error::{Context, Error, Result};
use crate::objects::{container_name, find_container, observe_pods};
use crate::settings::Settings;
use crate::streams::{Ended, Input, attach};
use crate::terminal::RawMode;
use crate::workers::WorkerFiles;

/// `berth attach`.
#[derive(Debug, Args)]
#[command(after_help = "Ctrl-P Ctrl-Q leaves a container with a terminal and lets it run.")]
pub struct AttachArguments {
    /// A pod, POD/CONTAINER, or the beginning of a container's id
    pub target: String,
    /// One container of several
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Pass nothing on of this terminal's input
    #[arg(long)]
    pub no_stdin: bool,
}

/// Attaches until the container ends; its exit code.
///
/// # Errors
///
/// No such container, or it does not run.
pub async fn run(
    settings: &Settings,
    service: &dyn CriService,
    arguments: &AttachArguments,
) -> Result<u8> {
    let pods = observe_pods(service).await?;
    let found = find_container(&pods, &arguments.target, arguments.container.as_deref())?;
    let title = format!("{}/{}", found.pod.title(), container_name(found.container));
    if found.container.state() != v1::ContainerState::ContainerRunning {
        return Err(Error::new(format!("container {title} does not run")));
    }
    let files = WorkerFiles::new(
        &settings.workers_dir(),
        found.pod.namespace(),
        found.pod.name(),
    );
    let spec = files.read_request()?.and_then(|request| request.pod.spec);
    let container = spec.as_ref().and_then(|spec| {
        let mut all = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten());
        all.find(|known| known.name == container_name(found.container))
    });
    let (stdin, tty) = container.map_or((true, false), |container| {
        (
            container.stdin.unwrap_or(false),
            container.tty.unwrap_or(false),
        )
    });
    let input = match (stdin && !arguments.no_stdin, tty) {
        (false, _) => Input::None,
        (true, false) => Input::Pipe,
        (true, true) => Input::Terminal,
    };
    let pod_dir = settings.run_dir.join("pods").join(&found.pod.sandbox.id);
    let attached = attach(&pod_dir, &found.container.id)
        .await
        .context(title.clone())?;
    let raw = match input {
        Input::Terminal => Some(RawMode::enter().context("make the terminal raw")?),
        _ => None,
    };
    let ended = attached.join(input).await;
    drop(raw);
    match ended.context(title)? {
        Ended::Detached => {
            eprintln!("\ndetached");
            Ok(0)
        }
        Ended::Unread => Ok(0),
        Ended::Container => exit_code(service, &found.container.id).await,
    }
}

async fn exit_code(service: &dyn CriService, id: &str) -> Result<u8> {
    let request = v1::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: false,
    };
    match service.container_status(request).await {
        Ok(answer) => {
            let code = answer.status.map_or(0, |status| status.exit_code);
            Ok(u8::try_from(code).unwrap_or(1))
        }
        // Its pod was removed as soon as it ended.
        Err(status) if status.code() == tonic::Code::NotFound => Ok(0),
        Err(status) => Err(status).context(format!("read container {id}")),
    }
}
