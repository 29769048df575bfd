use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::{
    api::batch::v1::{CronJob, Job},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::{Value, json};

use super::{Action, Plan, plan_cron_job};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn cron(spec: Value) -> CronJob {
    let mut all = json!({
        "metadata": {"name": "backup", "namespace": "shop", "uid": "cron", "creationTimestamp": "2026-01-01T00:00:30Z"},
        "spec": {"schedule": "*/10 * * * *", "jobTemplate": {
            "metadata": {"labels": {"app": "backup"}}, "spec": {"template": {}}}},
    });
    json_patch::merge(&mut all, &json!({ "spec": spec }));
    serde_json::from_value(all).unwrap()
}

fn job(name: &str, end: Option<&str>) -> Arc<Job> {
    let conditions = end.map(|end| json!([{"type": end, "status": "True"}]));
    let mut job =
        json!({"metadata": {"name": name, "uid": name}, "status": {"conditions": conditions}});
    if end.is_some() {
        job["status"]["startTime"] = json!(format!("2026-01-01T00:00:{:0>2}Z", &name[1..]));
        job["status"]["completionTime"] = json!("2026-01-01T00:07:00Z");
    }
    Arc::new(serde_json::from_value(job).unwrap())
}

fn created(plan: &Plan) -> Vec<String> {
    let made = plan.actions.iter().filter_map(|action| match action {
        Action::Create(job) => job.metadata.name.clone(),
        Action::Delete(_) => None,
    });
    made.collect()
}

fn deleted(plan: &Plan) -> Vec<String> {
    let gone = plan.actions.iter().filter_map(|action| match action {
        Action::Delete(job) => job.metadata.name.clone(),
        Action::Create(_) => None,
    });
    gone.collect()
}

fn reasons(plan: &Plan) -> Vec<&str> {
    plan.remarks.iter().map(|(_, reason, _)| *reason).collect()
}

#[test]
fn a_time_makes_one_job_named_by_its_minute() {
    let mut cron = cron(json!({}));
    let early = plan_cron_job(&cron, &[], at("2026-01-01T00:09:59Z"));
    assert_eq!(created(&early), [""; 0]);
    assert_eq!(early.again.unwrap().as_secs(), 1);
    let due = plan_cron_job(&cron, &[], at("2026-01-01T00:10:02Z"));
    let minute = at("2026-01-01T00:10:00Z").as_second() / 60;
    let name = format!("backup-{minute}");
    assert_eq!(created(&due), std::slice::from_ref(&name));
    assert_eq!(due.again.unwrap().as_secs(), 598);
    let Action::Create(made) = &due.actions[0] else {
        panic!()
    };
    let meta = &made.metadata;
    assert_eq!(meta.labels.as_ref().unwrap()["app"], "backup");
    assert_eq!(
        meta.annotations.as_ref().unwrap()[super::SCHEDULED],
        "2026-01-01T00:10:00+00:00"
    );
    assert_eq!(meta.owner_references.as_ref().unwrap()[0].uid, "cron");
    // Killed before the note: the job is there, and no other is made.
    let again = plan_cron_job(&cron, &[job(&name, None)], at("2026-01-01T00:10:03Z"));
    assert_eq!(created(&again), [""; 0]);
    assert_eq!(again.status, due_with_active(&due, &name));
    // Noted.
    cron.status = Some(due.status);
    assert_eq!(
        created(&plan_cron_job(&cron, &[], at("2026-01-01T00:19:00Z"))),
        [""; 0]
    );
    assert_eq!(
        created(&plan_cron_job(&cron, &[], at("2026-01-01T00:20:00Z"))).len(),
        1
    );
}

fn due_with_active(plan: &Plan, name: &str) -> k8s_openapi::api::batch::v1::CronJobStatus {
    let mut status = plan.status.clone();
    status.active = Some(vec![super::reference(&job(name, None))]);
    status
}

#[test]
fn of_many_missed_times_only_the_last_is_started() {
    let cron = cron(json!({"schedule": "* * * * *"}));
    let few = plan_cron_job(&cron, &[], at("2026-01-01T00:30:00Z"));
    assert_eq!((created(&few).len(), reasons(&few)), (1, vec![]));
    let many = plan_cron_job(&cron, &[], at("2026-01-03T00:00:00Z"));
    assert_eq!(
        (created(&many).len(), reasons(&many)),
        (1, vec!["TooManyMissedTimes"])
    );
    assert_eq!(
        many.status.last_schedule_time,
        Some(Time(at("2026-01-03T00:00:00Z")))
    );
}

#[test]
fn what_is_too_late_is_missed_and_said_once() {
    let mut cron = cron(json!({"startingDeadlineSeconds": 60}));
    let late = plan_cron_job(&cron, &[], at("2026-01-01T00:12:00Z"));
    assert_eq!(
        (created(&late).len(), reasons(&late)),
        (0, vec!["MissSchedule"])
    );
    cron.status = Some(late.status);
    let later = plan_cron_job(&cron, &[], at("2026-01-01T00:13:00Z"));
    assert_eq!((created(&later).len(), reasons(&later)), (0, vec![]));
    let in_time = plan_cron_job(&cron, &[], at("2026-01-01T00:20:59Z"));
    assert_eq!(created(&in_time).len(), 1);
}

#[test]
fn a_job_that_runs_allows_forbids_or_is_replaced() {
    let running = [job("j1", None)];
    let now = at("2026-01-01T00:10:00Z");
    let of =
        |policy: &str| plan_cron_job(&cron(json!({"concurrencyPolicy": policy})), &running, now);
    let allow = of("Allow");
    assert_eq!((created(&allow).len(), deleted(&allow).len()), (1, 0));
    let forbid = of("Forbid");
    assert_eq!((created(&forbid).len(), deleted(&forbid).len()), (0, 0));
    assert_eq!(reasons(&forbid), ["JobAlreadyActive"]);
    assert_eq!(forbid.status.last_schedule_time, None);
    // When it has ended the time is made up for.
    let ended = [job("j1", Some("Complete"))];
    let after = plan_cron_job(
        &cron(json!({"concurrencyPolicy": "Forbid"})),
        &ended,
        at("2026-01-01T00:15:00Z"),
    );
    assert_eq!(created(&after).len(), 1);
    let replace = of("Replace");
    assert_eq!(
        (created(&replace).len(), deleted(&replace)),
        (1, vec!["j1".to_owned()])
    );
    assert_eq!(replace.status.active, None);
}

#[test]
fn history_keeps_the_latest_of_each_end() {
    let jobs = [
        job("j1", Some("Complete")),
        job("j3", Some("Complete")),
        job("j2", Some("Complete")),
        job("j4", Some("Failed")),
        job("j5", Some("Failed")),
        job("j6", None),
    ];
    let cron = cron(json!({"successfulJobsHistoryLimit": 2, "suspend": true}));
    let plan = plan_cron_job(&cron, &jobs, at("2026-01-01T05:00:00Z"));
    assert_eq!(deleted(&plan), ["j1", "j4"]);
    assert_eq!(created(&plan), [""; 0]);
    assert_eq!(plan.status.active.unwrap().len(), 1);
    assert_eq!(
        plan.status.last_successful_time,
        Some(Time(at("2026-01-01T00:07:00Z")))
    );
}

#[test]
fn mistakes_are_said() {
    let wrong = plan_cron_job(
        &cron(json!({"schedule": "often"})),
        &[],
        at("2026-01-01T00:10:00Z"),
    );
    assert_eq!(reasons(&wrong), ["UnparseableSchedule"]);
    let wrong = plan_cron_job(
        &cron(json!({"timeZone": "Mars/Olympus"})),
        &[],
        at("2026-01-01T00:10:00Z"),
    );
    assert_eq!(reasons(&wrong), ["UnknownTimeZone"]);
}
