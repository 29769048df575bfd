//! Jobs against a node in memory.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::run_job;
use crate::pod::{
    events::Unobserved,
    objects::PodObjects,
    worker::{
        PodWorker,
        tests::{
            config,
            fake::{FakeNode, Program},
        },
    },
};
use k8s_openapi::api::batch::v1::JobStatus;

fn template(policy: &str) -> Value {
    json!({"metadata": {"labels": {"app": "a"}}, "spec": {
        "restartPolicy": policy, "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": "main", "imagePullPolicy": "IfNotPresent"}]}})
}

async fn job(node: &Arc<FakeNode>, mut spec: Value, policy: &str) -> JobStatus {
    spec["template"] = template(policy);
    let job: Job =
        serde_json::from_value(json!({"metadata": {"name": "sum"}, "spec": spec})).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let worker = PodWorker::new(
        node.clone(),
        config(node, &directory),
        PodObjects::default(),
    );
    let (_commands, heard) = mpsc::channel(1);
    let ran = run_job(&worker, &job, heard, Arc::new(Unobserved));
    let status = tokio::time::timeout(Duration::from_secs(20), ran).await;
    assert!(node.sandboxes().is_empty(), "a sandbox is left");
    status.expect("the job does not end").unwrap()
}

fn verdict(status: &JobStatus) -> (&str, Option<&str>) {
    let condition = &status.conditions.as_ref().unwrap()[0];
    (condition.type_.as_str(), condition.reason.as_deref())
}

#[tokio::test]
async fn a_job_completes_with_as_many_pods_as_asked() {
    let node = FakeNode::new();
    node.script("main", &[Program::exits(0)]);
    let status = job(&node, json!({"completions": 3, "parallelism": 2}), "Never").await;
    assert_eq!(verdict(&status), ("Complete", None));
    assert_eq!((status.succeeded, status.failed), (Some(3), Some(0)));
    assert_eq!(node.calls(&["sandbox"]).len(), 3);
}

#[tokio::test]
async fn a_job_gives_up_past_its_limit() {
    for policy in ["Never", "OnFailure"] {
        let node = FakeNode::new();
        node.script("main", &[Program::exits(1)]);
        let status = job(&node, json!({"completions": 1, "backoffLimit": 2}), policy).await;
        assert_eq!(
            verdict(&status),
            ("Failed", Some("BackoffLimitExceeded")),
            "{policy}"
        );
        let starts = node.calls(&["start main"]).len();
        assert!((3..=4).contains(&starts), "{policy}: {starts}");
    }
}

#[tokio::test]
async fn a_job_that_takes_too_long_fails() {
    let node = FakeNode::new();
    let status = job(
        &node,
        json!({"activeDeadlineSeconds": 1, "completions": 1}),
        "Never",
    )
    .await;
    assert_eq!(verdict(&status), ("Failed", Some("DeadlineExceeded")));
}
