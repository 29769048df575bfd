//! Networks that plugins of CNI make, by a real server and real plugins.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_cri::v1;
use berth_tests::patience::stretched;
use tonic::Code;

use crate::world::{World, refused};

/// The machine and its plugins.
#[path = "cni/node.rs"]
mod node;

use self::node::{BRIDGE, GATEWAY, in_host, run, until};

/// What a container of a web server runs.
const SERVE: &str = "mkdir /www && echo hello >/www/index.html && exec httpd -f -p 80 -h /www";

#[test]
fn a_pod_is_reached_by_both_families_and_by_its_host_port() -> Result<()> {
    run(async |mut world, node| {
        world.pull().await?;
        let mut config = world.sandbox("web");
        config.port_mappings = vec![v1::PortMapping {
            protocol: v1::Protocol::Tcp as i32,
            container_port: 80,
            host_port: 8080,
            host_ip: String::new(),
        }];
        let limits = [("kubernetes.io/ingress-bandwidth", "80M")];
        config.annotations = limits
            .map(|(name, value)| (name.into(), value.into()))
            .into();
        let pod = world.run_sandbox(config).await?;
        let (ip, more) = addresses(&mut world, &pod).await?;
        ensure!(ip.to_string().starts_with("10.97.0."), "{ip}");
        ensure!(more.len() == 1 && more[0].is_ipv6(), "{more:?}");
        let container = world.run_container(&pod, "web", SERVE).await?;
        let host = world.machine.host();
        let patience = Duration::from_secs(10);
        for address in [
            SocketAddr::new(ip, 80),
            SocketAddr::new(more[0], 80),
            SocketAddr::new(GATEWAY.parse()?, 8080),
            "127.0.0.1:8080".parse()?,
        ] {
            let page = host.get_within(patience, address, "/")?;
            ensure!(page.text() == "hello\n", "{address}: {}", page.text());
        }
        let limited = in_host(host, "tc qdisc show")?;
        ensure!(
            limited.contains("tbf") && limited.contains("rate 80Mbit"),
            "{limited}"
        );

        // From pod to pod, and the loopback that berth sets up.
        let other = world.run_sandbox(world.sandbox("other")).await?;
        let client = world.run_container(&other, "c", "exec sleep 1000").await?;
        let url = format!("http://{ip}/");
        let (text, code) = world.exec(&client, &["wget", "-qO-", &url]).await?;
        ensure!(code == 0 && text == "hello\n", "{code}: {text}");
        let (text, code) = world
            .exec(&container, &["wget", "-qO-", "http://127.0.0.1/"])
            .await?;
        ensure!(code == 0 && text == "hello\n", "{code}: {text}");

        let info = inspect(&mut world, &pod).await?;
        ensure!(info["cniCheck"] == "\"passed\"", "{}", info["cniCheck"]);
        let result: serde_json::Value = serde_json::from_str(&info["cniResult"])?;
        ensure!(result["cniVersion"] == "1.1.0", "{result}");

        // Another pod asks for the port, then the first one goes.
        let mut rival = world.sandbox("rival");
        rival.port_mappings = world.sandbox("web").port_mappings;
        rival.port_mappings.push(v1::PortMapping {
            protocol: v1::Protocol::Tcp as i32,
            container_port: 81,
            host_port: 8080,
            host_ip: String::new(),
        });
        let outcome = world.run_sandbox(rival.clone()).await;
        let error = outcome.err().context("the port is taken")?;
        ensure!(
            format!("{error:#}").contains(&format!("held by pod {pod}")),
            "{error:#}"
        );
        world.remove_sandbox(&pod).await?;
        let rival = world.run_sandbox(rival).await?;
        ensure!(node.leases()?.len() == 4, "{:?}", node.leases()?);
        world.remove_sandbox(&rival).await?;
        world.remove_sandbox(&other).await?;
        // Idempotent.
        world.remove_sandbox(&other).await?;
        let links = in_host(world.machine.host(), "ip -o link show type veth")?;
        ensure!(links.is_empty(), "{links}");
        Ok(world)
    })
}

#[test]
fn older_versions_of_the_specification_serve() -> Result<()> {
    run(async |mut world, node| {
        for version in ["0.4.0", "1.0.0"] {
            node.configure(&node.network(version))?;
            let file = format!("\"cniVersion\":\"{version}\"");
            until(version, async || {
                let request = v1::StatusRequest { verbose: true };
                let info = world.runtime.status(request).await?.into_inner().info;
                Ok(info["cni"].contains(&file))
            })
            .await?;
            let pod = world.run_sandbox(world.sandbox("web")).await?;
            let info = inspect(&mut world, &pod).await?;
            let result: serde_json::Value = serde_json::from_str(&info["cniResult"])?;
            ensure!(result["cniVersion"] == version, "{result}");
            ensure!(info["cniCheck"] == "\"passed\"", "{}", info["cniCheck"]);
            world.remove_sandbox(&pod).await?;
        }
        let asked = |command: &str| node.calls().iter().any(|call| call.starts_with(command));
        ensure!(asked("CHECK") && asked("DEL"), "{:?}", node.calls());
        Ok(world)
    })
}

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
    run(async |mut world, node| {
        for (how, told) in [
            (
                "error",
                "plugin fault: ADD: code 11 (try again later): the line is cut; at the harbour",
            ),
            ("flood", "plugin fault: ADD: printed more than 1 MiB"),
            ("garbage", "plugin fault: ADD: the result is not JSON"),
            ("die", "standard error: a last word"),
            (
                "hang",
                "plugin fault: ADD: did not end within 4 seconds and was killed",
            ),
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
fn a_pod_is_taken_down_by_those_who_made_its_network() -> Result<()> {
    run(async |mut world, node| {
        let by_plugins = world.run_sandbox(world.sandbox("plugins")).await?;
        let arguments = std::mem::take(&mut world.arguments);
        world.kill_and_restart().await?;
        let by_netd = world.run_sandbox(world.sandbox("netd")).await?;
        let (ip, _) = addresses(&mut world, &by_netd).await?;
        ensure!(ip.to_string().starts_with("10.88."), "{ip}");
        let (ip, _) = addresses(&mut world, &by_plugins).await?;
        ensure!(ip.to_string().starts_with("10.97."), "{ip}");
        world.remove_sandbox(&by_plugins).await?;
        ensure!(node.leases()?.is_empty(), "{:?}", node.leases()?);
        world.arguments = arguments;
        world.kill_and_restart().await?;
        world.remove_sandbox(&by_netd).await?;
        let links = in_host(world.machine.host(), "ip -o link show")?;
        ensure!(!links.contains("berth0"), "{links}");
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

#[test]
fn the_kubelets_range_reaches_plugins_that_ask_for_it() -> Result<()> {
    run(async |mut world, node| {
        let network = node.network("1.1.0");
        let ranged = network
            .replacen(
                r#""hairpinMode":true,"#,
                r#""capabilities":{"ipRanges":true},"#,
                1,
            )
            .replacen(
                r#""ranges":[[{"subnet":"10.97.0.0/24"}],[{"subnet":"fd97::/64"}]],"#,
                "",
                1,
            );
        node.configure(&ranged)?;
        let request = v1::UpdateRuntimeConfigRequest {
            runtime_config: Some(v1::RuntimeConfig {
                network_config: Some(v1::NetworkConfig {
                    pod_cidr: "10.97.7.0/24,fd97:7::/64".to_owned(),
                }),
            }),
        };
        world.runtime.update_runtime_config(request).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let pod = world.run_sandbox(world.sandbox("web")).await?;
        let (ip, more) = addresses(&mut world, &pod).await?;
        ensure!(ip.to_string().starts_with("10.97.7."), "{ip}");
        ensure!(more[0].to_string().starts_with("fd97:7::"), "{more:?}");
        world.remove_sandbox(&pod).await?;
        ensure!(in_host(world.machine.host(), "ip -o link show")?.contains(BRIDGE));
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

/// The pod's `ip` and its others.
async fn addresses(world: &mut World, pod: &str) -> Result<(IpAddr, Vec<IpAddr>)> {
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pod.to_owned(),
        verbose: false,
    };
    let status = world
        .runtime
        .pod_sandbox_status(request)
        .await?
        .into_inner();
    let network = status
        .status
        .context("status")?
        .network
        .context("network")?;
    let more = network.additional_ips.iter().map(|one| Ok(one.ip.parse()?));
    let ip = network.ip.parse().with_context(|| network.ip.clone())?;
    Ok((ip, more.collect::<Result<_>>()?))
}

async fn inspect(
    world: &mut World,
    pod: &str,
) -> Result<std::collections::HashMap<String, String>> {
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pod.to_owned(),
        verbose: true,
    };
    Ok(world
        .runtime
        .pod_sandbox_status(request)
        .await?
        .into_inner()
        .info)
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
