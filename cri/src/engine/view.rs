//! What a container is at this moment, from records, monitor and exit files.
//!
//! ```text
//! monitor knows it ───────────────▶ created, running, exited: its word, or what it
//!                                   has said before and the kernel vouches for
//! exit file or record of the exit ▶ exited
//! start failed ───────────────────▶ exited, the program never ran
//! none of these, pod stopped ─────▶ exited, nobody saw how
//! none of these, monitor answers ─▶ created: its start makes it
//! none of these ──────────────────▶ unknown: it may run without a monitor
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use berth_runtime::monitor::protocol::{
    ContainerRecord as Live, ContainerState as LiveState, ExitRecord,
};

use super::error::Error;
use super::monitor_link::{self, Sent};
use super::records::{ContainerPhase, ContainerRecord, PodPhase, PodRecord, no_such_container};
use super::{Engine, records};
use crate::v1::ContainerState;

/// The status of a program whose end nobody saw.
const UNKNOWN_EXIT_CODE: i32 = 255;

/// A container with its state.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerView {
    /// What it was asked to be.
    pub record: Arc<ContainerRecord>,
    /// Where it is in its life.
    pub state: ContainerState,
    /// Its init, as the host sees it; 0 when there is none.
    pub pid: i32,
    /// Nanoseconds since the epoch; 0 while it was not started.
    pub started_at: i64,
    /// Nanoseconds since the epoch; 0 while it has not ended.
    pub finished_at: i64,
    /// The status, once it has ended.
    pub exit_code: i32,
    /// One word: `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown`.
    pub reason: &'static str,
    /// One sentence, where there is more to say.
    pub message: String,
}

/// What was seen of a container from outside its record.
#[derive(Debug, Clone, Default)]
struct Seen {
    live: Option<Live>,
    exit: Option<ExitRecord>,
    /// The pod has a monitor that tells what it knows.
    monitor_answers: bool,
}

/// Puts together what was seen. Pure.
fn judge(record: Arc<ContainerRecord>, pod: PodPhase, seen: &Seen) -> ContainerView {
    let mut view = ContainerView {
        state: ContainerState::ContainerExited,
        pid: 0,
        started_at: 0,
        finished_at: 0,
        exit_code: 0,
        reason: "",
        message: String::new(),
        record,
    };
    let live_exit = seen.live.as_ref().and_then(|live| live.exit.as_ref());
    let exit = live_exit
        .or(seen.exit.as_ref())
        .or(view.record.exit.as_ref())
        .cloned();
    if let Some(failure) = view.record.start_failure.clone() {
        view.finished_at = failure.at;
        view.exit_code = failure.exit_code;
        view.reason = "StartError";
        view.message = failure.message;
    } else if let Some(exit) = exit {
        view.started_at = exit.started_at;
        view.finished_at = exit.finished_at;
        view.exit_code = exit.exit_code;
        view.reason = reason_of(&exit);
    } else if let Some(live) = &seen.live {
        view.pid = live.pid;
        view.started_at = live.started_at;
        view.state = match live.state {
            LiveState::Created => ContainerState::ContainerCreated,
            LiveState::Running => ContainerState::ContainerRunning,
            LiveState::Exited => ContainerState::ContainerExited,
        };
    } else if seen.monitor_answers && pod == PodPhase::Ready {
        // Whoever made it was killed before the OCI runtime was asked, or heard that it
        // failed: its start asks again.
        view.state = ContainerState::ContainerCreated;
    } else {
        view.exit_code = UNKNOWN_EXIT_CODE;
        view.reason = "Unknown";
        if pod == PodPhase::Stopped {
            view.message = "the pod's monitor was gone before it could tell how this ended".into();
        } else {
            view.state = ContainerState::ContainerUnknown;
            view.message = "the pod's monitor does not answer".into();
        }
    }
    view
}

fn reason_of(exit: &ExitRecord) -> &'static str {
    match (exit.oom_killed, exit.exit_code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        (false, _) => "Error",
    }
}

impl Engine {
    /// One container by its id or the beginning of it.
    ///
    /// # Errors
    ///
    /// `NotFound`, also for one that is still being made.
    pub async fn view(&self, wanted: &str) -> Result<ContainerView, Error> {
        let record = self.container(wanted)?;
        let pod = self
            .records()
            .read_pod(&record.pod_id)?
            .ok_or_else(|| no_such_container(wanted))?;
        let id = record.id.clone();
        self.views_of(&pod, vec![Arc::new(record)])
            .await?
            .into_iter()
            .find(|view| view.record.id == id)
            .ok_or_else(|| no_such_container(wanted))
    }

    /// All containers of a sandbox that were made.
    ///
    /// # Errors
    ///
    /// `Storage`.
    pub async fn views(&self, pod: &PodRecord) -> Result<Vec<ContainerView>, Error> {
        let listing = self.records().list_containers(&pod.id)?;
        for error in &listing.damaged {
            tracing::error!("{}", error.chain());
        }
        let made = |record: &Arc<ContainerRecord>| record.phase == ContainerPhase::Made;
        let records = listing.records.into_iter().filter(made).collect();
        self.views_of(pod, records).await
    }

    async fn views_of(
        &self,
        pod: &PodRecord,
        records: Vec<Arc<ContainerRecord>>,
    ) -> Result<Vec<ContainerView>, Error> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let pod_dir = self.paths().pod(&pod.id);
        let ids = records.iter().map(|record| &*record.id);
        let live = match self.witnesses().running(&pod.id, ids) {
            Some(live) => Some(live),
            None => self.ask_monitor(&pod.id).await?,
        };
        let monitor_answers = live.is_some();
        let mut live: HashMap<String, Live> = live
            .unwrap_or_default()
            .into_iter()
            .map(|live| (live.id.clone(), live))
            .collect();
        records
            .into_iter()
            .map(|record| {
                let live = live.remove(&record.id);
                let seen = Seen {
                    // A monitor that answers knows every exit that it wrote down.
                    exit: match &live {
                        Some(_) => None,
                        None => monitor_link::read_exit(&pod_dir, &record.id)?,
                    },
                    live,
                    monitor_answers,
                };
                Ok(judge(record, pod.phase, &seen))
            })
            .collect()
    }

    /// What a pod's monitor says of its containers; none when no monitor answers.
    async fn ask_monitor(&self, pod_id: &str) -> Result<Option<Vec<Live>>, Error> {
        let pod_dir = self.paths().pod(pod_id);
        let answer = monitor_link::status_and_connection(&pod_dir).await?;
        Ok(answer.map(|(told, sent)| {
            self.keep_word(pod_id, &told, sent);
            told
        }))
    }

    /// Keeps what a monitor has said, as long as the kernel vouches for it.
    pub(super) fn keep_word(&self, pod_id: &str, told: &[Live], sent: Sent) {
        if let Some(connection) = sent.into_connection() {
            self.witnesses().note(pod_id, connection, told);
        }
    }

    /// Whether a pod's monitor answers.
    pub(super) async fn has_monitor(&self, pod_id: &str) -> bool {
        self.witnesses().sees_monitor(pod_id)
            || matches!(self.ask_monitor(pod_id).await, Ok(Some(_)))
    }

    /// The record of a container that was made.
    ///
    /// # Errors
    ///
    /// `NotFound`, also for one that is still being made.
    pub fn container(&self, wanted: &str) -> Result<records::ContainerRecord, Error> {
        self.records()
            .find_container(wanted)?
            .filter(|record| record.phase == ContainerPhase::Made)
            .ok_or_else(|| no_such_container(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::records::StartFailure;
    use crate::engine::records::tests::container;

    fn exit(code: i32, oom_killed: bool) -> ExitRecord {
        ExitRecord {
            id: "c".to_owned(),
            exit_code: code,
            signal: None,
            oom_killed,
            started_at: 1,
            finished_at: 2,
        }
    }

    fn live(state: LiveState) -> Live {
        Live {
            id: "c".to_owned(),
            pid: 42,
            state,
            created_at: 1,
            started_at: 1,
            exit: None,
        }
    }

    fn state(seen: &Seen, pod: PodPhase) -> (ContainerState, i32, &'static str) {
        let view = judge(Arc::new(container("p", "c")), pod, seen);
        (view.state, view.exit_code, view.reason)
    }

    #[test]
    fn the_monitors_word_counts_while_there_is_no_exit() {
        for (live_state, expected) in [
            (LiveState::Created, ContainerState::ContainerCreated),
            (LiveState::Running, ContainerState::ContainerRunning),
        ] {
            let seen = Seen {
                live: Some(live(live_state)),
                ..Seen::default()
            };
            assert_eq!(state(&seen, PodPhase::Ready), (expected, 0, ""));
        }
    }

    #[test]
    fn an_exit_counts_whoever_saw_it() {
        let on_disk = Seen {
            exit: Some(exit(0, false)),
            ..Seen::default()
        };
        assert_eq!(
            state(&on_disk, PodPhase::Stopped),
            (ContainerState::ContainerExited, 0, "Completed")
        );
        let mut told = live(LiveState::Exited);
        told.exit = Some(exit(137, true));
        let told = Seen {
            live: Some(told),
            ..Seen::default()
        };
        assert_eq!(
            state(&told, PodPhase::Ready),
            (ContainerState::ContainerExited, 137, "OOMKilled")
        );
        let mut record = container("p", "c");
        record.exit = Some(exit(3, false));
        let view = judge(Arc::new(record), PodPhase::Stopped, &Seen::default());
        assert_eq!((view.exit_code, view.reason), (3, "Error"));
    }

    #[test]
    fn a_program_that_never_ran_says_why() {
        let mut record = container("p", "c");
        record.start_failure = Some(StartFailure {
            at: 9,
            exit_code: 127,
            message: "no such file".to_owned(),
        });
        let view = judge(Arc::new(record), PodPhase::Ready, &Seen::default());
        assert_eq!(view.state, ContainerState::ContainerExited);
        assert_eq!((view.exit_code, view.reason), (127, "StartError"));
        assert_eq!(view.message, "no such file");
        assert_eq!(view.finished_at, 9);
    }

    #[test]
    fn without_a_witness_it_is_unknown_until_the_pod_is_stopped() {
        let nothing = Seen::default();
        assert_eq!(
            state(&nothing, PodPhase::Ready),
            (ContainerState::ContainerUnknown, 255, "Unknown")
        );
        let unknown_to_its_monitor = Seen {
            monitor_answers: true,
            ..Seen::default()
        };
        assert_eq!(
            state(&unknown_to_its_monitor, PodPhase::Ready),
            (ContainerState::ContainerCreated, 0, "")
        );
        assert_eq!(
            state(&nothing, PodPhase::Stopped),
            (ContainerState::ContainerExited, 255, "Unknown")
        );
    }
}
