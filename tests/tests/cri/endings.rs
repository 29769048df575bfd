//! What is left of a container that has ended, before anybody removes it: word of it alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_cri::v1;
use berth_tests::host::program;
use berth_tests::machine::Machine;

use crate::world::{World, options, run, run_on, within};

const PATIENCE: Duration = Duration::from_secs(10);
const SHARED: i32 = v1::NamespaceMode::Pod as i32;

fn in_shared(world: &World, name: &str, script: &str) -> v1::ContainerConfig {
    let mut config = world.container(name, script);
    let linux = config.linux.get_or_insert_default();
    let context = linux.security_context.get_or_insert_default();
    context.namespace_options.get_or_insert_default().pid = SHARED;
    config
}

/// The group that counts a container's processes.
async fn group_of(world: &mut World, id: &str) -> Result<PathBuf> {
    let pid = world.pid(id).await?;
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let counts = |line: &&str| line.split(':').nth(1).is_some_and(|list| list == "pids");
    let line = text.lines().find(counts).or_else(|| text.lines().last());
    let mut fields = line.context("a process is in a group")?.splitn(3, ':');
    let (controller, path) = (fields.nth(1), fields.next().context("three fields")?);
    let root = Path::new("/sys/fs/cgroup").join(controller.unwrap_or_default());
    Ok(root.join(path.trim_start_matches('/')))
}

async fn stop(world: &mut World, id: &str, timeout: i64) -> Result<()> {
    let container_id = id.to_owned();
    let request = v1::StopContainerRequest {
        container_id,
        timeout,
    };
    world.runtime.stop_container(request).await?;
    Ok(())
}

#[test]
fn the_children_of_an_init_end_with_it_in_a_shared_process_namespace() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let mut shared = world.sandbox("shared");
        options(&mut shared).pid = SHARED;
        let pod = world.run_sandbox(shared).await?;
        let watcher = in_shared(&world, "watcher", "exec sleep 1000");
        let watcher = world.create(&pod, watcher).await?;
        world.start(&watcher).await?;
        let short = in_shared(&world, "short", "sleep 3131 & exec sleep 1");
        let short = world.create(&pod, short).await?;
        world.start(&short).await?;
        let look = ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"];
        let before = world.exec(&watcher, &look).await?.0;
        ensure!(before.contains("sleep 3131"), "{before}");
        let ended = world.wait_exited(&short).await?;
        ensure!(ended.exit_code == 0, "{ended:?}");
        let mut after = String::new();
        let gone = async || {
            after = world.exec(&watcher, &look).await?.0;
            Ok(!after.contains("sleep 3131"))
        };
        within(PATIENCE, "its child is gone", gone).await?;
        ensure!(after.contains("sleep 1000"), "{after}");
        ensure!(world.status(&short).await?.exit_code == 0);
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

#[test]
fn a_container_that_has_ended_has_no_group_and_can_be_stopped_and_removed() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let pod = world.run_sandbox(world.sandbox("ends")).await?;
        let id = world.run_container(&pod, "main", "sleep 1; exit 3").await?;
        let group = group_of(&mut world, &id).await?;
        ensure!(group.exists(), "{}", group.display());
        ensure!(world.wait_exited(&id).await?.exit_code == 3);
        let gone = async || Ok(!group.exists());
        within(PATIENCE, "its group is gone", gone).await?;
        stop(&mut world, &id, 0).await?;
        ensure!(world.status(&id).await?.exit_code == 3, "as it was");
        let stats = v1::ContainerStatsRequest {
            container_id: id.clone(),
        };
        world.runtime.container_stats(stats).await?;
        let remove = v1::RemoveContainerRequest {
            container_id: id.clone(),
        };
        world.runtime.remove_container(remove).await?;
        ensure!(world.status(&id).await.is_err(), "it is gone");
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

#[test]
fn who_has_stopped_a_container_finds_nothing_of_it_but_the_word() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let pod = world.run_sandbox(world.sandbox("stopped")).await?;
        for grace in [0, 5] {
            let name = format!("grace-{grace}");
            let script = "trap 'exit 0' TERM; sleep 3131 & wait";
            let id = world.run_container(&pod, &name, script).await?;
            let group = group_of(&mut world, &id).await?;
            stop(&mut world, &id, grace).await?;
            ensure!(!group.exists(), "{} is left", group.display());
        }
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

/// An OCI runtime whose `delete` waits while a file is there, as a hook may.
fn with_held_deletes(machine: &Machine) -> Result<(PathBuf, String)> {
    let hold = machine.write("hold", "")?;
    let script = format!(
        "#!/bin/sh\nfor word; do [ \"$word\" != delete ] || while [ -e {} ]; do sleep 0.1; done; done\nexec {} \"$@\"\n",
        hold.display(),
        program("berth-oci").display(),
    );
    let runtime = machine.write_program("held", &script)?;
    let text = format!("[handlers.held]\npath = \"{}\"\n", runtime.display());
    Ok((hold, text))
}

#[test]
fn a_delete_that_hangs_does_not_hold_who_stops_a_container() -> Result<()> {
    let machine = Machine::new()?;
    let (hold, text) = with_held_deletes(&machine)?;
    run_on(machine, &text, async |mut world| {
        world.pull().await?;
        let pod = world.run_handled(world.sandbox("held"), "held").await?;
        let id = world.run_container(&pod, "main", "exec sleep 1000").await?;
        stop(&mut world, &id, 0).await?;
        ensure!(world.status(&id).await?.exit_code == 137);
        world.wait_for_log("a poststop hook may hang")?;
        // Nothing of it is lost: whoever removes it waits until it is really gone.
        fs::remove_file(&hold)?;
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}
