//! Agents that are killed, servers that are away.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;

use crate::world;

fn container_id(pod: &Pod) -> Result<String> {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    let id = statuses.and_then(|statuses| statuses.first()?.container_id.clone());
    id.context("the container has an id")
}

#[test]
fn a_killed_agent_takes_its_pods_over() -> Result<()> {
    world::run(async |mut world| {
        world.run_script("web", "echo begun; sleep 1000").await?;
        let before = world.until_phase("web", "Running").await?;
        world.kill_agent()?;
        world.start_agent()?;
        // It does its work again: another pod runs.
        world.run_script("next", "sleep 1000").await?;
        world.until_phase("next", "Running").await?;
        let after = world.until_phase("web", "Running").await?;
        ensure!(container_id(&before)? == container_id(&after)?);
        let log = world.until_log("web", "begun").await?;
        ensure!(log == "begun\n", "it began once: {log:?}");
        Ok(world)
    })
}

#[test]
fn pods_go_on_while_the_server_is_away() -> Result<()> {
    world::run(async |mut world| {
        // It ends by itself a while from now, when there is no server.
        world
            .run_script("web", "echo begun; sleep 4; exit 1")
            .await?;
        world.until_phase("web", "Running").await?;
        world.kill_server()?;
        world.kill_agent()?;
        world.start_agent()?;
        tokio::time::sleep(Duration::from_secs(6)).await;
        world.start_server()?;
        let pods = world.pods();
        world
            .eventually("the restart is told", async || {
                let pod = pods.get_opt("web").await.ok()??;
                let container = pod.status?.container_statuses?.pop()?;
                (container.restart_count >= 1).then_some(())
            })
            .await?;
        Ok(world)
    })
}

#[test]
fn what_was_deleted_while_the_agent_was_away_is_ended() -> Result<()> {
    world::run(async |mut world| {
        world.run_script("web", "sleep 1000").await?;
        world.until_phase("web", "Running").await?;
        world.kill_agent()?;
        let at_once = kube::api::DeleteParams::default().grace_period(0);
        world.pods().delete("web", &at_once).await?;
        world.until_deleted("web").await?;
        world.start_agent()?;
        let saved = world.machine.host().directory().join("agent/pods");
        world
            .eventually("nothing is kept of it", async || {
                let left = std::fs::read_dir(&saved).ok()?.count();
                (left == 0).then_some(())
            })
            .await?;
        Ok(world)
    })
}

#[test]
fn an_idle_agent_is_small() -> Result<()> {
    world::run(async |world| {
        world.run_script("web", "sleep 1000").await?;
        world.until_phase("web", "Running").await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let status = std::fs::read_to_string(format!("/proc/{}/status", world.agent_pid()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kibibytes: u64 = line
            .and_then(|line| line.split_whitespace().nth(1))
            .context("VmRSS")?
            .parse()?;
        println!("resident memory of an agent with one pod: {kibibytes} KiB");
        // Built without optimization it is larger than what is aimed at (32 MiB).
        ensure!(kibibytes < 96 << 10, "{kibibytes} KiB");
        Ok(world)
    })
}
