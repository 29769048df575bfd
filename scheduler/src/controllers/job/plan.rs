//! What a Job has to do, as values.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    TRACKING, indexes,
    policy::{self, Verdict},
};
use crate::controllers::{
    pods::{self, count},
    queue::Backoff,
    recorder::Weight,
};

const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// How fast a job goes on.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How long failures make the next pod wait.
    pub backoff: Backoff,
    /// The most pods that are made at once.
    pub burst: usize,
}

/// A pod to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct New {
    /// Its index in an indexed job.
    pub index: Option<i32>,
    /// How often that index failed before, where that is limited.
    pub failures: Option<i32>,
}

/// Something to say in an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// Whether somebody should look.
    pub weight: Weight,
    /// One word.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

/// A plan; its parts are carried out in their order here.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The status, with the ends that are counted.
    pub status: JobStatus,
    /// What to say when the status is written.
    pub remarks: Vec<Remark>,
    /// Pods whose end is counted, or need not be: they may vanish.
    pub release: Vec<Arc<Pod>>,
    /// Pods to delete that count as failed.
    pub delete: Vec<Arc<Pod>>,
    /// Pods to delete that do not count.
    pub dismiss: Vec<Arc<Pod>>,
    /// Pods to make.
    pub create: Vec<New>,
    /// Whether the job itself is to be deleted: its time is over.
    pub remove: bool,
    /// When to look again though nothing changes.
    pub again: Option<Duration>,
}

/// Whether the end of a pod is still to be counted.
pub fn is_tracked(pod: &Pod) -> bool {
    let finalizers = pod.metadata.finalizers.iter().flatten();
    finalizers
        .into_iter()
        .any(|finalizer| finalizer == TRACKING)
}

/// A job in the middle of a plan.
struct Draft<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    pods: &'a [Arc<Pod>],
    now: Timestamp,
    pace: &'a Pace,
    /// Indexes that succeeded, those of this look included.
    succeeded: BTreeSet<i32>,
    failed_indexes: BTreeSet<i32>,
    plan: Plan,
}

/// What a Job has to do; `pods` are those that it owns.
pub fn plan_job(job: &Job, pods: &[Arc<Pod>], pace: &Pace, now: Timestamp) -> Plan {
    let empty = JobSpec::default();
    let spec = job.spec.as_ref().unwrap_or(&empty);
    let status = job.status.clone().unwrap_or_default();
    let below = spec.completions.unwrap_or(0);
    let list = |text: &Option<String>| indexes::parse(text.as_deref().unwrap_or_default(), below);
    let mut draft = Draft {
        job,
        spec,
        pods,
        now,
        pace,
        succeeded: list(&status.completed_indexes),
        failed_indexes: list(&status.failed_indexes),
        plan: Plan {
            status,
            remarks: Vec::new(),
            release: Vec::new(),
            delete: Vec::new(),
            dismiss: Vec::new(),
            create: Vec::new(),
            remove: false,
            again: None,
        },
    };
    if draft.is_finished() {
        draft.clean_up();
    } else if job.metadata.deletion_timestamp.is_none() {
        draft.count_ends();
        draft.go_on();
    }
    draft.plan
}

impl Draft<'_> {
    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn active(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.iter().filter(|pod| pods::is_active(pod))
    }

    fn terminating(&self) -> impl Iterator<Item = &Arc<Pod>> {
        let ends = |pod: &&Arc<Pod>| pods::is_terminating(pod) && !pods::has_ended(pod);
        self.pods.iter().filter(ends)
    }

    fn condition(&self, kind: &str) -> Option<&JobCondition> {
        let mut conditions = self.plan.status.conditions.iter().flatten();
        conditions.find(|is| is.type_ == kind && is.status == "True")
    }

    fn is_finished(&self) -> bool {
        self.condition("Complete").is_some() || self.condition("Failed").is_some()
    }

    /// A finished job holds no pod, and goes itself when its time is over.
    fn clean_up(&mut self) {
        let held = self.pods.iter().filter(|pod| is_tracked(pod));
        self.plan.release = held.cloned().collect();
        let Some(ttl) = self.spec.ttl_seconds_after_finished else {
            return;
        };
        let ended = self.condition("Complete").or(self.condition("Failed"));
        let ended = ended.and_then(|is| is.last_transition_time.as_ref());
        let left = left_of(ended.map(|time| time.0), i64::from(ttl), self.now);
        self.plan.remove = left.is_none() && self.job.metadata.deletion_timestamp.is_none();
        self.plan.again = left;
    }

    /// Counts the pods that ended since the last look.
    fn count_ends(&mut self) {
        let mut uncounted = self
            .plan
            .status
            .uncounted_terminated_pods
            .take()
            .unwrap_or_default();
        self.move_counted(&mut uncounted);
        let known: BTreeSet<String> = uncounted
            .succeeded
            .iter()
            .chain(&uncounted.failed)
            .flatten()
            .cloned()
            .collect();
        for pod in self.pods.iter().filter(|pod| is_tracked(pod)) {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            if known.contains(&uid) {
                self.plan.release.push(Arc::clone(pod));
                continue;
            }
            let Some(end) = self.end_of(pod) else {
                continue;
            };
            self.plan.release.push(Arc::clone(pod));
            match end {
                End::Succeeded => {
                    // An index counts once, however many pods had it.
                    if self.is_indexed() {
                        self.succeeded
                            .extend(index_of(pod).filter(|at| self.is_in_range(*at)));
                    }
                    uncounted.succeeded.get_or_insert_default().push(uid);
                }
                End::Failed => uncounted.failed.get_or_insert_default().push(uid),
                End::Ignored => {}
            }
        }
        let status = &mut self.plan.status;
        let is_empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
        if !is_empty(&uncounted.succeeded) || !is_empty(&uncounted.failed) {
            status.uncounted_terminated_pods = Some(uncounted);
        }
        if self.spec.completion_mode.as_deref() == Some("Indexed") {
            status.succeeded = Some(count(self.succeeded.len()));
            status.completed_indexes =
                Some(indexes::format(&self.succeeded)).filter(|text| !text.is_empty());
            self.note_failed_indexes();
        }
    }

    /// Moves the ends whose pods are let go into the counters.
    fn move_counted(&mut self, uncounted: &mut UncountedTerminatedPods) {
        let held: BTreeSet<&str> = self
            .pods
            .iter()
            .filter(|pod| is_tracked(pod))
            .filter_map(|pod| pod.metadata.uid.as_deref())
            .collect();
        let take = |list: &mut Option<Vec<String>>| {
            let before = list.as_ref().map_or(0, Vec::len);
            if let Some(list) = list {
                list.retain(|uid| held.contains(uid.as_str()));
            }
            *list = list.take().filter(|list| !list.is_empty());
            count(before - list.as_ref().map_or(0, Vec::len))
        };
        let succeeded = take(&mut uncounted.succeeded);
        let failed = take(&mut uncounted.failed);
        let status = &mut self.plan.status;
        status.failed = Some(status.failed.unwrap_or(0) + failed);
        status.succeeded = Some(status.succeeded.unwrap_or(0) + succeeded);
    }

    /// How a pod ended, if it did.
    fn end_of(&self, pod: &Pod) -> Option<End> {
        let replaced_late = self.spec.pod_replacement_policy.as_deref() == Some("Failed")
            || self.spec.pod_failure_policy.is_some();
        match pods::phase(pod) {
            "Succeeded" => Some(End::Succeeded),
            "Failed" => Some(match policy::verdict(self.spec, pod) {
                Verdict::Ignore => End::Ignored,
                _ => End::Failed,
            }),
            // It will not succeed any more; where a rule may ask how it ended, that
            // is waited for. One without a node never starts.
            _ if pods::is_terminating(pod) && (!replaced_late || pods::node(pod).is_none()) => {
                Some(End::Failed)
            }
            _ => None,
        }
    }

    fn is_in_range(&self, index: i32) -> bool {
        (0..self.spec.completions.unwrap_or(0)).contains(&index)
    }

    /// Indexes that failed more often than each may.
    fn note_failed_indexes(&mut self) {
        let limit = self.spec.backoff_limit_per_index;
        let failed = self.pods.iter().filter(|pod| pods::phase(pod) == "Failed");
        let for_good = failed.filter(|pod| match policy::verdict(self.spec, pod) {
            Verdict::Ignore => false,
            Verdict::FailIndex => true,
            Verdict::Count | Verdict::FailJob(_) => {
                limit.is_some_and(|limit| failures_before(pod) >= limit)
            }
        });
        let indexes: Vec<i32> = for_good.filter_map(|pod| index_of(pod)).collect();
        self.failed_indexes.extend(indexes);
        let succeeded = &self.succeeded;
        self.failed_indexes
            .retain(|index| !succeeded.contains(index));
        self.plan.status.failed_indexes =
            Some(indexes::format(&self.failed_indexes)).filter(|text| !text.is_empty());
    }

    /// Decides whether it is over, suspended, or goes on, and with how many pods.
    fn go_on(&mut self) {
        let verdict = self.verdict();
        let suspended = self.spec.suspend == Some(true) && verdict.is_none();
        match verdict {
            Some(verdict) => self.end(&verdict),
            None if suspended => self.suspend(),
            None => {
                self.resume();
                self.plan_pods();
            }
        }
        self.count_present();
    }

    fn count_present(&mut self) {
        let gone: BTreeSet<&str> = self
            .plan
            .delete
            .iter()
            .chain(&self.plan.dismiss)
            .filter_map(|pod| pod.metadata.name.as_deref())
            .collect();
        let stays =
            |pod: &&Arc<Pod>| !gone.contains(pod.metadata.name.as_deref().unwrap_or_default());
        let active = self.active().filter(stays).count();
        let ready = self
            .active()
            .filter(stays)
            .filter(|pod| pods::is_ready(pod))
            .count();
        let terminating = self.terminating().count();
        let status = &mut self.plan.status;
        status.active = Some(count(active));
        status.ready = Some(count(ready));
        status.terminating = Some(count(terminating));
    }

    /// Successes and failures, those included that are not yet in the counters.
    fn totals(&self) -> (i32, i32) {
        let status = &self.plan.status;
        let uncounted = status.uncounted_terminated_pods.as_ref();
        let length = |list: Option<&Vec<String>>| list.map_or(0, |list| count(list.len()));
        let succeeded = match self.is_indexed() {
            true => count(self.succeeded.len()),
            false => {
                status.succeeded.unwrap_or(0)
                    + length(uncounted.and_then(|of| of.succeeded.as_ref()))
            }
        };
        let failed =
            status.failed.unwrap_or(0) + length(uncounted.and_then(|of| of.failed.as_ref()));
        (succeeded, failed)
    }

    /// Whether it is over.
    fn verdict(&self) -> Option<Over> {
        let known = |kind: &str| self.condition(kind);
        if let Some(is) = known("FailureTarget") {
            let message = is.message.clone().unwrap_or_default();
            return Some(Over::Failed(is.reason.clone().unwrap_or_default(), message));
        }
        if let Some(is) = known("SuccessCriteriaMet") {
            let message = is.message.clone().unwrap_or_default();
            return Some(Over::Succeeded(
                is.reason.clone().unwrap_or_default(),
                message,
            ));
        }
        let failed =
            |reason: &str, message: &str| Some(Over::Failed(reason.to_owned(), message.to_owned()));
        let by_policy = self.pods.iter().find_map(|pod| {
            let verdict = (pods::phase(pod) == "Failed").then(|| policy::verdict(self.spec, pod));
            match verdict {
                Some(Verdict::FailJob(message)) => Some(message),
                _ => None,
            }
        });
        if let Some(message) = by_policy {
            return failed("PodFailurePolicy", &message);
        }
        let (succeeded, failures) = self.totals();
        if let Some(message) = policy::suffices(self.spec, &self.succeeded) {
            return Some(Over::Succeeded("SuccessPolicy".to_owned(), message));
        }
        let restarts: i32 = self.active().map(|pod| pods::restarts(pod)).sum();
        // Per index where each has a limit of its own; then the job's is none.
        let limit = match self.spec.backoff_limit_per_index {
            Some(_) => self.spec.backoff_limit.unwrap_or(i32::MAX),
            None => self.spec.backoff_limit.unwrap_or(6),
        };
        if failures.saturating_add(restarts) > limit {
            return failed(
                "BackoffLimitExceeded",
                "Job has reached the specified backoff limit",
            );
        }
        if self.deadline() == Deadline::Passed {
            return failed(
                "DeadlineExceeded",
                "Job was active longer than specified deadline",
            );
        }
        if let Some(most) = self.spec.max_failed_indexes
            && count(self.failed_indexes.len()) > most
        {
            return failed(
                "MaxFailedIndexesExceeded",
                "Job has exceeded the specified maximal number of failed indexes",
            );
        }
        let active = self.active().count();
        let reached = || {
            Some(Over::Succeeded(
                "CompletionsReached".to_owned(),
                "Reached expected number of succeeded pods".to_owned(),
            ))
        };
        match self.spec.completions {
            Some(completions) if succeeded >= completions => reached(),
            Some(completions)
                if self.is_indexed()
                    && succeeded + count(self.failed_indexes.len()) >= completions =>
            {
                failed("FailedIndexes", "Job has failed indexes")
            }
            None if succeeded > 0 && active == 0 => reached(),
            _ => None,
        }
    }

    /// Stops what runs; says that it is over when nothing is left to count.
    fn end(&mut self, over: &Over) {
        let active: Vec<Arc<Pod>> = self.active().cloned().collect();
        let (target, last, reason, message) = match over {
            Over::Failed(reason, message) => ("FailureTarget", "Failed", reason, message),
            Over::Succeeded(reason, message) => ("SuccessCriteriaMet", "Complete", reason, message),
        };
        self.set_condition(target, "True", reason, message);
        let left = self.terminating().count() > 0;
        let uncounted = self.plan.status.uncounted_terminated_pods.is_some();
        self.plan.delete = active;
        if !self.plan.delete.is_empty() || left || uncounted {
            return;
        }
        self.set_condition(last, "True", reason, message);
        let remark = match over {
            Over::Succeeded(..) => {
                self.plan.status.completion_time = Some(Time(self.now));
                (Weight::Normal, "Completed", "Job completed".to_owned())
            }
            Over::Failed(reason, message) => {
                (Weight::Warning, failure_word(reason), message.clone())
            }
        };
        self.remark(remark.0, remark.1, remark.2);
        if let Some(ttl) = self.spec.ttl_seconds_after_finished {
            self.plan.again = Some(Duration::from_secs(u64::try_from(ttl).unwrap_or(0)));
        }
    }

    fn suspend(&mut self) {
        self.plan.dismiss = self.active().cloned().collect();
        if self.condition("Suspended").is_none() {
            self.set_condition("Suspended", "True", "JobSuspended", "Job suspended");
            self.remark(Weight::Normal, "Suspended", "Job suspended".to_owned());
        }
        // The deadline does not run while nothing does.
        self.plan.status.start_time = None;
    }

    fn resume(&mut self) {
        if self.condition("Suspended").is_some() {
            self.set_condition("Suspended", "False", "JobResumed", "Job resumed");
            self.remark(Weight::Normal, "Resumed", "Job resumed".to_owned());
        }
        if self.plan.status.start_time.is_none() {
            self.plan.status.start_time = Some(Time(self.now));
        }
        if let Deadline::In(left) = self.deadline() {
            self.plan.again = Some(left);
        }
    }

    fn deadline(&self) -> Deadline {
        let (Some(seconds), Some(start)) = (
            self.spec.active_deadline_seconds,
            self.plan.status.start_time.as_ref(),
        ) else {
            return Deadline::None;
        };
        match left_of(Some(start.0), seconds, self.now) {
            Some(left) => Deadline::In(left),
            None if self.spec.suspend == Some(true) => Deadline::None,
            None => Deadline::Passed,
        }
    }

    /// Makes pods, or dismisses what is too many.
    fn plan_pods(&mut self) {
        let (succeeded, _) = self.totals();
        let parallelism = self.spec.parallelism.unwrap_or(1).max(0);
        let surplus = self.dismiss_doubles();
        let mut active: Vec<Arc<Pod>> = self.active().cloned().collect();
        active.retain(|pod| !surplus.contains(pod.metadata.name.as_deref().unwrap_or_default()));
        let wanted = match self.spec.completions {
            Some(completions) => {
                let open = completions - succeeded - count(self.failed_indexes.len());
                parallelism.min(open.max(0))
            }
            // A work queue that is empty wants no more workers.
            None if succeeded > 0 => count(active.len()).min(parallelism),
            None => parallelism,
        };
        let wanted = usize::try_from(wanted).unwrap_or(0);
        if active.len() > wanted {
            // Those that did the least go.
            active.sort_by_key(|pod| {
                let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
                (
                    pods::is_ready(pod),
                    pods::node(pod).is_some(),
                    std::cmp::Reverse(created),
                    pod.metadata.name.clone(),
                )
            });
            let surplus = active.len() - wanted;
            self.plan.dismiss.extend(active.into_iter().take(surplus));
            return;
        }
        let late = self.spec.pod_replacement_policy.as_deref() == Some("Failed")
            || self.spec.pod_failure_policy.is_some();
        let leaving = if late { self.terminating().count() } else { 0 };
        let room = wanted.saturating_sub(active.len() + leaving);
        if room == 0 {
            return;
        }
        if let Some(wait) = self.wait_after_failures() {
            let again = self.plan.again.map_or(wait, |again| again.min(wait));
            self.plan.again = Some(again);
            return;
        }
        self.plan.create = self.new_pods(room.min(self.pace.burst), &active);
        if room > self.pace.burst {
            self.plan.again = Some(Duration::from_millis(10));
        }
    }

    /// Pods of an index that another has, or that is none, or is done.
    fn dismiss_doubles(&mut self) -> BTreeSet<String> {
        if !self.is_indexed() {
            return BTreeSet::new();
        }
        let mut seen = BTreeSet::new();
        let doubles: Vec<Arc<Pod>> = self
            .active()
            .filter(|pod| {
                let index = index_of(pod)
                    .filter(|index| self.is_in_range(*index) && !self.succeeded.contains(index));
                !index.is_some_and(|index| seen.insert(index))
            })
            .cloned()
            .collect();
        let names = doubles
            .iter()
            .filter_map(|pod| pod.metadata.name.clone())
            .collect();
        self.plan.dismiss.extend(doubles);
        names
    }

    /// How long the failures since the last success make the next pod wait.
    fn wait_after_failures(&self) -> Option<Duration> {
        let ended = |pod: &Arc<Pod>| pods::ended_at(pod);
        let of = |phase: &'static str| {
            self.pods
                .iter()
                .filter(move |pod| pods::phase(pod) == phase)
        };
        let last_success = of("Succeeded").filter_map(ended).max();
        let counted = |pod: &&Arc<Pod>| policy::verdict(self.spec, pod) != Verdict::Ignore;
        let since: Vec<Timestamp> = of("Failed")
            .filter(counted)
            .filter_map(ended)
            .filter(|at| last_success.is_none_or(|success| *at > success))
            .collect();
        let last = since.iter().max().copied()?;
        let failures = u32::try_from(since.len()).unwrap_or(u32::MAX);
        let wait = self.pace.backoff.wait(failures, 0.0);
        let stood = Duration::try_from(self.now.duration_since(last)).unwrap_or_default();
        wait.checked_sub(stood).filter(|left| !left.is_zero())
    }

    fn new_pods(&self, room: usize, active: &[Arc<Pod>]) -> Vec<New> {
        if !self.is_indexed() {
            let new = New {
                index: None,
                failures: None,
            };
            return vec![new; room];
        }
        let busy: BTreeSet<i32> = active.iter().filter_map(|pod| index_of(pod)).collect();
        let mut failures: BTreeMap<i32, i32> = BTreeMap::new();
        for pod in self.pods.iter().filter(|pod| pods::phase(pod) == "Failed") {
            if let Some(index) = index_of(pod) {
                let before = failures.entry(index).or_default();
                *before = (*before).max(failures_before(pod) + 1);
            }
        }
        (0..self.spec.completions.unwrap_or(0))
            .filter(|index| {
                !busy.contains(index)
                    && !self.succeeded.contains(index)
                    && !self.failed_indexes.contains(index)
            })
            .take(room)
            .map(|index| New {
                index: Some(index),
                failures: self
                    .spec
                    .backoff_limit_per_index
                    .map(|_| failures.get(&index).copied().unwrap_or(0)),
            })
            .collect()
    }

    fn set_condition(&mut self, kind: &str, value: &str, reason: &str, message: &str) {
        let conditions = self.plan.status.conditions.get_or_insert_default();
        if conditions.iter().any(|is| {
            is.type_ == kind && is.status == value && is.reason.as_deref() == Some(reason)
        }) {
            return;
        }
        conditions.retain(|is| is.type_ != kind);
        conditions.push(JobCondition {
            type_: kind.to_owned(),
            status: value.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        });
    }

    fn remark(&mut self, weight: Weight, reason: &'static str, message: String) {
        self.plan.remarks.push(Remark {
            weight,
            reason,
            message,
        });
    }
}

/// How a pod ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Succeeded,
    Failed,
    Ignored,
}

/// How a job ended: a reason and a message.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Over {
    Succeeded(String, String),
    Failed(String, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deadline {
    None,
    In(Duration),
    Passed,
}

/// The reason of an event, which is a fixed word.
fn failure_word(reason: &str) -> &'static str {
    let known = [
        "BackoffLimitExceeded",
        "DeadlineExceeded",
        "PodFailurePolicy",
        "MaxFailedIndexesExceeded",
        "FailedIndexes",
    ];
    known
        .into_iter()
        .find(|word| *word == reason)
        .unwrap_or("Failed")
}

/// What is left of so many seconds since a time; none if nothing is.
fn left_of(since: Option<Timestamp>, seconds: i64, now: Timestamp) -> Option<Duration> {
    let allowed = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let stood =
        since.map(|since| Duration::try_from(now.duration_since(since)).unwrap_or_default());
    let left = allowed.checked_sub(stood.unwrap_or_default())?;
    (!left.is_zero()).then_some(left)
}

/// A pod's index in an indexed job.
pub fn index_of(pod: &Pod) -> Option<i32> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(INDEX)?.parse().ok()
}

/// How often a pod's index failed before it.
fn failures_before(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    let count = annotations.and_then(|all| all.get(policy::INDEX_FAILURES));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
