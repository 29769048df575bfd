//! All that one `berth run` runs: pods side by side, jobs pod by pod.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_cri::service::CriService;
use berth_scheduler::pod::events::{EventKind, PodEvent, PodIdentity, PodObserver};
use berth_scheduler::pod::worker::{NODE_FAILED, WorkerCommand, create_uid};
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, Secret};
use tokio::sync::{mpsc, watch};

use super::attend::{Attendance, Report, attend, identity};
use super::audience::Audience;
use super::jobs::run_job;
use super::outcome::{Progress, ports, progress, start_failure_code, why_failed};
use crate::commands::rm::remove_by_name;
use crate::error::{ENGINE_FAILED, Result};
use crate::objects::title;
use crate::screen::write_elapsed;
use crate::settings::Settings;
use crate::workers::{WorkerFiles, WorkerRequest};

/// How urgently all is to end. Grows, never shrinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Go on.
    None,
    /// Stop in order.
    Stop,
    /// Kill.
    Kill,
}

/// What becomes of a pod that will not start without somebody's help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// What may heal is tried again and again, as on a cluster.
    Endless,
    /// It is stopped, and the run has failed.
    None,
}

/// Whether it is worth a line that a pod is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShowReady {
    /// Somebody waits for it.
    Yes,
    /// The container's own output is all that is to be seen.
    No,
}

/// What all pods of one run share.
pub struct Crew {
    /// Directories.
    pub settings: Settings,
    /// The node.
    pub service: Arc<dyn CriService>,
    /// Counts up with each change on the node.
    pub changes: Option<watch::Receiver<u64>>,
    /// Who is told.
    pub audience: Arc<dyn Audience>,
    /// What pods may refer to.
    pub config_maps: Vec<ConfigMap>,
    /// What pods may refer to.
    pub secrets: Vec<Secret>,
    /// Nothing stays of what has ended.
    pub remove: bool,
    /// What becomes of a pod that does not start.
    pub patience: Patience,
    /// Whether it is worth a line that a pod is ready.
    pub show_ready: ShowReady,
    /// How urgently all is to end.
    pub urgency: watch::Receiver<Urgency>,
}

/// How a run ended.
#[derive(Debug, Clone, Default)]
pub struct Ended {
    /// The last status of each pod that ended by itself or was stopped.
    pub statuses: Vec<PodStatus>,
    /// Why the run is no success, one line each.
    pub failures: Vec<String>,
    /// Whether a pod was given up before it began.
    pub never_began: bool,
}

impl Crew {
    /// Runs pods and jobs until all have ended. A pod that cannot be run at all
    /// ends the others.
    ///
    /// # Errors
    ///
    /// What kept that pod from running.
    pub async fn run(self: &Arc<Self>, pods: Vec<Pod>, jobs: Vec<Job>) -> Result<Ended> {
        let (abort, aborted) = watch::channel(Urgency::None);
        let mut runs = FuturesUnordered::new();
        for pod in pods {
            let commands = self.commands(aborted.clone());
            runs.push(futures::future::Either::Left(async {
                self.run_pod(pod, commands, None).await.map(Ended::of_pod)
            }));
        }
        for job in jobs {
            let commands = self.commands(aborted.clone());
            runs.push(futures::future::Either::Right(run_job(self, job, commands)));
        }
        let mut ended = Ended::default();
        let mut failure = None;
        while let Some(outcome) = runs.next().await {
            match outcome {
                Ok(one) => {
                    ended.statuses.extend(one.statuses);
                    ended.failures.extend(one.failures);
                    ended.never_began |= one.never_began;
                }
                Err(error) => {
                    let _ = abort.send(Urgency::Stop);
                    // The first is the cause; the rest is told as it comes.
                    match failure {
                        None => failure = Some(error),
                        Some(_) => self.audience.warn(&format!("berth: {}", error.chain())),
                    }
                }
            }
        }
        match failure {
            None => Ok(ended),
            Some(error) => Err(error),
        }
    }

    /// Runs one pod to its end, with an observer that hears what the crew hears.
    ///
    /// # Errors
    ///
    /// What kept the pod from running.
    pub async fn run_pod(
        &self,
        mut pod: Pod,
        commands: mpsc::Receiver<WorkerCommand>,
        observer: Option<Arc<dyn PodObserver>>,
    ) -> Result<EndedPod> {
        // By it everything of the pod is found; a later run of the same manifest
        // is another pod.
        pod.metadata.uid.get_or_insert_with(create_uid);
        let (namespace, name) = identity(&pod);
        let title = title(&namespace, &name);
        let (orders, ordered) = mpsc::channel(4);
        let (reports, mut reported) = mpsc::unbounded_channel();
        let (give_up, given_up) = watch::channel(Urgency::None);
        let attendance = Attendance {
            service: Arc::clone(&self.service),
            changes: self.changes.clone(),
            request: WorkerRequest {
                pod: pod.clone(),
                config_maps: self.config_maps.clone(),
                secrets: self.secrets.clone(),
                remove: self.remove,
            },
            orders: ordered,
            reports,
        };
        let mut listener = Listener {
            crew: self,
            pod: &pod,
            title: &title,
            began: Instant::now(),
            ready: false,
            stuck: None,
            stop: give_up,
        };
        let whose = PodIdentity {
            namespace: namespace.clone(),
            name: name.clone(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        };
        let listening = async {
            while let Some(report) = reported.recv().await {
                listener.hear(&report);
                match (&report, &observer) {
                    (Report::Event(event), Some(observer)) => observer.event(event),
                    (Report::Status(status), Some(observer)) => observer.status(&whose, status),
                    (_, None) => {}
                }
            }
            listener.stuck
        };
        let files = WorkerFiles::new(&self.settings.workers_dir(), &namespace, &name);
        let ordering = pass_orders(&files, commands, given_up, orders);
        let attending = attend(&self.settings, attendance);
        let all = async { tokio::join!(attending, listening) };
        tokio::pin!(all, ordering);
        let (status, stuck) = tokio::select! {
            ended = &mut all => ended,
            () = &mut ordering => all.await,
        };
        // What never began is nothing to look at later.
        if stuck.is_some() && !self.remove {
            remove_by_name(&self.settings, self.service.as_ref(), &namespace, &name).await?;
        }
        Ok(EndedPod {
            title: title.clone(),
            status: status?,
            stuck,
        })
    }

    /// What the crew's urgency, or that of an abort, means to one pod or job.
    fn commands(&self, mut abort: watch::Receiver<Urgency>) -> mpsc::Receiver<WorkerCommand> {
        let (sender, commands) = mpsc::channel(4);
        let mut urgency = self.urgency.clone();
        tokio::spawn(async move {
            let mut given = Urgency::None;
            loop {
                let felt = (*urgency.borrow_and_update()).max(*abort.borrow_and_update());
                let command = match felt {
                    Urgency::Kill => WorkerCommand::Kill,
                    _ => WorkerCommand::Stop { grace: None },
                };
                if felt > given && sender.send(command).await.is_err() {
                    return;
                }
                given = given.max(felt);
                let changed = tokio::select! {
                    changed = urgency.changed() => changed,
                    changed = abort.changed() => changed,
                    () = sender.closed() => return,
                };
                if changed.is_err() {
                    // Who could feel something has gone; the run goes on.
                    return sender.closed().await;
                }
            }
        });
        commands
    }
}

/// How one pod's run ended.
#[derive(Debug, Clone)]
pub struct EndedPod {
    /// The pod.
    pub title: String,
    /// Its last status.
    pub status: PodStatus,
    /// Why it was given up before it began.
    pub stuck: Option<String>,
}

impl Ended {
    fn of_pod(run: EndedPod) -> Ended {
        let failed = run.status.phase.as_deref() == Some("Failed");
        let never_began = run.stuck.is_some();
        let why = match run.stuck {
            Some(reason) => Some(reason),
            None => failed.then(|| why_failed(&run.status)),
        };
        Ended {
            failures: why
                .map(|why| format!("pod {}: {why}", run.title))
                .into_iter()
                .collect(),
            statuses: vec![run.status],
            never_began,
        }
    }
}

/// Hears what a pod's worker tells and passes on what is worth it.
struct Listener<'a> {
    crew: &'a Crew,
    pod: &'a Pod,
    title: &'a str,
    began: Instant,
    ready: bool,
    stuck: Option<String>,
    stop: watch::Sender<Urgency>,
}

impl Listener<'_> {
    fn hear(&mut self, report: &Report) {
        match report {
            Report::Event(event) => self.hear_event(event),
            Report::Status(status) => self.hear_status(status),
        }
    }

    fn hear_event(&mut self, event: &PodEvent) {
        let container = event.container.as_deref().map(|name| format!("/{name}"));
        let line = format!(
            "{}{}: {}: {}",
            self.title,
            container.unwrap_or_default(),
            event.reason,
            event.message
        );
        match event.kind {
            // What ends the run is told once, as its error.
            // A volume that cannot be made keeps the pod from its first container on.
            EventKind::Warning if event.reason == "FailedMount" && self.may_give_up() => {
                self.give_up(event.message.clone(), ENGINE_FAILED);
            }
            EventKind::Warning if self.crew.patience == Patience::None && !self.ready => {
                self.crew.audience.detail(&line);
            }
            EventKind::Warning => self.crew.audience.say(&format!("warning: {line}")),
            EventKind::Normal => self.crew.audience.detail(&line),
        }
    }

    fn hear_status(&mut self, status: &PodStatus) {
        let audience = &self.crew.audience;
        match progress(status) {
            Progress::Ready if !self.ready => {
                self.ready = true;
                let after = write_elapsed(self.began.elapsed());
                let state = match status.phase.as_deref() {
                    Some("Succeeded") => "has done its work",
                    _ => "is ready",
                };
                let mut line = format!("pod {} {state} after {after}", self.title);
                let ports = ports(self.pod);
                if !ports.is_empty() && state == "is ready" {
                    line += &format!(": {}", ports.join(", "));
                }
                match self.crew.show_ready {
                    ShowReady::Yes => audience.ready(self.title, &line),
                    ShowReady::No => audience.detail(&line),
                }
            }
            Progress::Stuck(reason)
                if self.may_give_up() && self.crew.patience == Patience::None =>
            {
                let code = start_failure_code(&reason);
                self.give_up(reason, code);
            }
            Progress::Hopeless(reason) if self.may_give_up() => {
                let code = start_failure_code(&reason);
                self.give_up(reason, code);
            }
            Progress::Looping(reason) if !self.ready => {
                audience.struggles(self.title, &reason);
            }
            Progress::Failed(reason) => {
                let code = match status.reason.as_deref() {
                    Some(NODE_FAILED) => ENGINE_FAILED,
                    _ => 1,
                };
                audience.failed(self.title, &reason, code);
            }
            _ => {}
        }
    }
}

impl Listener<'_> {
    /// Whether the pod has not begun; one that has is never given up, and none twice.
    fn may_give_up(&self) -> bool {
        !self.ready && self.stuck.is_none()
    }

    /// Stops a pod that will not begin.
    fn give_up(&mut self, reason: String, exit_code: u8) {
        self.crew.audience.failed(self.title, &reason, exit_code);
        self.stuck = Some(reason);
        // Its receiver goes when the pod has ended, and then there is nothing to stop.
        let _ = self.stop.send(Urgency::Kill);
    }
}

/// Hands commands on to a worker, and gives up when the listener does.
async fn pass_orders(
    files: &WorkerFiles,
    mut commands: mpsc::Receiver<WorkerCommand>,
    mut given_up: watch::Receiver<Urgency>,
    orders: mpsc::Sender<WorkerCommand>,
) {
    loop {
        let order = tokio::select! {
            Some(command) = commands.recv() => match command {
                WorkerCommand::Stop { grace: None } => stop_order(files),
                command => command,
            },
            Ok(()) = given_up.changed() => WorkerCommand::Kill,
            // Nobody can want anything any more; the run goes on.
            else => return std::future::pending().await,
        };
        if orders.send(order).await.is_err() {
            return;
        }
    }
}

/// `berth stop --time` leaves its wish in a file before it sends the signal.
fn stop_order(files: &WorkerFiles) -> WorkerCommand {
    match files.read_stop_order() {
        Ok(Some(order)) => match order.grace_seconds {
            Some(0) => WorkerCommand::Kill,
            seconds => WorkerCommand::Stop {
                grace: seconds.map(Duration::from_secs),
            },
        },
        Ok(None) => WorkerCommand::Stop { grace: None },
        Err(error) => {
            tracing::warn!("{}", error.chain());
            WorkerCommand::Stop { grace: None }
        }
    }
}
