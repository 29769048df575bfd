//! Deployments, ReplicaSets, DaemonSets, Jobs and CronJobs.

use serde_json::{Value, json};

use super::{fill, fill_text, inside, pod, text};

pub(super) fn fill_deployment(deployment: &mut Value) {
    let spec = inside(deployment, "spec");
    fill(spec, "replicas", json!(1));
    fill(spec, "revisionHistoryLimit", json!(10));
    fill(spec, "progressDeadlineSeconds", json!(600));
    let strategy = inside(spec, "strategy");
    fill_text(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = inside(strategy, "rollingUpdate");
        fill(rolling, "maxUnavailable", json!("25%"));
        fill(rolling, "maxSurge", json!("25%"));
    }
    fill_template(spec);
}

pub(super) fn fill_replica_set(set: &mut Value) {
    let spec = inside(set, "spec");
    fill(spec, "replicas", json!(1));
    fill_template(spec);
}

pub(super) fn fill_daemon_set(set: &mut Value) {
    let spec = inside(set, "spec");
    fill(spec, "revisionHistoryLimit", json!(10));
    let strategy = inside(spec, "updateStrategy");
    fill_text(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = inside(strategy, "rollingUpdate");
        fill(rolling, "maxUnavailable", json!(1));
        fill(rolling, "maxSurge", json!(0));
    }
    fill_template(spec);
}

pub(super) fn fill_job(job: &mut Value) {
    let metadata = job["metadata"].clone();
    let spec = inside(job, "spec");
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        fill(spec, "completions", json!(1));
    }
    fill(spec, "parallelism", json!(1));
    let limit = if spec["backoffLimitPerIndex"].is_null() {
        6
    } else {
        i32::MAX
    };
    fill(spec, "backoffLimit", json!(limit));
    fill_text(spec, "completionMode", "NonIndexed");
    fill(spec, "suspend", json!(false));
    fill(spec, "manualSelector", json!(false));
    let replacement = if spec["podFailurePolicy"].is_null() {
        "TerminatingOrFailed"
    } else {
        "Failed"
    };
    fill_text(spec, "podReplacementPolicy", replacement);
    fill_template(spec);
    if spec["manualSelector"] != json!(true) {
        select_by_uid(&metadata, spec);
    }
    // A Job without labels has those of its pods.
    let labels = job["spec"]["template"]["metadata"]["labels"].clone();
    if labels.is_object() && job["metadata"]["labels"].is_null() && job["metadata"].is_object() {
        job["metadata"]["labels"] = labels;
    }
}

/// A Job's pods are told apart by its uid, so two Jobs never count each other's.
fn select_by_uid(metadata: &Value, spec: &mut Value) {
    let (uid, name) = (text(metadata, "uid"), text(metadata, "name"));
    // A template that is not there is not made: that it is needed is what the client must hear.
    if uid.is_empty() || !spec["selector"].is_null() || !spec["template"].is_object() {
        return;
    }
    let labels = inside(inside(inside(spec, "template"), "metadata"), "labels");
    if !labels.is_object() {
        return;
    }
    for (label, value) in [
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
        ("controller-uid", uid),
        ("job-name", name),
    ] {
        labels[label] = json!(value);
    }
    spec["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
}

pub(super) fn fill_cron_job(cron: &mut Value) {
    let spec = inside(cron, "spec");
    fill_text(spec, "concurrencyPolicy", "Allow");
    fill(spec, "suspend", json!(false));
    fill(spec, "successfulJobsHistoryLimit", json!(3));
    fill(spec, "failedJobsHistoryLimit", json!(1));
    // The Job's own defaults come when the Job is made.
    fill_template(inside(inside(spec, "jobTemplate"), "spec"));
}

fn fill_template(spec: &mut Value) {
    if spec["template"].is_object() {
        let template = inside(spec, "template");
        inside(template, "metadata");
        pod::fill_spec(inside(template, "spec"));
    }
}
