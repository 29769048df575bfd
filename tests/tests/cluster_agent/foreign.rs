//! The agent on a runtime that is not ours: Debian's containerd with runc.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::world::{self, Engine, IMAGE, NODE, Setup, World};

/// An image of the machine's registry.
const NGINX: &str = "docker.io/library/nginx:1.29";

fn run<F>(test: impl FnOnce(World) -> F) -> Result<()>
where
    F: Future<Output = Result<World>>,
{
    let setup = Setup {
        runtime: Engine::Containerd,
        ..Setup::default()
    };
    world::run_with(setup, test)
}

/// A web server that an init container prepares, and a neighbour who ends when told to.
fn pod(shared: &str) -> Value {
    let script = "trap 'echo ended in order >>/shared/end; exit 0' TERM
        echo begun; while [ ! -e /tmp/stop ]; do sleep 0.1; done; exit 3";
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"nodeName": NODE, "terminationGracePeriodSeconds": 20,
            "volumes": [
                {"name": "page", "emptyDir": {}},
                {"name": "settings", "configMap": {"name": "settings"}},
                {"name": "keys", "secret": {"secretName": "keys", "defaultMode": 0o400}},
                {"name": "shared", "hostPath": {"path": shared}}],
            "initContainers": [{"name": "prepare", "image": IMAGE,
                "command": ["sh", "-c", "echo prepared >/page/index.html"],
                "volumeMounts": [{"name": "page", "mountPath": "/page"}]}],
            "containers": [
                {"name": "web", "image": NGINX,
                    "volumeMounts": [{"name": "page", "mountPath": "/usr/share/nginx/html"}],
                    "readinessProbe": {"httpGet": {"port": 80, "path": "/"}, "periodSeconds": 1},
                    "livenessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1}},
                {"name": "neighbour", "image": IMAGE, "command": ["sh", "-c", script],
                    "env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "key"}}}],
                    "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1},
                    "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
                    "volumeMounts": [
                        {"name": "settings", "mountPath": "/settings"},
                        {"name": "keys", "mountPath": "/keys"},
                        {"name": "shared", "mountPath": "/shared"}]}]}})
}

/// ConfigMap, Secret and the pod, which runs afterwards.
async fn begin(world: &World) -> Result<()> {
    world.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "settings"}, "data": {"color": "blue"}}))?;
    world.apply(&json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "keys"}, "stringData": {"key": "open sesame"}}))?;
    let shared = world.shared()?.display().to_string();
    world.apply(&pod(&shared))?;
    until_ready(world).await
}

async fn until_ready(world: &World) -> Result<()> {
    let words = ["get", "pod", "web", "--no-headers"];
    let ready = |line: &str| line.contains(" 2/2 ") && line.contains(" Running ");
    world.until_prints(&words, ready).await.map(drop)
}

fn ids(world: &World) -> Result<String> {
    world.value("web", ".status.containerStatuses[*].containerID")
}

#[test]
fn a_pod_has_on_containerd_what_it_has_on_ours() -> Result<()> {
    run(async |world| {
        begin(&world).await?;
        let shown = world.prints(&["get", "node", NODE, "-o", "wide"])?;
        ensure!(shown.contains("containerd://"), "{shown}");
        let ip = world.value("web", ".status.podIP")?;
        ensure!(ip.starts_with("10.88."), "{ip}");
        let inside = ["exec", "web", "-c", "neighbour", "--", "sh", "-c"];
        let exec = |script: &str| {
            let words: Vec<&str> = inside.into_iter().chain([script]).collect();
            world.prints(&words)
        };
        let seen = exec(
            "cat /settings/color; echo; cat /keys/key; echo; stat -L -c %a /keys/key; echo $KEY",
        )?;
        ensure!(seen == "blue\nopen sesame\n400\nopen sesame\n", "{seen}");
        let page = exec(&format!("wget -q -O - http://{ip}/"))?;
        ensure!(page == "prepared\n", "{page}");
        let log = world.prints(&["logs", "web", "-c", "neighbour"])?;
        ensure!(log == "begun\n", "{log:?}");
        world.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "settings"}, "data": {"color": "green"}}))?;
        world
            .eventually("the file follows the ConfigMap", async || {
                (exec("cat /settings/color").ok()? == "green").then_some(())
            })
            .await?;
        // It fails, and only it is started again.
        let before = ids(&world)?;
        exec("touch /tmp/stop")?;
        let path = ".status.containerStatuses[?(@.name=='neighbour')]['restartCount','lastState']";
        let words = ["get", "pod", "web", &format!("-o=jsonpath={{{path}}}")];
        world
            .until_prints(&words, |text| {
                text.starts_with('1') && text.contains("\"exitCode\":3")
            })
            .await?;
        until_ready(&world).await?;
        let after = ids(&world)?;
        let same = before.split(' ').filter(|id| after.contains(id)).count();
        ensure!(same == 1, "{before} {after}");
        let previous = world.prints(&["logs", "web", "-c", "neighbour", "--previous"])?;
        ensure!(previous == "begun\n", "{previous:?}");
        world.prints(&["delete", "pod", "web", "--timeout=60s"])?;
        let end = std::fs::read_to_string(world.shared()?.join("end"))?;
        ensure!(end == "ended in order\n", "{end:?}");
        Ok(world)
    })
}

#[test]
fn pods_outlive_the_agent_and_containerd() -> Result<()> {
    run(async |mut world| {
        begin(&world).await?;
        let before = ids(&world)?;
        world.kill_agent()?;
        world.start_agent()?;
        world.run_script("next", "sleep 1000").await?;
        world.until_status("next", "Running").await?;
        until_ready(&world).await?;
        world.containerd()?.kill()?;
        // Long enough for the agent to miss it.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let machine_alive = world.prints(&["get", "pod", "web", "--no-headers"])?;
        ensure!(machine_alive.contains(" Running "), "{machine_alive}");
        world.start_containerd_again()?;
        world.run_script("last", "sleep 1000").await?;
        world.until_status("last", "Running").await?;
        until_ready(&world).await?;
        ensure!(ids(&world)? == before, "{before} {}", ids(&world)?);
        let restarts = world.value("web", ".status.containerStatuses[*].restartCount")?;
        ensure!(restarts == "0 0", "{restarts}");
        let log = world.prints(&["logs", "web", "-c", "neighbour"])?;
        ensure!(log == "begun\n", "it began once: {log:?}");
        Ok(world)
    })
}
