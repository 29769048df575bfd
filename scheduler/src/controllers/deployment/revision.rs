//! Which ReplicaSet is of which template and revision.
//!
//! A template's set carries the label `pod-template-hash`, in its selector and on
//! its pods too, so that the sets of one Deployment never claim each other's pods.
//! The hash only names: whether a set is *of* a template is decided by comparing
//! the templates, so that a set made by another hash function (kubectl and other
//! controllers have theirs) is still found.
//!
//! Revisions are numbers that only grow. A rollback does not go back to an old
//! number: the old template's set gets the next one, as `kubectl rollout history`
//! shows it.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::controllers::{names, pods};

/// What tells the pods of one template from those of the next.
pub const HASH: &str = "pod-template-hash";
/// A set's revision, and the Deployment's latest.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// The revisions that a set had before.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// How many replicas the Deployment wanted when the set was last scaled.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// How many the Deployment allowed at most then.
pub const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
/// That a rollout to this set was complete once.
pub const COMPLETED: &str = "berth.dev/rollout-completed";
/// Wants a rollout that fails to be taken back.
pub const ROLLBACK: &str = "berth.dev/rollback-on-failure";

/// Annotations of a Deployment that say nothing about its sets.
const NOT_COPIED: [&str; 7] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAXIMUM,
    COMPLETED,
    ROLLBACK,
];

/// The template without the label that we add.
pub fn plain_template(set: &ReplicaSet) -> PodTemplateSpec {
    let mut template = set.spec.template.clone().unwrap_or_default();
    if let Some(labels) = template
        .metadata
        .as_mut()
        .and_then(|meta| meta.labels.as_mut())
    {
        labels.remove(HASH);
    }
    template
}

/// Whether a set is of a template.
pub fn is_of_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let mut template = template.clone();
    if let Some(labels) = template
        .metadata
        .as_mut()
        .and_then(|meta| meta.labels.as_mut())
    {
        labels.remove(HASH);
    }
    normal(plain_template(set)) == normal(template)
}

/// Empty and absent are the same in metadata.
fn normal(mut template: PodTemplateSpec) -> PodTemplateSpec {
    let meta = template.metadata.take().unwrap_or_default();
    template.metadata = Some(ObjectMeta {
        labels: meta.labels.filter(|labels| !labels.is_empty()),
        annotations: meta.annotations.filter(|all| !all.is_empty()),
        finalizers: meta.finalizers.filter(|all| !all.is_empty()),
        // The rest of a template's metadata does not reach its pods.
        ..ObjectMeta::default()
    });
    template
}

/// The set of the Deployment's template; the oldest, if there are several.
pub fn new_set<'a>(
    deployment: &Deployment,
    sets: &'a [Arc<ReplicaSet>],
) -> Option<&'a Arc<ReplicaSet>> {
    sets.iter()
        .filter(|set| is_of_template(set, &deployment.spec.template))
        .min_by_key(|set| age_key(set))
}

/// Orders sets from old to new.
pub fn age_key(set: &ReplicaSet) -> (Option<jiff::Timestamp>, &str) {
    let created = set.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (created, set.metadata.name.as_deref().unwrap_or_default())
}

/// A number in an annotation.
pub fn number(meta: &ObjectMeta, annotation: &str) -> Option<i64> {
    let text = meta.annotations.as_ref()?.get(annotation)?;
    text.parse().ok()
}

/// Whether an annotation says "true".
pub fn says_true(meta: &ObjectMeta, annotation: &str) -> bool {
    let annotations = meta.annotations.as_ref();
    annotations
        .and_then(|all| all.get(annotation))
        .map(String::as_str)
        == Some("true")
}

/// A set's revision.
pub fn revision(set: &ReplicaSet) -> i64 {
    number(&set.metadata, REVISION).unwrap_or(0)
}

/// The set of a Deployment's template, to be made.
pub fn plan_new_set(
    deployment: &Deployment,
    replicas: i32,
    revision: i64,
    maximum: i32,
) -> ReplicaSet {
    let template = &deployment.spec.template;
    let collisions = deployment
        .status
        .as_ref()
        .and_then(|status| status.collision_count);
    let hash = names::hash(template, collisions.unwrap_or(0));
    let label = |labels: Option<BTreeMap<String, String>>| {
        let mut labels = labels.unwrap_or_default();
        labels.insert(HASH.to_owned(), hash.clone());
        Some(labels)
    };
    let mut selector = deployment.spec.selector.clone();
    selector.match_labels = label(selector.match_labels);
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_default();
    meta.labels = label(meta.labels.take());
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            // Room for the five letters that its pods' names get.
            name: Some(names::joined(name, &hash)),
            namespace: deployment.metadata.namespace.clone(),
            labels: meta.labels.clone(),
            owner_references: Some(pods::controller_reference(deployment).into_iter().collect()),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: deployment.spec.min_ready_seconds,
            selector,
            template: Some(template),
        },
        status: None,
    };
    annotate(&mut set, deployment, revision);
    note_scale(&mut set, deployment.spec.replicas.unwrap_or(1), maximum);
    set
}

/// Copies a Deployment's annotations to its newest set, and sets its revision.
pub fn annotate(set: &mut ReplicaSet, deployment: &Deployment, revision: i64) {
    let of_deployment = deployment.metadata.annotations.iter().flatten();
    let copied = of_deployment
        .filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()));
    let before = number(&set.metadata, REVISION);
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.extend(copied);
    if let Some(before) = before
        && before != revision
    {
        let history = annotations.entry(REVISION_HISTORY.to_owned()).or_default();
        if !history.is_empty() {
            history.push(',');
        }
        history.push_str(&before.to_string());
    }
    annotations.insert(REVISION.to_owned(), revision.to_string());
}

/// Notes at which scale of the Deployment a set was scaled.
pub fn note_scale(set: &mut ReplicaSet, desired: i32, maximum: i32) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.to_owned(), desired.to_string());
    annotations.insert(MAXIMUM.to_owned(), maximum.to_string());
}
