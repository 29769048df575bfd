//! Either side is killed, and the pods do not notice.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use berth_cri::v1;
use serde_json::{Value, json};

use crate::node::{Node, container_status, run, shell, shell_with};

const COUNTS: &str = "trap 'exit 0' TERM; while :; do echo again; sleep 1 & wait; done";

#[test]
fn a_killed_kubelet_and_a_killed_server_find_their_pods_again() -> Result<()> {
    run(json!({}), |node| {
        let probe = json!({"readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1},
            "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}});
        let sidecar = json!({"restartPolicy": "Always"});
        node.put(
            "lives",
            json!({
                "initContainers": [shell("first", "true"), shell_with("beside", COUNTS, sidecar)],
                "containers": [shell_with("main", COUNTS, probe)],
            }),
        )?;
        node.put(
            "ended",
            json!({"restartPolicy": "Never", "containers": [shell("main", "exit 5")]}),
        )?;
        node.ready("lives")?;
        node.over("ended")?;
        let before = identities(node)?;
        let begun: Vec<String> = ids_of(&node.pod("lives")?)?;

        node.kill_kubelet()?;
        settled(node, &begun).context("the kubelet was killed")?;
        for round in 0..5 {
            node.kill_server()?;
            std::thread::sleep(std::time::Duration::from_millis(700));
            settled(node, &begun).with_context(|| format!("the server was killed, {round}"))?;
        }
        node.kill_server()?;
        node.kill_kubelet()?;
        settled(node, &begun).context("both were killed")?;

        // What begins while the server is away begins when it is back.
        node.kill_server()?;
        node.put("late", json!({"containers": [shell("main", COUNTS)]}))?;
        node.ready("late")?;
        node.take("late")?;
        node.gone("late")?;
        let ended = node.over("ended")?;
        let ended = &container_status(&ended, "main")["state"]["terminated"];
        ensure!(ended["exitCode"] == 5, "{ended}");
        let after = identities(node)?;
        for (id, state) in &before {
            ensure!(after.get(id) == Some(state), "{id} was {state}: {after:?}");
        }
        ensure!(node.sh("lives", "main", "echo there")? == "there\n");
        Ok(())
    })
}

/// Each container of berth with its state.
fn identities(node: &Node) -> Result<BTreeMap<String, i32>> {
    let all: Vec<v1::Container> = node.containers()?;
    Ok(all.into_iter().map(|one| (one.id, one.state)).collect())
}

fn ids_of(pod: &Value) -> Result<Vec<String>> {
    let id = |name: &str| {
        let id = container_status(pod, name)["containerID"].as_str();
        id.map(str::to_owned)
            .with_context(|| format!("{name}: {}", pod["status"]))
    };
    Ok(vec![id("first")?, id("beside")?, id("main")?])
}

/// The pod is ready again as the same containers, and none was restarted.
fn settled(node: &Node, begun: &[String]) -> Result<()> {
    node.until("the kubelet answers", || Ok(node.pods().is_ok()))?;
    let pod = node.ready("lives")?;
    ensure!(ids_of(&pod)? == begun, "{}", pod["status"]);
    for name in ["beside", "main"] {
        let status = container_status(&pod, name);
        ensure!(
            status["restartCount"] == 0 && status["state"]["running"].is_object(),
            "{status}"
        );
    }
    Ok(())
}
