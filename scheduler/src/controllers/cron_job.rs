//! CronJob: a Job at each time of a schedule.
//!
//! A Job is named by its CronJob and by the minute it was scheduled for, so that a
//! controller that is killed after it made the Job and before it noted so finds the
//! name taken, and makes none twice. Time is asked of the clock at each look, and
//! the next look is at the next time of the schedule.
//!
//! Times are those of `timeZone`, and of UTC where none is given (Kubernetes then
//! takes the zone of the machine that its controllers run on, which with several
//! servers is nobody's in particular).
//!
//! Read more: "CronJob" in the Kubernetes documentation.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::batch::v1::{CronJob, Job};

use super::{
    cluster::{Cluster, Deletion, Mirrors, WriteError, now},
    mirror::Key,
    ownership::{controller_of, is_controlled_by},
    recorder::Weight,
    work::{Again, Controller, Queue, own_changes_due, owners_due},
};
use plan::Action;

/// What to do, as values.
pub mod plan;

/// Keeps CronJobs.
pub struct CronJobs;

#[async_trait]
impl Controller for CronJobs {
    fn name(&self) -> &'static str {
        "cron-job"
    }

    fn subscribe(&self, mirrors: &Arc<Mirrors>, queue: &Queue) {
        own_changes_due(&mirrors.cron_jobs, queue);
        owners_due(&mirrors.jobs, "CronJob", queue);
    }

    async fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Again, WriteError> {
        let Some(cron) = cluster.mirrors.cron_jobs.read(key) else {
            return Ok(Again::OnChange);
        };
        let uid = cron.metadata.uid.clone().unwrap_or_default();
        let mut jobs = cluster.mirrors.jobs.of_owner(&uid);
        jobs.retain(|job| controller_of(&**job).is_some_and(|owner| owner.uid == uid));
        let mut plan = plan::plan_cron_job(&cron, &jobs, now());
        for action in &plan.actions {
            apply(cluster, &cron, action, &mut plan.status).await?;
        }
        for (weight, reason, message) in &plan.remarks {
            cluster
                .recorder
                .say(&*cron, *weight, reason, message.clone());
        }
        cluster
            .write_status(&*cron, cron.status.as_ref(), &plan.status)
            .await?;
        Ok(Again::after(plan.again))
    }
}

async fn apply(
    cluster: &Cluster,
    cron: &CronJob,
    action: &Action,
    status: &mut k8s_openapi::api::batch::v1::CronJobStatus,
) -> Result<(), WriteError> {
    let say = |weight, reason: &str, message: String| {
        cluster.recorder.say(cron, weight, reason, message);
    };
    match action {
        Action::Create(job) => {
            let name = job.metadata.name.clone().unwrap_or_default();
            let made = match cluster.create(&**job).await {
                Ok(made) => {
                    say(
                        Weight::Normal,
                        "SuccessfulCreate",
                        format!("Created job {name}"),
                    );
                    Some(made)
                }
                Err(WriteError::Exists) => already_made(cluster, cron, job).await?,
                Err(error) => {
                    if !matches!(error, WriteError::NamespaceEnds) {
                        let message = format!("Error creating job: {error}");
                        say(Weight::Warning, "FailedCreate", message);
                    }
                    return Err(error);
                }
            };
            if let Some(made) = made {
                status
                    .active
                    .get_or_insert_default()
                    .push(plan::reference(&made));
            }
            Ok(())
        }
        Action::Delete(job) => {
            cluster.delete(&**job, Deletion::Background).await?;
            let name = job.metadata.name.as_deref().unwrap_or_default();
            say(
                Weight::Normal,
                "SuccessfulDelete",
                format!("Deleted job {name}"),
            );
            Ok(())
        }
    }
}

/// The name is taken: by the Job that we made before we were stopped, or by
/// somebody else's, which is not overwritten.
async fn already_made(
    cluster: &Cluster,
    cron: &CronJob,
    job: &Job,
) -> Result<Option<Job>, WriteError> {
    let uid = cron.metadata.uid.as_deref().unwrap_or_default();
    let found = cluster.read_live::<Job>(&Key::of(job)).await?;
    match found.filter(|found| is_controlled_by(found, uid)) {
        Some(found) => Ok(Some(found)),
        None => {
            let name = job.metadata.name.as_deref().unwrap_or_default();
            let message = format!("Error creating job: {name} is there already and is not ours");
            cluster
                .recorder
                .say(cron, Weight::Warning, "FailedCreate", message);
            Ok(None)
        }
    }
}
