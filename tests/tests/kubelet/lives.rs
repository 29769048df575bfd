//! Probes of each kind, restarts, hooks, and how a pod ends.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::node::{Node, PEER, container_status, is_ready, run, shell, shell_with};

const STAYS: &str = "trap 'exit 0' TERM; while :; do sleep 1 & wait; done";

#[test]
fn probes_of_each_kind_decide() -> Result<()> {
    run(json!({}), |node| {
        let every_second = |mut probe: Value| {
            probe["periodSeconds"] = json!(1);
            probe["failureThreshold"] = json!(2);
            probe
        };
        // Each is well until /tmp/sick is there; a restart begins with a new root.
        let serve = "mkdir /www; echo well > /www/index.html; \
            httpd -p 8000 -h /www; while ! test -e /tmp/sick; do sleep 0.2; done; killall httpd; \
            while :; do sleep 1; done";
        let probes = [
            (
                "exec",
                shell("main", STAYS),
                json!({"exec": {"command": ["sh", "-c", "! test -e /tmp/sick"]}}),
            ),
            (
                "http",
                shell("main", serve),
                json!({"httpGet": {"port": 8000, "path": "/index.html"}}),
            ),
            (
                "tcp",
                shell("main", serve),
                json!({"tcpSocket": {"port": 8000}}),
            ),
            (
                "grpc",
                json!({"name": "main", "image": PEER, "command": ["/peer", "health", "8000"]}),
                json!({"grpc": {"port": 8000}}),
            ),
        ];
        for (name, mut container, probe) in probes.clone() {
            container["startupProbe"] = every_second(probe.clone());
            container["startupProbe"]["failureThreshold"] = json!(30);
            container["livenessProbe"] = every_second(probe.clone());
            container["readinessProbe"] = every_second(probe);
            let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [container]});
            node.put(name, spec)?;
        }
        // Ready and not, without a restart.
        let gate = json!({"readinessProbe": every_second(
            json!({"exec": {"command": ["test", "-e", "/tmp/open"]}}),
        )});
        node.put(
            "gate",
            json!({"containers": [shell_with("main", STAYS, gate)]}),
        )?;
        for (name, ..) in &probes {
            node.ready(name).with_context(|| (*name).to_owned())?;
            node.exec(name, "main", &["touch", "/tmp/sick"])?;
        }
        for (name, ..) in &probes {
            let pod = node.pod_until(name, "it was restarted and is ready", |pod| {
                container_status(pod, "main")["restartCount"].as_u64() >= Some(1) && is_ready(pod)
            })?;
            let last = &container_status(&pod, "main")["lastState"]["terminated"];
            // Those that hear SIGTERM end by themselves.
            let codes = [json!(0), json!(2), json!(137), json!(143)];
            ensure!(codes.contains(&last["exitCode"]), "{name}: {last}");
        }
        node.pod_until("gate", "it runs", |pod| {
            container_status(pod, "main")["started"] == true
        })?;
        ensure!(!is_ready(&node.pod("gate")?));
        node.exec("gate", "main", &["touch", "/tmp/open"])?;
        let pod = node.ready("gate")?;
        ensure!(container_status(&pod, "main")["restartCount"] == 0);
        Ok(())
    })
}

#[test]
fn containers_end_and_are_restarted_as_asked() -> Result<()> {
    run(json!({}), |node| {
        put_endings(node)?;
        crash_loop(node).context("crash loop")?;
        policies(node).context("policies")?;
        messages(node).context("messages")?;
        out_of_memory(node).context("out of memory")?;
        hooks(node).context("hooks")?;
        grace(node).context("grace")
    })
}

fn put_endings(node: &Node) -> Result<()> {
    node.put("crashes", json!({"containers": [shell("main", "exit 7")]}))?;
    // The second try finds what the first has left.
    let again = shell_with(
        "main",
        "test -e /disk/tried || { touch /disk/tried; exit 1; }; exit 0",
        json!({"volumeMounts": [{"name": "disk", "mountPath": "/disk"}]}),
    );
    node.put(
        "on-failure",
        json!({
            "restartPolicy": "OnFailure", "containers": [again],
            "volumes": [{"name": "disk", "emptyDir": {}}],
        }),
    )?;
    let none = json!({
        "name": "main", "image": crate::node::BUSYBOX, "command": ["/no/such/program"],
    });
    node.put("none", json!({"containers": [none]}))?;
    let never = [shell("good", "exit 0"), shell("bad", "sleep 1; exit 9")];
    node.put(
        "never",
        json!({"restartPolicy": "Never", "containers": never}),
    )?;
    let by_file = shell_with(
        "file",
        "echo because > /why; exit 1",
        json!({"terminationMessagePath": "/why"}),
    );
    let by_log = shell_with(
        "log",
        "echo said; exit 1",
        json!({"terminationMessagePolicy": "FallbackToLogsOnError"}),
    );
    node.put(
        "messages",
        json!({"restartPolicy": "Never", "containers": [by_file, by_log]}),
    )?;
    let eats = shell_with(
        "main",
        "exec tail /dev/zero",
        json!({"resources": {"limits": {"memory": "16Mi"}}}),
    );
    node.put(
        "eats",
        json!({"restartPolicy": "Never", "containers": [eats]}),
    )?;
    put_hooks(node)?;
    node.put(
        "deaf",
        json!({
            "terminationGracePeriodSeconds": 2,
            "containers": [shell("main", "trap '' TERM; while :; do sleep 1; done")],
        }),
    )
}

fn crash_loop(node: &Node) -> Result<()> {
    let pod = node.pod_until("crashes", "it backs off", |pod| {
        let status = container_status(pod, "main");
        status["restartCount"].as_u64() >= Some(2)
            && status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    })?;
    let last = &container_status(&pod, "main")["lastState"]["terminated"];
    ensure!(last["exitCode"] == 7 && last["reason"] == "Error", "{last}");
    let id = last["containerID"].as_str().context("containerID")?;
    ensure!(id.starts_with("berth://"), "{id}");
    Ok(())
}

fn policies(node: &Node) -> Result<()> {
    let pod = node.over("on-failure")?;
    ensure!(pod["status"]["phase"] == "Succeeded");
    ensure!(container_status(&pod, "main")["restartCount"] == 1);
    let pod = node.over("never")?;
    ensure!(pod["status"]["phase"] == "Failed");
    for (name, code, reason) in [("good", 0, "Completed"), ("bad", 9, "Error")] {
        let ended = &container_status(&pod, name)["state"]["terminated"];
        ensure!(
            ended["exitCode"] == code && ended["reason"] == reason,
            "{ended}"
        );
        ensure!(ended["startedAt"].is_string() && ended["finishedAt"].is_string());
    }
    // A program that is not there is found out when the container is started.
    let failed = |pod: &Value| {
        let status = container_status(pod, "main");
        let ended = ["state", "lastState"].map(|state| status[state]["terminated"].clone());
        ended
            .into_iter()
            .find(|ended| ended["reason"] == "StartError")
    };
    let pod = node.pod_until("none", "its start fails", |pod| failed(pod).is_some())?;
    let ended = failed(&pod).unwrap_or_default();
    ensure!(ended["exitCode"] == 127, "{ended}");
    let message = ended["message"].as_str().unwrap_or_default();
    ensure!(message.contains("/no/such/program"), "{message}");
    Ok(())
}

fn messages(node: &Node) -> Result<()> {
    let pod = node.over("messages")?;
    for (name, message) in [("file", "because\n"), ("log", "said\n")] {
        let ended = &container_status(&pod, name)["state"]["terminated"];
        ensure!(ended["message"] == message, "{ended}");
    }
    Ok(())
}

fn out_of_memory(node: &Node) -> Result<()> {
    let pod = node.over("eats")?;
    let ended = &container_status(&pod, "main")["state"]["terminated"];
    ensure!(
        ended["exitCode"] == 137 && ended["reason"] == "OOMKilled",
        "{ended}"
    );
    Ok(())
}

fn put_hooks(node: &Node) -> Result<()> {
    let told = node.shared().join("hooks");
    fs::create_dir(&told)?;
    let container = shell_with(
        "main",
        "trap 'echo term >> /told/all; exit 0' TERM; while :; do sleep 1 & wait; done",
        json!({
            "lifecycle": {
                "postStart": {"exec": {"command": ["sh", "-c", "echo post-start >> /told/all"]}},
                "preStop": {"exec": {"command": ["sh", "-c", "sleep 1; echo pre-stop >> /told/all"]}},
            },
            "volumeMounts": [{"name": "told", "mountPath": "/told"}],
        }),
    );
    node.put(
        "hooks",
        json!({
            "containers": [container],
            "volumes": [{"name": "told", "hostPath": {"path": told, "type": "Directory"}}],
        }),
    )
}

fn hooks(node: &Node) -> Result<()> {
    node.ready("hooks")?;
    node.take("hooks")?;
    node.gone("hooks")?;
    let told = fs::read_to_string(node.shared().join("hooks/all"))?;
    ensure!(told == "post-start\npre-stop\nterm\n", "{told}");
    Ok(())
}

/// One that does not hear SIGTERM is killed when its time is over.
fn grace(node: &Node) -> Result<()> {
    node.ready("deaf")?;
    let begin = std::time::Instant::now();
    node.take("deaf")?;
    node.gone("deaf")?;
    let took = begin.elapsed();
    ensure!(took.as_secs_f32() > 1.9, "it was killed after {took:?}");
    ensure!(took.as_secs() < 25, "it was left for {took:?}");
    Ok(())
}
