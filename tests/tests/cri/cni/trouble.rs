//! Plugins that fail, networks that are not ready, servers that are killed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_cri::v1;
use berth_tests::patience::stretched;
use tonic::Code;

use super::addresses;
use super::node::{in_host, run, timeout, until};
use crate::world::{World, refused};

#[test]
fn status_says_what_keeps_pods_from_a_network() -> Result<()> {
    run(async |mut world, node| {
        wait_for_network(&mut world, "").await?;
        node.answer("STATUS", "status")?;
        let told = "plugin fault: STATUS: code 50 (the plugin cannot attach pods now): no line yet";
        wait_for_network(&mut world, told).await?;
        node.answer("STATUS", "hang")?;
        wait_for_network(
            &mut world,
            "plugin fault: STATUS: did not end within 5 seconds",
        )
        .await?;
        node.answer("STATUS", "well")?;
        wait_for_network(&mut world, "").await?;

        node.configure(r#"{"cniVersion":"1.1.0","name":"pods","plugins":[{"type":"../sh"}]}"#)?;
        wait_for_network(&mut world, "10-pods.conflist: plugins[0].type: \"../sh\"").await?;
        let outcome = sandbox(&mut world, "web").await;
        refused(outcome, Code::Unknown, "10-pods.conflist")?;
        node.configure(r#"{"cniVersion":"1.1.0","name":"pods","plugins":[{"type":"nowhere"}]}"#)?;
        wait_for_network(&mut world, "plugin nowhere is not an executable file in ").await?;
        node.configure(&node.network("0.3.1"))?;
        wait_for_network(
            &mut world,
            "plugin fault speaks versions 0.4.0, 1.0.0, 1.1.0",
        )
        .await?;
        std::fs::remove_file(node.conf_dir.join("10-pods.conflist"))?;
        wait_for_network(&mut world, "holds no *.conflist, *.conf or *.json").await?;
        std::fs::remove_dir(&node.conf_dir)?;
        wait_for_network(&mut world, "net.d: cannot be read").await?;
        std::fs::create_dir(&node.conf_dir)?;
        node.configure(&node.network("1.1.0"))?;
        wait_for_network(&mut world, "").await?;
        Ok(world)
    })
}

#[test]
fn a_plugin_that_fails_leaves_nothing_and_is_told_of() -> Result<()> {
    let late = format!(
        "plugin fault: ADD: did not end within {} seconds and was killed",
        timeout()
    );
    run(async move |mut world, node| {
        for (how, told) in [
            (
                "error",
                "plugin fault: ADD: code 11 (try again later): the line is cut; at the harbour",
            ),
            ("flood", "plugin fault: ADD: printed more than 1 MiB"),
            ("garbage", "plugin fault: ADD: the result is not JSON"),
            ("die", "standard error: a last word"),
            ("hang", late.as_str()),
        ] {
            node.answer("ADD", how)?;
            let begin = Instant::now();
            let outcome = sandbox(&mut world, how).await;
            refused(outcome, Code::Unknown, told)?;
            ensure!(begin.elapsed() < stretched(Duration::from_secs(15)));
            ensure!(node.leases()?.is_empty(), "{how}: {:?}", node.leases()?);
            ensure!(node.attachments(&world)?.is_empty(), "{how}");
            let last = node.calls().last().cloned().unwrap_or_default();
            ensure!(last.starts_with("DEL "), "{how}: {last}");
        }
        node.answer("ADD", "well")?;

        // A DEL that fails keeps the record, and the next try does the rest.
        let pod = world.run_sandbox(world.sandbox("web")).await?;
        node.answer("DEL", "error")?;
        let stop = || v1::StopPodSandboxRequest {
            pod_sandbox_id: pod.clone(),
        };
        let outcome = world.runtime.stop_pod_sandbox(stop()).await;
        refused(outcome, Code::Unknown, "plugin fault: DEL: code 11")?;
        ensure!(node.leases()?.len() == 2 && node.attachments(&world)?.len() == 2);
        node.answer("DEL", "well")?;
        world.runtime.stop_pod_sandbox(stop()).await?;
        ensure!(node.leases()?.is_empty());
        world.remove_sandbox(&pod).await?;

        // A child that holds the output open is not waited for; it ends by itself.
        node.answer("ADD", "linger")?;
        let pod = world.run_sandbox(world.sandbox("web")).await?;
        in_host(
            world.machine.host(),
            "kill $(pgrep --ns $$ --nslist net -x sleep)",
        )?;
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

#[test]
fn what_a_server_killed_in_the_middle_began_is_undone_by_the_next() -> Result<()> {
    run(async |mut world, node| {
        let stays = world.run_sandbox(world.sandbox("stays")).await?;
        let (ip, _) = addresses(&mut world, &stays).await?;
        node.answer("ADD", "hang")?;
        let mut runtime = world.runtime.clone();
        let config = Some(world.sandbox("web"));
        let running = tokio::spawn(async move {
            let request = v1::RunPodSandboxRequest {
                config,
                runtime_handler: String::new(),
            };
            runtime.run_pod_sandbox(request).await
        });
        node.wait_until_it_hangs().await?;
        ensure!(node.leases()?.len() == 4, "{:?}", node.leases()?);
        // Besides, an address is held by a pod that nobody knows.
        node.forge_lease("10.97.0.200")?;
        world.kill_and_restart().await?;
        ensure!(running.await?.is_err(), "its server was killed");
        until("DEL and GC have given back", async || {
            Ok(node.leases()?.len() == 2)
        })
        .await?;
        ensure!(
            node.leases()?.iter().all(|(_, holder)| *holder == stays),
            "{:?}",
            node.leases()?
        );
        let sleepers = "pgrep --ns $$ --nslist net -ax sleep || true";
        let processes = in_host(world.machine.host(), sleepers)?;
        ensure!(processes.is_empty(), "the plugin runs on: {processes}");

        node.answer("ADD", "well")?;
        ensure!(addresses(&mut world, &stays).await?.0 == ip);
        let again = world.run_sandbox(world.sandbox("web")).await?;
        world.remove_sandbox(&again).await?;
        world.remove_sandbox(&stays).await?;
        let called = |command: &str| node.calls().iter().any(|call| call.starts_with(command));
        ensure!(called("GC"), "{:?}", node.calls());
        Ok(world)
    })
}

#[test]
fn a_server_killed_at_any_moment_leaks_no_address() -> Result<()> {
    run(async |mut world, node| {
        for round in 0_u32..12 {
            let mut runtime = world.runtime.clone();
            let request = v1::RunPodSandboxRequest {
                config: Some(world.sandbox(&format!("p{round}"))),
                runtime_handler: String::new(),
            };
            let running = tokio::spawn(async move { runtime.run_pod_sandbox(request).await });
            tokio::time::sleep(Duration::from_millis(35) * round).await;
            world.kill_and_restart().await?;
            // Whether it was made in time does not matter; what is told of is there.
            let _ = running.await?;
            let pods = v1::ListPodSandboxRequest::default();
            let pods = world
                .runtime
                .list_pod_sandbox(pods)
                .await?
                .into_inner()
                .items;
            let made = pods.len() * 2;
            until("what is not told of was given back", async || {
                Ok(node.leases()?.len() == made)
            })
            .await?;
            for pod in pods {
                world.remove_sandbox(&pod.id).await?;
            }
        }
        Ok(world)
    })
}

#[test]
fn gc_is_left_alone_where_the_network_says_so() -> Result<()> {
    run(async |mut world, node| {
        let pod = world.run_sandbox(world.sandbox("web")).await?;
        let network = node.network("1.1.0");
        node.configure(&network.replacen('{', r#"{"disableGC":true,"disableCheck":true,"#, 1))?;
        node.forge_lease("10.97.0.200")?;
        let before = node.calls().len();
        world.kill_and_restart().await?;
        wait_for_network(&mut world, "").await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        ensure!(node.leases()?.len() == 3, "{:?}", node.leases()?);
        let calls = node.calls().split_off(before);
        ensure!(
            calls.iter().all(|call| !call.starts_with("GC")),
            "{calls:?}"
        );
        node.configure(&network)?;
        world.kill_and_restart().await?;
        until("GC", async || Ok(node.leases()?.len() == 2)).await?;
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

#[test]
fn a_pod_whose_namespace_is_gone_still_gets_its_del() -> Result<()> {
    run(async |mut world, node| {
        let pod = world.run_sandbox(world.sandbox("web")).await?;
        let netns = world
            .machine
            .host()
            .run_dir()
            .join("pods")
            .join(&pod)
            .join("ns/net");
        in_host(
            world.machine.host(),
            &format!("umount -l {}", netns.display()),
        )?;
        world.remove_sandbox(&pod).await?;
        let last = node.calls().last().cloned().unwrap_or_default();
        ensure!(last.trim_end() == format!("DEL {pod}"), "{last:?}");
        ensure!(node.leases()?.is_empty(), "{:?}", node.leases()?);
        Ok(world)
    })
}

async fn sandbox(world: &mut World, name: &str) -> Result<String, tonic::Status> {
    let request = v1::RunPodSandboxRequest {
        config: Some(world.sandbox(name)),
        runtime_handler: String::new(),
    };
    let reply = world.runtime.run_pod_sandbox(request).await?;
    Ok(reply.into_inner().pod_sandbox_id)
}

/// Waits until `NetworkReady` says something; nothing is that it is true.
async fn wait_for_network(world: &mut World, told: &str) -> Result<()> {
    let deadline = Instant::now() + stretched(Duration::from_secs(20));
    loop {
        let request = v1::StatusRequest { verbose: false };
        let status = world.runtime.status(request).await?.into_inner().status;
        let conditions = status.context("status")?.conditions;
        let mut conditions = conditions.into_iter();
        let network = conditions.find(|one| one.r#type == "NetworkReady");
        let network = network.context("NetworkReady")?;
        let is_told = match told {
            "" => network.status,
            told => !network.status && network.message.contains(told),
        };
        if is_told {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "expected {told:?}: {network:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
