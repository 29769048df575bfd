//! All that one `berth run` runs: pods side by side, jobs pod by pod.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_cri::service::CriService;
use berth_scheduler::pod::events::{EventKind, PodEvent};
use berth_scheduler::pod::worker::NODE_FAILED;
use berth_scheduler::pod::worker::WorkerCommand;
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, Secret};
use tokio::sync::{mpsc, watch};

use super::attend::{Attendance, Report, attend, identity};
use super::audience::Audience;
use super::objects::{job_pod, plan_job};
use super::outcome::{Progress, ports, progress, start_failure_code, why_failed};
use crate::commands::rm::remove_by_name;
use crate::error::{ENGINE_FAILED, Error, Result};
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
    pub async fn run(&self, pods: Vec<Pod>, jobs: Vec<Job>) -> Result<Ended> {
        let (abort, aborted) = watch::channel(Urgency::None);
        let mut runs = FuturesUnordered::new();
        for pod in pods {
            let aborted = aborted.clone();
            runs.push(futures::future::Either::Left(async {
                self.run_pod(pod, aborted).await.map(Ended::of_pod)
            }));
        }
        for job in &jobs {
            runs.push(futures::future::Either::Right(
                self.run_job(job, aborted.clone()),
            ));
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

    /// Runs one pod to its end.
    async fn run_pod(&self, mut pod: Pod, abort: watch::Receiver<Urgency>) -> Result<RunPod> {
        ensure_uid(&mut pod)?;
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
        let listening = async {
            while let Some(report) = reported.recv().await {
                listener.hear(&report);
            }
            listener.stuck
        };
        let files = WorkerFiles::new(&self.settings.workers_dir(), &namespace, &name);
        let ordering = pass_orders(&files, [self.urgency.clone(), abort, given_up], orders);
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
        Ok(RunPod {
            title: title.clone(),
            status: status?,
            stuck,
        })
    }

    /// Runs the pods of a job until enough have succeeded or too many failed.
    async fn run_job(&self, job: &Job, abort: watch::Receiver<Urgency>) -> Result<Ended> {
        let plan = plan_job(job);
        let name = job.metadata.name.clone().unwrap_or_default();
        let (stop, stopped) = watch::channel(Urgency::None);
        let deadline = plan
            .deadline_seconds
            .map(|time| Instant::now() + Duration::from_secs(time));
        let mut left: BTreeSet<i32> = (0..plan.completions.unwrap_or(plan.parallelism)).collect();
        let mut running = FuturesUnordered::new();
        let (mut number, mut succeeded, mut failed) = (0, 0, 0);
        let mut ended = Ended::default();
        let mut failure = None;
        loop {
            let over = *self.urgency.borrow() > Urgency::None
                || *abort.borrow() > Urgency::None
                || *stopped.borrow() > Urgency::None
                || failure.is_some();
            while !over && (running.len() as i32) < plan.parallelism {
                let Some(index) = left.pop_first() else { break };
                let pod = job_pod(job, number, plan.indexed.then_some(index));
                number += 1;
                let stops = first_of(abort.clone(), stopped.clone());
                running.push(async move { (index, self.run_pod(pod, stops.await).await) });
            }
            let outcome = tokio::select! {
                outcome = running.next() => outcome,
                () = sleep_until(deadline), if !over => {
                    ended.failures.push(format!("job {name}: DeadlineExceeded"));
                    let _ = stop.send(Urgency::Stop);
                    continue;
                }
            };
            let Some((index, outcome)) = outcome else {
                break;
            };
            match outcome {
                Ok(run) if run.status.phase.as_deref() == Some("Succeeded") => {
                    succeeded += 1;
                    ended.statuses.push(run.status);
                }
                Ok(run) => {
                    failed += 1;
                    left.insert(index);
                    if failed > plan.backoff_limit && !over {
                        let why = why_failed(&run.status);
                        ended
                            .failures
                            .push(format!("job {name}: BackoffLimitExceeded: {why}"));
                        let _ = stop.send(Urgency::Stop);
                    }
                    ended.statuses.push(run.status);
                }
                Err(error) => {
                    let _ = stop.send(Urgency::Stop);
                    failure.get_or_insert(error);
                }
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let wanted = plan.completions.unwrap_or(1);
        if succeeded >= wanted {
            self.audience
                .say(&format!("job {name} is complete: {succeeded} succeeded"));
        }
        Ok(ended)
    }
}

/// One pod's run.
struct RunPod {
    title: String,
    status: PodStatus,
    stuck: Option<String>,
}

impl Ended {
    fn of_pod(run: RunPod) -> Ended {
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

/// Turns urgency, whoever feels it, into orders for a worker; ends when nobody
/// can feel any more.
async fn pass_orders(
    files: &WorkerFiles,
    sources: [watch::Receiver<Urgency>; 3],
    orders: mpsc::Sender<WorkerCommand>,
) {
    let [mut all, mut abort, mut given_up] = sources;
    let mut given = Urgency::None;
    loop {
        let felt = [&all, &abort, &given_up].map(|source| *source.borrow());
        let urgency = felt.into_iter().max().unwrap_or(Urgency::None);
        if urgency > given {
            given = urgency;
            let order = match urgency {
                Urgency::Kill => WorkerCommand::Kill,
                _ => stop_order(files),
            };
            if orders.send(order).await.is_err() {
                return;
            }
        }
        let changed = tokio::select! {
            changed = all.changed() => changed,
            changed = abort.changed() => changed,
            changed = given_up.changed() => changed,
        };
        if changed.is_err() {
            // One source has gone with its sender; the others may go on, but
            // they go only when the run itself is over.
            return std::future::pending().await;
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

/// A source that feels what either of two feels.
async fn first_of(
    mut left: watch::Receiver<Urgency>,
    mut right: watch::Receiver<Urgency>,
) -> watch::Receiver<Urgency> {
    let (sender, receiver) = watch::channel((*left.borrow()).max(*right.borrow()));
    tokio::spawn(async move {
        loop {
            let changed = tokio::select! {
                changed = left.changed() => changed,
                changed = right.changed() => changed,
                () = sender.closed() => return,
            };
            let felt = (*left.borrow()).max(*right.borrow());
            if changed.is_err() || sender.send(felt).is_err() {
                return;
            }
        }
    });
    receiver
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Gives a pod the uid by which everything of it is found; a later run of the
/// same manifest is another pod.
///
/// # Errors
///
/// The kernel gives no random bytes.
pub fn ensure_uid(pod: &mut Pod) -> Result<()> {
    if pod.metadata.uid.is_some() {
        return Ok(());
    }
    let mut bytes = [0_u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Error::new(format!("read random bytes: {error}")))?;
    // RFC 9562: version 4, variant 10.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    pod.metadata.uid = Some(parts.join("-"));
    Ok(())
}
