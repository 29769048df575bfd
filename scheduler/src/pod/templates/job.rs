//! How many pods a job still needs, as a value.
//!
//! ```text
//! begin ≤ parallelism at a time ─▶ succeeded = completions ─▶ complete
//!   ▲                     │
//!   └── wait, longer ◀── failed ──▶ failed > backoffLimit  ─▶ failed
//! ```
//!
//! A container that is restarted inside its pod counts as a failure too, else a
//! job with `restartPolicy: OnFailure` would never give up.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::api::batch::v1::JobSpec;

use crate::pod::settings::Backoff;

/// One pod of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Numbered {
    /// How many were begun before it.
    pub serial: u32,
    /// Which part of an indexed job is its own.
    pub index: Option<i32>,
    /// How many pods of the same index failed before it.
    pub retry: u32,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Begin these pods after a wait, and look again when one ends.
    Begin {
        /// The pods.
        pods: Vec<Numbered>,
        /// How long failures make them wait.
        after: Duration,
    },
    /// Look again when a pod ends.
    Wait,
    /// All is done.
    Complete,
    /// Too much failed: the pods that run are to be stopped.
    Failed,
}

/// A job under way.
#[derive(Debug, Clone)]
pub struct JobProgress {
    /// None: a pod that succeeds means that there is no work left.
    completions: Option<u32>,
    parallelism: u32,
    backoff_limit: u32,
    indexed: bool,
    active: BTreeMap<u32, (Numbered, u32)>,
    succeeded: u32,
    done: BTreeSet<i32>,
    failures: BTreeMap<i32, u32>,
    failed: u32,
    restarted: u32,
    in_a_row: u32,
    begun: u32,
}

impl JobProgress {
    /// A job of which nothing was begun.
    pub fn new(spec: &JobSpec) -> JobProgress {
        let count = |value: i32| u32::try_from(value).unwrap_or(0);
        JobProgress {
            completions: spec.completions.map(count),
            parallelism: count(spec.parallelism.unwrap_or(1)),
            backoff_limit: count(spec.backoff_limit.unwrap_or(6)),
            indexed: spec.completion_mode.as_deref() == Some("Indexed"),
            active: BTreeMap::new(),
            succeeded: 0,
            done: BTreeSet::new(),
            failures: BTreeMap::new(),
            failed: 0,
            restarted: 0,
            in_a_row: 0,
            begun: 0,
        }
    }

    /// Pods that run, that succeeded, that failed.
    pub fn counts(&self) -> (u32, u32, u32) {
        let active = u32::try_from(self.active.len()).unwrap_or(u32::MAX);
        (active, self.succeeded, self.failed)
    }

    /// What to do now; pods that are to be begun count as active from here on.
    pub fn next(&mut self, backoff: Backoff) -> Next {
        let restarts: u32 = self.active.values().map(|(_, restarts)| restarts).sum();
        if self.failed + self.restarted + restarts > self.backoff_limit {
            return Next::Failed;
        }
        let active = u32::try_from(self.active.len()).unwrap_or(u32::MAX);
        let wanted = match self.completions {
            Some(completions) if self.succeeded >= completions => {
                return if active == 0 {
                    Next::Complete
                } else {
                    Next::Wait
                };
            }
            Some(completions) => completions - self.succeeded,
            None if self.succeeded > 0 => {
                return if active == 0 {
                    Next::Complete
                } else {
                    Next::Wait
                };
            }
            None => self.parallelism,
        };
        let room = wanted.min(self.parallelism).saturating_sub(active);
        let pods: Vec<Numbered> = (0..room).filter_map(|_| self.begin()).collect();
        match pods.is_empty() {
            true => Next::Wait,
            false => Next::Begin {
                pods,
                after: backoff.wait(self.in_a_row),
            },
        }
    }

    fn begin(&mut self) -> Option<Numbered> {
        let index = match (self.indexed, self.completions) {
            (true, Some(completions)) => {
                let busy = |index: i32| {
                    let mut active = self.active.values();
                    self.done.contains(&index) || active.any(|(pod, _)| pod.index == Some(index))
                };
                let completions = i32::try_from(completions).unwrap_or(i32::MAX);
                Some((0..completions).find(|index| !busy(*index))?)
            }
            _ => None,
        };
        let retry = index.and_then(|index| self.failures.get(&index));
        let pod = Numbered {
            serial: self.begun,
            index,
            retry: retry.copied().unwrap_or(0),
        };
        self.begun += 1;
        self.active.insert(pod.serial, (pod, 0));
        Some(pod)
    }

    /// Takes how often containers of a pod that runs were restarted.
    pub fn record_restarts(&mut self, serial: u32, restarts: u32) {
        if let Some((_, known)) = self.active.get_mut(&serial) {
            *known = (*known).max(restarts);
        }
    }

    /// Takes how a pod ended.
    pub fn record_end(&mut self, serial: u32, outcome: Outcome) {
        let Some((pod, restarts)) = self.active.remove(&serial) else {
            return;
        };
        self.restarted += restarts;
        match outcome {
            Outcome::Succeeded => {
                self.succeeded += 1;
                self.in_a_row = 0;
                self.done.extend(pod.index);
            }
            Outcome::Failed => {
                self.failed += 1;
                self.in_a_row += 1;
                if let Some(index) = pod.index {
                    *self.failures.entry(index).or_default() += 1;
                }
            }
        }
    }
}

/// How a pod ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every main container exited with 0.
    Succeeded,
    /// One did not, or the pod was ended.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::{JobProgress, Next, Outcome};
    use crate::pod::settings::Backoff;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn job(mut fields: Value) -> JobProgress {
        fields["template"] = json!({});
        JobProgress::new(&serde_json::from_value(fields).unwrap())
    }

    /// The serials that are begun, and the wait in seconds.
    fn begun(next: Next) -> (Vec<u32>, u64) {
        match next {
            Next::Begin { pods, after } => {
                (pods.iter().map(|pod| pod.serial).collect(), after.as_secs())
            }
            other => panic!("{other:?}"),
        }
    }

    const BACKOFF: Backoff = Backoff::KUBELET;

    #[test]
    fn completions_run_with_bounded_parallelism() {
        let mut job = job(json!({"completions": 3, "parallelism": 2}));
        assert_eq!(begun(job.next(BACKOFF)), (vec![0, 1], 0));
        assert_eq!(job.next(BACKOFF), Next::Wait);
        job.record_end(0, Outcome::Succeeded);
        assert_eq!(begun(job.next(BACKOFF)), (vec![2], 0));
        job.record_end(1, Outcome::Succeeded);
        assert_eq!(job.next(BACKOFF), Next::Wait);
        job.record_end(2, Outcome::Succeeded);
        assert_eq!(job.next(BACKOFF), Next::Complete);
        assert_eq!(job.counts(), (0, 3, 0));
    }

    #[test]
    fn failures_wait_longer_each_time_and_end_the_job_past_the_limit() {
        let mut job = job(json!({"completions": 1, "backoffLimit": 2}));
        let mut waits = Vec::new();
        for serial in 0..3 {
            waits.push(begun(job.next(BACKOFF)).1);
            job.record_end(serial, Outcome::Failed);
        }
        assert_eq!(waits, [0, 10, 20]);
        assert_eq!(job.next(BACKOFF), Next::Failed);
    }

    #[test]
    fn restarts_inside_a_pod_count_as_failures() {
        let mut job = job(json!({"completions": 1, "backoffLimit": 2}));
        begun(job.next(BACKOFF));
        job.record_restarts(0, 2);
        assert_eq!(job.next(BACKOFF), Next::Wait);
        job.record_restarts(0, 3);
        assert_eq!(job.next(BACKOFF), Next::Failed);
    }

    #[test]
    fn each_index_succeeds_once() {
        let mut job = job(json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed"}));
        let Next::Begin { pods, after } = job.next(BACKOFF) else {
            panic!()
        };
        assert_eq!(
            pods.iter().map(|pod| pod.index).collect::<Vec<_>>(),
            [Some(0), Some(1)]
        );
        assert_eq!(after, Duration::ZERO);
        job.record_end(0, Outcome::Failed);
        let Next::Begin { pods, .. } = job.next(BACKOFF) else {
            panic!()
        };
        assert_eq!(
            (pods[0].index, pods[0].retry, pods[0].serial),
            (Some(0), 1, 2)
        );
        job.record_end(2, Outcome::Succeeded);
        job.record_end(1, Outcome::Succeeded);
        assert_eq!(job.next(BACKOFF), Next::Complete);
    }

    #[test]
    fn a_work_queue_is_empty_when_one_pod_succeeded() {
        let mut job = job(json!({"parallelism": 2}));
        assert_eq!(begun(job.next(BACKOFF)).0, [0, 1]);
        job.record_end(1, Outcome::Succeeded);
        assert_eq!(job.next(BACKOFF), Next::Wait);
        job.record_end(0, Outcome::Succeeded);
        assert_eq!(job.next(BACKOFF), Next::Complete);
    }

    #[test]
    fn a_job_without_completions_to_reach_is_complete() {
        assert_eq!(job(json!({"completions": 0})).next(BACKOFF), Next::Complete);
    }
}
