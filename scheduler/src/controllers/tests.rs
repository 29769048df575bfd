//! The controllers against the real API in one process, with nodes that pretend.

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, ReplicaSet},
    batch::v1::{CronJob, Job},
    core::v1::{Event, Pod},
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::world::{World, within};
use super::{
    deployment::{revision, status},
    pods,
};

/// An API, nodes that pretend, and controllers that can be killed.
mod world;

fn deployment(replicas: i32, image: &str) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", "image": image}]}}},
    }))
    .unwrap()
}

fn image(image: &str) -> Patch<Value> {
    let containers = json!([{"name": "main", "image": image}]);
    Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": containers}}}}))
}

fn job(name: &str, spec: Value) -> Job {
    let mut job = json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "main", "image": "succeeds"}]}}},
    });
    json_patch::merge(&mut job, &json!({ "spec": spec }));
    serde_json::from_value(job).unwrap()
}

async fn is_rolled_out(world: &World, replicas: i32) -> bool {
    let web: Deployment = world.api().get("web").await.unwrap();
    let is = web.status.clone().unwrap_or_default();
    let reason = status::condition(&is, status::PROGRESSING).and_then(|is| is.reason.clone());
    is.observed_generation == web.metadata.generation
        && is.updated_replicas == Some(replicas)
        && is.replicas == Some(replicas)
        && is.available_replicas == Some(replicas)
        && reason.as_deref() == Some("NewReplicaSetAvailable")
}

async fn reasons(world: &World) -> Vec<String> {
    let events = world
        .api::<Event>()
        .list(&ListParams::default())
        .await
        .unwrap();
    events
        .into_iter()
        .filter_map(|event| event.reason)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_rolls_scales_and_keeps_its_pods() {
    let world = World::new(2).await;
    let _running = world.start();
    let web = world.api::<Deployment>();
    web.create(&PostParams::default(), &deployment(4, "v1"))
        .await
        .unwrap();
    within(&world, "4 of v1", async |world| {
        is_rolled_out(world, 4).await
    })
    .await;
    // A pod that somebody deletes is replaced.
    let pods = world.api::<Pod>();
    let first = pods
        .list(&ListParams::default())
        .await
        .unwrap()
        .items
        .remove(0);
    pods.delete(&first.name_any(), &DeleteParams::default())
        .await
        .unwrap();
    within(&world, "another pod", async |world| {
        let pods = world
            .api::<Pod>()
            .list(&ListParams::default())
            .await
            .unwrap();
        pods.iter().filter(|pod| pods::is_ready(pod)).count() == 4
            && pods.iter().all(|pod| pod.uid() != first.uid())
    })
    .await;
    web.patch("web", &PatchParams::default(), &image("v2"))
        .await
        .unwrap();
    within(&world, "4 of v2", async |world| {
        let pods = world
            .api::<Pod>()
            .list(&ListParams::default())
            .await
            .unwrap();
        let available = pods
            .iter()
            .filter(|pod| pods::is_ready(pod) && pods::is_active(pod));
        // 25 % of 4 may be missing.
        assert!(available.count() >= 3);
        is_rolled_out(world, 4).await
    })
    .await;
    let sets = world
        .api::<ReplicaSet>()
        .list(&ListParams::default())
        .await
        .unwrap();
    let mut revisions: Vec<_> = sets
        .iter()
        .map(|set| (revision::revision(set), set.spec.replicas))
        .collect();
    revisions.sort_unstable();
    assert_eq!(revisions, [(1, Some(0)), (2, Some(4))]);
    let scale = Patch::Merge(json!({"spec": {"replicas": 7}}));
    web.patch_scale("web", &PatchParams::default(), &scale)
        .await
        .unwrap();
    within(&world, "7 of v2", async |world| {
        is_rolled_out(world, 7).await
    })
    .await;
    let said = reasons(&world).await;
    for reason in ["ScalingReplicaSet", "SuccessfulCreate", "SuccessfulDelete"] {
        assert!(
            said.iter().any(|said| said == reason),
            "{reason} in {said:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_fails_goes_back_by_itself() {
    let world = World::new(1).await;
    let _running = world.start();
    let mut wanted = deployment(3, "v1");
    wanted.spec.progress_deadline_seconds = Some(2);
    wanted
        .annotations_mut()
        .insert(revision::ROLLBACK.to_owned(), "true".to_owned());
    let web = world.api::<Deployment>();
    web.create(&PostParams::default(), &wanted).await.unwrap();
    within(&world, "3 of v1", async |world| {
        is_rolled_out(world, 3).await
    })
    .await;
    web.patch("web", &PatchParams::default(), &image("broken"))
        .await
        .unwrap();
    within(&world, "3 of v1 again", async |world| {
        let web: Deployment = world.api().get("web").await.unwrap();
        let spec = web.spec.template.spec.as_ref().unwrap();
        spec.containers[0].image.as_deref() == Some("v1") && is_rolled_out(world, 3).await
    })
    .await;
    within(&world, "the event", async |world| {
        reasons(world)
            .await
            .iter()
            .any(|said| said == "DeploymentRollback")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_decide_what_is_adopted_and_released() {
    let world = World::new(1).await;
    let _running = world.start();
    let set = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "v1"}]}}}});
    let orphan = json!({"metadata": {"name": "orphan", "namespace": "default", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": "v1"}]}});
    let pods = world.api::<Pod>();
    pods.create(
        &PostParams::default(),
        &serde_json::from_value(orphan).unwrap(),
    )
    .await
    .unwrap();
    let set: ReplicaSet = serde_json::from_value(set).unwrap();
    let set = world
        .api::<ReplicaSet>()
        .create(&PostParams::default(), &set)
        .await
        .unwrap();
    within(&world, "2 pods, the orphan one of them", async |world| {
        let set = world.api::<ReplicaSet>().get("web").await.unwrap();
        let pods = world
            .api::<Pod>()
            .list(&ListParams::default())
            .await
            .unwrap();
        set.status.unwrap_or_default().ready_replicas == Some(2) && pods.items.len() == 2
    })
    .await;
    let orphan = pods.get("orphan").await.unwrap();
    assert_eq!(
        Some(&orphan.owner_references()[0].uid),
        set.metadata.uid.as_ref()
    );
    let relabel = Patch::Merge(json!({"metadata": {"labels": {"app": "looked-at"}}}));
    pods.patch("orphan", &PatchParams::default(), &relabel)
        .await
        .unwrap();
    within(&world, "a pod in its place", async |world| {
        let pods = world
            .api::<Pod>()
            .list(&ListParams::default())
            .await
            .unwrap();
        let released = pods.iter().find(|pod| pod.name_any() == "orphan").unwrap();
        pods.items.len() == 3 && released.owner_references().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_job_makes_jobs_and_jobs_make_pods() {
    let world = World::new(1).await;
    let _running = world.start();
    let cron: CronJob = serde_json::from_value(json!({
        "metadata": {"name": "tick", "namespace": "default"},
        "spec": {"schedule": "@every 1s", "successfulJobsHistoryLimit": 2,
            "jobTemplate": {"spec": job("x", json!({})).spec}},
    }))
    .unwrap();
    let crons = world.api::<CronJob>();
    crons.create(&PostParams::default(), &cron).await.unwrap();
    within(&world, "a job that succeeded", async |world| {
        let cron = world.api::<CronJob>().get("tick").await.unwrap();
        cron.status
            .unwrap_or_default()
            .last_successful_time
            .is_some()
    })
    .await;
    let suspend = Patch::Merge(json!({"spec": {"suspend": true}}));
    crons
        .patch("tick", &PatchParams::default(), &suspend)
        .await
        .unwrap();
    within(
        &world,
        "no job that runs, and no more than history keeps",
        async |world| {
            let cron = world.api::<CronJob>().get("tick").await.unwrap();
            let jobs = world
                .api::<Job>()
                .list(&ListParams::default())
                .await
                .unwrap();
            cron.status.unwrap_or_default().active.is_none() && jobs.items.len() <= 2
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_in_failure_and_its_pods_are_let_go() {
    let world = World::new(1).await;
    let _running = world.start();
    let mut wanted = job("sum", json!({"backoffLimit": 1, "completions": 1}));
    let spec = wanted
        .spec
        .as_mut()
        .unwrap()
        .template
        .spec
        .as_mut()
        .unwrap();
    spec.containers[0].image = Some("fails".to_owned());
    let jobs = world.api::<Job>();
    jobs.create(&PostParams::default(), &wanted).await.unwrap();
    within(&world, "a job that failed", async |world| {
        let status = world
            .api::<Job>()
            .get("sum")
            .await
            .unwrap()
            .status
            .unwrap_or_default();
        let failed = status
            .conditions
            .iter()
            .flatten()
            .any(|is| is.type_ == "Failed");
        failed && status.failed == Some(2)
    })
    .await;
    within(&world, "pods without finalizers", async |world| {
        let pods = world
            .api::<Pod>()
            .list(&ListParams::default())
            .await
            .unwrap();
        pods.items.len() == 2 && pods.iter().all(|pod| pod.finalizers().is_empty())
    })
    .await;
}

/// How often the controllers are killed.
const KILLS: usize = 25;

/// The controllers are killed at any point, again and again; in the end all is as
/// wanted. A write that was under way when its controller was killed may land after
/// the next one has looked, and what comes of it is taken back as too many.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_they_reach_what_is_wanted() {
    let world = World::new(3).await;
    let default = PostParams::default();
    world
        .api::<Deployment>()
        .create(&default, &deployment(20, "v1"))
        .await
        .unwrap();
    let wanted = job("sum", json!({"completions": 12, "parallelism": 4}));
    world.api::<Job>().create(&default, &wanted).await.unwrap();
    let log: DaemonSet = serde_json::from_value(json!({
        "metadata": {"name": "log", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "log"}}, "template": {
            "metadata": {"labels": {"app": "log"}},
            "spec": {"containers": [{"name": "main", "image": "v1"}]}}},
    }))
    .unwrap();
    world
        .api::<DaemonSet>()
        .create(&default, &log)
        .await
        .unwrap();
    for _ in 0..KILLS {
        let running = world.start();
        tokio::time::sleep(Duration::from_millis(rand::random_range(1..120))).await;
        running.kill().await;
    }
    let _running = world.start();
    within(&world, "all as wanted", async |world| {
        let sum = world
            .api::<Job>()
            .get("sum")
            .await
            .unwrap()
            .status
            .unwrap_or_default();
        let log = world
            .api::<DaemonSet>()
            .get("log")
            .await
            .unwrap()
            .status
            .unwrap_or_default();
        let complete = sum
            .conditions
            .iter()
            .flatten()
            .any(|is| is.type_ == "Complete");
        is_rolled_out(world, 20).await && complete && log.number_available == Some(3)
    })
    .await;
    let sum = world.api::<Job>().get("sum").await.unwrap().status.unwrap();
    assert!(
        sum.succeeded >= Some(12) && sum.failed == Some(0),
        "{sum:?}"
    );
    let sets = world
        .api::<ReplicaSet>()
        .list(&ListParams::default())
        .await
        .unwrap();
    assert_eq!(sets.items.len(), 1);
    for (owner, wanted) in [("web-", 20), ("sum-", 12), ("log-", 3)] {
        let names = world.ever_made();
        let made = names.iter().filter(|name| name.starts_with(owner)).count();
        assert!(
            (wanted..=wanted + KILLS).contains(&made),
            "{made} pods were made of {owner}, where {wanted} are wanted"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_shutdown_nobody_writes() {
    let world = World::new(1).await;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(super::run(
        world.client(),
        world::config(),
        shutdown.clone(),
    ));
    world
        .api::<Deployment>()
        .create(&PostParams::default(), &deployment(3, "v1"))
        .await
        .unwrap();
    within(&world, "3 of v1", async |world| {
        is_rolled_out(world, 3).await
    })
    .await;
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), running)
        .await
        .unwrap()
        .unwrap();
    world
        .api::<Deployment>()
        .patch("web", &PatchParams::default(), &image("v2"))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let sets = world
        .api::<ReplicaSet>()
        .list(&ListParams::default())
        .await
        .unwrap();
    assert_eq!(sets.items.len(), 1);
}
