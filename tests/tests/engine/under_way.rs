//! A container whose maker is answered while the OCI runtime is still at work.
//!
//! The runtime is ours behind a gate: its `create` waits until a file says whether it
//! goes on or fails.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use berth_cri::engine::Engine;
use berth_cri::engine::config::{EngineConfig, MadeMeans};
use berth_cri::engine::runtimes::OciRuntime;
use berth_cri::service::CriService;
use berth_cri::v1;
use berth_cri::v1::ContainerState;
use berth_runtime::monitor::client;
use berth_runtime::monitor::protocol::{Reply, Request};
use berth_tests::host::write_program;

use crate::world::{
    ROLE, World, create, remove_sandbox, run, run_sandbox_by, start, status, until,
};

/// The handler of the runtime behind the gate.
const GATED: &str = "gated";

struct Gate {
    file: PathBuf,
}

impl Gate {
    /// Puts the gate before our own runtime.
    fn build(world: &World, config: &mut EngineConfig) -> Gate {
        let gate = Gate {
            file: world.directory.join("gate"),
        };
        let program = world.directory.join("gated-runtime");
        let script = format!(
            "#!/bin/sh\n\
             case \" $* \" in *' create '*)\n\
               while [ ! -e {gate} ]; do sleep 0.02; done\n\
               [ \"$(cat {gate})\" = go ] || {{ echo 'no luck today' >&2; exit 1; }} ;;\n\
             esac\n\
             exec {runtime} \"$@\"\n",
            gate = gate.file.display(),
            runtime = config.oci_runtime.display(),
        );
        write_program(&program, &script).unwrap();
        let runtime = OciRuntime {
            program,
            arguments: Vec::new(),
        };
        config.runtimes.named.insert(GATED.to_owned(), runtime);
        gate
    }

    /// From now on `create` goes on, or fails.
    fn open(&self, word: &str) {
        // Whole at once: who reads it may be reading now.
        let draft = self.file.with_extension("draft");
        std::fs::write(&draft, word).unwrap();
        std::fs::rename(&draft, &self.file).unwrap();
    }
}

async fn engine(world: &World) -> (Arc<Engine>, Gate) {
    let mut config = world.config();
    config.made = MadeMeans::Begun;
    let gate = Gate::build(world, &mut config);
    (world.engine_with_image_by(config).await, gate)
}

fn start_request(id: &str) -> v1::StartContainerRequest {
    v1::StartContainerRequest {
        container_id: id.to_owned(),
    }
}

#[test]
fn what_needs_the_container_waits_for_it_and_what_does_not_goes_on() {
    run(
        "under_way::what_needs_the_container_waits_for_it_and_what_does_not_goes_on",
        |world| async move {
            let (engine, gate) = engine(&world).await;
            let pod = run_sandbox_by(&engine, world.sandbox("waits"), GATED).await;
            let mut ids = Vec::new();
            for name in ["started", "updated", "stopped", "removed"] {
                ids.push(create(&engine, &pod, world.container(name, "sleep 100")).await);
            }
            let [started, updated, stopped, removed] = &ids[..] else {
                unreachable!()
            };
            for id in &ids {
                let told = status(&engine, id).await;
                assert_eq!(told.state, ContainerState::ContainerCreated as i32);
            }
            let listed = engine
                .list_containers(v1::ListContainersRequest::default())
                .await
                .unwrap()
                .containers;
            assert_eq!(listed.len(), 4, "{listed:?}");
            let second = engine
                .create_container(v1::CreateContainerRequest {
                    pod_sandbox_id: pod.clone(),
                    config: Some(world.container("started", "true")),
                    sandbox_config: None,
                })
                .await
                .unwrap_err();
            assert!(
                second.message().contains("for this attempt already"),
                "{second}"
            );

            let limits = v1::LinuxContainerResources {
                cpu_shares: 512,
                ..Default::default()
            };
            let calls = tokio::spawn({
                let engine = engine.clone();
                let [started, updated, stopped, removed] =
                    [started, updated, stopped, removed].map(String::clone);
                async move {
                    let verbose = v1::ContainerStatusRequest {
                        container_id: updated.clone(),
                        verbose: true,
                    };
                    let (start, update, told, stop, remove) = tokio::join!(
                        engine.start_container(start_request(&started)),
                        engine.update_container_resources(v1::UpdateContainerResourcesRequest {
                            container_id: updated.clone(),
                            linux: Some(limits),
                            ..Default::default()
                        }),
                        engine.container_status(verbose),
                        engine.stop_container(v1::StopContainerRequest {
                            container_id: stopped,
                            timeout: 0,
                        }),
                        engine.remove_container(v1::RemoveContainerRequest {
                            container_id: removed,
                        }),
                    );
                    start.unwrap();
                    update.unwrap();
                    stop.unwrap();
                    remove.unwrap();
                    told.unwrap()
                }
            });
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            assert!(!calls.is_finished());
            gate.open("go");
            let told = calls.await.unwrap();
            assert_ne!(told.info["pid"], "0");
            let state = async |id: &str| status(&engine, id).await.state;
            assert_eq!(
                state(started).await,
                ContainerState::ContainerRunning as i32
            );
            assert_eq!(
                state(updated).await,
                ContainerState::ContainerCreated as i32
            );
            assert_eq!(state(stopped).await, ContainerState::ContainerExited as i32);
            let gone = engine
                .container_status(v1::ContainerStatusRequest {
                    container_id: removed.clone(),
                    verbose: false,
                })
                .await
                .unwrap_err();
            assert_eq!(gone.code(), tonic::Code::NotFound);
            start(&engine, updated).await;
            remove_sandbox(&engine, &pod).await;
        },
    );
}

#[test]
fn what_fails_after_the_answer_is_told_by_start_and_status() {
    run(
        "under_way::what_fails_after_the_answer_is_told_by_start_and_status",
        |world| async move {
            let (engine, gate) = engine(&world).await;
            let pod = run_sandbox_by(&engine, world.sandbox("fails"), GATED).await;
            let id = create(&engine, &pod, world.container("main", "true")).await;
            let starting = tokio::spawn({
                let (engine, id) = (engine.clone(), id.clone());
                async move { engine.start_container(start_request(&id)).await }
            });
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            gate.open("fail");
            let failed = starting.await.unwrap().unwrap_err();
            assert!(failed.message().contains("no luck today"), "{failed}");
            let told = status(&engine, &id).await;
            assert_eq!(told.state, ContainerState::ContainerExited as i32);
            assert_eq!((told.exit_code, told.reason.as_str()), (128, "StartError"));
            assert!(told.message.contains("no luck today"), "{}", told.message);
            // Also to a server that did not make it.
            drop(engine);
            let engine = world.engine().await;
            assert_eq!(status(&engine, &id).await, told);
            remove_sandbox(&engine, &pod).await;
        },
    );
}

#[test]
fn a_pod_is_stopped_while_the_runtime_is_at_work() {
    run(
        "under_way::a_pod_is_stopped_while_the_runtime_is_at_work",
        |world| async move {
            let (engine, gate) = engine(&world).await;
            let pod = run_sandbox_by(&engine, world.sandbox("ends"), GATED).await;
            create(&engine, &pod, world.container("main", "sleep 100")).await;
            let ending = tokio::spawn({
                let (engine, pod) = (engine.clone(), pod.clone());
                async move { remove_sandbox(&engine, &pod).await }
            });
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            gate.open("go");
            ending.await.unwrap();
        },
    );
}

/// A server that is killed right after its answer leaves the rest to the monitor.
#[test]
fn a_killed_server_loses_no_container_that_it_told_of() {
    const NAME: &str = "under_way::a_killed_server_loses_no_container_that_it_told_of";
    run(NAME, |world| async move {
        let told = world.directory.join("told");
        if std::env::var(ROLE).is_ok() {
            let (engine, _) = engine(&world).await;
            let pod = std::fs::read_to_string(world.directory.join("pod")).unwrap();
            let name = std::env::var(ROLE).unwrap();
            let id = create(&engine, &pod, world.container(&name, "sleep 100")).await;
            std::fs::write(&told, id).unwrap();
            std::process::abort();
        }
        let (engine, gate) = engine(&world).await;
        let pod = run_sandbox_by(&engine, world.sandbox("killed"), GATED).await;
        std::fs::write(world.directory.join("pod"), &pod).unwrap();
        let killed = |mut command: Command| {
            assert!(!command.status().unwrap().success());
            std::fs::read_to_string(&told).unwrap()
        };

        let id = killed(world.other_process(NAME, "made"));
        assert_eq!(
            status(&engine, &id).await.state,
            ContainerState::ContainerCreated as i32
        );
        gate.open("go");
        start(&engine, &id).await;
        assert_eq!(
            status(&engine, &id).await.state,
            ContainerState::ContainerRunning as i32
        );

        // Nobody heard why it was not made: its start asks the runtime again, and hears it.
        std::fs::remove_file(&gate.file).unwrap();
        let ids = ["lost", "again"].map(|name| killed(world.other_process(NAME, name)));
        gate.open("fail");
        until("the monitor has given both up", async || {
            let pod_dir = engine.paths().pod(&pod);
            let mut monitor = client::connect(&pod_dir).unwrap();
            let told = monitor.call(&Request::Status { id: None }).unwrap();
            matches!(told, Reply::Containers { containers } if containers.len() == 1)
        })
        .await;
        for (id, word) in ids.iter().zip(["fail", "go"]) {
            gate.open(word);
            let created = ContainerState::ContainerCreated as i32;
            assert_eq!(status(&engine, id).await.state, created);
            let started = engine.start_container(start_request(id)).await;
            assert_eq!(started.is_ok(), word == "go", "{started:?}");
        }
        let [lost, again] = ids.each_ref().map(|id| status(&engine, id));
        let (lost, again) = (lost.await, again.await);
        assert!(lost.message.contains("no luck today"), "{}", lost.message);
        assert_eq!(again.state, ContainerState::ContainerRunning as i32);
        remove_sandbox(&engine, &pod).await;
    });
}
