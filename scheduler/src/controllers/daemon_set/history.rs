//! The templates that a DaemonSet had.
//!
//! Each is kept in a ControllerRevision, made before the first pod of that template.
//! `kubectl rollout history` lists them by their numbers, and `undo` sends one's `data`
//! to the set: a strategic merge patch that replaces its template. So a rollback is an
//! edit as any other, and needs nothing here but that the old template's number becomes
//! the highest again.
//!
//! Old ones that pods still follow are kept beyond `revisionHistoryLimit`.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, DaemonSet},
        core::v1::Pod,
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, runtime::RawExtension},
};
use serde_json::{Value, json};

use super::plan::{HASH, template_hash};
use crate::controllers::{cluster::json_of, names, pods};

/// How many old ones are kept where the set does not say.
const LIMIT: i32 = 10;

/// The set's own annotation of no use to another: what `kubectl apply` sent last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// The present template is to be kept.
    Create(Box<ControllerRevision>),
    /// The present template was there before.
    Renumber(Arc<ControllerRevision>, i64),
    /// One of too many.
    Remove(Arc<ControllerRevision>),
}

/// What is to be done with the set's revisions.
pub fn plan_history(
    set: &DaemonSet,
    revisions: &[Arc<ControllerRevision>],
    pods: &[Arc<Pod>],
) -> Vec<Step> {
    if set.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let present = template_hash(set);
    let number_of = |kept: &ControllerRevision| kept.revision.unwrap_or(0);
    let latest = revisions.iter().map(|kept| number_of(kept)).max();
    let latest = latest.unwrap_or(0);
    let mut steps = Vec::new();
    match revisions
        .iter()
        .find(|kept| hash_of(kept) == Some(&present))
    {
        None => {
            let revision = revision_of(set, &present, latest + 1);
            steps.push(Step::Create(Box::new(revision)));
        }
        Some(kept) if number_of(kept) < latest => {
            steps.push(Step::Renumber(Arc::clone(kept), latest + 1));
        }
        Some(_) => {}
    }
    let mut old: Vec<&Arc<ControllerRevision>> = revisions
        .iter()
        .filter(|kept| hash_of(kept) != Some(&present))
        .collect();
    old.sort_by_key(|kept| number_of(kept));
    let limit = set.spec.revision_history_limit.unwrap_or(LIMIT);
    let too_many = old
        .len()
        .saturating_sub(usize::try_from(limit).unwrap_or(0));
    let followed: BTreeSet<&str> = pods
        .iter()
        .filter(|pod| pods::is_active(pod))
        .filter_map(|pod| pod.metadata.labels.as_ref()?.get(HASH))
        .map(String::as_str)
        .collect();
    let unused = old
        .into_iter()
        .filter(|kept| hash_of(kept).is_none_or(|hash| !followed.contains(hash.as_str())));
    steps.extend(unused.take(too_many).cloned().map(Step::Remove));
    steps
}

fn hash_of(revision: &ControllerRevision) -> Option<&String> {
    revision.metadata.labels.as_ref()?.get(HASH)
}

/// The present template, as it is kept.
fn revision_of(set: &DaemonSet, hash: &str, number: i64) -> ControllerRevision {
    let template = set.spec.template.metadata.clone().unwrap_or_default();
    let mut labels = template.labels.unwrap_or_default();
    labels.insert(HASH.to_owned(), hash.to_owned());
    // Why it was changed (`kubernetes.io/change-cause`) stands there.
    let mut annotations = set.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    let name = set.metadata.name.as_deref().unwrap_or_default();
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(names::joined(name, hash)),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(pods::controller_reference(set).into_iter().collect()),
            ..ObjectMeta::default()
        },
        data: RawExtension(patch_of(set)),
        revision: Some(number),
    }
}

/// The patch that brings a set's template back, whatever it is by then.
fn patch_of(set: &DaemonSet) -> Value {
    let mut template = json_of(&set.spec.template);
    template["$patch"] = json!("replace");
    json!({ "spec": { "template": template } })
}

#[cfg(test)]
mod tests;
