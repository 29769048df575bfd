//! Running containers get other resources; pods of a RuntimeClass.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::world::{self, IMAGE, World};

const PATIENT: &str = "trap 'exit 0' TERM; while :; do sleep 1 & wait; done";

fn container(name: &str, more: Value) -> Value {
    let mut container = json!({"name": name, "image": IMAGE, "command": ["sh", "-c", PATIENT], "resources": {
        "requests": {"cpu": "50m", "memory": "16Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}}});
    if let (Some(fields), Value::Object(more)) = (container.as_object_mut(), more) {
        fields.extend(more);
    }
    container
}

fn resize(world: &World, container: &str, resources: Value) -> Result<()> {
    let patch = json!({"spec": {"containers": [{"name": container, "resources": resources}]}});
    let patch = patch.to_string();
    let words = [
        "patch",
        "pod",
        "sized",
        "--subresource=resize",
        "-p",
        &patch,
    ];
    world.prints(&words).map(drop)
}

/// Waits until the pod's status tells of these limits after so many restarts.
async fn until_has(world: &World, index: usize, expected: &str) -> Result<()> {
    let status = format!(".status.containerStatuses[{index}]");
    let path = format!(
        "-o=jsonpath={{{status}.resources.limits.cpu}} {{{status}.resources.limits.memory}} {{{status}.restartCount}} {{{status}.ready}}"
    );
    let words = ["get", "pod", "sized", &path];
    world
        .until_prints(&words, |found| found == expected)
        .await
        .map(drop)
}

/// What the kernel says: the quota of each 100 ms, and the limit of memory.
async fn groups(world: &World, container: &str) -> Result<String> {
    let root = "/sys/fs/cgroup";
    let script = match Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        true => format!("cut -d' ' -f1 {root}/cpu.max; cat {root}/memory.max"),
        false => format!("cat {root}/cpu/cpu.cfs_quota_us {root}/memory/memory.limit_in_bytes"),
    };
    let words = ["exec", "sized", "-c", container, "--", "sh", "-c", &script];
    Ok(world.prints(&words)?.replace('\n', " "))
}

#[test]
fn a_running_pod_gets_more_and_less() -> Result<()> {
    world::run(async |world| {
        let policy = json!({"resizePolicy": [
            {"resourceName": "memory", "restartPolicy": "RestartContainer"}]});
        let spec = json!({"terminationGracePeriodSeconds": 2, "containers": [
            container("main", json!({})), container("again", policy)]});
        world.bind("sized", spec).await?;
        world.until_status("sized", "Running").await?;
        until_has(&world, 0, "200m 64Mi 0 true").await?;

        resize(
            &world,
            "main",
            json!({"limits": {"cpu": "300m", "memory": "96Mi"}}),
        )?;
        until_has(&world, 0, "300m 96Mi 0 true").await?;
        ensure!(groups(&world, "main").await? == "30000 100663296 ");
        world.until_event("sized", "ResizeCompleted").await?;
        resize(
            &world,
            "main",
            json!({"limits": {"cpu": "100m", "memory": "80Mi"}}),
        )?;
        until_has(&world, 0, "100m 80Mi 0 true").await?;
        ensure!(groups(&world, "main").await? == "10000 83886080 ");
        // The other container was left alone, until it is its turn.
        until_has(&world, 1, "200m 64Mi 0 true").await?;
        resize(&world, "again", json!({"limits": {"memory": "96Mi"}}))?;
        until_has(&world, 1, "200m 96Mi 1 true").await?;
        ensure!(groups(&world, "again").await? == "20000 100663296 ");
        until_has(&world, 0, "100m 80Mi 0 true").await?;
        Ok(world)
    })
}

#[test]
fn what_the_node_does_not_have_is_not_given() -> Result<()> {
    world::run(async |mut world| {
        let spec = json!({"terminationGracePeriodSeconds": 2, "containers": [
            container("main", json!({}))]});
        world.bind("sized", spec).await?;
        until_has(&world, 0, "200m 64Mi 0 true").await?;
        let much = json!({"requests": {"cpu": "1000"}, "limits": {"cpu": "1000"}});
        resize(&world, "main", much)?;
        let reason = "-o=jsonpath={.status.conditions[?(@.type=='PodResizePending')].reason}";
        let words = ["get", "pod", "sized", reason];
        world
            .until_prints(&words, |found| found == "Infeasible")
            .await?;
        until_has(&world, 0, "200m 64Mi 0 true").await?;
        // Another agent knows as much, and gives what can be given.
        world.kill_agent()?;
        world.start_agent()?;
        resize(
            &world,
            "main",
            json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "250m"}}),
        )?;
        until_has(&world, 0, "250m 64Mi 0 true").await?;
        world.until_prints(&words, str::is_empty).await?;
        ensure!(groups(&world, "main").await? == "25000 67108864 ");
        Ok(world)
    })
}

/// A class stands for a handler; one that the runtime does not have says which it has.
#[test]
fn a_runtime_class_names_a_handler() -> Result<()> {
    world::run(async |world| {
        world.apply(&json!({
            "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
            "metadata": {"name": "nowhere"}, "handler": "runsc",
        }))?;
        let spec =
            json!({"runtimeClassName": "nowhere", "containers": [container("main", json!({}))]});
        world.bind("lost", spec).await?;
        world.until_event("lost", "FailedCreatePodSandBox").await?;
        let path = "-o=jsonpath={.items[?(@.reason=='FailedCreatePodSandBox')].message}";
        let told = world.prints(&["get", "events", path])?;
        ensure!(told.contains("\"runsc\" is not configured"), "{told}");
        world.delete("lost").await?;
        Ok(world)
    })
}
