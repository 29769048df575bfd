//! Rotation of logs, garbage of images and containers, pressure, statistics.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::node::{NGINX, Node, container_status, full_name, run, shell};

/// Writes numbered lines for ever, some 30 KiB a second.
const TALKS: &str = "i=0; while :; do i=$((i+1)); \
    echo $i aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; \
    test $((i % 50)) != 0 || sleep 0.1; done";

#[test]
fn logs_are_rotated_and_no_line_is_lost() -> Result<()> {
    let settings = json!({
        "containerLogMaxSize": "40Ki", "containerLogMaxFiles": 3, "containerLogMonitorInterval": "3s",
    });
    run(settings, |node| {
        node.put("talks", json!({"containers": [shell("main", TALKS)]}))?;
        node.ready("talks")?;
        let files = || -> Result<Vec<String>> {
            let pods = node.machine.host().directory().join("pod-logs");
            let pod = fs::read_dir(pods)?.next().context("a pod's logs")??.path();
            let mut names: Vec<String> = fs::read_dir(pod.join("main"))?
                .flatten()
                .map(|entry| entry.path().display().to_string())
                .collect();
            names.sort();
            Ok(names)
        };
        node.until("a rotated log was packed", || {
            Ok(files()?.iter().any(|name| name.ends_with(".gz")))
        })?;
        let found = files()?;
        ensure!(found.len() <= 3 + 1, "{found:?}");
        // The number that begins the log that is written now follows the one
        // that ends the log before it.
        node.until("the lines go on", || {
            let found = files()?;
            let plain = found
                .iter()
                .filter(|name| !name.ends_with(".gz") && !name.ends_with(".tmp"));
            let mut whole = Vec::new();
            // "0.log" sorts before "0.log.20261121-…": the newest comes last here.
            for name in plain.rev() {
                whole.extend(numbers(&fs::read_to_string(name).unwrap_or_default()));
            }
            // A rotation in between would look like lines that are lost.
            if files()? != found {
                return Ok(false);
            }
            ensure!(
                whole.windows(2).all(|pair| pair[1] == pair[0] + 1),
                "lines are lost between {found:?}"
            );
            Ok(found.len() >= 3 && whole.len() > 100)
        })?;
        // Just after a rotation there is nothing in it.
        node.until("the kubelet reads it", || {
            Ok(node.log("talks", "main")?.contains(" aaaa"))
        })
    })
}

fn numbers(log: &str) -> Vec<u64> {
    // A line in the making has no end yet.
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    let number = |line: &str| line.split(' ').nth(3)?.parse().ok();
    whole.lines().filter_map(number).collect()
}

#[test]
fn statistics_are_told() -> Result<()> {
    // Without the gate cAdvisor counts, which finds a pod's network by its pause
    // container only, and there is none.
    let settings = json!({"featureGates": {"PodAndContainerStatsFromCRI": true}});
    run(settings, |node| {
        let busy =
            "echo begun; i=0; while :; do i=$((i+1)); test $((i % 2000)) != 0 || sleep 0.01; done";
        node.put("busy", json!({"containers": [shell("main", busy)]}))?;
        node.ready("busy")?;
        let mut missing = Vec::new();
        node.until("the summary tells of it", || {
            missing = missing_in_summary(node)?;
            Ok(missing.is_empty())
        })
        .with_context(|| format!("{missing:?}"))?;
        for (target, wanted) in [
            (
                "/metrics/resource",
                "container_memory_working_set_bytes{container=\"main\"",
            ),
            (
                "/metrics",
                "kubelet_runtime_operations_total{operation_type=\"run_podsandbox\"}",
            ),
            ("/metrics/probes", ""),
            ("/metrics/cadvisor", "machine_cpu_cores"),
        ] {
            let answer = node.get(target)?;
            ensure!(answer.status == 200, "{target}: {}", answer.status);
            ensure!(answer.text().contains(wanted), "{target}: no {wanted}");
        }
        let losing = node.get("/metrics")?.text();
        let losing: Vec<&str> = losing
            .lines()
            .filter(|line| line.starts_with("cri_losing_support"))
            .collect();
        ensure!(losing.is_empty(), "{losing:?}");
        Ok(())
    })
}

/// What the summary does not tell, or tells as nothing.
fn missing_in_summary(node: &Node) -> Result<Vec<&'static str>> {
    let summary: Value = serde_json::from_slice(&node.get("/stats/summary")?.body)?;
    let full = full_name("busy");
    let pods = summary["pods"].as_array().context("pods")?;
    let pod = pods
        .iter()
        .find(|pod| pod["podRef"]["name"] == full.as_str());
    let pod = pod.unwrap_or(&Value::Null);
    let container = &pod["containers"][0];
    let wanted = [
        (
            "time of processors",
            &container["cpu"]["usageCoreNanoSeconds"],
        ),
        ("processors", &container["cpu"]["usageNanoCores"]),
        ("memory", &container["memory"]["workingSetBytes"]),
        ("what it wrote", &container["rootfs"]["usedBytes"]),
        ("its log", &container["logs"]["usedBytes"]),
        ("processes", &pod["process_stats"]["process_count"]),
        ("the pod's memory", &pod["memory"]["workingSetBytes"]),
        ("the network", &pod["network"]["rxBytes"]),
        (
            "images",
            &summary["node"]["runtime"]["imageFs"]["usedBytes"],
        ),
    ];
    let is_nothing = |value: &Value| value.as_u64().unwrap_or_default() == 0;
    let missing = wanted.into_iter().filter(|(_, value)| is_nothing(value));
    Ok(missing.map(|(name, _)| name).collect())
}

/// Static pods are never evicted, but pressure has the kubelet remove what
/// nobody uses: dead containers, then images.
#[test]
fn under_pressure_what_nobody_uses_is_removed() -> Result<()> {
    let settings = json!({
        "evictionHard": {"nodefs.available": "99.9%", "memory.available": "1Mi"},
        "evictionPressureTransitionPeriod": "0s",
        "imageMinimumGCAge": "1s",
    });
    run(settings, |node| {
        node.machine.berth(&["pull", NGINX])?;
        ensure!(
            node.images()?.iter().any(|name| name == NGINX),
            "it was pulled"
        );
        node.put(
            "stays",
            json!({"containers": [shell("main", "exec sleep 1000")]}),
        )?;
        node.put(
            "ends",
            json!({"restartPolicy": "Never", "containers": [shell("main", "exit 0")]}),
        )?;
        node.ready("stays")?;
        node.over("ends")?;
        node.until("the image is gone", || {
            Ok(!node.images()?.iter().any(|name| name == NGINX))
        })?;
        let blobs = node.machine.berth(&["images", "-q"])?;
        ensure!(blobs.lines().count() == 1, "{blobs}");
        let pod = node.ready("stays")?;
        ensure!(container_status(&pod, "main")["restartCount"] == 0);
        Ok(())
    })
}
