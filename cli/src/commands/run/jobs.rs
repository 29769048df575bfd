//! The pods of a Job, each attended like any other pod of a run.
//!
//! How many pods there are to be, and when it is enough, the scheduler knows;
//! here each of them gets its files, so that `berth ps`, `logs` and `stop` find it.

use std::sync::{Arc, Mutex};

use berth_scheduler::pod::events::{PodEvent, PodIdentity, PodObserver};
use berth_scheduler::pod::settings::Backoff;
use berth_scheduler::pod::templates::run::{self, RunPod};
use berth_scheduler::pod::worker::WorkerCommand;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::mpsc;

use super::crew::{Crew, Ended};
use super::outcome::why_failed;
use crate::commands::rm::remove_by_name;
use crate::error::{Error, Result};
use crate::objects::title;

/// Runs a job's pods until enough have succeeded, too many failed, or it is told to end.
///
/// # Errors
///
/// What kept a pod from running.
pub async fn run_job(
    crew: &Arc<Crew>,
    job: Job,
    commands: mpsc::Receiver<WorkerCommand>,
) -> Result<Ended> {
    let runner = Attended {
        crew: Arc::clone(crew),
        statuses: Arc::default(),
    };
    let status = run::run_job(&runner, &job, commands, Arc::new(Nobody)).await?;
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let name = title(namespace, job.metadata.name.as_deref().unwrap_or_default());
    let statuses = runner.take_statuses();
    let failures = failure(&status, &statuses)
        .map(|why| format!("job {name}: {why}"))
        .into_iter()
        .collect();
    if condition(&status, "Complete").is_some() {
        let succeeded = status.succeeded.unwrap_or(0);
        crew.audience
            .say(&format!("job {name} is complete: {succeeded} succeeded"));
    }
    Ok(Ended {
        statuses,
        failures,
        never_began: false,
    })
}

/// Why a job failed, if it did: its own reason, then that of its last pod.
fn failure(status: &JobStatus, pods: &[PodStatus]) -> Option<String> {
    let reason = condition(status, "Failed")?;
    let last = pods
        .iter()
        .rfind(|pod| pod.phase.as_deref() == Some("Failed"));
    Some(match last {
        Some(pod) => format!("{reason}: {}", why_failed(pod)),
        None => reason.to_owned(),
    })
}

/// The reason of a condition that holds.
fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a str> {
    let mut conditions = status.conditions.iter().flatten();
    let found = conditions.find(|condition| condition.type_ == kind && condition.status == "True");
    found.map(|condition| condition.reason.as_deref().unwrap_or_default())
}

/// Runs a job's pods as the crew runs others.
#[derive(Clone)]
struct Attended {
    crew: Arc<Crew>,
    statuses: Arc<Mutex<Vec<PodStatus>>>,
}

impl Attended {
    fn take_statuses(&self) -> Vec<PodStatus> {
        let mut statuses = self
            .statuses
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::take(&mut statuses)
    }
}

impl RunPod for Attended {
    type Error = Error;

    async fn run_pod(
        &self,
        pod: Pod,
        commands: mpsc::Receiver<WorkerCommand>,
        observer: Arc<dyn PodObserver>,
    ) -> Result<PodStatus> {
        let ended = self.crew.run_pod(pod, commands, Some(observer)).await?;
        // Another pod of the same template would not begin either.
        if let Some(reason) = ended.stuck {
            return Err(Error::new(format!("pod {}: {reason}", ended.title)));
        }
        let mut statuses = self
            .statuses
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        statuses.push(ended.status.clone());
        Ok(ended.status)
    }

    async fn remove_pod(&self, pod: &PodIdentity) -> Result<()> {
        let service = self.crew.service.as_ref();
        remove_by_name(&self.crew.settings, service, &pod.namespace, &pod.name).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::KUBELET
    }
}

/// The crew has told all there is to tell.
struct Nobody;

impl PodObserver for Nobody {
    fn event(&self, _event: &PodEvent) {}

    fn status(&self, _pod: &PodIdentity, _status: &PodStatus) {}
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_that_failed_says_so_with_its_last_pod_s_reason() {
        let status: JobStatus = serde_json::from_value(json!({"conditions": [
            {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]}))
        .unwrap();
        let pods: Vec<PodStatus> = serde_json::from_value(json!([
            {"phase": "Failed", "reason": "Evicted"},
            {"phase": "Succeeded"},
        ]))
        .unwrap();
        let why = failure(&status, &pods);
        assert_eq!(why.as_deref(), Some("BackoffLimitExceeded: Evicted"));
        assert_eq!(failure(&JobStatus::default(), &pods), None);
    }
}
