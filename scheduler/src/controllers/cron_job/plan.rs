//! What a CronJob has to do, as values.

use std::{sync::Arc, time::Duration};

use jiff::{Timestamp, tz::TimeZone};
use k8s_openapi::{
    api::{
        batch::v1::{CronJob, CronJobStatus, Job},
        core::v1::ObjectReference,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::Resource;

use crate::controllers::{names, recorder::Weight};
use crate::schedule::Schedule;

/// The time that a Job was scheduled for.
pub const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// So many missed times are a sign of a wrong clock, and somebody should know.
const MISSED_MOST: usize = 100;

/// One thing to do, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// A Job that is due.
    Create(Box<Job>),
    /// A Job that is replaced, or that history has no room for.
    Delete(Arc<Job>),
}

/// A plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What to do, in order.
    pub actions: Vec<Action>,
    /// The status afterwards, without the Jobs that are made now.
    pub status: CronJobStatus,
    /// What to say.
    pub remarks: Vec<(Weight, &'static str, String)>,
    /// When the next time is.
    pub again: Option<Duration>,
}

/// How a Job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    Failed,
}

fn end_of(job: &Job) -> Option<End> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let mut held = conditions.iter().filter(|is| is.status == "True");
    held.find_map(|is| match is.type_.as_str() {
        "Complete" => Some(End::Complete),
        "Failed" => Some(End::Failed),
        _ => None,
    })
}

/// What a CronJob has to do; `jobs` are those that it owns.
pub fn plan_cron_job(cron: &CronJob, jobs: &[Arc<Job>], now: Timestamp) -> Plan {
    let mut plan = Plan {
        actions: Vec::new(),
        status: cron.status.clone().unwrap_or_default(),
        remarks: Vec::new(),
        again: None,
    };
    observe(&mut plan, jobs);
    trim_history(&mut plan, cron, jobs);
    let spec = &cron.spec;
    if cron.metadata.deletion_timestamp.is_some() || spec.suspend == Some(true) {
        return plan;
    }
    match (Schedule::parse(&spec.schedule), zone_of(cron)) {
        (Ok(schedule), Ok(zone)) => plan_time(&mut plan, cron, jobs, (&schedule, &zone, now)),
        (Err(error), _) => {
            let message = format!("invalid schedule {:?}: {error}", spec.schedule);
            plan.remarks
                .push((Weight::Warning, "UnparseableSchedule", message));
        }
        (_, Err(zone)) => {
            let message = format!(
                "invalid timeZone {zone:?}: it is not in this machine's time zone database"
            );
            plan.remarks
                .push((Weight::Warning, "UnknownTimeZone", message));
        }
    }
    plan
}

/// The zone of a schedule; the name of one that is not known.
fn zone_of(cron: &CronJob) -> Result<TimeZone, String> {
    match cron.spec.time_zone.as_deref() {
        None => Ok(TimeZone::UTC),
        Some(name) => TimeZone::get(name).map_err(|_| name.to_owned()),
    }
}

/// Takes what became of the Jobs into the status.
fn observe(plan: &mut Plan, jobs: &[Arc<Job>]) {
    let active = jobs.iter().filter(|job| end_of(job).is_none());
    let active: Vec<ObjectReference> = active.map(|job| reference(job)).collect();
    let before = plan.status.active.take().unwrap_or_default();
    for gone in before
        .iter()
        .filter(|was| !active.iter().any(|is| is.uid == was.uid))
    {
        let name = gone.name.as_deref().unwrap_or_default();
        let job = jobs.iter().find(|job| job.metadata.uid == gone.uid);
        let remark = match job.and_then(|job| end_of(job)) {
            Some(End::Complete) => format!("Saw completed job: {name}, condition: Complete"),
            Some(End::Failed) => format!("Saw completed job: {name}, condition: Failed"),
            None => {
                let message = format!("Active job went missing: {name}");
                plan.remarks.push((Weight::Normal, "MissingJob", message));
                continue;
            }
        };
        plan.remarks
            .push((Weight::Normal, "SawCompletedJob", remark));
    }
    plan.status.active = Some(active).filter(|active| !active.is_empty());
    let succeeded = jobs
        .iter()
        .filter(|job| end_of(job) == Some(End::Complete))
        .filter_map(|job| {
            job.status
                .as_ref()?
                .completion_time
                .as_ref()
                .map(|time| time.0)
        });
    let known = plan.status.last_successful_time.as_ref().map(|time| time.0);
    plan.status.last_successful_time = succeeded.chain(known).max().map(Time);
}

/// Deletes the oldest of the Jobs that ended, beyond what history keeps.
fn trim_history(plan: &mut Plan, cron: &CronJob, jobs: &[Arc<Job>]) {
    let spec = &cron.spec;
    for (end, limit) in [
        (
            End::Complete,
            spec.successful_jobs_history_limit.unwrap_or(3),
        ),
        (End::Failed, spec.failed_jobs_history_limit.unwrap_or(1)),
    ] {
        let mut ended: Vec<&Arc<Job>> = jobs
            .iter()
            .filter(|job| end_of(job) == Some(end) && job.metadata.deletion_timestamp.is_none())
            .collect();
        ended.sort_by_key(|job| {
            let started = job
                .status
                .as_ref()
                .and_then(|status| status.start_time.clone());
            (started.map(|time| time.0), job.metadata.name.clone())
        });
        let keep = usize::try_from(limit).unwrap_or(0);
        let surplus = ended.len().saturating_sub(keep);
        let gone = ended.into_iter().take(surplus);
        plan.actions
            .extend(gone.map(|job| Action::Delete(Arc::clone(job))));
    }
}

/// Starts the last time that is due and was not started.
fn plan_time(
    plan: &mut Plan,
    cron: &CronJob,
    jobs: &[Arc<Job>],
    (schedule, zone, now): (&Schedule, &TimeZone, Timestamp),
) {
    let spec = &cron.spec;
    let created = cron.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let last = plan.status.last_schedule_time.as_ref().map(|time| time.0);
    let since = last.or(created).unwrap_or(now);
    let deadline = spec.starting_deadline_seconds;
    let deadline = deadline.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    // An "every" counts from the last time, which a deadline must not move.
    let from = match schedule {
        Schedule::Every(_) => since,
        Schedule::Times(_) => {
            let earliest = deadline.and_then(|deadline| now.checked_sub(deadline).ok());
            earliest.map_or(since, |earliest| since.max(earliest))
        }
    };
    let next = match schedule {
        Schedule::Every(_) => schedule.last_between(since, now, zone).map_or_else(
            || schedule.next(since, zone),
            |last| schedule.next(last, zone),
        ),
        Schedule::Times(_) => schedule.next(now, zone),
    };
    plan.again = next.map(|next| Duration::try_from(next.duration_since(now)).unwrap_or_default());
    let Some(due) = schedule.last_between(from, now, zone) else {
        // With a deadline, times before it are missed for good: say so once.
        if let Some(missed) = schedule.last_between(since, now, zone) {
            let message = format!("Missed scheduled time to start a job: {missed}");
            plan.remarks
                .push((Weight::Warning, "MissSchedule", message));
            plan.status.last_schedule_time = Some(Time(missed));
        }
        return;
    };
    let too_late = deadline.is_some_and(|deadline| {
        let late = Duration::try_from(now.duration_since(due)).unwrap_or_default();
        late > deadline
    });
    if too_late {
        let message = format!("Missed scheduled time to start a job: {due}");
        plan.remarks
            .push((Weight::Warning, "MissSchedule", message));
        plan.status.last_schedule_time = Some(Time(due));
        return;
    }
    if schedule.count_between(from, now, zone, MISSED_MOST + 1) > MISSED_MOST {
        let message = format!(
            "too many missed start times (> {MISSED_MOST}). Set or decrease .spec.startingDeadlineSeconds or check clock skew; only the last is started"
        );
        plan.remarks
            .push((Weight::Warning, "TooManyMissedTimes", message));
    }
    start(plan, cron, jobs, (due, zone));
}

/// Makes the Job of a time, as far as others that still run allow it.
fn start(plan: &mut Plan, cron: &CronJob, jobs: &[Arc<Job>], (due, zone): (Timestamp, &TimeZone)) {
    let job = job_of(cron, due, zone);
    let name = &job.metadata.name;
    let active = jobs
        .iter()
        .filter(|job| end_of(job).is_none() && job.metadata.name != *name);
    match cron.spec.concurrency_policy.as_deref() {
        Some("Forbid") if active.clone().next().is_some() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.remarks
                .push((Weight::Normal, "JobAlreadyActive", message.to_owned()));
            return;
        }
        Some("Replace") => {
            let living = active.filter(|job| job.metadata.deletion_timestamp.is_none());
            for old in living {
                plan.actions.push(Action::Delete(Arc::clone(old)));
                if let Some(active) = &mut plan.status.active {
                    active.retain(|of| of.uid != old.metadata.uid);
                }
            }
            plan.status.active = plan.status.active.take().filter(|all| !all.is_empty());
        }
        _ => {}
    }
    plan.status.last_schedule_time = Some(Time(due));
    // It was made, and the note of it was lost.
    if !jobs.iter().any(|job| job.metadata.name == *name) {
        plan.actions.push(Action::Create(Box::new(job)));
    }
}

/// The Job of a CronJob for a time.
pub fn job_of(cron: &CronJob, due: Timestamp, zone: &TimeZone) -> Job {
    let template = cron.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let name = cron.metadata.name.as_deref().unwrap_or_default();
    let scheduled = due.to_zoned(zone.clone());
    let mut annotations = meta.annotations.unwrap_or_default();
    let text = scheduled.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    annotations.insert(SCHEDULED.to_owned(), text);
    // The minute tells times apart; "@every 10s" has several in one.
    let number = match due.as_second() % 60 {
        0 => (due.as_second() / 60).to_string(),
        second => format!("{}-{second}", due.as_second() / 60),
    };
    Job {
        metadata: ObjectMeta {
            name: Some(names::joined(name, &number)),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(cron.controller_owner_ref(&()).into_iter().collect()),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// A Job as the status of its CronJob names it.
pub fn reference(job: &Job) -> ObjectReference {
    let mut reference = job.object_ref(&());
    // A revision would change the status with each change of the Job.
    reference.resource_version = None;
    reference
}

#[cfg(test)]
mod tests;
