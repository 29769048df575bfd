//! Sandboxes and containers through the CRI's calls.

use std::time::Duration;

use berth_cri::service::CriService;
use berth_cri::v1;

use crate::world::{
    create, remove_sandbox, run, run_container, run_sandbox, run_sandbox_by, start, status, until,
};

const CREATED: i32 = v1::ContainerState::ContainerCreated as i32;
const RUNNING: i32 = v1::ContainerState::ContainerRunning as i32;
const EXITED: i32 = v1::ContainerState::ContainerExited as i32;

#[test]
fn a_container_lives_and_ends() {
    whole_life("lifecycle::a_container_lives_and_ends", "");
}

#[test]
fn a_container_of_another_runtime_lives_and_ends() {
    whole_life(
        "lifecycle::a_container_of_another_runtime_lives_and_ends",
        "runc",
    );
}

fn whole_life(name: &str, handler: &'static str) {
    run(name, move |world| async move {
        let engine = world.engine_with_image().await;
        let pod = run_sandbox_by(&engine, world.sandbox("web"), handler).await;
        let sandbox = engine
            .pod_sandbox_status(v1::PodSandboxStatusRequest {
                pod_sandbox_id: pod.clone(),
                verbose: true,
            })
            .await
            .unwrap();
        let of_pod = sandbox.status.unwrap();
        assert_eq!(of_pod.state, v1::PodSandboxState::SandboxReady as i32);
        let address = of_pod.network.unwrap().ip;
        assert!(address.starts_with("10.88."), "{address:?}");

        let script = "echo $HOSTNAME; hostname; ip -4 addr show eth0 | grep -c inet; \
                      grep -c localhost /etc/hosts; echo oops >&2; exit 3";
        let id = create(&engine, &pod, world.container("main", script)).await;
        let made = status(&engine, &id).await;
        assert_eq!((made.state, made.started_at), (CREATED, 0));
        start(&engine, &id).await;
        let exit = engine.wait(&id).await.unwrap();
        assert_eq!(exit.exit_code, 3);
        let ended = status(&engine, &id).await;
        assert_eq!((ended.state, ended.exit_code), (EXITED, 3));
        assert_eq!(ended.reason, "Error");
        assert!(ended.started_at > 0 && ended.finished_at >= ended.started_at);
        assert!(ended.image_ref.contains("@sha256:"), "{}", ended.image_ref);
        assert_eq!(world.log("main"), "web\nweb\n1\n2\noops\n");

        remove_sandbox(&engine, &pod).await;
        let error = engine
            .pod_sandbox_status(v1::PodSandboxStatusRequest {
                pod_sandbox_id: pod,
                verbose: false,
            })
            .await
            .unwrap_err();
        assert_eq!(error.code(), tonic::Code::NotFound);
    });
}

#[test]
fn a_stop_asks_first_and_then_kills() {
    run(
        "lifecycle::a_stop_asks_first_and_then_kills",
        |world| async move {
            let engine = world.engine_with_image().await;
            let pod = run_sandbox(&engine, world.sandbox("stop")).await;
            let polite = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done";
            let polite = run_container(&engine, &pod, world.container("polite", polite)).await;
            let deaf = "trap '' TERM; echo up; while :; do sleep 0.05; done";
            let deaf = run_container(&engine, &pod, world.container("deaf", deaf)).await;
            for name in ["polite", "deaf"] {
                until("it is up", || async { world.log(name) == "up\n" }).await;
            }
            for id in [&polite, &deaf] {
                assert_eq!(status(&engine, id).await.state, RUNNING);
                let stop = v1::StopContainerRequest {
                    container_id: id.clone(),
                    timeout: 1,
                };
                engine.stop_container(stop.clone()).await.unwrap();
                engine.stop_container(stop).await.unwrap();
            }
            let ended = status(&engine, &polite).await;
            assert_eq!((ended.exit_code, ended.reason.as_str()), (0, "Completed"));
            assert_eq!(world.log("polite"), "up\nbye\n");
            assert_eq!(status(&engine, &deaf).await.exit_code, 137);
            for _ in 0..2 {
                engine
                    .remove_container(v1::RemoveContainerRequest {
                        container_id: deaf.clone(),
                    })
                    .await
                    .unwrap();
            }
            let list = engine
                .list_containers(v1::ListContainersRequest::default())
                .await
                .unwrap()
                .containers;
            assert_eq!(list.len(), 1);
            remove_sandbox(&engine, &pod).await;
            remove_sandbox(&engine, &pod).await;
        },
    );
}

#[test]
fn lists_are_filtered() {
    run("lifecycle::lists_are_filtered", |world| async move {
        let engine = world.engine_with_image().await;
        let one = run_sandbox(&engine, world.sandbox("one")).await;
        let two = run_sandbox(&engine, world.sandbox("two")).await;
        let runs = run_container(&engine, &one, world.container("runs", "sleep 100")).await;
        create(&engine, &two, world.container("waits", "true")).await;
        engine
            .stop_pod_sandbox(v1::StopPodSandboxRequest {
                pod_sandbox_id: two.clone(),
            })
            .await
            .unwrap();
        let containers = |filter: v1::ContainerFilter| {
            let engine = &engine;
            async move {
                let request = v1::ListContainersRequest {
                    filter: Some(filter),
                };
                let list = engine.list_containers(request).await.unwrap().containers;
                list.into_iter()
                    .map(|container| container.metadata.unwrap().name)
                    .collect::<Vec<_>>()
                    .join(" ")
            }
        };
        let by_pod = v1::ContainerFilter {
            pod_sandbox_id: one.clone(),
            ..Default::default()
        };
        assert_eq!(containers(by_pod).await, "runs");
        let by_label = v1::ContainerFilter {
            label_selector: [("name".to_owned(), "waits".to_owned())].into(),
            ..Default::default()
        };
        assert_eq!(containers(by_label).await, "waits");
        let by_state = v1::ContainerFilter {
            state: Some(v1::ContainerStateValue { state: RUNNING }),
            ..Default::default()
        };
        assert_eq!(containers(by_state).await, "runs");
        let by_id = v1::ContainerFilter {
            id: runs[..12].to_owned(),
            ..Default::default()
        };
        assert_eq!(containers(by_id).await, "runs");
        let ready = engine
            .list_pod_sandbox(v1::ListPodSandboxRequest {
                filter: Some(v1::PodSandboxFilter {
                    state: Some(v1::PodSandboxStateValue {
                        state: v1::PodSandboxState::SandboxReady as i32,
                    }),
                    ..Default::default()
                }),
            })
            .await
            .unwrap()
            .items;
        assert_eq!(ready.len(), 1);
        assert_eq!(ready[0].id, one);
        remove_sandbox(&engine, &one).await;
        remove_sandbox(&engine, &two).await;
    });
}

#[test]
fn too_much_memory_ends_a_container() {
    run(
        "lifecycle::too_much_memory_ends_a_container",
        |world| async move {
            let engine = world.engine_with_image().await;
            let pod = run_sandbox(&engine, world.sandbox("oom")).await;
            let mut config = world.container(
                "hungry",
                "exec dd if=/dev/zero of=/dev/null bs=200M count=1",
            );
            config.linux = Some(v1::LinuxContainerConfig {
                resources: Some(v1::LinuxContainerResources {
                    memory_limit_in_bytes: 32 << 20,
                    ..Default::default()
                }),
                ..Default::default()
            });
            let id = run_container(&engine, &pod, config).await;
            let exit = engine.wait(&id).await.unwrap();
            assert!(exit.oom_killed);
            let ended = status(&engine, &id).await;
            assert_eq!((ended.exit_code, ended.reason.as_str()), (137, "OOMKilled"));
            remove_sandbox(&engine, &pod).await;
        },
    );
}

#[test]
fn limits_change_and_use_is_measured() {
    run(
        "lifecycle::limits_change_and_use_is_measured",
        |world| async move {
            let engine = world.engine_with_image().await;
            let pod = run_sandbox(&engine, world.sandbox("limits")).await;
            let id = run_container(&engine, &pod, world.container("main", "sleep 100")).await;
            let limit = |bytes: i64| v1::UpdateContainerResourcesRequest {
                container_id: id.clone(),
                linux: Some(v1::LinuxContainerResources {
                    memory_limit_in_bytes: bytes,
                    ..Default::default()
                }),
                ..Default::default()
            };
            engine
                .update_container_resources(limit(64 << 20))
                .await
                .unwrap();
            let resources = status(&engine, &id).await.resources.unwrap().linux.unwrap();
            assert_eq!(resources.memory_limit_in_bytes, 64 << 20);
            let stats = engine
                .container_stats(v1::ContainerStatsRequest {
                    container_id: id.clone(),
                })
                .await
                .unwrap()
                .stats
                .unwrap();
            let memory = stats.memory.unwrap();
            let working_set = memory.working_set_bytes.unwrap().value;
            assert!(working_set > 0);
            assert_eq!(
                memory.available_bytes.unwrap().value,
                (64 << 20) - working_set
            );
            assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
            let of_pod = engine
                .pod_sandbox_stats(v1::PodSandboxStatsRequest {
                    pod_sandbox_id: pod.clone(),
                })
                .await
                .unwrap()
                .stats
                .unwrap()
                .linux
                .unwrap();
            assert_eq!(of_pod.containers.len(), 1);
            let network = of_pod.network.unwrap();
            assert_eq!(network.default_interface.unwrap().name, "eth0");
            let processes = engine.processes(&id).await.unwrap();
            assert_eq!(processes.len(), 1);
            assert_eq!(processes[0].container_pid, 1);
            assert!(processes[0].command.contains("sleep 100"), "{processes:?}");
            remove_sandbox(&engine, &pod).await;
        },
    );
}

#[test]
fn a_log_is_rotated() {
    run("lifecycle::a_log_is_rotated", |world| async move {
        let engine = world.engine_with_image().await;
        let pod = run_sandbox(&engine, world.sandbox("log")).await;
        let script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done";
        let id = run_container(&engine, &pod, world.container("main", script)).await;
        until("it writes", || async { !world.log("main").is_empty() }).await;
        let (now, old) = (world.logs().join("main.log"), world.logs().join("old.log"));
        std::fs::rename(&now, &old).unwrap();
        engine
            .reopen_container_log(v1::ReopenContainerLogRequest {
                container_id: id.clone(),
            })
            .await
            .unwrap();
        until("it writes again", || async {
            !world.log("main").is_empty()
        })
        .await;
        let before = world.log("old");
        let first_after: u32 = world.log("main").lines().next().unwrap().parse().unwrap();
        let last_before: u32 = before.lines().last().unwrap().parse().unwrap();
        assert_eq!(first_after, last_before + 1);
        remove_sandbox(&engine, &pod).await;
    });
}

#[test]
fn containers_of_a_pod_share_what_a_pod_shares() {
    run(
        "lifecycle::containers_of_a_pod_share_what_a_pod_shares",
        |world| async move {
            let engine = world.engine_with_image().await;
            let mut sandbox = world.sandbox("shared");
            sandbox
                .linux
                .get_or_insert_default()
                .security_context
                .get_or_insert_default()
                .namespace_options = Some(v1::NamespaceOption::default());
            let pod = run_sandbox(&engine, sandbox).await;
            let serve = "echo hello > /dev/shm/note; httpd -f -p 127.0.0.1:8080 -h /dev/shm";
            run_container(&engine, &pod, world.container("server", serve)).await;
            let ask = "until wget -q -O - http://localhost:8080/note; do sleep 0.05; done; \
                   cat /dev/shm/note; pidof httpd >/dev/null && echo sees";
            let ask = run_container(&engine, &pod, world.container("client", ask)).await;
            let exit = tokio::time::timeout(Duration::from_secs(20), engine.wait(&ask))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(exit.exit_code, 0);
            assert!(
                world.log("client").ends_with("hello\nhello\nsees\n"),
                "{}",
                world.log("client")
            );
            remove_sandbox(&engine, &pod).await;
        },
    );
}
