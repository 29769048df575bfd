//! Looking after one pod, in the foreground or in the background.
//!
//! ```text
//! claim the name ─▶ write the request down ─▶ PodWorker::run ─▶ forget the files
//!      │ taken?           │ for one that takes over      │            │ when nothing stays
//!      ▼                  ▼                              ▼            ▼
//!    error           request.json                   status.json     removed
//! ```

use std::sync::Arc;

use berth_cri::service::CriService;
use berth_scheduler::pod::events::{PodEvent, PodIdentity, PodObserver};
use berth_scheduler::pod::objects::PodObjects;
use berth_scheduler::pod::settings::{Leftovers, WorkerConfig};
use berth_scheduler::pod::worker::{PodWorker, WorkerCommand};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{mpsc, watch};

use crate::error::{Context, Error, Result};
use crate::objects::{observe_pods, title};
use crate::settings::Settings;
use crate::workers::{WorkerFiles, WorkerRequest};

/// What is told of a pod while it is looked after.
#[derive(Debug, Clone)]
pub enum Report {
    /// Something happened.
    Event(Box<PodEvent>),
    /// The status is another than before.
    Status(Box<PodStatus>),
}

/// The observer that the worker gets: it must not block, so it hands on.
struct Reporter(mpsc::UnboundedSender<Report>);

impl PodObserver for Reporter {
    // Nobody listens any more when the command is about to end.
    fn event(&self, event: &PodEvent) {
        let _ = self.0.send(Report::Event(Box::new(event.clone())));
    }

    fn status(&self, _pod: &PodIdentity, status: &PodStatus) {
        let _ = self.0.send(Report::Status(Box::new(status.clone())));
    }
}

/// What looking after a pod needs.
pub struct Attendance {
    /// The node, perhaps with somebody who looks on.
    pub service: Arc<dyn CriService>,
    /// Counts up with each change on the node.
    pub changes: Option<watch::Receiver<u64>>,
    /// What is to run.
    pub request: WorkerRequest,
    /// Stop and kill.
    pub orders: mpsc::Receiver<WorkerCommand>,
    /// Gets all that is told.
    pub reports: mpsc::UnboundedSender<Report>,
}

/// Looks after a pod until it has ended or was stopped, and tells its last status.
///
/// # Errors
///
/// Another process looks after a pod of that name, one is left from before, or
/// the node does not do what it is asked.
pub async fn attend(settings: &Settings, attendance: Attendance) -> Result<PodStatus> {
    let Attendance {
        service,
        changes,
        mut request,
        orders,
        reports,
    } = attendance;
    let (namespace, name) = identity(&request.pod);
    let files = WorkerFiles::new(&settings.workers_dir(), &namespace, &name);
    let attempt = format!("run pod {}", title(&namespace, &name));
    let _claim = files.claim().context(attempt.clone())?;
    adopt_or_refuse(service.as_ref(), &files, &mut request)
        .await
        .context(attempt.clone())?;
    files.remove_stop_order()?;
    files.write_request(&request)?;
    let mut config = WorkerConfig::new(settings.volumes_dir(), settings.logs_dir());
    config.cgroup_parent = settings.cgroup_parent.clone();
    config.seccomp_dir = settings.data_dir.join("seccomp");
    config.leftovers = if request.remove {
        Leftovers::Remove
    } else {
        Leftovers::Keep
    };
    config.changes = changes;
    let objects = PodObjects::new(request.config_maps, request.secrets);
    let worker = PodWorker::new(Arc::clone(&service), config, objects);
    let (inner, mut seen) = mpsc::unbounded_channel();
    let observer = Arc::new(Reporter(inner));
    // The status is written down here, not in the worker's task.
    let noting = async {
        while let Some(report) = seen.recv().await {
            if let Report::Status(status) = &report
                && let Err(error) = files.write_status(status)
            {
                tracing::warn!("{}", error.chain());
            }
            let _ = reports.send(report);
        }
    };
    // There if the pod is taken over. It runs on without it, so a file that cannot be read
    // keeps nobody from that.
    request.pod.status = files.read_status().unwrap_or_else(|error| {
        tracing::warn!("{}", error.chain());
        None
    });
    let running = worker.run(request.pod, orders, observer);
    let (outcome, ()) = tokio::join!(running, noting);
    let status = outcome.context(attempt);
    // After a failure the files stay, so that `berth rm` knows what there was; but
    // a pod that is refused before anything is made leaves nothing to know.
    let nothing_left = match &status {
        Ok(_) => request.remove,
        Err(_) => !observe_pods(service.as_ref())
            .await?
            .iter()
            .any(|pod| pod.namespace() == namespace && pod.name() == name),
    };
    if nothing_left {
        files.remove()?;
    }
    status
}

/// Namespace and name.
pub fn identity(pod: &Pod) -> (String, String) {
    let namespace = pod
        .metadata
        .namespace
        .clone()
        .unwrap_or_else(|| "default".to_owned());
    (namespace, pod.metadata.name.clone().unwrap_or_default())
}

/// A pod of that name may be left from a worker that was killed. When it is the
/// same pod, its uid is taken, by which the worker finds it and goes on.
async fn adopt_or_refuse(
    service: &dyn CriService,
    files: &WorkerFiles,
    request: &mut WorkerRequest,
) -> Result<()> {
    let (namespace, name) = identity(&request.pod);
    let pods = observe_pods(service).await?;
    let Some(left) = pods
        .iter()
        .find(|pod| pod.namespace() == namespace && pod.name() == name)
    else {
        // What the files say is of a pod that is gone.
        return files.remove_stale();
    };
    let before = files.read_request()?;
    let same = before.is_some_and(|before| {
        before.pod.spec == request.pod.spec
            && before.pod.metadata.uid.as_deref() == Some(left.uid())
            && before.config_maps == request.config_maps
            && before.secrets == request.secrets
    });
    if same && left.is_up() {
        request.pod.metadata.uid = Some(left.uid().to_owned());
        return Ok(());
    }
    let state = if left.is_up() {
        "runs already, from another manifest"
    } else {
        "has ended and is kept"
    };
    Err(Error::new(format!(
        "a pod of that name {state}; 'berth rm -f {}' removes it",
        title(&namespace, &name)
    )))
}
