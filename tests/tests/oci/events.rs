//! `events`: what is used, and when memory ran out, key by key as runc tells it.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::check::{Who, check};
use crate::lab::{Lab, as_is, eventually, has_only_v2, path};
use crate::outcome::{finish, start};

/// What a number's place depends on more than its runtime: it is left out while
/// it is zero, or counted by controllers that runc looks for elsewhere.
const COMES_AND_GOES: [&str; 9] = [
    "data.hugetlb.",
    "data.blkio.",
    "data.cpu.throttling.",
    "data.cpu.usage.percpu",
    "data.memory.cache",
    "data.memory.raw.",
    ".usage",
    ".max",
    // runc 1.2 told the first numbers of pressure.
    ".psi",
];

fn stats(lab: &Lab, id: &str) -> Result<Value> {
    let text = lab.call(&["events", "--stats", id])?.text()?;
    ensure!(text.lines().count() == 1, "one line: {text}");
    Ok(serde_json::from_str(&text)?)
}

/// Every place in a value that holds a number, a text or a list.
fn places(value: &Value, at: &str, all: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            all.insert(at.to_owned());
            for (key, inner) in map {
                places(inner, &format!("{at}.{key}"), all);
            }
        }
        other => {
            let kind = match other {
                Value::Array(_) => "list",
                Value::String(_) => "text",
                Value::Null => "null",
                _ => "number",
            };
            all.insert(format!("{at}: {kind}"));
        }
    }
}

fn places_of(event: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    places(&event["data"], "data", &mut all);
    all.retain(|place| !COMES_AND_GOES.iter().any(|part| place.contains(part)));
    all
}

#[test]
fn numbers_stand_where_runc_has_them() {
    check(Who::Berth, |lab| {
        lab.start("c", as_is)?;
        let ours = stats(lab, "c")?;
        let bundle = lab.bundle("d", as_is)?;
        let root = lab.host.run_dir().join("runc");
        let runc = |words: &[&str]| {
            let mut command: Command = lab.host.command("/usr/sbin/runc");
            finish(command.arg("--root").arg(&root).args(words))
        };
        runc(&["run", "--detach", "--bundle", path(&bundle), "d"])?
            .text()
            .context("runc")?;
        let theirs = runc(&["events", "--stats", "d"])?.text();
        runc(&["delete", "--force", "d"])?.text()?;
        let theirs: Value = serde_json::from_str(&theirs?)?;
        let (ours, theirs) = (places_of(&ours), places_of(&theirs));
        let missing: Vec<_> = theirs.difference(&ours).collect();
        let more: Vec<_> = ours.difference(&theirs).collect();
        ensure!(
            missing.is_empty() && more.is_empty(),
            "missing {missing:?}, more {more:?}"
        );
        ensure!(ours.len() > 25, "{ours:?}");
        lab.remove("c")
    });
}

#[test]
fn numbers_are_the_groups() {
    check(Who::Hybrid, |lab| {
        lab.start("c", |config| {
            config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
            config["linux"]["resources"]["pids"] = json!({"limit": 20});
        })?;
        let event = stats(lab, "c")?;
        ensure!(event["type"] == "stats" && event["id"] == "c", "{event}");
        let data = &event["data"];
        ensure!(data["memory"]["usage"]["limit"] == 64 << 20, "{data}");
        ensure!(
            data["memory"]["usage"]["usage"].as_u64() > Some(0),
            "{data}"
        );
        ensure!(data["pids"] == json!({"current": 1, "limit": 20}), "{data}");
        ensure!(data["cpu"]["usage"]["total"].as_u64() > Some(0), "{data}");
        // Version 2 has no such switch, and runc says zero there.
        let balanced = u64::from(!has_only_v2());
        ensure!(data["cpuset"]["sched_load_balance"] == balanced, "{data}");
        lab.remove("c")
    });
}

#[test]
fn they_come_again_and_again_until_the_container_is_gone() {
    check(Who::Hybrid, |lab| {
        lab.start("c", as_is)?;
        let running = start(&mut lab.command(&["events", "--interval", "50ms", "c"]))?;
        std::thread::sleep(std::time::Duration::from_millis(400));
        lab.remove("c")?;
        let told = running.wait()?;
        ensure!(told.code == 0, "{told:?}");
        let lines: Vec<Value> = told
            .stdout
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        ensure!(lines.len() >= 2, "{told:?}");
        ensure!(lines.iter().all(|line| line["type"] == "stats"), "{told:?}");
        Ok(())
    });
}

#[test]
fn memory_that_ran_out_is_told() {
    check(Who::Hybrid, |lab| {
        lab.start("c", |config| {
            config["linux"]["resources"]["memory"] = json!({"limit": 24 << 20, "swap": 24 << 20});
            let script = "while [ ! -e /go ]; do sleep 0.02; done
                sh -c 'dd if=/dev/zero of=/dev/null bs=100M count=1' 2>/dev/null
                touch /done; sleep 1000";
            config["process"]["args"] = json!(["sh", "-c", script]);
        })?;
        let rootfs = lab.host.work_dir().join("c/rootfs");
        let running = start(&mut lab.command(&["events", "--interval", "1h", "c"]))?;
        // It has to be listening before there is something to hear.
        std::thread::sleep(std::time::Duration::from_millis(400));
        std::fs::write(rootfs.join("go"), "")?;
        eventually(|| {
            ensure!(rootfs.join("done").exists());
            Ok(())
        })?;
        std::thread::sleep(std::time::Duration::from_millis(300));
        lab.remove("c")?;
        let told = running.wait()?;
        let first = told.stdout.lines().next().unwrap_or("");
        let first: Value = serde_json::from_str(first).with_context(|| format!("{told:?}"))?;
        ensure!(first == json!({"type": "oom", "id": "c"}), "{told:?}");
        Ok(())
    });
}

#[test]
fn intervals_and_states_that_make_no_sense_are_refused() {
    check(Who::Hybrid, |lab| {
        lab.start("c", as_is)?;
        for interval in ["0s", "often", "-1s"] {
            let flag = format!("--interval={interval}");
            lab.call(&["events", &flag, "c"])?.complaint()?;
        }
        lab.call(&["kill", "c", "KILL"])?.text()?;
        lab.wait_for("c", "stopped")?;
        let told = lab.call(&["events", "--stats", "c"])?;
        crate::lab::holds(told.complaint()?, &["container with id c is not running"])?;
        lab.remove("c")
    });
}
