//! Deployments, ReplicaSets, DaemonSets, Jobs, CronJobs.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    AGE, CONTAINERS, IMAGES, Layout, NAME, SELECTOR, age, containers, count, has_condition,
    integer, labels, list, name, selector, since, string, text_or,
};

pub(super) const DEPLOYMENTS: Layout = Layout {
    columns: &[
        NAME,
        string("Ready", "The pods that are ready, of those wanted."),
        integer(
            "Up-to-date",
            "The pods that are made from the template as it is now.",
        ),
        integer(
            "Available",
            "The pods that have been ready for long enough.",
        ),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    row: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let ready = format!(
            "{}/{}",
            count(&status["readyReplicas"]),
            count(&spec["replicas"])
        );
        let mut row = vec![
            name(object),
            json!(ready),
            json!(count(&status["updatedReplicas"])),
            json!(count(&status["availableReplicas"])),
            age(object, now),
        ];
        row.extend(template_cells(spec));
        row
    },
};

pub(super) const REPLICA_SETS: Layout = Layout {
    columns: &[
        NAME,
        integer("Desired", "The pods wanted."),
        integer("Current", "The pods that there are."),
        integer("Ready", "The pods that are ready."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    row: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let mut row = vec![
            name(object),
            json!(count(&spec["replicas"])),
            json!(count(&status["replicas"])),
            json!(count(&status["readyReplicas"])),
            age(object, now),
        ];
        row.extend(template_cells(spec));
        row
    },
};

pub(super) const DAEMON_SETS: Layout = Layout {
    columns: &[
        NAME,
        integer("Desired", "The nodes that should run a pod."),
        integer("Current", "The nodes that run a pod and should."),
        integer("Ready", "The nodes whose pod is ready."),
        integer(
            "Up-to-date",
            "The nodes whose pod is made from the template as it is now.",
        ),
        integer(
            "Available",
            "The nodes whose pod has been ready for long enough.",
        ),
        string(
            "Node Selector",
            "The labels of the nodes that should run a pod.",
        ),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    row: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let mut row = vec![
            name(object),
            json!(count(&status["desiredNumberScheduled"])),
            json!(count(&status["currentNumberScheduled"])),
            json!(count(&status["numberReady"])),
            json!(count(&status["updatedNumberScheduled"])),
            json!(count(&status["numberAvailable"])),
            json!(labels(&spec["template"]["spec"]["nodeSelector"])),
            age(object, now),
        ];
        row.extend(template_cells(spec));
        row
    },
};

pub(super) const REVISIONS: Layout = Layout {
    columns: &[
        NAME,
        string("Controller", "The object whose template this was."),
        integer("Revision", "The template's number."),
        AGE,
    ],
    row: |object, now| {
        let owner = list(&object["metadata"]["ownerReferences"])
            .iter()
            .find(|owner| owner["controller"] == json!(true));
        let controller = owner.map_or("<none>".to_owned(), |owner| {
            let text = |field: &str| text_or(&owner[field], "");
            let group = text("apiVersion");
            let group = group.split_once('/').map_or("", |(group, _)| group);
            let dot = if group.is_empty() { "" } else { "." };
            format!(
                "{}{dot}{group}/{}",
                text("kind").to_lowercase(),
                text("name")
            )
        });
        vec![
            name(object),
            json!(controller),
            json!(count(&object["revision"])),
            age(object, now),
        ]
    },
};

pub(super) const JOBS: Layout = Layout {
    columns: &[
        NAME,
        string("Status", "How the job is, in one word."),
        string(
            "Completions",
            "The pods that succeeded, of those that must.",
        ),
        string(
            "Duration",
            "The time that the job took, or has taken so far.",
        ),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    row: |object, now| {
        let spec = &object["spec"];
        let mut row = vec![
            name(object),
            json!(job_word(object)),
            json!(job_completions(object)),
            json!(job_duration(&object["status"], now)),
            age(object, now),
        ];
        row.extend(template_cells(spec));
        row
    },
};

pub(super) const CRON_JOBS: Layout = Layout {
    columns: &[
        NAME,
        string("Schedule", "When jobs are made."),
        string("Timezone", "Where the schedule's clock hangs."),
        string("Suspend", "Whether no more jobs are made."),
        integer("Active", "The jobs that run."),
        string("Last Schedule", "The time since the last job was made."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    row: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let suspend = match spec["suspend"].as_bool() {
            Some(true) => "True",
            Some(false) => "False",
            None => "<unset>",
        };
        let last = match &status["lastScheduleTime"] {
            Value::Null => json!("<none>"),
            time => since(time, now),
        };
        let mut row = vec![
            name(object),
            spec["schedule"].clone(),
            json!(text_or(&spec["timeZone"], "<none>")),
            json!(suspend),
            json!(list(&status["active"]).len()),
            last,
            age(object, now),
        ];
        row.extend(template_cells(&spec["jobTemplate"]["spec"]));
        row
    },
};

/// Containers, images and selector.
fn template_cells(spec: &Value) -> impl Iterator<Item = Value> {
    let [names, images] = containers(&spec["template"]["spec"]);
    [names, images, selector(&spec["selector"])].into_iter()
}

fn job_word(job: &Value) -> &'static str {
    let deleting = !job["metadata"]["deletionTimestamp"].is_null();
    if has_condition(job, "Complete") {
        "Complete"
    } else if has_condition(job, "Failed") {
        "Failed"
    } else if deleting {
        "Terminating"
    } else if has_condition(job, "Suspended") {
        "Suspended"
    } else if has_condition(job, "FailureTarget") {
        "FailureTarget"
    } else if has_condition(job, "SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn job_completions(job: &Value) -> String {
    let succeeded = count(&job["status"]["succeeded"]);
    let parallelism = count(&job["spec"]["parallelism"]);
    match job["spec"]["completions"].as_i64() {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    }
}

fn job_duration(status: &Value, now: Timestamp) -> String {
    let Some(start) = super::age::read(&status["startTime"]) else {
        return String::new();
    };
    let end = super::age::read(&status["completionTime"]).unwrap_or(now);
    super::age::between(start, end)
}
