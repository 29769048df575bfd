//! The suites of cri-tools: critest, and crictl's whole command list.
//!
//! They are programs of others, so they run only where `CRITEST` and `CRICTL`
//! name them, and say loudly where they did not. `CRITEST_ARGUMENTS` adds to
//! critest's arguments, as `-websocket-exec`. For several specs at once critest
//! wants `ginkgo` (the Go module `github.com/onsi/ginkgo/v2`), which `GINKGO` names.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use berth_tests::critest::{judge, named};
use berth_tests::image::critest;
use berth_tests::machine::Machine;
use serde_json::Value;

use crate::world::{IMAGE, World, run, socket};

/// Specs that cannot pass here, and why (docs/conformance.md). One that passes
/// all the same has to leave the list.
const ACCEPTED: [(&str, &str); 2] = [
    (
        "public image with digest should be pulled and removed [Conformance]",
        "the digest is written down in critest, and only the public registry has its bytes",
    ),
    (
        "runtime should support MaskedPaths",
        "the shell of Debian's busybox runs ls inside itself and never looks at /bin/ls",
    ),
];

/// Specs that run at once.
const PARALLEL: &str = "-parallel=4";

#[test]
fn critest_passes() -> Result<()> {
    match named("CRITEST") {
        Some(program) => asked_by(&program, |_| {}),
        None => Ok(()),
    }
}

#[test]
fn critest_passes_with_several_specs_at_once() -> Result<()> {
    let (Some(program), Some(ginkgo)) = (named("CRITEST"), named("GINKGO")) else {
        return Ok(());
    };
    let folder = Path::new(&ginkgo).parent().context("GINKGO has a folder")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", folder.display());
    asked_by(&program, |command| {
        command.arg(PARALLEL).env("PATH", path);
    })
}

/// Runs critest, and compares what failed with what may.
fn asked_by(program: &str, change: impl FnOnce(&mut Command)) -> Result<()> {
    let machine = Machine::with_images(|registry| {
        critest::push_all(registry)?;
        Ok(critest::mirror_configuration(registry))
    })?;
    let runtime = tokio::runtime::Runtime::new()?;
    let world = runtime.block_on(World::on(machine))?;
    let machine = &world.machine;
    let endpoint = format!("unix://{}", socket(machine).display());
    let report = machine.host().directory().join("critest.json");
    let more = std::env::var("CRITEST_ARGUMENTS").unwrap_or_default();
    let mut command = machine.host().command(program);
    command
        .args(["-runtime-endpoint", &endpoint, "-image-endpoint", &endpoint])
        .args(["-ginkgo.no-color", "-ginkgo.skip", "NRI"])
        .arg(format!("-ginkgo.json-report={}", report.display()))
        .args(more.split_whitespace())
        .stdin(Stdio::null());
    change(&mut command);
    let output = command.output()?;
    let text = || String::from_utf8_lossy(&output.stdout).into_owned();
    let bytes = std::fs::read(&report).with_context(text)?;
    let judged = judge(&serde_json::from_slice(&bytes)?)?;
    println!(
        "critest: {} passed, {} skipped",
        judged.passed, judged.skipped
    );
    let accepted: BTreeSet<&str> = ACCEPTED.iter().map(|(name, _)| *name).collect();
    let failed: BTreeSet<&str> = judged.failed.iter().map(String::as_str).collect();
    ensure!(failed == accepted, "{}\nfailed: {failed:#?}", text());
    ensure!(
        judged.passed > 90,
        "only {} passed:\n{}",
        judged.passed,
        text()
    );
    world.end()
}

#[test]
fn every_command_of_crictl_is_answered() -> Result<()> {
    let Some(program) = named("CRICTL") else {
        return Ok(());
    };
    run(async |world| {
        let machine = &world.machine;
        let endpoint = format!("unix://{}", socket(machine).display());
        let crictl = |words: &[&str]| -> Result<String> {
            let mut command: Command = machine.host().command(&program);
            command.args([
                "--runtime-endpoint",
                &endpoint,
                "--image-endpoint",
                &endpoint,
            ]);
            let output = command.args(words).stdin(Stdio::null()).output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let stderr = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.success(),
                "crictl {}: {text}{stderr}",
                words.join(" ")
            );
            Ok(text)
        };
        let logs = world.logs().display().to_string();
        let pod_file = machine.write(
            "pod.json",
            &format!(
                r#"{{"metadata":{{"name":"p","namespace":"n","uid":"u","attempt":1}},
                    "log_directory":"{logs}","linux":{{}}}}"#
            ),
        )?;
        let container_file = machine.write(
            "container.json",
            &format!(
                r#"{{"metadata":{{"name":"c"}},"image":{{"image":"{IMAGE}"}},
                    "command":["sh","-c","echo hello; exec sleep 1000"],
                    "log_path":"c.log","linux":{{}}}}"#
            ),
        )?;
        let (pod_file, container_file) = (
            pod_file.display().to_string(),
            container_file.display().to_string(),
        );
        ensure!(crictl(&["version"])?.contains("berth"));
        ensure!(crictl(&["info"])?.contains("RuntimeReady"));
        ensure!(
            crictl(&["runtime-config"])?
                .to_uppercase()
                .contains("CGROUPFS")
        );
        crictl(&["update-runtime-config", "--pod-cidr", "10.99.8.0/24"])?;
        crictl(&["pull", IMAGE])?;
        ensure!(crictl(&["images"])?.contains("library/busybox"));
        ensure!(crictl(&["inspecti", IMAGE])?.contains("sha256:"));
        ensure!(crictl(&["imagefsinfo"])?.contains("usedBytes"));
        let pod = crictl(&["runp", &pod_file])?.trim().to_owned();
        ensure!(crictl(&["pods", "-q"])?.contains(&pod));
        ensure!(crictl(&["inspectp", &pod])?.contains("10.99.8."));
        let id = crictl(&["create", &pod, &container_file, &pod_file])?
            .trim()
            .to_owned();
        crictl(&["start", &id])?;
        ensure!(crictl(&["ps"])?.contains("Running"));
        let inspected: Value = serde_json::from_str(&crictl(&["inspect", &id])?)?;
        ensure!(inspected["status"]["state"] == "CONTAINER_RUNNING");
        // What scripts look for.
        ensure!(inspected["info"]["pid"].as_i64().is_some_and(|pid| pid > 0));
        ensure!(inspected["info"]["runtimeSpec"]["ociVersion"].is_string());
        ensure!(crictl(&["exec", "-s", &id, "echo", "there"])?.trim() == "there");
        ensure!(crictl(&["logs", &id])? == "hello\n");
        crictl(&["update", "--memory", "67108864", &id])?;
        for command in ["stats", "statsp", "metricsp"] {
            crictl(&[command]).context(command)?;
        }
        ensure!(crictl(&["metricdescs"])?.contains("container_threads_max"));
        crictl(&["stop", "-t", "0", &id])?;
        ensure!(crictl(&["ps", "-a"])?.contains("Exited"));
        crictl(&["rm", &id])?;
        crictl(&["stopp", &pod])?;
        crictl(&["rmp", &pod])?;
        crictl(&["rmi", IMAGE])?;
        Ok(world)
    })
}
