//! Networks that plugins of CNI make, by a real server and real plugins.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_cri::v1;
use tonic::Code;

use crate::world::{World, refused, socket};

/// The machine and its plugins.
#[path = "cni/node.rs"]
mod node;

/// What goes wrong: plugins that fail, servers that are killed.
#[path = "cni/trouble.rs"]
mod trouble;

use self::node::{BRIDGE, FIRST, GATEWAY, in_host, run, until};

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
        rival.port_mappings = vec![v1::PortMapping {
            protocol: v1::Protocol::Tcp as i32,
            container_port: 81,
            host_port: 8080,
            host_ip: String::new(),
        }];
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
            wait_for_info(&mut world, &format!("\"cniVersion\":\"{version}\"")).await?;
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
        node.configure_first(&ranged)?;
        wait_for_info(&mut world, FIRST).await?;
        let request = v1::UpdateRuntimeConfigRequest {
            runtime_config: Some(v1::RuntimeConfig {
                network_config: Some(v1::NetworkConfig {
                    pod_cidr: "10.97.7.0/24,fd97:7::/64".to_owned(),
                }),
            }),
        };
        world.runtime.update_runtime_config(request).await?;
        let pod = world.run_sandbox(world.sandbox("web")).await?;
        let (ip, more) = addresses(&mut world, &pod).await?;
        ensure!(ip.to_string().starts_with("10.97.7."), "{ip}");
        ensure!(more[0].to_string().starts_with("fd97:7::"), "{more:?}");
        world.remove_sandbox(&pod).await?;
        ensure!(in_host(world.machine.host(), "ip -o link show")?.contains(BRIDGE));
        Ok(world)
    })
}

#[test]
fn a_pod_that_insists_on_its_addresses_gets_them() -> Result<()> {
    run(async |mut world, node| {
        let asking = r#""capabilities":{"ips":true,"mac":true},"#;
        let network = node.network("1.1.0");
        node.configure_first(&network.replacen(r#""hairpinMode":true,"#, asking, 1))?;
        wait_for_info(&mut world, FIRST).await?;
        let wished = |addresses: &str| {
            let wishes = [
                ("berth/cni-ips", addresses),
                ("berth/cni-mac", "02:97:00:00:00:01"),
            ];
            wishes.map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        let mut config = world.sandbox("web");
        config.annotations = wished("10.97.0.77,fd97::77").into();
        let pod = world.run_sandbox(config.clone()).await?;
        let (ip, more) = addresses(&mut world, &pod).await?;
        ensure!(ip.to_string() == "10.97.0.77" && more[0].to_string() == "fd97::77");
        let info = inspect(&mut world, &pod).await?;
        ensure!(
            info["record"].contains("02:97:00:00:00:01"),
            "{}",
            info["record"]
        );
        // Taken: host-local says so, and nothing is left of the second pod.
        let mut second = world.sandbox("second");
        second.annotations = wished("10.97.0.77").into();
        let request = v1::RunPodSandboxRequest {
            config: Some(second),
            runtime_handler: String::new(),
        };
        let outcome = world.runtime.run_pod_sandbox(request).await;
        refused(outcome, Code::Unknown, "10.97.0.77")?;
        ensure!(node.leases()?.len() == 2, "{:?}", node.leases()?);
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

#[test]
fn pods_that_come_at_once_get_addresses_of_their_own() -> Result<()> {
    run(async |mut world, node| {
        let mut making = tokio::task::JoinSet::new();
        for number in 0..12 {
            let mut runtime = world.runtime.clone();
            let request = v1::RunPodSandboxRequest {
                config: Some(world.sandbox(&format!("p{number}"))),
                runtime_handler: String::new(),
            };
            making.spawn(async move { runtime.run_pod_sandbox(request).await });
        }
        let mut pods = Vec::new();
        while let Some(made) = making.join_next().await {
            pods.push(made??.into_inner().pod_sandbox_id);
        }
        let mut seen = std::collections::BTreeSet::new();
        for pod in &pods {
            let (ip, more) = addresses(&mut world, pod).await?;
            ensure!(seen.insert(ip) && more.len() == 1, "{ip} was given twice");
        }
        ensure!(node.leases()?.len() == 24, "{:?}", node.leases()?);
        let mut removing = tokio::task::JoinSet::new();
        for pod_sandbox_id in pods {
            let mut runtime = world.runtime.clone();
            let request = v1::RemovePodSandboxRequest { pod_sandbox_id };
            removing.spawn(async move { runtime.remove_pod_sandbox(request).await });
        }
        while let Some(removed) = removing.join_next().await {
            removed??;
        }
        Ok(world)
    })
}

#[test]
fn crictl_shows_what_plugins_made() -> Result<()> {
    let Some(program) = berth_tests::critest::named("CRICTL") else {
        return Ok(());
    };
    run(async |world, node| {
        let endpoint = format!("unix://{}", socket(&world.machine).display());
        let crictl = |words: &[&str]| -> Result<String> {
            let mut command = world.machine.host().command(&program);
            command.args(["--runtime-endpoint", &endpoint]).args(words);
            let output = command.stdin(std::process::Stdio::null()).output()?;
            let stderr = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.success(),
                "crictl {}: {stderr}",
                words.join(" ")
            );
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let config = r#"{"metadata":{"name":"p","namespace":"n","uid":"u"},"linux":{},
            "port_mappings":[{"container_port":80,"host_port":8080}]}"#;
        let file = world.machine.write("pod.json", config)?;
        let info = crictl(&["info"])?;
        ensure!(
            info.contains("\"plugins\"") && info.contains("host"),
            "{info}"
        );
        let pod = crictl(&["runp", &file.display().to_string()])?
            .trim()
            .to_owned();
        let inspected = crictl(&["inspectp", &pod])?;
        ensure!(
            inspected.contains("\"ip\": \"10.97.0.") && inspected.contains("cniResult"),
            "{inspected}"
        );
        ensure!(node.leases()?.len() == 2);
        crictl(&["stopp", &pod])?;
        ensure!(node.leases()?.is_empty(), "{:?}", node.leases()?);
        crictl(&["rmp", &pod])?;
        Ok(world)
    })
}

/// Waits until the server tells of its network in these words.
async fn wait_for_info(world: &mut World, words: &str) -> Result<()> {
    until(words, async || {
        let request = v1::StatusRequest { verbose: true };
        let info = world.runtime.status(request).await?.into_inner().info;
        Ok(info["cni"].contains(words))
    })
    .await
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
