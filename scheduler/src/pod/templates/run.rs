//! Running the pods of a Job, each with a worker of its own.
//!
//! One command ends all of them: it is passed on to every pod that runs, and no
//! other is begun.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobStatus},
        core::v1::{Pod, PodStatus},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::{
    job::{JobProgress, Next, Outcome},
    job_pod,
};
use crate::pod::{
    events::{PodEvent, PodIdentity, PodObserver},
    settings::Backoff,
    worker::{PodWorker, WorkerCommand, WorkerError, create_uid, life::FAR_FUTURE},
};

/// Commands that a pod has not yet read.
const QUEUED: usize = 8;

/// Runs one pod to its end: a worker by itself, or one together with what its
/// caller keeps of each pod.
pub trait RunPod: Clone + Send + Sync + 'static {
    /// Why a pod could not be run.
    type Error: Send + 'static;

    /// Runs a pod until it ends or is told to; see [`PodWorker::run`].
    fn run_pod(
        &self,
        pod: Pod,
        commands: mpsc::Receiver<WorkerCommand>,
        observer: Arc<dyn PodObserver>,
    ) -> impl Future<Output = Result<PodStatus, Self::Error>> + Send;

    /// Removes what a pod that ended has left.
    fn remove_pod(&self, pod: &PodIdentity)
    -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// How long a pod waits that follows one that failed.
    fn backoff(&self) -> Backoff;
}

impl RunPod for PodWorker {
    type Error = WorkerError;

    async fn run_pod(
        &self,
        pod: Pod,
        commands: mpsc::Receiver<WorkerCommand>,
        observer: Arc<dyn PodObserver>,
    ) -> Result<PodStatus, WorkerError> {
        self.run(pod, commands, observer).await
    }

    async fn remove_pod(&self, pod: &PodIdentity) -> Result<(), WorkerError> {
        self.remove(pod).await
    }

    fn backoff(&self) -> Backoff {
        self.config().restart_backoff
    }
}

/// Pods that run, by a number of their own.
struct Pods<R: RunPod> {
    runner: R,
    observer: Arc<dyn PodObserver>,
    restarts: mpsc::UnboundedSender<(u32, u32)>,
    commands: BTreeMap<u32, mpsc::Sender<WorkerCommand>>,
    running: JoinSet<(u32, Result<PodStatus, R::Error>)>,
}

/// Passes on what it is told, and how often containers were restarted.
struct Counting {
    serial: u32,
    observer: Arc<dyn PodObserver>,
    restarts: mpsc::UnboundedSender<(u32, u32)>,
}

impl PodObserver for Counting {
    fn event(&self, event: &PodEvent) {
        self.observer.event(event);
    }

    fn status(&self, pod: &PodIdentity, status: &PodStatus) {
        self.observer.status(pod, status);
        let init = status.init_container_statuses.iter().flatten();
        let restarts: i32 = init
            .chain(status.container_statuses.iter().flatten())
            .map(|container| container.restart_count)
            .sum();
        // Nobody counts any more when the job is over.
        let _ = self
            .restarts
            .send((self.serial, u32::try_from(restarts).unwrap_or(0)));
    }
}

impl<R: RunPod> Pods<R> {
    fn new(
        runner: &R,
        observer: Arc<dyn PodObserver>,
    ) -> (Pods<R>, mpsc::UnboundedReceiver<(u32, u32)>) {
        let (restarts, counted) = mpsc::unbounded_channel();
        let pods = Pods {
            runner: runner.clone(),
            observer,
            restarts,
            commands: BTreeMap::new(),
            running: JoinSet::new(),
        };
        (pods, counted)
    }

    /// Starts a worker for a pod, after a wait that a command cuts short.
    fn begin(&mut self, serial: u32, pod: Pod, after: Duration) {
        let (commands, mut heard) = mpsc::channel(QUEUED);
        self.commands.insert(serial, commands);
        let runner = self.runner.clone();
        let observer = Arc::new(Counting {
            serial,
            observer: Arc::clone(&self.observer),
            restarts: self.restarts.clone(),
        });
        self.running.spawn(async move {
            if !after.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(after) => {}
                    Some(_) = heard.recv() => return (serial, Ok(PodStatus::default())),
                }
            }
            (serial, runner.run_pod(pod, heard, observer).await)
        });
    }

    /// Passes a command on to every pod that runs.
    fn command(&self, command: WorkerCommand) {
        for pod in self.commands.values() {
            // A full queue holds a command of the same kind already; a closed
            // one is of a pod that ends by itself.
            let _ = pod.try_send(command.clone());
        }
    }

    /// Waits for the next pod to end; never, if none runs.
    async fn ended(&mut self) -> (u32, Result<PodStatus, R::Error>) {
        loop {
            match self.running.join_next().await {
                Some(Ok(ended)) => {
                    self.commands.remove(&ended.0);
                    return ended;
                }
                // A broken invariant in a worker is one here too. Its pod runs
                // on, to be found by its labels.
                Some(Err(error)) if error.is_panic() => {
                    std::panic::resume_unwind(error.into_panic())
                }
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Ends what runs and waits for it, so that an error leaves no pod alone.
    async fn end_all(&mut self, command: WorkerCommand) {
        self.command(command);
        while self.running.join_next().await.is_some() {}
    }
}

/// Runs a job until it is complete, has failed, or is told to end.
///
/// # Errors
///
/// The first pod that could not be run; the others were stopped.
pub async fn run_job<R: RunPod>(
    runner: &R,
    job: &Job,
    mut commands: mpsc::Receiver<WorkerCommand>,
    observer: Arc<dyn PodObserver>,
) -> Result<JobStatus, R::Error> {
    let spec = job.spec.clone().unwrap_or_default();
    let backoff = runner.backoff();
    let start = Timestamp::now();
    let deadline = spec.active_deadline_seconds.map_or(FAR_FUTURE, |seconds| {
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    });
    let deadline = Instant::now() + deadline;
    let mut progress = JobProgress::new(&spec);
    let (mut pods, mut counted) = Pods::new(runner, observer);
    let mut identities = Vec::new();
    let mut verdict: Option<Verdict> = None;
    let mut listening = true;
    let verdict = loop {
        if verdict.is_none() {
            match progress.next(backoff) {
                Next::Begin {
                    pods: wanted,
                    after,
                } => {
                    for numbered in wanted {
                        let mut pod = job_pod(job, numbered);
                        let uid = create_uid();
                        pod.metadata.uid = Some(uid.clone());
                        identities.push(identity(&pod, uid));
                        pods.begin(numbered.serial, pod, after);
                    }
                }
                Next::Wait => {}
                Next::Complete => verdict = Some(Verdict::Complete),
                Next::Failed => {
                    verdict = Some(Verdict::Failed(
                        "BackoffLimitExceeded",
                        "Job has reached the specified backoff limit",
                    ));
                    pods.command(WorkerCommand::Stop { grace: None });
                }
            }
        }
        if let Some(verdict) = &verdict
            && pods.running.is_empty()
        {
            break *verdict;
        }
        tokio::select! {
            command = commands.recv(), if listening => match command {
                Some(command) => {
                    verdict.get_or_insert(Verdict::Stopped);
                    pods.command(command);
                }
                None => listening = false,
            },
            () = tokio::time::sleep_until(deadline), if verdict.is_none() => {
                verdict = Some(Verdict::Failed("DeadlineExceeded", "Job was active longer than specified deadline"));
                pods.command(WorkerCommand::Stop { grace: None });
            }
            Some((serial, restarts)) = counted.recv() => progress.record_restarts(serial, restarts),
            (serial, ended) = pods.ended() => match ended {
                Err(error) => {
                    pods.end_all(WorkerCommand::Stop { grace: None }).await;
                    return Err(error);
                }
                Ok(status) => progress.record_end(serial, outcome(&status)),
            }
        }
    };
    if spec.ttl_seconds_after_finished == Some(0) {
        for pod in &identities {
            runner.remove_pod(pod).await?;
        }
    }
    Ok(status(&progress, verdict, start))
}

/// Why a job begins no more pods.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    Complete,
    Failed(&'static str, &'static str),
    Stopped,
}

fn outcome(status: &PodStatus) -> Outcome {
    match status.phase.as_deref() {
        Some("Succeeded") => Outcome::Succeeded,
        _ => Outcome::Failed,
    }
}

fn identity(pod: &Pod, uid: String) -> PodIdentity {
    let metadata = &pod.metadata;
    PodIdentity {
        namespace: metadata
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned()),
        name: metadata.name.clone().unwrap_or_default(),
        uid,
    }
}

fn status(progress: &JobProgress, verdict: Verdict, start: Timestamp) -> JobStatus {
    let now = Timestamp::now();
    let (active, succeeded, failed) = progress.counts();
    let number = |count: u32| Some(i32::try_from(count).unwrap_or(i32::MAX));
    let condition = |kind: &str, reason: Option<&str>, message: Option<&str>| JobCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: reason.map(str::to_owned),
        message: message.map(str::to_owned),
        last_transition_time: Some(Time(now)),
        ..Default::default()
    };
    JobStatus {
        active: number(active),
        succeeded: number(succeeded),
        failed: number(failed),
        start_time: Some(Time(start)),
        completion_time: matches!(verdict, Verdict::Complete).then_some(Time(now)),
        conditions: match verdict {
            Verdict::Complete => Some(vec![condition("Complete", None, None)]),
            Verdict::Failed(reason, message) => {
                Some(vec![condition("Failed", Some(reason), Some(message))])
            }
            Verdict::Stopped => None,
        },
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
