//! How containers begin, are asked how they are, and end; what kubectl shows of it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::world::{self, IMAGE, World};

/// A container that runs a script and has the machine's shared folder at `/shared`.
fn container(name: &str, script: &str, more: Value) -> Value {
    let mut container = json!({"name": name, "image": IMAGE, "command": ["sh", "-c", script],
        "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]});
    for (field, value) in more.as_object().into_iter().flatten() {
        container[field] = value.clone();
    }
    container
}

/// A pod of such containers.
fn pod(world: &World, containers: &[Value], more: Value) -> Result<Value> {
    let shared = world.shared()?.display().to_string();
    let mut spec = json!({"containers": containers,
        "volumes": [{"name": "shared", "hostPath": {"path": shared}}]});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    Ok(spec)
}

fn exec(script: &str) -> Value {
    json!({"exec": {"command": ["sh", "-c", script]}})
}

/// What containers wrote into the shared file, a word a line.
fn told(world: &World, name: &str) -> Result<Vec<String>> {
    let path: PathBuf = world.shared()?.join(name);
    let text = std::fs::read_to_string(path).unwrap_or_default();
    Ok(text.lines().map(str::to_owned).collect())
}

#[test]
fn hooks_come_after_the_start_and_before_the_end() -> Result<()> {
    world::run(async |world| {
        let script = "trap 'echo term >>/shared/told; exit 0' TERM; echo main >>/shared/told
            while :; do sleep 0.1; done";
        let hooks = json!({"lifecycle": {
            "postStart": exec("sleep 1; echo began >>/shared/told"),
            "preStop": exec("sleep 1; echo ending >>/shared/told")}});
        let spec = pod(
            &world,
            &[container("main", script, hooks)],
            json!({"terminationGracePeriodSeconds": 30}),
        )?;
        world.bind("hooked", spec).await?;
        world.until_status("hooked", "Running").await?;
        world
            .eventually("the hook after the start ran", async || {
                (told(&world, "told").ok()?.len() == 2).then_some(())
            })
            .await?;
        world.prints(&["delete", "pod", "hooked"])?;
        let order = told(&world, "told")?;
        ensure!(order == ["main", "began", "ending", "term"], "{order:?}");
        // A hook that fails is told, and the container begins anew.
        let hooks = json!({"lifecycle": {"postStart": exec("exit 9")}});
        let spec = pod(&world, &[container("main", "sleep 1000", hooks)], json!({}))?;
        world.bind("unhooked", spec).await?;
        world.until_event("unhooked", "FailedPostStartHook").await?;
        let words = [
            "get",
            "pod",
            "unhooked",
            "-o=jsonpath={.status.containerStatuses[0].restartCount}",
        ];
        world.until_prints(&words, |count| count != "0").await?;
        Ok(world)
    })
}

#[test]
fn the_grace_is_the_pods_or_the_requests() -> Result<()> {
    world::run(async |world| {
        let deaf = "trap 'echo heard >>/shared/$HOSTNAME' TERM; touch /shared/$HOSTNAME.up
            while :; do sleep 0.1; done";
        for name in ["own", "asked"] {
            let grace =
                json!({"terminationGracePeriodSeconds": if name == "own" { 4 } else { 600 }});
            let spec = pod(&world, &[container("main", deaf, json!({}))], grace)?;
            world.bind(name, spec).await?;
            let up = world.shared()?.join(format!("{name}.up"));
            world
                .eventually("the container is deaf", async || up.exists().then_some(()))
                .await?;
        }
        let took = |words: &[&str]| -> Result<Duration> {
            let begin = Instant::now();
            world.prints(words)?;
            Ok(begin.elapsed())
        };
        let own = took(&["delete", "pod", "own"])?;
        // The lower bound is what a grace promises; the upper one says that it was not the other's.
        ensure!(own >= Duration::from_secs(4), "{own:?}");
        let asked = took(&["delete", "pod", "asked", "--grace-period=2"])?;
        ensure!(
            asked >= Duration::from_secs(2) && asked < Duration::from_secs(110),
            "{asked:?}"
        );
        for name in ["own", "asked"] {
            ensure!(
                told(&world, name)? == ["heard"],
                "{name}: {:?}",
                told(&world, name)?
            );
        }
        Ok(world)
    })
}

#[test]
fn last_words_come_from_the_file_or_the_log() -> Result<()> {
    world::run(async |world| {
        let own = json!({"terminationMessagePath": "/tmp/why"});
        let log = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
        let containers = [
            container(
                "file",
                "echo from the usual file >/dev/termination-log; exit 1",
                json!({}),
            ),
            container("own", "echo from its own file >/tmp/why; exit 2", own),
            container("log", "echo from the log; exit 3", log.clone()),
            container("well", "echo nothing to say", log),
            container("silent", "echo not this; exit 4", json!({})),
        ];
        let spec = pod(&world, &containers, json!({"restartPolicy": "Never"}))?;
        world.bind("words", spec).await?;
        world.until_phase("words", "Failed").await?;
        let state = |name: &str, field: &str| {
            world.value(
                "words",
                &format!(".status.containerStatuses[?(@.name=='{name}')].state.terminated.{field}"),
            )
        };
        for (name, code, words) in [
            ("file", "1", "from the usual file\n"),
            ("own", "2", "from its own file\n"),
            ("log", "3", "from the log"),
            ("well", "0", ""),
            ("silent", "4", ""),
        ] {
            let found = (state(name, "exitCode")?, state(name, "message")?);
            ensure!(
                found == (code.to_owned(), words.to_owned()),
                "{name}: {found:?}"
            );
        }
        let described = world.prints(&["describe", "pod", "words"])?;
        ensure!(described.contains("from its own file"), "{described}");
        Ok(world)
    })
}

#[test]
fn other_probes_wait_until_a_container_has_started() -> Result<()> {
    world::run(async |world| {
        let probes = json!({
            "startupProbe": {"exec": {"command": ["test", "-e", "/shared/started"]},
                "periodSeconds": 1, "failureThreshold": 1000},
            "livenessProbe": {"exec": {"command": ["sh", "-c", "echo asked >>/shared/asked"]}, "periodSeconds": 1},
            "readinessProbe": {"exec": {"command": ["test", "-e", "/shared/ready"]}, "periodSeconds": 1}});
        let spec = pod(
            &world,
            &[container("main", "sleep 1000", probes)],
            json!({}),
        )?;
        world.bind("slow", spec).await?;
        world.until_event("slow", "Unhealthy").await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let shown =
            |path: &str| world.value("slow", &format!(".status.containerStatuses[0].{path}"));
        ensure!(
            told(&world, "asked")?.is_empty(),
            "the liveness probe was asked too soon"
        );
        ensure!((shown("started")?, shown("ready")?) == ("false".to_owned(), "false".to_owned()));
        std::fs::write(world.shared()?.join("started"), "")?;
        let words = [
            "get",
            "pod",
            "slow",
            "-o=jsonpath={.status.containerStatuses[0].started}",
        ];
        world
            .until_prints(&words, |started| started == "true")
            .await?;
        ensure!(shown("ready")? == "false");
        std::fs::write(world.shared()?.join("ready"), "")?;
        let row = ["get", "pod", "slow", "--no-headers"];
        world
            .until_prints(&row, |line| line.contains(" 1/1 "))
            .await?;
        world
            .eventually("the liveness probe is asked", async || {
                (!told(&world, "asked").ok()?.is_empty()).then_some(())
            })
            .await?;
        // It falls out of service and is not restarted for it.
        std::fs::remove_file(world.shared()?.join("ready"))?;
        world
            .until_prints(&row, |line| line.contains(" 0/1 "))
            .await?;
        ensure!(shown("restartCount")? == "0");
        // One that never starts is restarted.
        let never = json!({"startupProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 2}});
        let spec = pod(
            &world,
            &[container("main", "sleep 1000", never)],
            json!({"terminationGracePeriodSeconds": 1}),
        )?;
        world.bind("never", spec).await?;
        let words = [
            "get",
            "pod",
            "never",
            "-o=jsonpath={.status.containerStatuses[0].restartCount}",
        ];
        world.until_prints(&words, |count| count != "0").await?;
        Ok(world)
    })
}

#[test]
fn sidecars_begin_in_order_and_end_after_the_others() -> Result<()> {
    world::run(async |world| {
        let stays = |name: &str| {
            let script = format!(
                "trap 'echo {name} ends >>/shared/order; exit 0' TERM
                sleep 1; echo {name} >>/shared/order; touch /tmp/up; while :; do sleep 0.1; done"
            );
            container(
                name,
                &script,
                json!({"restartPolicy": "Always",
                "startupProbe": {"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1,
                    "failureThreshold": 100}}),
            )
        };
        let begins = container("begins", "echo begins >>/shared/order", json!({}));
        let inits = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 30,
            "initContainers": [stays("first"), begins, stays("second")]});
        let main = container(
            "main",
            "echo main >>/shared/order; while [ ! -e /shared/enough ]; do sleep 0.1; done",
            json!({}),
        );
        let spec = pod(&world, &[main], inits)?;
        world.bind("work", spec).await?;
        let row = ["get", "pod", "work", "--no-headers"];
        world
            .until_prints(&row, |line| {
                line.contains(" 3/3 ") && line.contains(" Running ")
            })
            .await?;
        std::fs::write(world.shared()?.join("enough"), "")?;
        // The work is done when its main container is, whatever the sidecars do.
        world.until_status("work", "Completed").await?;
        world.until_phase("work", "Succeeded").await?;
        let order = told(&world, "order")?;
        let expected = [
            "first",
            "begins",
            "second",
            "main",
            "second ends",
            "first ends",
        ];
        ensure!(order == expected, "{order:?}");
        Ok(world)
    })
}

#[test]
fn a_gate_of_others_holds_a_pod_back() -> Result<()> {
    world::run(async |mut world| {
        let gates = json!({"readinessGates": [{"conditionType": "balancer.example/knows"}]});
        let spec = pod(&world, &[container("main", "sleep 1000", json!({}))], gates)?;
        world.bind("gated", spec).await?;
        let row = ["get", "pod", "gated", "-o", "wide", "--no-headers"];
        world
            .until_prints(&row, |line| line.contains(" 1/1 ") && line.contains("0/1"))
            .await?;
        let ready = [
            "get",
            "pod",
            "gated",
            "-o=jsonpath={.status.conditions[?(@.type=='Ready')]['status','reason']}",
        ];
        world
            .until_prints(&ready, |text| text == "False ReadinessGatesNotReady")
            .await?;
        let containers = world.value(
            "gated",
            ".status.conditions[?(@.type=='ContainersReady')].status",
        )?;
        ensure!(containers == "True", "{containers}");
        let set = |status: &str| {
            let condition = json!({"status": {"conditions": [
                {"type": "balancer.example/knows", "status": status}]}})
            .to_string();
            world.prints(&[
                "patch",
                "pod",
                "gated",
                "--subresource=status",
                "-p",
                &condition,
            ])
        };
        set("True")?;
        world
            .until_prints(&ready, |text| text.starts_with("True"))
            .await?;
        world.prints(&[
            "wait",
            "--for=condition=Ready",
            "pod/gated",
            "--timeout=60s",
        ])?;
        set("False")?;
        world
            .until_prints(&ready, |text| text.starts_with("False"))
            .await?;
        // An agent that starts anew holds it back too.
        world.kill_agent()?;
        world.start_agent()?;
        world.run_script("next", "sleep 1000").await?;
        world.until_status("next", "Running").await?;
        let held = world.prints(&ready)?;
        ensure!(held.starts_with("False"), "{held}");
        Ok(world)
    })
}
