//! Job: pods until enough of them have succeeded.
//!
//! **No end of a pod is counted twice, and none is missed.** A pod may be deleted
//! the moment it ended, and a controller may be killed between any two writes. So
//! each pod of a job carries the finalizer `batch.kubernetes.io/job-tracking`, and
//! leaves in four steps:
//!
//! ```text
//!   1 status.uncountedTerminatedPods += its uid     with all conclusions, one write
//!   2 its finalizer is removed                      only now can it vanish
//!   3 its uid moves into status.succeeded/failed    as it has no finalizer
//! ```
//!
//! Whoever finds the world after step 1 does step 2 again; after step 2, step 3.
//! A pod without the finalizer is never put among the uncounted, and a uid is moved
//! only once, since the status is written only onto the very state it was read from.
//!
//! Read more: "Jobs" in the Kubernetes documentation, "Job tracking with
//! finalizers".

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::Resource;
use serde_json::json;

use super::{
    ControllersConfig,
    cluster::{Cluster, Deletion, Mirrors, WriteError, now},
    mirror::Key,
    names,
    ownership::{claim, controller_of, selector},
    recorder::Weight,
    work::{Again, Controller, Queue, orphans_due, own_changes_due, owners_due},
};
use crate::pod::templates::{self, job::Numbered};
use plan::{Plan, Remark};

/// Lists of indexes, as "0-3,7".
pub mod indexes;
/// What to do, as values.
pub mod plan;
/// Which failures count, and which end a job.
pub mod policy;

/// Holds a pod until its end is counted.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";

/// How many requests of one reconciliation are under way at once.
const AT_ONCE: usize = 32;

/// Keeps Jobs.
pub struct Jobs;

#[async_trait]
impl Controller for Jobs {
    fn name(&self) -> &'static str {
        "job"
    }

    fn subscribe(&self, mirrors: &Arc<Mirrors>, queue: &Queue) {
        own_changes_due(&mirrors.jobs, queue);
        owners_due(&mirrors.pods, "Job", queue);
        orphans_due::<Job, Pod>(mirrors, queue, |job| job.spec.as_ref()?.selector.as_ref());
    }

    async fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Again, WriteError> {
        let job = cluster.mirrors.jobs.read(key);
        release_bereft(cluster, key, job.as_deref()).await?;
        let Some(job) = job.filter(|job| is_ours(job)) else {
            return Ok(Again::OnChange);
        };
        let wanted = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let pods: Vec<Arc<Pod>> = match wanted.and_then(selector) {
            Some(selector) => claim(cluster, &*job, &selector).await?,
            None => cluster.mirrors.pods.of_owner(uid(&*job)),
        };
        let plan = plan::plan_job(&job, &pods, &pace(&cluster.config), now());
        apply(cluster, &job, &plan).await?;
        Ok(Again::after(plan.again))
    }
}

/// Jobs that name another controller are its own.
fn is_ours(job: &Job) -> bool {
    let by = job
        .spec
        .as_ref()
        .and_then(|spec| spec.managed_by.as_deref());
    matches!(by, None | Some("" | "kubernetes.io/job-controller"))
}

fn pace(config: &ControllersConfig) -> plan::Pace {
    plan::Pace {
        backoff: config.job_backoff,
        burst: config.burst,
    }
}

async fn apply(cluster: &Cluster, job: &Arc<Job>, plan: &Plan) -> Result<(), WriteError> {
    // First of all: the ends that the next step allows to vanish.
    cluster
        .write_status(&**job, job.status.as_ref(), &plan.status)
        .await?;
    for Remark {
        weight,
        reason,
        message,
    } in &plan.remarks
    {
        cluster
            .recorder
            .say(&**job, *weight, reason, message.clone());
    }
    all(plan.release.clone(), |pod| async move {
        release(cluster, &pod).await
    })
    .await?;
    all(plan.delete.clone(), |pod| {
        delete(cluster, job, pod, Count::AsFailure)
    })
    .await?;
    all(plan.dismiss.clone(), |pod| {
        delete(cluster, job, pod, Count::Not)
    })
    .await?;
    create(cluster, job, &plan.create).await?;
    if plan.remove {
        let result = cluster.delete(&**job, Deletion::Background).await;
        tracing::debug!(key = %Key::of(&**job), "a finished job's time is over");
        return result;
    }
    Ok(())
}

/// Does one thing for each pod, some at once; returns the first failure.
async fn all<T, F: Future<Output = Result<(), WriteError>>>(
    items: Vec<T>,
    each: impl Fn(T) -> F,
) -> Result<(), WriteError> {
    let outcomes: Vec<_> = stream::iter(items.into_iter().map(each))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    outcomes.into_iter().collect()
}

/// Takes the finalizer from a pod; done already is done.
async fn release(cluster: &Cluster, pod: &Pod) -> Result<(), WriteError> {
    let mut finalizers = pod.metadata.finalizers.clone().unwrap_or_default();
    let held = finalizers.len();
    finalizers.retain(|finalizer| finalizer != TRACKING);
    if finalizers.len() == held {
        return Ok(());
    }
    let patch = json!({"metadata": {"finalizers": finalizers}});
    match cluster.patch(pod, patch).await {
        Ok(_) | Err(WriteError::Gone) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether the end of a pod that we delete counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    AsFailure,
    Not,
}

async fn delete(
    cluster: &Cluster,
    job: &Job,
    pod: Arc<Pod>,
    count: Count,
) -> Result<(), WriteError> {
    if count == Count::Not {
        release(cluster, &pod).await?;
    }
    cluster.delete(&*pod, Deletion::Background).await?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let message = format!("Deleted pod: {name}");
    cluster
        .recorder
        .say(job, Weight::Normal, "SuccessfulDelete", message);
    Ok(())
}

async fn create(cluster: &Cluster, job: &Job, pods: &[plan::New]) -> Result<(), WriteError> {
    let left = std::sync::Mutex::new(pods.iter());
    let make = || async {
        let next = match left.lock() {
            Ok(mut left) => left.next(),
            Err(_) => None,
        };
        let Some(new) = next else { return Ok(()) };
        let pod = pod_of(job, *new);
        match cluster.create(&pod).await {
            Ok(made) => {
                let name = made.metadata.name.unwrap_or_default();
                let message = format!("Created pod: {name}");
                cluster
                    .recorder
                    .say(job, Weight::Normal, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) => {
                if !matches!(error, WriteError::NamespaceEnds) {
                    let message = format!("Error creating: {error}");
                    cluster
                        .recorder
                        .say(job, Weight::Warning, "FailedCreate", message);
                }
                Err(error)
            }
        }
    };
    super::replica_set::in_batches(pods.len(), make).await
}

/// A pod of a job, as `berth run` makes it, with what the cluster adds.
fn pod_of(job: &Job, new: plan::New) -> Pod {
    let numbered = Numbered {
        serial: 0,
        index: new.index,
        retry: 0,
    };
    let mut pod = templates::job_pod(job, numbered);
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let prefix = match new.index {
        Some(index) => format!("{name}-{index}-"),
        None => format!("{name}-"),
    };
    pod.metadata.name = Some(names::generate(&prefix));
    pod.metadata.owner_references = Some(job.controller_owner_ref(&()).into_iter().collect());
    pod.metadata
        .finalizers
        .get_or_insert_default()
        .push(TRACKING.to_owned());
    let labels = pod.metadata.labels.get_or_insert_with(BTreeMap::new);
    // A selector that somebody wrote by hand has labels of its own.
    if job.spec.as_ref().and_then(|spec| spec.manual_selector) != Some(true) {
        for key in ["batch.kubernetes.io/controller-uid", "controller-uid"] {
            labels.insert(key.to_owned(), uid(job).to_owned());
        }
    }
    if let (Some(index), Some(failures)) = (new.index, new.failures) {
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(policy::INDEX_FAILURES.to_owned(), failures.to_string());
        tracing::trace!(index, failures, "another try of an index");
    }
    pod
}

/// Lets go of pods whose job is gone or another of the same name: nobody will
/// count them.
async fn release_bereft(cluster: &Cluster, key: &Key, job: Option<&Job>) -> Result<(), WriteError> {
    let living = job.map(uid);
    let ends = job.is_some_and(|job| job.metadata.deletion_timestamp.is_some());
    let bereft = |pod: &&Arc<Pod>| {
        let owner =
            controller_of(&***pod).filter(|owner| owner.kind == "Job" && owner.name == key.name);
        plan::is_tracked(pod)
            && owner.is_some_and(|owner| {
                Some(owner.uid.as_str()) != living
                    || (ends && pod.metadata.deletion_timestamp.is_some())
            })
    };
    for pod in cluster
        .mirrors
        .pods
        .of_namespace(&key.namespace)
        .iter()
        .filter(bereft)
    {
        // The mirror of jobs may be behind that of pods.
        if job.is_none() {
            let live = cluster.read_live::<Job>(key).await?;
            let owner = controller_of(&**pod).map(|owner| owner.uid.clone());
            if live.is_some_and(|live| live.metadata.uid == owner) {
                return Ok(());
            }
        }
        release(cluster, pod).await?;
    }
    Ok(())
}

fn uid<K: Resource>(object: &K) -> &str {
    object.meta().uid.as_deref().unwrap_or_default()
}
