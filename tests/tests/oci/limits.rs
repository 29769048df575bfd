//! Limits that change: `update` in all its forms, and what it leaves when it fails.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::cgroups::weight;
use crate::check::{Who, check};
use crate::lab::{Lab, as_is, eventually, has_only_v2, holds, path, same};
use crate::outcome::start;

/// No limit, as version 1 says it.
const UNLIMITED: u64 = 9_223_372_036_854_771_712;

fn small(config: &mut Value) {
    let resources = &mut config["linux"]["resources"];
    resources["memory"] = json!({"limit": 64 << 20, "swap": 64 << 20});
    resources["cpu"] = json!({"shares": 512, "quota": 50_000, "period": 100_000});
    resources["pids"] = json!({"limit": 20});
}

/// The limits of memory, and of memory and swap together, as version 1 counts them.
/// Version 2 has one for swap alone.
fn memory_is(lab: &Lab, limit: u64, sum: u64) -> Result<()> {
    let file = |file: &str| lab.group_file("c", "memory", file);
    if has_only_v2() {
        let word = |bytes: u64, all: u64| match all {
            UNLIMITED => "max".to_owned(),
            _ => bytes.to_string(),
        };
        same(file("memory.max")?, &word(limit, limit))?;
        return same(file("memory.swap.max")?, &word(sum - limit, sum));
    }
    same(file("memory.limit_in_bytes")?, &limit.to_string())?;
    same(file("memory.memsw.limit_in_bytes")?, &sum.to_string())
}

fn memory_alone_is(lab: &Lab, limit: &str) -> Result<()> {
    let file = if has_only_v2() {
        "memory.max"
    } else {
        "memory.limit_in_bytes"
    };
    same(lab.group_file("c", "memory", file)?, limit)
}

/// What processors may be used of a period; version 2 has both in one file.
fn quota_is(lab: &Lab, quota: &str, period: &str) -> Result<()> {
    let file = |file: &str| lab.group_file("c", "cpu", file);
    if has_only_v2() {
        let quota = if quota == "-1" { "max" } else { quota };
        return same(file("cpu.max")?, &format!("{quota} {period}"));
    }
    same(file("cpu.cfs_quota_us")?, quota)?;
    same(file("cpu.cfs_period_us")?, period)
}

/// Shares, or version 2's weight for them: by the curve, by the line.
fn shares_are(lab: &Lab, shares: &str, curve: &str, line: &str) -> Result<()> {
    let (file, wanted) = if has_only_v2() {
        ("cpu.weight", weight(lab, curve, line))
    } else {
        ("cpu.shares", shares)
    };
    same(lab.group_file("c", "cpu", file)?, wanted)
}

#[test]
fn flags_change_limits() {
    check(Who::All, |lab| {
        lab.start("c", small)?;
        let words = [
            "update",
            "--memory",
            "33554432",
            "--memory-reservation",
            "16777216",
            "--cpu-quota",
            "30000",
            "--cpu-period",
            "60000",
            "--cpu-share",
            "300",
            "--pids-limit",
            "33",
            "--cpuset-cpus",
            "0",
            "c",
        ];
        lab.call(&words)?.text()?;
        let file = |controller: &str, file: &str| lab.group_file("c", controller, file);
        memory_alone_is(lab, "33554432")?;
        let reservation = if has_only_v2() {
            "memory.low"
        } else {
            "memory.soft_limit_in_bytes"
        };
        same(file("memory", reservation)?, "16777216")?;
        quota_is(lab, "30000", "60000")?;
        shares_are(lab, "300", "39", "12")?;
        same(file("pids", "pids.max")?, "33")?;
        same(file("cpuset", "cpuset.cpus")?, "0")?;
        lab.remove("c")
    });
}

#[test]
fn sizes_have_units() {
    check(Who::Hybrid, |lab| {
        lab.start("c", small)?;
        lab.call(&["update", "--memory", "48M", "--memory-swap", "96M", "c"])?
            .text()?;
        memory_is(lab, 48 << 20, 96 << 20)?;
        lab.call(&["update", "--memory", "lots", "c"])?
            .complaint()?;
        lab.remove("c")
    });
}

#[test]
fn memory_and_swap_go_up_and_down_together() {
    check(Who::All, |lab| {
        lab.start("c", small)?;
        for (limit, sum) in [
            (128_u64 << 20, 256_u64 << 20),
            (32 << 20, 48 << 20),
            (48 << 20, 48 << 20),
        ] {
            let (memory, swap) = (limit.to_string(), sum.to_string());
            lab.call(&["update", "--memory", &memory, "--memory-swap", &swap, "c"])?
                .text()?;
            memory_is(lab, limit, sum)?;
        }
        lab.remove("c")
    });
}

#[test]
fn no_limit_at_all() {
    check(Who::Hybrid, |lab| {
        lab.start("c", small)?;
        lab.call(&[
            "update",
            "--memory",
            "-1",
            "--pids-limit",
            "-1",
            "--cpu-quota",
            "-1",
            "c",
        ])?
        .text()?;
        memory_is(lab, UNLIMITED, UNLIMITED)?;
        same(lab.group_file("c", "pids", "pids.max")?, "max")?;
        quota_is(lab, "-1", "100000")?;
        lab.remove("c")
    });
}

#[test]
fn half_a_pair_leaves_the_other_half() {
    check(Who::Hybrid, |lab| {
        lab.start("c", small)?;
        lab.call(&["update", "--cpu-quota", "20000", "c"])?.text()?;
        quota_is(lab, "20000", "100000")?;
        lab.call(&["update", "--cpu-period", "50000", "c"])?
            .text()?;
        quota_is(lab, "20000", "50000")?;
        lab.remove("c")
    });
}

#[test]
fn resources_come_by_standard_input() {
    check(Who::Hybrid, |lab| {
        lab.start("c", small)?;
        let mut command = lab.command(&["update", "--resources", "-", "c"]);
        let mut running = start(command.stdin(Stdio::piped()))?;
        running
            .take_stdin()
            .unwrap()
            .write_all(br#"{"pids": {"limit": 44}, "memory": {"limit": 50331648}}"#)?;
        running.wait()?.text()?;
        same(lab.group_file("c", "pids", "pids.max")?, "44")?;
        memory_alone_is(lab, "50331648")?;
        // What was not named stays.
        shares_are(lab, "512", "59", "20")?;
        lab.remove("c")
    });
}

#[test]
fn a_paused_container_gets_them_too() {
    check(Who::All, |lab| {
        lab.start("c", small)?;
        lab.call(&["pause", "c"])?.text()?;
        lab.call(&["update", "--memory", "33554432", "--pids-limit", "9", "c"])?
            .text()?;
        memory_alone_is(lab, "33554432")?;
        same(lab.group_file("c", "pids", "pids.max")?, "9")?;
        ensure!(lab.state("c")?["status"] == "paused");
        lab.call(&["resume", "c"])?.text()?;
        lab.remove("c")
    });
}

#[test]
fn less_than_is_used_is_refused() {
    check(Who::All, |lab| {
        lab.start("c", |config| {
            small(config);
            let script = "dd if=/dev/zero of=/dev/shm/full bs=1M count=24 2>/dev/null; sleep 1000";
            config["process"]["args"] = json!(["sh", "-c", script]);
        })?;
        eventually(|| {
            let file = if has_only_v2() {
                "memory.current"
            } else {
                "memory.usage_in_bytes"
            };
            let used = lab.group_file("c", "memory", file)?;
            ensure!(used.parse::<u64>()? > 24 << 20, "{used}");
            Ok(())
        })?;
        let told = if has_only_v2() {
            // Version 2 would kill for it, unless the caller says otherwise.
            if lab.runtime.name != "berth-oci" {
                return lab.remove("c");
            }
            let file = lab.host.work_dir().join("less.json");
            let less = json!({"memory": {"limit": 8 << 20, "checkBeforeUpdate": true}});
            fs::write(&file, less.to_string())?;
            lab.call(&["update", "--resources", path(&file), "c"])?
        } else {
            lab.call(&["update", "--memory", "8388608", "c"])?
        };
        told.complaint()?;
        memory_alone_is(lab, "67108864")?;
        ensure!(lab.state("c")?["status"] == "running");
        lab.remove("c")
    });
}

#[test]
fn one_that_is_refused_takes_all_back() {
    check(Who::Berth, |lab| {
        lab.start("c", small)?;
        let kept = fs::read(lab.root().join("c/config.json"))?;
        let words = [
            "update",
            "--memory",
            "96M",
            "--memory-swap",
            "128M",
            "--cpu-share",
            "99",
            "--cpu-quota",
            "10000",
            // There are not so many.
            "--cpuset-cpus",
            "4000",
            "c",
        ];
        let told = lab.call(&words)?;
        holds(told.complaint()?, &["linux.resources.cpu.cpus"])?;
        memory_is(lab, 64 << 20, 64 << 20)?;
        shares_are(lab, "512", "59", "20")?;
        quota_is(lab, "50000", "100000")?;
        ensure!(fs::read(lab.root().join("c/config.json"))? == kept);
        lab.remove("c")
    });
}

#[test]
fn the_kept_configuration_tells_the_new_ones() {
    check(Who::Berth, |lab| {
        lab.start("c", small)?;
        lab.call(&["update", "--memory", "48M", "--pids-limit", "30", "c"])?
            .text()?;
        let kept = fs::read(lab.root().join("c/config.json"))?;
        let kept: Value = serde_json::from_slice(&kept)?;
        let resources = &kept["linux"]["resources"];
        ensure!(
            resources["memory"] == json!({"limit": 48 << 20, "swap": 64 << 20}),
            "{kept}"
        );
        ensure!(resources["pids"]["limit"] == 30, "{kept}");
        ensure!(resources["cpu"]["shares"] == 512, "{kept}");
        // It is still one that exec can read.
        same(lab.exec("c", "echo yes")?, "yes")?;
        lab.remove("c")
    });
}

#[test]
fn kernel_memory_is_accepted_and_ignored() {
    check(Who::Berth, |lab| {
        lab.start("c", small)?;
        lab.call(&["update", "--kernel-memory", "1M", "c"])?
            .text()?;
        lab.call(&["update", "--kernel-memory-tcp", "1M", "c"])?
            .text()?;
        memory_is(lab, 64 << 20, 64 << 20)?;
        let told = lab.call(&["update", "--l3-cache-schema", "L3:0=1", "c"])?;
        holds(
            told.complaint()?,
            &["Intel RDT/CAT: l3 cache schema is not enabled"],
        )?;
        lab.remove("c")
    });
}

#[test]
fn what_has_ended_has_no_limits() {
    check(Who::Hybrid, |lab| {
        lab.start("c", as_is)?;
        lab.call(&["kill", "c", "KILL"])?.text()?;
        lab.wait_for("c", "stopped")?;
        let words = ["update", "--pids-limit", "9", "c"];
        // runc writes to the group that is left, and says nothing.
        if lab.runtime.name == "berth-oci" {
            holds(lab.call(&words)?.complaint()?, &["container not running"])?;
        }
        lab.remove("c")
    });
}

#[test]
fn files_of_version_2_are_refused_on_version_1() {
    check(Who::All, |lab| {
        if has_only_v2() {
            lab.start("c", |config| {
                config["linux"]["resources"]["unified"] = json!({"memory.high": "1048576"});
            })?;
            same(lab.group_file("c", "memory", "memory.high")?, "1048576")?;
            return lab.remove("c");
        }
        let refused = lab.run("true", |config| {
            config["linux"]["resources"]["unified"] = json!({"memory.high": "1000000"});
        })?;
        let complaint = refused.complaint()?;
        if lab.runtime.name == "berth-oci" {
            holds(
                complaint,
                &[
                    "linux.resources.unified.memory.high",
                    "cannot use unified on cgroup v1",
                ],
            )?;
        }
        // crun complains, and leaves the container's folder to be deleted.
        lab.call(&["delete", "--force", "c"]).map(drop)
    });
}

#[test]
fn files_of_version_2_are_written_where_it_has_the_controller() {
    check(Who::Berth, |lab| {
        let unified = format!("/sys/fs/cgroup/unified{}", lab.group("c"));
        let text = lab.run("true", |config| {
            config["linux"]["resources"]["unified"] = json!({"nodot": "1"});
        })?;
        holds(text.complaint()?, &["linux.resources.unified.nodot"])?;
        ensure!(!std::path::Path::new(&unified).exists());
        Ok(())
    });
}

#[test]
fn a_file_that_is_no_json_is_named() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        let file = lab.host.work_dir().join("resources.json");
        fs::write(&file, "{")?;
        let told = lab.call(&["update", "--resources", path(&file), "c"])?;
        let complaint = told.complaint()?;
        if lab.runtime.name == "berth-oci" {
            holds(complaint, &["resources.json"])?;
        }
        lab.remove("c")
    });
}

/// Init lives in the container's memory as long as it still runs the runtime's
/// program: whatever that touches there is taken from what the container was given.
#[test]
fn half_a_mebibyte_is_enough_for_a_small_program() {
    check(Who::All, |lab| {
        for _ in 0..5 {
            let outcome = lab.run("", |config| {
                config["process"]["args"] = json!(["echo", "enough"]);
                config["linux"]["resources"]["memory"] = json!({"limit": 512 << 10});
            })?;
            same(outcome.text()?.trim(), "enough")?;
        }
        Ok(())
    });
}
