//! Jobs that go by the exit codes of real containers.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::world::{self, IMAGE, NODE, Setup, World};

fn run<F>(test: impl FnOnce(World) -> F) -> Result<()>
where
    F: Future<Output = Result<World>>,
{
    let setup = Setup {
        controllers: true,
        ..Setup::default()
    };
    world::run_with(setup, test)
}

fn job(name: &str, script: &str, spec: Value) -> Value {
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"template": {"spec": {"nodeName": NODE, "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": IMAGE, "command": ["sh", "-c", script]}]}}}});
    for (field, value) in spec.as_object().into_iter().flatten() {
        job["spec"][field] = value.clone();
    }
    job
}

/// Waits until a job says that it is over, and tells what it says.
async fn until_over(world: &World, name: &str, condition: &str) -> Result<Value> {
    let words = ["get", "job", name, "-o", "json"];
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let holds = |text: &str| {
        let conditions = read(text)["status"]["conditions"].clone();
        let mut conditions = conditions
            .as_array()
            .cloned()
            .unwrap_or_default()
            .into_iter();
        conditions.any(|found| found["type"] == condition && found["status"] == "True")
    };
    Ok(read(&world.until_prints(&words, holds).await?))
}

fn delete(world: &World, name: &str) -> Result<()> {
    world
        .prints(&[
            "delete",
            "job",
            name,
            "--cascade=foreground",
            "--timeout=100s",
        ])
        .map(drop)
}

#[test]
fn each_index_has_its_own_failures() -> Result<()> {
    run(async |world| {
        // The second index fails each time; the third fails so that no other try helps.
        let script = "case $JOB_COMPLETION_INDEX in 1) exit 1 ;; 2) exit 42 ;; esac";
        world.apply(&job(
            "indexed",
            script,
            json!({
            "completions": 4, "parallelism": 4, "completionMode": "Indexed",
            "backoffLimitPerIndex": 1, "maxFailedIndexes": 3,
            "podFailurePolicy": {"rules": [
                {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [42]}}]}}),
        ))?;
        let over = until_over(&world, "indexed", "Failed").await?;
        let status = &over["status"];
        ensure!(status["completedIndexes"] == "0,3", "{status}");
        ensure!(status["failedIndexes"] == "1,2", "{status}");
        // Two tries of the one, one of the other.
        ensure!(status["failed"] == 3, "{status}");
        delete(&world, "indexed")?;
        Ok(world)
    })
}

#[test]
fn exit_codes_choose_between_trying_again_and_giving_up() -> Result<()> {
    run(async |world| {
        let rules = json!({"rules": [
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]});
        world.apply(&job(
            "hopeless",
            "exit 42",
            json!({"backoffLimit": 6, "podFailurePolicy": rules}),
        ))?;
        let over = until_over(&world, "hopeless", "Failed").await?;
        let conditions = over["status"]["conditions"].to_string();
        ensure!(
            conditions.contains("PodFailurePolicy") && over["status"]["failed"] == 1,
            "{over}"
        );
        delete(&world, "hopeless")?;
        // An eviction is nobody's fault: with no try left the job goes on in another pod.
        let shared = world.shared()?.display().to_string();
        let script = "[ -e /shared/evicted ] && exit 0; touch /shared/evicted
            dd if=/dev/urandom of=/tmp/big bs=1M count=6; sleep 1000";
        let mut evicted = job(
            "evicted",
            script,
            json!({"backoffLimit": 0, "podFailurePolicy": rules}),
        );
        let pod = &mut evicted["spec"]["template"]["spec"];
        pod["volumes"] = json!([{"name": "shared", "hostPath": {"path": shared}}]);
        pod["containers"][0]["volumeMounts"] = json!([{"name": "shared", "mountPath": "/shared"}]);
        pod["containers"][0]["resources"] = json!({"limits": {"ephemeral-storage": "2Mi"}});
        world.apply(&evicted)?;
        let over = until_over(&world, "evicted", "Complete").await?;
        ensure!(over["status"]["succeeded"] == 1, "{over}");
        delete(&world, "evicted")?;
        Ok(world)
    })
}
