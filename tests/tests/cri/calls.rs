//! Every call's common path, bad input, and what a killed server loses: nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_cri::v1;
use berth_tests::patience::stretched;
use tokio_stream::StreamExt;
use tonic::{Code, Streaming};

use crate::world::{IMAGE, image_spec, refused, run, words};

#[test]
fn the_server_says_who_it_is_and_that_it_is_ready() -> Result<()> {
    run(async |mut world| {
        let version = world.runtime.version(v1::VersionRequest::default()).await?;
        let version = version.into_inner();
        ensure!(version.runtime_name == "berth" && version.runtime_api_version == "v1");
        let request = v1::StatusRequest { verbose: true };
        let status = world.runtime.status(request).await?.into_inner();
        let conditions = status.status.context("status")?.conditions;
        for name in ["RuntimeReady", "NetworkReady"] {
            let found = conditions.iter().find(|one| one.r#type == name);
            let found = found.with_context(|| format!("{name} is missing"))?;
            ensure!(found.status, "{name}: {}", found.message);
        }
        let default = status.runtime_handlers.first().context("a handler")?;
        ensure!(default.name.is_empty(), "the default handler stands first");
        let config: serde_json::Value = serde_json::from_str(&status.info["config"])?;
        ensure!(config["podSubnets"].is_array(), "{config}");
        let driver = world
            .runtime
            .runtime_config(v1::RuntimeConfigRequest::default())
            .await?
            .into_inner();
        let driver = driver.linux.context("linux")?.cgroup_driver;
        // Who is asked for nothing takes the machine's.
        let expected = match std::path::Path::new("/run/systemd/system").is_dir() {
            true => v1::CgroupDriver::Systemd,
            false => v1::CgroupDriver::Cgroupfs,
        };
        ensure!(driver == expected as i32);
        Ok(world)
    })
}

#[test]
fn an_image_comes_is_told_of_and_goes() -> Result<()> {
    run(async |mut world| {
        let status = |image: &str| v1::ImageStatusRequest {
            image: Some(v1::ImageSpec {
                image: image.to_owned(),
                ..Default::default()
            }),
            verbose: false,
        };
        let before = world.images.image_status(status(IMAGE)).await?.into_inner();
        ensure!(before.image.is_none(), "an absent image is not an error");
        let id = world.pull().await?;
        let again = world.pull().await?;
        ensure!(id == again, "one image, one id");
        let by_name = world.images.image_status(status(IMAGE)).await?.into_inner();
        let by_name = by_name.image.context("it was pulled")?;
        ensure!(by_name.id == id && by_name.size > 0, "{by_name:?}");
        let by_id = world.images.image_status(status(&id)).await?.into_inner();
        ensure!(by_id.image.as_ref() == Some(&by_name));
        let list = v1::ListImagesRequest::default();
        let listed = world.images.list_images(list).await?.into_inner().images;
        let streamed = world
            .images
            .stream_images(v1::StreamImagesRequest::default())
            .await?
            .into_inner();
        let streamed = all(streamed).await?;
        ensure!(streamed.into_iter().flat_map(|page| page.images).eq(listed));
        let space = world
            .images
            .image_fs_info(v1::ImageFsInfoRequest::default())
            .await?
            .into_inner();
        let used = space
            .image_filesystems
            .first()
            .and_then(|one| one.used_bytes);
        ensure!(used.is_some_and(|used| used.value > 0));
        let remove = || v1::RemoveImageRequest {
            image: Some(image_spec()),
        };
        world.images.remove_image(remove()).await?;
        // Idempotent.
        world.images.remove_image(remove()).await?;
        let list = v1::ListImagesRequest::default();
        ensure!(
            world
                .images
                .list_images(list)
                .await?
                .into_inner()
                .images
                .is_empty()
        );
        let missing = v1::PullImageRequest {
            image: Some(v1::ImageSpec {
                image: "docker.io/library/nothing:1".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let outcome = world.images.pull_image(missing).await;
        refused(outcome, Code::NotFound, "nothing:1")?;
        Ok(world)
    })
}

#[test]
fn a_pod_lives_from_run_to_remove() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let pod = world.run_sandbox(world.sandbox("web")).await?;
        let status = |verbose| v1::PodSandboxStatusRequest {
            pod_sandbox_id: pod.clone(),
            verbose,
        };
        let told = world
            .runtime
            .pod_sandbox_status(status(true))
            .await?
            .into_inner();
        let sandbox = told.status.context("a status")?;
        ensure!(sandbox.state == v1::PodSandboxState::SandboxReady as i32);
        ensure!(!sandbox.network.context("a network")?.ip.is_empty());
        ensure!(!told.info.is_empty(), "verbose tells more");

        let id = world
            .run_container(&pod, "main", "echo out; echo err >&2; exec sleep 1000")
            .await?;
        let (text, code) = world.exec(&id, &["sh", "-c", "hostname; exit 3"]).await?;
        ensure!((text.as_str(), code) == ("web\n", 3));
        let running = world.status(&id).await?;
        ensure!(running.state == v1::ContainerState::ContainerRunning as i32);
        ensure!(
            running.image_id == running.image.context("image")?.image || running.started_at > 0
        );

        // A rename and ReopenContainerLog are what a kubelet's rotation is.
        let log = world.logs().join("main.log");
        let lines = std::fs::read_to_string(&log)?;
        ensure!(
            lines.contains(" stdout F out\n") && lines.contains(" stderr F err\n"),
            "{lines}"
        );
        std::fs::rename(&log, world.logs().join("main.log.1"))?;
        let reopen = v1::ReopenContainerLogRequest {
            container_id: id.clone(),
        };
        world.runtime.reopen_container_log(reopen).await?;
        ensure!(log.exists(), "the log was opened anew");

        let stop = || v1::StopContainerRequest {
            container_id: id.clone(),
            timeout: 0,
        };
        world.runtime.stop_container(stop()).await?;
        world.runtime.stop_container(stop()).await?;
        let ended = world.status(&id).await?;
        ensure!(
            ended.exit_code == 137 && ended.finished_at >= ended.started_at,
            "{ended:?}"
        );
        let remove = || v1::RemoveContainerRequest {
            container_id: id.clone(),
        };
        world.runtime.remove_container(remove()).await?;
        world.runtime.remove_container(remove()).await?;
        refused(
            world
                .runtime
                .container_status(v1::ContainerStatusRequest {
                    container_id: id.clone(),
                    verbose: false,
                })
                .await,
            Code::NotFound,
            &id,
        )?;

        world.remove_sandbox(&pod).await?;
        // Idempotent, for what never was too.
        world.remove_sandbox(&pod).await?;
        refused(
            world.runtime.pod_sandbox_status(status(false)).await,
            Code::NotFound,
            &pod,
        )?;
        Ok(world)
    })
}

#[test]
fn lists_statistics_and_metrics_agree() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let (one, two) = (
            world.run_sandbox(world.sandbox("one")).await?,
            world.run_sandbox(world.sandbox("two")).await?,
        );
        let id = world.run_container(&one, "main", "exec sleep 1000").await?;
        let by_label = v1::PodSandboxFilter {
            label_selector: [("app".to_owned(), "two".to_owned())].into(),
            ..Default::default()
        };
        let request = v1::ListPodSandboxRequest {
            filter: Some(by_label),
        };
        let found = world
            .runtime
            .list_pod_sandbox(request)
            .await?
            .into_inner()
            .items;
        ensure!(found.len() == 1 && found[0].id == two);
        let streamed = world
            .runtime
            .stream_pod_sandboxes(v1::StreamPodSandboxesRequest::default())
            .await?
            .into_inner();
        let count: usize = all(streamed)
            .await?
            .iter()
            .map(|page| page.pod_sandboxes.len())
            .sum();
        ensure!(count == 2);
        let streamed = world
            .runtime
            .stream_containers(v1::StreamContainersRequest::default())
            .await?
            .into_inner();
        ensure!(all(streamed).await?[0].containers[0].id == id);

        let request = v1::ContainerStatsRequest {
            container_id: id.clone(),
        };
        let stats = world.runtime.container_stats(request).await?.into_inner();
        let memory = stats.stats.context("stats")?.memory.context("memory")?;
        ensure!(memory.usage_bytes.is_some_and(|bytes| bytes.value > 0));
        let request = v1::PodSandboxStatsRequest {
            pod_sandbox_id: one.clone(),
        };
        let of_pod = world.runtime.pod_sandbox_stats(request).await?.into_inner();
        let linux = of_pod.stats.context("stats")?.linux.context("linux")?;
        ensure!(linux.containers.len() == 1 && linux.network.is_some());

        let descriptors = world
            .runtime
            .list_metric_descriptors(v1::ListMetricDescriptorsRequest::default())
            .await?
            .into_inner()
            .descriptors;
        let metrics = world
            .runtime
            .list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest::default())
            .await?
            .into_inner()
            .pod_metrics;
        let pod = metrics
            .iter()
            .find(|pod| pod.pod_sandbox_id == one)
            .context("metrics")?;
        let of_main = &pod.container_metrics[0].metrics;
        for metric in pod.metrics.iter().chain(of_main) {
            let known = descriptors.iter().find(|known| known.name == metric.name);
            let known = known.with_context(|| format!("{} is not described", metric.name))?;
            ensure!(
                known.label_keys.len() == metric.label_values.len(),
                "{}",
                metric.name
            );
        }
        let threads = of_main
            .iter()
            .find(|metric| metric.name == "container_processes");
        ensure!(
            threads
                .and_then(|metric| metric.value)
                .is_some_and(|value| value.value == 1)
        );
        world.remove_sandbox(&one).await?;
        world.remove_sandbox(&two).await?;
        Ok(world)
    })
}

#[test]
fn limits_change_while_a_container_runs() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let pod = world.run_sandbox(world.sandbox("grow")).await?;
        let id = world.run_container(&pod, "main", "exec sleep 1000").await?;
        let update = v1::UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(v1::LinuxContainerResources {
                cpu_shares: 512,
                memory_limit_in_bytes: 64 << 20,
                ..Default::default()
            }),
            ..Default::default()
        };
        world.runtime.update_container_resources(update).await?;
        let told = world.status(&id).await?.resources.and_then(|all| all.linux);
        let told = told.context("resources")?;
        ensure!((told.cpu_shares, told.memory_limit_in_bytes) == (512, 64 << 20));
        let update = v1::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: pod.clone(),
            resources: Some(v1::LinuxContainerResources {
                memory_limit_in_bytes: 128 << 20,
                ..Default::default()
            }),
            overhead: None,
        };
        world.runtime.update_pod_sandbox_resources(update).await?;
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

#[test]
fn bad_input_is_named_and_leaves_nothing() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let run_pod = |config| v1::RunPodSandboxRequest {
            config,
            runtime_handler: String::new(),
        };
        let outcome = world.runtime.run_pod_sandbox(run_pod(None)).await;
        refused(outcome, Code::InvalidArgument, "config: is missing")?;
        let mut nameless = world.sandbox("x");
        nameless.metadata = None;
        let outcome = world.runtime.run_pod_sandbox(run_pod(Some(nameless))).await;
        refused(outcome, Code::InvalidArgument, "config.metadata")?;
        let mut handler = run_pod(Some(world.sandbox("x")));
        handler.runtime_handler = "nobody".to_owned();
        let outcome = world.runtime.run_pod_sandbox(handler).await;
        refused(outcome, Code::InvalidArgument, "nobody")?;

        let pod = world.run_sandbox(world.sandbox("good")).await?;
        let outcome = world
            .runtime
            .run_pod_sandbox(run_pod(Some(world.sandbox("good"))))
            .await;
        refused(outcome, Code::AlreadyExists, &pod)?;
        let create = |pod: &str, config| v1::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config),
            sandbox_config: None,
        };
        let good = world.container("main", "true");
        let outcome = world
            .runtime
            .create_container(create("nowhere", good.clone()))
            .await;
        refused(outcome, Code::NotFound, "nowhere")?;
        let mut image = good.clone();
        image.image = Some(v1::ImageSpec {
            image: "docker.io/library/absent:1".to_owned(),
            ..Default::default()
        });
        let outcome = world.runtime.create_container(create(&pod, image)).await;
        refused(outcome, Code::NotFound, "absent:1")?;
        let mut relative = good.clone();
        relative.working_dir = "here".to_owned();
        let outcome = world.runtime.create_container(create(&pod, relative)).await;
        refused(outcome, Code::InvalidArgument, "working_dir")?;
        let mut mount = good.clone();
        mount.mounts = vec![v1::Mount {
            host_path: "/nowhere".to_owned(),
            container_path: "/data".to_owned(),
            ..Default::default()
        }];
        let outcome = world.runtime.create_container(create(&pod, mount)).await;
        refused(outcome, Code::InvalidArgument, "mounts.host_path")?;
        let exec = v1::ExecSyncRequest {
            container_id: "nowhere".to_owned(),
            cmd: words(&["true"]),
            timeout: 1,
        };
        refused(
            world.runtime.exec_sync(exec).await,
            Code::NotFound,
            "nowhere",
        )?;
        let list = v1::ListContainersRequest::default();
        let left = world
            .runtime
            .list_containers(list)
            .await?
            .into_inner()
            .containers;
        ensure!(left.is_empty(), "{left:?}");
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

#[test]
fn a_command_that_takes_too_long_is_gone() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let pod = world.run_sandbox(world.sandbox("slow")).await?;
        let id = world.run_container(&pod, "main", "exec sleep 1000").await?;
        let exec = v1::ExecSyncRequest {
            container_id: id.clone(),
            cmd: words(&["sleep", "4321"]),
            timeout: 1,
        };
        let outcome = world.runtime.exec_sync(exec).await;
        refused(outcome, Code::DeadlineExceeded, "1 seconds")?;
        // Not even as a zombie: pgrep and a liveness probe would see it.
        let (processes, _) = world.exec(&id, &["ps", "-o", "args"]).await?;
        ensure!(!processes.contains("4321"), "{processes}");
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

#[test]
fn an_image_is_a_volume() -> Result<()> {
    run(async |mut world| {
        let image_id = world.pull().await?;
        let pod = world.run_sandbox(world.sandbox("volume")).await?;
        let volume = |at: &str, sub_path: &str| v1::Mount {
            container_path: at.to_owned(),
            readonly: true,
            image: Some(image_spec()),
            image_sub_path: sub_path.to_owned(),
            ..Default::default()
        };
        let mut config = world.container("main", "exec sleep 1000");
        config.mounts = vec![volume("/whole", ""), volume("/part", "etc")];
        let id = world.create(&pod, config).await?;
        world.start(&id).await?;
        let (text, code) = world
            .exec(
                &id,
                &[
                    "sh",
                    "-c",
                    "ls /part/passwd && /whole/bin/busybox true && touch /whole/x",
                ],
            )
            .await?;
        ensure!(code != 0 && text.contains("/part/passwd"), "{text}");
        ensure!(text.contains("Read-only file system"), "{text}");
        let told = world.status(&id).await?.mounts;
        ensure!(
            told.iter()
                .all(|mount| mount.image.as_ref().unwrap().image_ref == image_id)
        );
        let mut writable = world.container("other", "true");
        writable.mounts = vec![v1::Mount {
            readonly: false,
            ..volume("/whole", "")
        }];
        let mut absent = world.container("other", "true");
        absent.mounts = vec![volume("/part", "nothing/here")];
        for (config, names) in [(writable, "readonly"), (absent, "image_sub_path")] {
            let request = v1::CreateContainerRequest {
                pod_sandbox_id: pod.clone(),
                config: Some(config),
                sandbox_config: None,
            };
            let outcome = world.runtime.create_container(request).await;
            refused(outcome, Code::InvalidArgument, names)?;
        }
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

#[test]
fn masked_paths_are_empty_and_cannot_be_run() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let pod = world.run_sandbox(world.sandbox("masked")).await?;
        let masking = |world: &crate::world::World, name: &str, paths: &[&str]| {
            let mut config = world.container(name, "exec sleep 1000");
            config.linux = Some(v1::LinuxContainerConfig {
                security_context: Some(v1::LinuxContainerSecurityContext {
                    masked_paths: words(paths),
                    ..Default::default()
                }),
                ..Default::default()
            });
            config
        };
        let config = masking(&world, "some", &["/bin/ls", "/etc/passwd"]);
        let id = world.create(&pod, config).await?;
        world.start(&id).await?;
        let script = "wc -c </etc/passwd; /bin/ls; echo $?";
        let (text, _) = world.exec(&id, &["sh", "-c", script]).await?;
        ensure!(text.contains("0\n") && text.contains("126\n"), "{text}");
        // procMount: Unmasked states an empty list.
        let config = masking(&world, "none", &[]);
        let none = world.create(&pod, config).await?;
        world.start(&none).await?;
        let count = ["grep", "-c", " /proc/", "/proc/self/mountinfo"];
        let (text, _) = world.exec(&none, &count).await?;
        ensure!(text == "0\n", "{text}");
        let silent = world
            .run_container(&pod, "silent", "exec sleep 1000")
            .await?;
        let (text, _) = world.exec(&silent, &count).await?;
        ensure!(text != "0\n", "the defaults are masked");
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

#[test]
fn a_killed_server_loses_nothing() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let pod = world.run_sandbox(world.sandbox("stays")).await?;
        let before = world.run_container(&pod, "before", "exit 7").await?;
        world.wait_exited(&before).await?;
        let during = world
            .run_container(&pod, "during", "sleep 1; exit 8")
            .await?;
        let after = world
            .run_container(&pod, "after", "exec sleep 1000")
            .await?;
        let began = world.status(&after).await?.started_at;
        world.kill_and_restart().await?;
        let code = |status: v1::ContainerStatus| status.exit_code;
        ensure!(code(world.wait_exited(&before).await?) == 7);
        ensure!(code(world.wait_exited(&during).await?) == 8);
        let still = world.status(&after).await?;
        ensure!(still.state == v1::ContainerState::ContainerRunning as i32);
        ensure!(still.started_at == began, "it is the same one");

        let mut events = world
            .runtime
            .get_container_events(v1::GetEventsRequest::default())
            .await?
            .into_inner();
        // The stream has no beginning that can be seen: the reader is there
        // once something that it caused arrives.
        let next = world.run_container(&pod, "next", "exit 9").await?;
        let stopped = v1::ContainerEventType::ContainerStoppedEvent as i32;
        let seen = async {
            while let Some(event) = events.next().await {
                let event = event?;
                if event.container_id == next && event.container_event_type == stopped {
                    return Ok(event);
                }
            }
            anyhow::bail!("the events ended")
        };
        let event = tokio::time::timeout(stretched(Duration::from_secs(20)), seen).await??;
        let told = event
            .containers_statuses
            .into_iter()
            .find(|one| one.id == next);
        ensure!(told.context("its status")?.exit_code == 9);
        drop(events);
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

#[test]
fn a_node_is_given_its_range_of_addresses() -> Result<()> {
    run(async |mut world| {
        let update = |cidr: &str| v1::UpdateRuntimeConfigRequest {
            runtime_config: Some(v1::RuntimeConfig {
                network_config: Some(v1::NetworkConfig {
                    pod_cidr: cidr.to_owned(),
                }),
            }),
        };
        let outcome = world
            .runtime
            .update_runtime_config(update("10.9.0.0"))
            .await;
        refused(outcome, Code::InvalidArgument, "pod_cidr")?;
        world
            .runtime
            .update_runtime_config(update("10.99.7.0/24"))
            .await?;
        world.kill_and_restart().await?;
        let pod = world.run_sandbox(world.sandbox("ranged")).await?;
        let status = v1::PodSandboxStatusRequest {
            pod_sandbox_id: pod.clone(),
            verbose: false,
        };
        let told = world
            .runtime
            .pod_sandbox_status(status)
            .await?
            .into_inner()
            .status;
        let ip = told.context("status")?.network.context("network")?.ip;
        ensure!(ip.starts_with("10.99.7."), "{ip}");
        // The same again is fine, another is not while the pod has its address.
        world
            .runtime
            .update_runtime_config(update("10.99.7.0/24"))
            .await?;
        let outcome = world
            .runtime
            .update_runtime_config(update("10.98.0.0/24"))
            .await;
        refused(outcome, Code::FailedPrecondition, "10.99.7.0/24")?;
        world.remove_sandbox(&pod).await?;
        world
            .runtime
            .update_runtime_config(update("10.98.0.0/24"))
            .await?;
        Ok(world)
    })
}

#[test]
fn what_is_not_served_says_so() -> Result<()> {
    run(async |mut world| {
        let request = v1::CheckpointContainerRequest::default();
        let outcome = world.runtime.checkpoint_container(request).await;
        refused(outcome, Code::Unimplemented, "CheckpointContainer")?;
        let request = v1::CheckpointPodRequest::default();
        let outcome = world.runtime.checkpoint_pod(request).await;
        refused(outcome, Code::Unimplemented, "CheckpointPod")?;
        let request = v1::RestorePodRequest::default();
        let outcome = world.runtime.restore_pod(request).await;
        refused(outcome, Code::Unimplemented, "RestorePod")?;
        Ok(world)
    })
}

async fn all<T>(mut pages: Streaming<T>) -> Result<Vec<T>> {
    let mut list = Vec::new();
    while let Some(page) = pages.next().await {
        list.push(page?);
    }
    Ok(list)
}
