//! What a pod goes through: it runs, is looked into, changes, ends.

use anyhow::{Result, ensure};
use kube::api::LogParams;
use serde_json::json;

use crate::world::{self, IMAGE};

#[test]
fn a_pod_runs_is_looked_into_and_goes() -> Result<()> {
    world::run(async |world| {
        world
            .run_script("web", "echo one; echo two; echo three; sleep 1000")
            .await?;
        let pod = world.until_phase("web", "Running").await?;
        let status = pod.status.unwrap_or_default();
        ensure!(
            status.pod_ip.is_some() && status.host_ip.is_some(),
            "{status:?}"
        );
        ensure!(
            status.qos_class.as_deref() == Some("BestEffort"),
            "{status:?}"
        );
        let log = world.until_log("web", "three").await?;
        ensure!(log == "one\ntwo\nthree\n", "{log:?}");
        let options = LogParams {
            tail_lines: Some(1),
            timestamps: true,
            ..LogParams::default()
        };
        let last = world.logs("web", options).await?;
        ensure!(last.ends_with("Z three\n"), "{last:?}");
        let out = world
            .exec("web", &["sh", "-c", "echo $HOSTNAME; cat /etc/hosts"])
            .await?;
        ensure!(out.starts_with("web\n") && out.contains("\tweb"), "{out:?}");
        for wanted in ["Pulled", "Created", "Started"] {
            world.until_event("web", wanted).await?;
        }
        world.delete("web").await?;
        Ok(world)
    })
}

#[test]
fn a_failing_pod_is_restarted_and_its_last_words_are_kept() -> Result<()> {
    world::run(async |world| {
        world.run_script("crash", "echo again; exit 3").await?;
        let pods = world.pods();
        world
            .eventually("two restarts", async || {
                let pod = pods.get_opt("crash").await.ok()??;
                let container = pod.status?.container_statuses?.pop()?;
                let last = container.last_state?.terminated?;
                (container.restart_count >= 2 && last.exit_code == 3).then_some(())
            })
            .await?;
        let options = LogParams {
            previous: true,
            ..LogParams::default()
        };
        let log = world.logs("crash", options).await?;
        ensure!(log == "again\n", "{log:?}");
        world.until_event("crash", "BackOff").await?;
        Ok(world)
    })
}

#[test]
fn a_config_map_is_waited_for_and_followed() -> Result<()> {
    world::run(async |world| {
        let spec = json!({
            "volumes": [{"name": "v", "configMap": {"name": "settings"}}],
            "containers": [{"name": "main", "image": IMAGE,
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "command": ["sh", "-c", "while sleep 0.2; do cat /v/key; echo; done"]}]});
        world.bind("reader", spec).await?;
        world.until_event("reader", "FailedMount").await?;
        world.put_config_map("settings", "first").await?;
        world.until_log("reader", "first\n").await?;
        world.put_config_map("settings", "second").await?;
        world.until_log("reader", "second\n").await?;
        let pod = world.until_phase("reader", "Running").await?;
        let statuses = pod.status.and_then(|status| status.container_statuses);
        ensure!(statuses.is_some_and(|statuses| statuses[0].restart_count == 0));
        Ok(world)
    })
}

#[test]
fn a_pod_that_does_not_fit_is_refused() -> Result<()> {
    world::run(async |world| {
        let spec = json!({"containers": [{"name": "main", "image": IMAGE,
            "resources": {"requests": {"memory": "1000Ti"}}}]});
        world.bind("large", spec).await?;
        let pod = world.until_phase("large", "Failed").await?;
        let reason = pod.status.and_then(|status| status.reason);
        ensure!(reason.as_deref() == Some("OutOfmemory"), "{reason:?}");
        let spec = json!({"nodeSelector": {"disk": "ssd"},
            "containers": [{"name": "main", "image": IMAGE}]});
        world.bind("elsewhere", spec).await?;
        let pod = world.until_phase("elsewhere", "Failed").await?;
        let reason = pod.status.and_then(|status| status.reason);
        ensure!(reason.as_deref() == Some("NodeAffinity"), "{reason:?}");
        Ok(world)
    })
}

#[test]
fn a_long_log_is_cut_and_read_over_the_cut() -> Result<()> {
    world::run(async |world| {
        let script = "for i in $(seq 1 5000); do echo line $i and some more words; done; sleep 3; \
            echo after; sleep 1000";
        world.run_script("talker", script).await?;
        world.until_log("talker", "after").await?;
        let options = LogParams {
            tail_lines: Some(3),
            ..LogParams::default()
        };
        let last = world.logs("talker", options).await?;
        let expected = "line 4999 and some more words\nline 5000 and some more words\nafter\n";
        ensure!(last == expected, "{last:?}");
        let logs = world.machine.host().directory().join("pod-logs");
        let rotated = walk(&logs)?;
        ensure!(
            rotated.iter().any(|name| name.starts_with("0.log.")),
            "{rotated:?}"
        );
        Ok(world)
    })
}

/// The names of all files below a directory.
fn walk(directory: &std::path::Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => names.extend(walk(&entry.path())?),
            false => names.push(entry.file_name().to_string_lossy().into_owned()),
        }
    }
    Ok(names)
}
