//! Rules of Deployments, ReplicaSets, DaemonSets, Jobs and CronJobs.

use serde_json::{Value, json};

use super::{
    checks::{Checks, IMMUTABLE, is_set, text},
    pod,
};
use crate::{
    api::{error::FieldError, selector::LabelSelector},
    schedule::Schedule,
};

pub(super) fn check_deployment(object: &Value, checks: &mut Checks) {
    let spec = &object["spec"];
    checks.not_negative("spec.replicas", &spec["replicas"]);
    for field in [
        "minReadySeconds",
        "revisionHistoryLimit",
        "progressDeadlineSeconds",
    ] {
        checks.not_negative(&format!("spec.{field}"), &spec[field]);
    }
    let ready = spec["minReadySeconds"].as_i64().unwrap_or(0);
    if spec["progressDeadlineSeconds"]
        .as_i64()
        .is_some_and(|deadline| deadline <= ready)
    {
        checks.invalid(
            "spec.progressDeadlineSeconds",
            &spec["progressDeadlineSeconds"],
            "must be greater than minReadySeconds",
        );
    }
    check_selected("deployment", spec, checks);
    pod::check_template("spec.template", &spec["template"], &["Always"], checks);
    let strategy = &spec["strategy"];
    checks.one_of(
        "spec.strategy.type",
        &strategy["type"],
        &["Recreate", "RollingUpdate"],
    );
    let rolling = &strategy["rollingUpdate"];
    if strategy["type"] == "Recreate" && !rolling.is_null() {
        checks.forbidden(
            "spec.strategy.rollingUpdate",
            "may not be specified when strategy `type` is 'Recreate'",
        );
    }
    if strategy["type"] == "RollingUpdate" {
        check_rolling("spec.strategy.rollingUpdate", rolling, checks);
    }
}

pub(super) fn check_replica_set(object: &Value, checks: &mut Checks) {
    let spec = &object["spec"];
    checks.not_negative("spec.replicas", &spec["replicas"]);
    checks.not_negative("spec.minReadySeconds", &spec["minReadySeconds"]);
    check_selected("deployment", spec, checks);
    pod::check_template("spec.template", &spec["template"], &["Always"], checks);
}

pub(super) fn check_daemon_set(object: &Value, checks: &mut Checks) {
    let spec = &object["spec"];
    checks.not_negative("spec.minReadySeconds", &spec["minReadySeconds"]);
    checks.not_negative("spec.revisionHistoryLimit", &spec["revisionHistoryLimit"]);
    check_selected("daemonset", spec, checks);
    pod::check_template("spec.template", &spec["template"], &["Always"], checks);
    let strategy = &spec["updateStrategy"];
    checks.one_of(
        "spec.updateStrategy.type",
        &strategy["type"],
        &["RollingUpdate", "OnDelete"],
    );
    if strategy["type"] == "RollingUpdate" {
        check_rolling(
            "spec.updateStrategy.rollingUpdate",
            &strategy["rollingUpdate"],
            checks,
        );
    }
}

/// A selector must be there, and select the pods that are made from the template.
fn check_selected(what: &str, spec: &Value, checks: &mut Checks) {
    let selector = &spec["selector"];
    if !selector.is_object() {
        return checks.required("spec.selector", "");
    }
    checks.selector("spec.selector", selector);
    if !is_set(&selector["matchLabels"]) && !is_set(&selector["matchExpressions"]) {
        checks.invalid(
            "spec.selector",
            selector,
            &format!("empty selector is invalid for {what}"),
        );
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let matches = LabelSelector::from_object(selector)
        .is_some_and(|selector| selector.matches_labels(|key| labels[key].as_str()));
    if !matches {
        checks.invalid(
            "spec.template.metadata.labels",
            labels,
            "`selector` does not match template `labels`",
        );
    }
}

/// How many more and how many fewer pods there may be: not neither.
fn check_rolling(field: &str, rolling: &Value, checks: &mut Checks) {
    let mut zero = 0;
    for name in ["maxUnavailable", "maxSurge"] {
        zero +=
            i32::from(check_share(&format!("{field}.{name}"), &rolling[name], checks) == Some(0));
    }
    if zero == 2 {
        checks.invalid(
            &format!("{field}.maxUnavailable"),
            &rolling["maxUnavailable"],
            "may not be 0 when `maxSurge` is 0",
        );
    }
}

/// A number or a percentage, where it is set.
pub(super) fn check_share(field: &str, share: &Value, checks: &mut Checks) -> Option<i64> {
    match share {
        Value::Number(number) => {
            checks.not_negative(field, share);
            number.as_i64()
        }
        Value::String(text) => {
            let number = text
                .strip_suffix('%')
                .and_then(|digits| digits.parse::<u32>().ok());
            match number {
                None => checks.invalid(
                    field,
                    share,
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                ),
                Some(number) if number > 100 && field.ends_with("maxUnavailable") => {
                    checks.invalid(field, share, "must not be greater than 100%");
                }
                Some(_) => {}
            }
            number.map(i64::from)
        }
        _ => None,
    }
}

pub(super) fn check_job(object: &Value, checks: &mut Checks) {
    let spec = &object["spec"];
    check_job_spec("spec", spec, checks);
    if !spec["selector"].is_object() {
        checks.required("spec.selector", "");
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let matches = LabelSelector::from_object(&spec["selector"])
        .is_some_and(|selector| selector.matches_labels(|key| labels[key].as_str()));
    if spec["selector"].is_object() && !matches {
        checks.invalid(
            "spec.template.metadata.labels",
            labels,
            "`selector` does not match template `labels`",
        );
    }
}

fn check_job_spec(field: &str, spec: &Value, checks: &mut Checks) {
    let at = |name: &str| format!("{field}.{name}");
    for name in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "backoffLimitPerIndex",
        "ttlSecondsAfterFinished",
    ] {
        checks.not_negative(&at(name), &spec[name]);
    }
    checks.one_of(
        &at("completionMode"),
        &spec["completionMode"],
        &["Indexed", "NonIndexed"],
    );
    if spec["completionMode"] == "Indexed" && spec["completions"].is_null() {
        checks.required(&at("completions"), "when completion mode is Indexed");
    }
    let policies = ["OnFailure", "Never"];
    let policy = format!("{field}.template.spec.restartPolicy");
    // `Always` is the default of a pod, which a job cannot have: it would never end.
    if spec["template"]["spec"]["restartPolicy"] == "Always" {
        pod::check_template(&at("template"), &spec["template"], &["Always"], checks);
        checks.add(FieldError::not_supported(policy, "Always", &policies));
    } else {
        pod::check_template(&at("template"), &spec["template"], &policies, checks);
    }
}

pub(super) fn check_job_update(object: &Value, before: &Value, checks: &mut Checks) {
    let (now, was) = (&object["spec"], &before["spec"]);
    let indexed = was["completionMode"] == "Indexed";
    if now["completions"] != was["completions"]
        && !(indexed && now["completions"] == now["parallelism"])
    {
        checks.invalid("spec.completions", &now["completions"], IMMUTABLE);
    }
    for field in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "manualSelector",
    ] {
        checks.unchanged(&format!("spec.{field}"), &now[field], &was[field]);
    }
    // A job that has not begun may still be placed otherwise.
    let waits = was["suspend"] == json!(true) && before["status"]["startTime"].is_null();
    if !waits {
        checks.unchanged("spec.template", &now["template"], &was["template"]);
    }
}

pub(super) fn check_cron_job(object: &Value, checks: &mut Checks) {
    let spec = &object["spec"];
    let text_of_schedule = text(spec, "schedule");
    if text_of_schedule.is_empty() {
        checks.required("spec.schedule", "");
    } else if text_of_schedule.contains("TZ=") {
        checks.invalid(
            "spec.schedule",
            &spec["schedule"],
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        );
    } else if let Err(why) = Schedule::parse(text_of_schedule) {
        checks.invalid("spec.schedule", &spec["schedule"], &why.to_string());
    }
    if let Some(zone) = spec["timeZone"].as_str() {
        check_time_zone(zone, checks);
    }
    checks.one_of(
        "spec.concurrencyPolicy",
        &spec["concurrencyPolicy"],
        &["Allow", "Forbid", "Replace"],
    );
    for field in [
        "startingDeadlineSeconds",
        "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit",
    ] {
        checks.not_negative(&format!("spec.{field}"), &spec[field]);
    }
    let job = &spec["jobTemplate"]["spec"];
    if is_set(&job["selector"]) && job["manualSelector"] != json!(true) {
        checks.invalid(
            "spec.jobTemplate.spec.selector",
            &job["selector"],
            "`selector` will be auto-generated",
        );
    }
    check_job_spec("spec.jobTemplate.spec", job, checks);
}

fn check_time_zone(zone: &str, checks: &mut Checks) {
    let value = json!(zone);
    if zone.is_empty() {
        checks.invalid(
            "spec.timeZone",
            &value,
            "timeZone must be nil or non-empty string",
        );
    } else if zone.eq_ignore_ascii_case("local") {
        checks.invalid(
            "spec.timeZone",
            &value,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        );
    } else if jiff::tz::TimeZone::get(zone).is_err() {
        checks.invalid(
            "spec.timeZone",
            &value,
            &format!("unknown time zone {zone}"),
        );
    }
}

/// The selector of a workload: its pods would be orphans after a change.
pub(super) fn check_selector_kept(object: &Value, before: &Value, checks: &mut Checks) {
    checks.unchanged(
        "spec.selector",
        &object["spec"]["selector"],
        &before["spec"]["selector"],
    );
}

pub(super) fn check_budget(object: &Value, checks: &mut Checks) {
    let spec = &object["spec"];
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        checks.invalid(
            "spec",
            spec,
            "minAvailable and maxUnavailable cannot be both set",
        );
    }
    for field in ["minAvailable", "maxUnavailable"] {
        check_share(&format!("spec.{field}"), &spec[field], checks);
    }
    checks.selector("spec.selector", &spec["selector"]);
}
