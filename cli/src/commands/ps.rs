//! `berth ps`: what runs, and who looks after it.
//!
//! The node is asked, not a memory of what was once started, so the answer is
//! true also after the program that started a pod was killed. Such a pod runs
//! on *unattended*: nothing probes or restarts it until a `berth run` of the
//! same manifest takes it over.

use berth_cri::service::CriService;
use berth_cri::v1;
use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use serde_json::{Value, json};

use crate::amounts::write_age_since;
use crate::error::{Context, Result};
use crate::objects::{FoundPod, RESTART_COUNT_ANNOTATION, attempt, container_name, observe_pods};
use crate::output::{Format, ListArguments, Rows, print_list};
use crate::settings::Settings;
use crate::workers::{WorkerFiles, WorkerRequest};

/// `berth ps`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  berth ps                    the containers that run
  berth ps -a                 also those that have ended
  berth ps --pods             one line a pod
  berth ps -aq                ids, for scripts
  berth ps -o json")]
pub struct PsArguments {
    /// Also what does not run
    #[arg(short, long)]
    pub all: bool,
    /// One line a pod
    #[arg(short, long)]
    pub pods: bool,
    /// Only pods with this label
    #[arg(short, long = "label", value_name = "NAME[=VALUE]")]
    pub labels: Vec<String>,
    /// How it is printed
    #[command(flatten)]
    pub list: ListArguments,
}

/// Prints the pods or their containers.
///
/// # Errors
///
/// The node does not answer, or standard output is closed.
pub async fn run(
    settings: &Settings,
    service: &dyn CriService,
    arguments: &PsArguments,
) -> Result<u8> {
    let mut shown = Vec::new();
    for pod in observe_pods(service).await? {
        if arguments.labels.iter().all(|label| has_label(&pod, label)) {
            shown.push(Shown::observe(settings, service, pod).await?);
        }
    }
    if arguments.pods {
        print_pods(settings.format, arguments, &shown)?;
    } else {
        print_containers(settings.format, arguments, &shown)?;
    }
    Ok(0)
}

fn has_label(pod: &FoundPod, label: &str) -> bool {
    let (name, value) = match label.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (label, None),
    };
    let found = pod.sandbox.labels.get(name);
    found.is_some_and(|found| value.is_none_or(|value| value == found))
}

/// A pod with what its worker knows of it.
struct Shown {
    pod: FoundPod,
    worker: Option<i32>,
    request: Option<WorkerRequest>,
    /// The worker's view, when it is alive to keep it true.
    status: Option<PodStatus>,
    addresses: Vec<String>,
}

impl Shown {
    async fn observe(
        settings: &Settings,
        service: &dyn CriService,
        pod: FoundPod,
    ) -> Result<Shown> {
        let files = WorkerFiles::new(&settings.workers_dir(), pod.namespace(), pod.name());
        let worker = files.worker().map(|worker| worker.pid());
        // The files of another pod, which had the name before, say nothing.
        let request = files.read_request()?.filter(|request| {
            request
                .pod
                .metadata
                .uid
                .as_deref()
                .is_some_and(|uid| uid == pod.uid())
        });
        let status = match (&worker, &request) {
            (Some(_), Some(_)) => files.read_status()?,
            _ => None,
        };
        let addresses = read_addresses(service, &pod).await?;
        Ok(Shown {
            pod,
            worker,
            request,
            status,
            addresses,
        })
    }

    /// `8080->80/tcp`, for each port of the machine that leads to this pod.
    fn ports(&self, container: Option<&str>) -> Vec<String> {
        let spec = self
            .request
            .as_ref()
            .and_then(|request| request.pod.spec.as_ref());
        let Some(spec) = spec else { return Vec::new() };
        let containers = spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers);
        containers
            .filter(|known| container.is_none_or(|name| name == known.name))
            .flat_map(|known| known.ports.iter().flatten())
            .filter_map(|port| {
                let host_port = port.host_port.filter(|number| *number > 0)?;
                let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
                let address = match port.host_ip.as_deref() {
                    None | Some("") => String::new(),
                    Some(address) if address.contains(':') => format!("[{address}]:"),
                    Some(address) => format!("{address}:"),
                };
                Some(format!(
                    "{address}{host_port}->{}/{protocol}",
                    port.container_port
                ))
            })
            .collect()
    }

    fn of_worker(&self, container: &str) -> Option<&ContainerStatus> {
        let status = self.status.as_ref()?;
        let containers = status.init_container_statuses.iter().flatten();
        containers
            .chain(status.container_statuses.iter().flatten())
            .find(|known| known.name == container)
    }

    fn is_attended(&self) -> bool {
        self.worker.is_some()
    }

    /// One word or two on the pod.
    fn state(&self) -> String {
        let phase = self.status.as_ref().and_then(|status| status.phase.clone());
        let running = self
            .pod
            .latest()
            .iter()
            .any(|container| container.state() == v1::ContainerState::ContainerRunning);
        match (self.is_attended(), running) {
            (true, _) => phase.unwrap_or_else(|| "Starting".to_owned()),
            (false, true) => "Running (unattended)".to_owned(),
            (false, false) if self.pod.is_up() => "Up (unattended)".to_owned(),
            (false, false) => match self.pod.latest().iter().any(|last| last.exit_code != 0) {
                true => "Failed".to_owned(),
                false => "Ended".to_owned(),
            },
        }
    }
}

async fn read_addresses(service: &dyn CriService, pod: &FoundPod) -> Result<Vec<String>> {
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pod.sandbox.id.clone(),
        verbose: false,
    };
    let status = match service.pod_sandbox_status(request).await {
        Ok(answer) => answer.status,
        Err(status) if status.code() == tonic::Code::NotFound => None,
        Err(status) => return Err(status).context(format!("read pod {}", pod.title())),
    };
    let Some(network) = status.and_then(|status| status.network) else {
        return Ok(Vec::new());
    };
    let all = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
    Ok(all.filter(|address| !address.is_empty()).collect())
}

/// How often a container was started again.
fn restarts(container: &v1::ContainerStatus) -> u32 {
    let annotated = container.annotations.get(RESTART_COUNT_ANNOTATION);
    annotated
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| attempt(container))
}

fn container_state(shown: &Shown, container: &v1::ContainerStatus) -> String {
    let known = shown.of_worker(container_name(container));
    match container.state() {
        v1::ContainerState::ContainerCreated => "Created".to_owned(),
        v1::ContainerState::ContainerRunning if !shown.is_attended() => {
            "Running (unattended)".to_owned()
        }
        v1::ContainerState::ContainerRunning => match known {
            Some(known) if !known.ready => "Running (not ready)".to_owned(),
            _ => "Running".to_owned(),
        },
        v1::ContainerState::ContainerExited => {
            let waiting = known
                .and_then(|known| known.state.as_ref()?.waiting.as_ref()?.reason.clone())
                .filter(|reason| reason.ends_with("BackOff"));
            let reason = match container.reason.as_str() {
                "" | "Completed" | "Error" => String::new(),
                reason => format!(", {reason}"),
            };
            match waiting {
                Some(waiting) => format!("{waiting} ({}{reason})", container.exit_code),
                None => format!("Exited ({}{reason})", container.exit_code),
            }
        }
        v1::ContainerState::ContainerUnknown => "Unknown".to_owned(),
    }
}

fn print_containers(format: Format, arguments: &PsArguments, shown: &[Shown]) -> Result<()> {
    let running = v1::ContainerState::ContainerRunning;
    let entries: Vec<(&Shown, &v1::ContainerStatus)> = shown
        .iter()
        .flat_map(|shown| {
            shown
                .pod
                .latest()
                .into_iter()
                .map(move |last| (shown, last))
        })
        .filter(|(_, container)| arguments.all || container.state() == running)
        .collect();
    let values: Vec<Value> = entries
        .iter()
        .map(|(shown, container)| container_value(shown, container))
        .collect();
    let name = |value: &Value| arguments.list.id(value["id"].as_str().unwrap_or_default());
    print_list(arguments.list.form(format), &values, name, || {
        let now = Timestamp::now();
        let row = |(shown, container): &(&Shown, &v1::ContainerStatus)| {
            vec![
                shown.pod.title(),
                container_name(container).to_owned(),
                image_name(container),
                container_state(shown, container),
                restarts(container).to_string(),
                write_age_since(container.created_at, now),
                or_dash(shown.ports(Some(container_name(container)))),
                arguments.list.id(&container.id),
                or_dash(shown.addresses.clone()),
            ]
        };
        Rows {
            heads: vec![
                "POD",
                "CONTAINER",
                "IMAGE",
                "STATUS",
                "RESTARTS",
                "AGE",
                "PORTS",
                "ID",
                "ADDRESS",
            ],
            wide_columns: 2,
            rows: entries.iter().map(row).collect(),
        }
    })
}

fn container_value(shown: &Shown, container: &v1::ContainerStatus) -> Value {
    json!({
        "id": container.id,
        "name": container_name(container),
        "pod": shown.pod.name(),
        "namespace": shown.pod.namespace(),
        "image": image_name(container),
        "imageId": container.image_id,
        "state": state_name(container.state()),
        "ready": shown.of_worker(container_name(container)).map(|known| known.ready),
        "exitCode": (container.state() == v1::ContainerState::ContainerExited)
            .then_some(container.exit_code),
        "reason": container.reason,
        "message": container.message,
        "restarts": restarts(container),
        "createdAt": moment(container.created_at),
        "startedAt": moment(container.started_at),
        "finishedAt": moment(container.finished_at),
        "ports": shown.ports(Some(container_name(container))),
        "logPath": container.log_path,
    })
}

fn print_pods(format: Format, arguments: &PsArguments, shown: &[Shown]) -> Result<()> {
    let shown: Vec<&Shown> = shown
        .iter()
        .filter(|shown| arguments.all || shown.pod.is_up())
        .collect();
    let values: Vec<Value> = shown.iter().map(|shown| pod_value(shown)).collect();
    let name = |value: &Value| arguments.list.id(value["id"].as_str().unwrap_or_default());
    print_list(arguments.list.form(format), &values, name, || {
        let now = Timestamp::now();
        let row = |shown: &&Shown| {
            let restarts: u32 = shown.pod.latest().into_iter().map(restarts).sum();
            vec![
                shown.pod.title(),
                readiness(shown),
                shown.state(),
                restarts.to_string(),
                write_age_since(shown.pod.sandbox.created_at, now),
                or_dash(shown.addresses.clone()),
                or_dash(shown.ports(None)),
                arguments.list.id(&shown.pod.sandbox.id),
                shown.worker.map_or("-".to_owned(), |pid| pid.to_string()),
            ]
        };
        Rows {
            heads: vec![
                "POD", "READY", "STATUS", "RESTARTS", "AGE", "ADDRESS", "PORTS", "ID", "WORKER",
            ],
            wide_columns: 2,
            rows: shown.iter().map(row).collect(),
        }
    })
}

fn pod_value(shown: &Shown) -> Value {
    json!({
        "id": shown.pod.sandbox.id,
        "name": shown.pod.name(),
        "namespace": shown.pod.namespace(),
        "uid": shown.pod.uid(),
        "state": shown.state(),
        "up": shown.pod.is_up(),
        "createdAt": moment(shown.pod.sandbox.created_at),
        "addresses": shown.addresses,
        "ports": shown.ports(None),
        "labels": shown.pod.sandbox.labels,
        "worker": shown.worker,
        "containers": shown.pod.latest().iter()
            .map(|container| container_value(shown, container)).collect::<Vec<_>>(),
    })
}

/// How many of the containers that should be ready are, when somebody knows.
fn readiness(shown: &Shown) -> String {
    match shown
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref())
    {
        Some(containers) => {
            let ready = containers
                .iter()
                .filter(|container| container.ready)
                .count();
            format!("{ready}/{}", containers.len())
        }
        None => "-".to_owned(),
    }
}

fn image_name(container: &v1::ContainerStatus) -> String {
    let image = container.image.as_ref();
    image.map_or_else(
        || container.image_ref.clone(),
        |image| match image.user_specified_image.as_str() {
            "" => image.image.clone(),
            name => name.to_owned(),
        },
    )
}

/// A container's state in one lower-case word.
pub fn state_name(state: v1::ContainerState) -> &'static str {
    match state {
        v1::ContainerState::ContainerCreated => "created",
        v1::ContainerState::ContainerRunning => "running",
        v1::ContainerState::ContainerExited => "exited",
        v1::ContainerState::ContainerUnknown => "unknown",
    }
}

/// A time in RFC 3339, from nanoseconds since the epoch; 0 is never.
pub fn moment(nanoseconds: i64) -> Option<String> {
    let moment = Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()?;
    (nanoseconds > 0).then(|| moment.to_string())
}

fn or_dash(words: Vec<String>) -> String {
    if words.is_empty() {
        "-".to_owned()
    } else {
        words.join(",")
    }
}
