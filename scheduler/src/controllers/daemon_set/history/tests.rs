//! Templates that come, go, and come back.

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet},
    core::v1::Pod,
};
use serde_json::{Value, json};

use super::{Step, hash_of, plan_history};
use crate::controllers::daemon_set::plan::{pod_for, template_hash};

fn set(image: &str, limit: Option<i32>) -> DaemonSet {
    let set = json!({
        "metadata": {"name": "log", "namespace": "shop", "uid": "log", "annotations": {
            "kubernetes.io/change-cause": format!("to {image}"),
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
        }},
        "spec": {"selector": {"matchLabels": {"app": "log"}}, "revisionHistoryLimit": limit,
            "template": {"metadata": {"labels": {"app": "log"}},
                "spec": {"containers": [{"name": "a", "image": image}]}}},
    });
    serde_json::from_value(set).unwrap()
}

/// Carries a plan out; the numbers and images that are there then.
fn keep(
    set: &DaemonSet,
    kept: &mut Vec<Arc<ControllerRevision>>,
    pods: &[Arc<Pod>],
) -> Vec<(i64, String)> {
    for step in plan_history(set, kept, pods) {
        match step {
            Step::Create(revision) => kept.push(Arc::new(*revision)),
            Step::Renumber(revision, number) => {
                kept.retain(|one| *one != revision);
                let mut revision = Arc::unwrap_or_clone(revision);
                revision.revision = Some(number);
                kept.push(Arc::new(revision));
            }
            Step::Remove(revision) => kept.retain(|one| *one != revision),
        }
    }
    assert_eq!(
        plan_history(set, kept, pods),
        [],
        "a plan that is done is empty"
    );
    let mut found: Vec<(i64, String)> = kept
        .iter()
        .map(|one| {
            let data = &one.data.0;
            let image = &data["spec"]["template"]["spec"]["containers"][0]["image"];
            (one.revision.unwrap(), image.as_str().unwrap().to_owned())
        })
        .collect();
    found.sort();
    found
}

fn numbered(found: &[(i64, &str)]) -> Vec<(i64, String)> {
    let owned = |(number, image): &(i64, &str)| (*number, (*image).to_owned());
    found.iter().map(owned).collect()
}

#[test]
fn each_template_is_kept_once_and_numbers_only_grow() {
    let mut kept = Vec::new();
    assert_eq!(
        keep(&set("v1", None), &mut kept, &[]),
        numbered(&[(1, "v1")])
    );
    let two = keep(&set("v2", None), &mut kept, &[]);
    assert_eq!(two, numbered(&[(1, "v1"), (2, "v2")]));
    // Back to the first: it has the next number.
    let back = keep(&set("v1", None), &mut kept, &[]);
    assert_eq!(back, numbered(&[(2, "v2"), (3, "v1")]));
    let third = keep(&set("v3", None), &mut kept, &[]);
    assert_eq!(third, numbered(&[(2, "v2"), (3, "v1"), (4, "v3")]));
}

#[test]
fn the_oldest_go_but_for_those_that_pods_follow() {
    let mut kept = Vec::new();
    let pod = |image: &str| Arc::new(pod_for(&set(image, None), "n", format!("log-{image}")));
    for image in ["v1", "v2", "v3", "v4"] {
        keep(&set(image, None), &mut kept, &[]);
    }
    let found = keep(&set("v5", Some(2)), &mut kept, &[pod("v1")]);
    // Four are old and two too many; the first is in use.
    assert_eq!(found, numbered(&[(1, "v1"), (4, "v4"), (5, "v5")]));
    let found = keep(&set("v5", Some(0)), &mut kept, &[]);
    assert_eq!(found, numbered(&[(5, "v5")]));
}

#[test]
fn a_revision_is_the_patch_that_brings_its_template_back() {
    let wanted = set("v1", None);
    let mut kept = Vec::new();
    keep(&wanted, &mut kept, &[]);
    let revision = &kept[0];
    let template: &Value = &revision.data.0["spec"]["template"];
    assert_eq!(template["$patch"], "replace");
    assert_eq!(template["metadata"]["labels"], json!({"app": "log"}));
    assert_eq!(hash_of(revision), Some(&template_hash(&wanted)));
    let meta = &revision.metadata;
    assert_eq!(meta.labels.as_ref().unwrap()["app"], "log");
    let annotations = json!({"kubernetes.io/change-cause": "to v1"});
    assert_eq!(json!(meta.annotations), annotations);
    let owner = &meta.owner_references.as_ref().unwrap()[0];
    assert_eq!(
        (owner.kind.as_str(), owner.controller),
        ("DaemonSet", Some(true))
    );
    assert!(meta.name.as_ref().unwrap().starts_with("log-"));
}

#[test]
fn a_set_on_its_way_out_keeps_nothing_more() {
    let mut set = set("v1", None);
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    set.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
    assert_eq!(plan_history(&set, &[], &[]), []);
}
