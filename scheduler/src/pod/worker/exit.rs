//! A container's end: waiting for it, bringing it about, telling of it.

use std::{path::Path, time::Duration};

use berth_cri::v1;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerState, ContainerStateRunning, ContainerStateTerminated},
    apimachinery::pkg::apis::meta::v1::Time,
};
use tonic::Code;

use super::{last_words, life::Life};
use crate::pod::{
    plan::container::{self, ContainerPlan},
    volumes::mounts,
};

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The container's id.
    pub id: String,
    /// Its exit code; 128 and the signal's number where a signal ended it.
    pub code: i32,
    /// One word.
    reason: String,
    /// What the runtime says.
    message: String,
    started: Timestamp,
    finished: Timestamp,
}

impl Exit {
    /// The end that a runtime tells of.
    pub fn of(status: &v1::ContainerStatus) -> Exit {
        let reason = match (status.reason.as_str(), status.exit_code) {
            ("", 0) => "Completed",
            ("", _) => "Error",
            (reason, _) => reason,
        };
        Exit {
            id: status.id.clone(),
            code: status.exit_code,
            reason: reason.to_owned(),
            message: status.message.clone(),
            started: timestamp(status.started_at),
            finished: timestamp(status.finished_at),
        }
    }

    /// A container whose program could not be started.
    pub fn not_started(id: &str, message: &str, now: Timestamp) -> Exit {
        Exit {
            id: id.to_owned(),
            // As a shell's for a command that cannot be run.
            code: 128,
            reason: "StartError".to_owned(),
            message: message.to_owned(),
            started: now,
            finished: now,
        }
    }

    /// A container that the node knows nothing of any more.
    fn unknown(id: &str, message: &str) -> Exit {
        let now = Timestamp::now();
        Exit {
            id: id.to_owned(),
            // As though SIGKILL had ended it: nothing better is known.
            code: 137,
            reason: "ContainerStatusUnknown".to_owned(),
            message: message.to_owned(),
            started: now,
            finished: now,
        }
    }

    /// How long it ran.
    pub fn ran_for(&self) -> Duration {
        between(self.started, self.finished)
    }

    /// How long ago it ended.
    pub fn age(&self) -> Duration {
        between(self.finished, Timestamp::now())
    }

    /// The end as the API shows it.
    pub fn state(&self, runtime: &str, last_words: Option<String>) -> ContainerState {
        let own = (!self.message.is_empty()).then(|| self.message.clone());
        ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: Some(format!("{runtime}://{}", self.id)),
                exit_code: self.code,
                reason: Some(self.reason.clone()),
                message: last_words.or(own),
                started_at: Some(Time(self.started)),
                finished_at: Some(Time(self.finished)),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// What the container said as it ended.
    pub fn last_words(&self, life: &Life, plan: &ContainerPlan, attempt: u32) -> Option<String> {
        let file = mounts::message_file(&life.volumes, plan.name(), attempt);
        let said = last_words::read_message(&file);
        let policy = plan.spec.termination_message_policy.as_deref();
        if said.is_some() || self.code == 0 || policy != Some("FallbackToLogsOnError") {
            return said;
        }
        let log = Path::new(&life.plan.sandbox.log_directory);
        last_words::read_log_end(&log.join(container::log_path(plan.name(), attempt)))
    }
}

/// Waits until a container has ended.
pub async fn wait(life: &Life, id: &str) -> Exit {
    let mut pulse = life.pulse();
    loop {
        if let Some(exit) = observe(life, id).await {
            return exit;
        }
        pulse.beat().await;
    }
}

/// The end of a container whose sandbox is gone.
pub async fn observe_last(life: &Life, id: &str) -> Exit {
    let seen = observe(life, id).await;
    seen.unwrap_or_else(|| Exit::unknown(id, "the container's sandbox is gone"))
}

/// A container's end, if it has come; a node that does not answer knows of none.
pub async fn observe(life: &Life, id: &str) -> Option<Exit> {
    let request = v1::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: false,
    };
    match life.service.container_status(request).await {
        Ok(reply) => {
            let status = reply.status?;
            (status.state() == v1::ContainerState::ContainerExited).then(|| Exit::of(&status))
        }
        Err(status) if status.code() == Code::NotFound => {
            Some(Exit::unknown(id, "the container is gone"))
        }
        Err(_) => None,
    }
}

/// Stops a container: the signal, the grace, SIGKILL.
pub async fn stop(life: &Life, id: &str, grace: Duration) -> Exit {
    /// How long an end may take to show after the runtime brought it about.
    const PATIENCE: Duration = Duration::from_secs(10);
    let whole = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
    let request = v1::StopContainerRequest {
        container_id: id.to_owned(),
        timeout: i64::try_from(whole).unwrap_or(i64::MAX),
    };
    let stopped = life.service.stop_container(request).await;
    if let Err(status) = &stopped
        && status.code() != Code::NotFound
    {
        let text = format!("container {id} was not stopped: {}", status.message());
        life.board.warning(None, "FailedKillPod", text);
    }
    let ended = tokio::time::timeout(PATIENCE, wait(life, id)).await;
    ended.unwrap_or_else(|_| Exit::unknown(id, "the container did not end when it was stopped"))
}

/// A container that runs, as the API shows it.
pub fn running(started: Timestamp) -> ContainerState {
    ContainerState {
        running: Some(ContainerStateRunning {
            started_at: Some(Time(started)),
        }),
        ..Default::default()
    }
}

/// The CRI's nanoseconds since 1970; now, where it has none.
pub fn timestamp(nanos: i64) -> Timestamp {
    match nanos {
        0 => Timestamp::now(),
        nanos => Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_else(|_| Timestamp::now()),
    }
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    // A clock that was set back makes no time at all.
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}
