//! Several engines, dead engines, dead monitors.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use berth_cri::engine::events::Change;
use berth_cri::service::CriService;
use berth_cri::v1;
use berth_runtime::monitor::protocol::Event;
use tokio_stream::StreamExt;

use crate::world::{
    ROLE, World, create, remove_sandbox, run, run_container, run_sandbox, status, until,
};

#[test]
fn a_new_engine_finds_everything_again() {
    run(
        "survival::a_new_engine_finds_everything_again",
        |world| async move {
            let engine = world.engine_with_image().await;
            let pod = run_sandbox(&engine, world.sandbox("again")).await;
            let runs = run_container(&engine, &pod, world.container("runs", "sleep 100")).await;
            let ended = run_container(&engine, &pod, world.container("ended", "exit 9")).await;
            engine.wait(&ended).await.unwrap();
            let before = (status(&engine, &runs).await, status(&engine, &ended).await);
            drop(engine);
            let engine = world.engine().await;
            let after = (status(&engine, &runs).await, status(&engine, &ended).await);
            assert_eq!(before, after);
            // An exit is remembered after the monitor has gone, too.
            engine
                .stop_pod_sandbox(v1::StopPodSandboxRequest {
                    pod_sandbox_id: pod.clone(),
                })
                .await
                .unwrap();
            assert_eq!(status(&engine, &ended).await, before.1);
            assert_eq!(status(&engine, &runs).await.exit_code, 137);
            remove_sandbox(&engine, &pod).await;
        },
    );
}

/// The first record of a container is not brought to the disk at once, so a loss of power
/// may leave its name alone.
#[test]
fn what_a_loss_of_power_left_nameless_is_undone() {
    run(
        "survival::what_a_loss_of_power_left_nameless_is_undone",
        |world| async move {
            let engine = world.engine_with_image().await;
            let pod = run_sandbox(&engine, world.sandbox("power")).await;
            let kept = run_container(&engine, &pod, world.container("kept", "sleep 100")).await;
            drop(engine);
            let data = world.config().data_dir;
            let lost = "0123456789abcdef0123456789abcdef";
            let record = data.join(format!("pods/{pod}/containers/{lost}.json"));
            let snapshot = data.join("snapshots").join(lost);
            std::fs::write(&record, "").unwrap();
            std::fs::create_dir_all(snapshot.join("upper/file")).unwrap();
            std::fs::write(snapshot.join("snapshot.json"), "").unwrap();
            let engine = world.engine().await;
            assert!(!record.exists() && !snapshot.exists());
            assert_eq!(
                status(&engine, &kept).await.state,
                v1::ContainerState::ContainerRunning as i32
            );
            remove_sandbox(&engine, &pod).await;
        },
    );
}

#[test]
fn two_engines_work_side_by_side() {
    run(
        "survival::two_engines_work_side_by_side",
        |world| async move {
            let one = world.engine_with_image().await;
            let two = world.engine().await;
            let mut events = two.events();
            // The subscription begins with the first look at the records.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let pod = run_sandbox(&one, world.sandbox("both")).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let id = create(&two, &pod, world.container("main", "exit 2")).await;
            let names = ["a", "b", "c", "d"];
            let made = futures_all(names.map(|name| {
                let engine = if name < "c" { one.clone() } else { two.clone() };
                let (pod, config) = (pod.clone(), world.container(name, "sleep 100"));
                tokio::spawn(async move { run_container(&engine, &pod, config).await })
            }))
            .await;
            assert_eq!(made.len(), 4);
            one.start_container(v1::StartContainerRequest {
                container_id: id.clone(),
            })
            .await
            .unwrap();
            assert_eq!(two.wait(&id).await.unwrap().exit_code, 2);
            remove_sandbox(&two, &pod).await;
            let mut seen = Vec::new();
            while !matches!(seen.last(), Some(Change::SandboxRemoved { .. })) {
                let event = tokio::time::timeout(Duration::from_secs(10), events.next())
                    .await
                    .unwrap()
                    .unwrap();
                assert_eq!(event.pod_id, pod);
                seen.push(event.change);
            }
            assert!(matches!(seen[0], Change::SandboxReady { .. }), "{seen:?}");
            let exits = seen.iter().any(|change| {
            matches!(change, Change::Container(Event::Exited(exit)) if exit.id == id && exit.exit_code == 2)
        });
            assert!(exits, "{seen:?}");
        },
    );
}

async fn futures_all<T>(tasks: impl IntoIterator<Item = tokio::task::JoinHandle<T>>) -> Vec<T> {
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await.unwrap());
    }
    all
}

const KILLED: &str = "survival::a_killed_engine_leaves_nothing_half_made";

#[test]
fn a_killed_engine_leaves_nothing_half_made() {
    run(KILLED, |world| async move {
        if std::env::var(ROLE).is_ok() {
            make_and_remove_for_ever(&world).await;
        }
        drop(world.engine_with_image().await);
        // Each delay hits another step; together they hit most of them.
        for delay_ms in (10..400).step_by(26) {
            let mut victim = world.other_process(KILLED, "victim").spawn().unwrap();
            until("it has begun", || async {
                world.directory.join("work/begun").exists()
            })
            .await;
            std::fs::remove_file(world.directory.join("work/begun")).unwrap();
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            victim.kill().unwrap();
            assert_eq!(victim.wait().unwrap().signal(), Some(9));
            let engine = world.engine().await;
            // What is listed is whole: it can be used and removed.
            let pods = engine
                .list_pod_sandbox(v1::ListPodSandboxRequest::default())
                .await
                .unwrap()
                .items;
            for pod in &pods {
                // One whose removal was broken off is not ready any more.
                if pod.state == v1::PodSandboxState::SandboxReady as i32 {
                    run_container(&engine, &pod.id, world.container("after", "true")).await;
                }
                remove_sandbox(&engine, &pod.id).await;
            }
            let left: Vec<_> = std::fs::read_dir(world.directory.join("run/pods"))
                .unwrap()
                .flatten()
                .collect();
            assert!(left.is_empty(), "after {delay_ms} ms: {left:?}");
            assert!(engine.records().pod_ids().unwrap().is_empty());
        }
    });
}

async fn make_and_remove_for_ever(world: &World) -> ! {
    let engine = world.engine().await;
    std::fs::write(world.directory.join("work/begun"), b"").unwrap();
    loop {
        let pod = run_sandbox(&engine, world.sandbox("victim")).await;
        create(&engine, &pod, world.container("main", "sleep 100")).await;
        engine
            .remove_pod_sandbox(v1::RemovePodSandboxRequest {
                pod_sandbox_id: pod,
            })
            .await
            .unwrap();
    }
}

#[test]
fn a_killed_monitor_is_noticed_and_cleared_away() {
    run(
        "survival::a_killed_monitor_is_noticed_and_cleared_away",
        |world| async move {
            let engine = world.engine_with_image().await;
            let pod = run_sandbox(&engine, world.sandbox("orphan")).await;
            let id = run_container(&engine, &pod, world.container("main", "sleep 100")).await;
            let pod_dir = engine.paths().pod(&pod).display().to_string();
            let monitor = monitor_of(&pod_dir);
            rustix::process::kill_process(monitor, rustix::process::Signal::KILL).unwrap();
            until("the sandbox is not ready", || async {
                let status = engine
                    .pod_sandbox_status(v1::PodSandboxStatusRequest {
                        pod_sandbox_id: pod.clone(),
                        verbose: false,
                    })
                    .await
                    .unwrap()
                    .status
                    .unwrap();
                status.state == v1::PodSandboxState::SandboxNotready as i32
            })
            .await;
            let unknown = status(&engine, &id).await;
            assert_eq!(unknown.state, v1::ContainerState::ContainerUnknown as i32);
            engine
                .stop_container(v1::StopContainerRequest {
                    container_id: id.clone(),
                    timeout: 1,
                })
                .await
                .unwrap();
            engine
                .stop_pod_sandbox(v1::StopPodSandboxRequest {
                    pod_sandbox_id: pod.clone(),
                })
                .await
                .unwrap();
            let ended = status(&engine, &id).await;
            assert_eq!(ended.state, v1::ContainerState::ContainerExited as i32);
            assert_eq!((ended.exit_code, ended.reason.as_str()), (255, "Unknown"));
            remove_sandbox(&engine, &pod).await;
        },
    );
}

fn monitor_of(pod_dir: &str) -> rustix::process::Pid {
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).into_owned();
            (line.contains("monitor") && line.contains(pod_dir)).then_some(pid)
        });
    // The pod's process 1, if there is one, is younger.
    rustix::process::Pid::from_raw(pids.min().unwrap()).unwrap()
}
