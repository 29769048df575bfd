//! Groups of processes: limits, freezing, changes, counts.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::check::{Who, check};
use crate::lab::{Lab, add, as_is, eventually, has_only_v2, holds, same};
use crate::outcome::finish;

fn limits(config: &mut Value) {
    let resources = &mut config["linux"]["resources"];
    resources["memory"] = json!({"limit": 64 << 20, "reservation": 32 << 20});
    resources["cpu"] = json!({"shares": 512, "quota": 50000, "period": 100_000});
    resources["pids"] = json!({"limit": 20});
}

/// Where version 2 is all there is, shares become a weight by a curve on which the
/// normal share is the normal weight. The elder two took a straight line at the
/// time of these versions; their newer ones take the curve too.
pub fn weight<'a>(lab: &Lab, by_curve: &'a str, by_line: &'a str) -> &'a str {
    match lab.runtime.name.as_str() {
        "runc" | "crun" => by_line,
        _ => by_curve,
    }
}

fn limits_hold(lab: &Lab) -> Result<()> {
    let file = |controller: &str, file: &str| lab.group_file("c", controller, file);
    if has_only_v2() {
        same(file("memory", "memory.max")?, "67108864")?;
        same(file("memory", "memory.low")?, "33554432")?;
        same(file("cpu", "cpu.weight")?, weight(lab, "59", "20"))?;
        same(file("cpu", "cpu.max")?, "50000 100000")?;
        return same(file("pids", "pids.max")?, "20");
    }
    same(file("memory", "memory.limit_in_bytes")?, "67108864")?;
    same(file("memory", "memory.soft_limit_in_bytes")?, "33554432")?;
    same(file("cpu", "cpu.shares")?, "512")?;
    same(file("cpu", "cpu.cfs_quota_us")?, "50000")?;
    same(file("cpu", "cpu.cfs_period_us")?, "100000")?;
    same(file("pids", "pids.max")?, "20")
}

#[test]
fn limits_are_in_the_group() {
    check(Who::All, |lab| {
        lab.start("c", limits)?;
        limits_hold(lab)?;
        let pid = lab.pid("c")?.to_string();
        for controller in ["memory", "cpu", "pids", "freezer", "devices"] {
            same(lab.group_file("c", controller, "cgroup.procs")?, &pid)?;
        }
        lab.remove("c")
    });
}

#[test]
fn limits_are_in_the_group_of_a_hybrid_machine() {
    check(Who::Hybrid, |lab| {
        lab.start("c", limits)?;
        limits_hold(lab)?;
        lab.remove("c")
    });
}

#[test]
fn processors_are_chosen() {
    check(Who::All, |lab| {
        lab.start("c", |config| {
            config["linux"]["resources"]["cpu"] = json!({"cpus": "0", "mems": "0"});
        })?;
        same(lab.group_file("c", "cpuset", "cpuset.cpus")?, "0")?;
        let told = lab.exec("c", "grep Cpus_allowed_list /proc/self/status")?;
        same(told, "Cpus_allowed_list:\t0")?;
        lab.remove("c")
    });
}

#[test]
fn processors_that_are_not_there_are_refused() {
    check(Who::All, |lab| {
        let refused = lab.run("true", |config| {
            config["linux"]["resources"]["cpu"] = json!({"cpus": "4000"});
        })?;
        refused.complaint().map(drop)
    });
}

#[test]
fn too_many_processes_are_refused() {
    check(Who::All, |lab| {
        let script = "for i in 1 2 3 4 5 6; do sleep 0.3 & done 2>&1; wait; true";
        let told = lab.run(script, |config| {
            config["linux"]["resources"]["pids"] = json!({"limit": 4});
        })?;
        holds(told.stdout + &told.stderr, &["fork"])
    });
}

#[test]
fn too_much_memory_ends_the_program() {
    check(Who::All, |lab| {
        let script = "sh -c 'dd if=/dev/zero of=/dev/null bs=100M count=1' 2>/dev/null; echo $?";
        let told = lab.text(script, |config| {
            config["linux"]["resources"]["memory"] = json!({"limit": 32 << 20, "swap": 32 << 20});
        })?;
        same(told, "137")
    });
}

#[test]
fn without_a_path_the_id_names_the_group() {
    check(Who::All, |lab| {
        let id = format!("{}-named", lab.host.name());
        lab.start(&id, |config| {
            config["linux"]
                .as_object_mut()
                .unwrap()
                .remove("cgroupsPath");
        })?;
        let pid = lab.pid(&id)?;
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let of_pids =
            |line: &&str| line.contains(":pids:") || (has_only_v2() && line.starts_with("0:"));
        let line = groups.lines().find(of_pids).unwrap();
        ensure!(line.ends_with(&format!("/{id}")), "{line}");
        lab.remove(&id)
    });
}

#[test]
fn a_group_that_exists_is_used() {
    check(Who::All, |lab| {
        let place = lab.group_folder("c", "pids");
        fs::create_dir(&place)?;
        lab.start("c", as_is)?;
        same(
            lab.group_file("c", "pids", "cgroup.procs")?,
            &lab.pid("c")?.to_string(),
        )?;
        lab.remove("c")?;
        // Whether it stays is each runtime's own affair.
        let _ = fs::remove_dir(&place);
        Ok(())
    });
}

#[test]
fn pause_and_resume() {
    check(Who::All, |lab| {
        let script = "while :; do echo x >> /ticks; sleep 0.02; done";
        lab.start("c", |config| {
            config["process"]["args"] = json!(["sh", "-c", script])
        })?;
        let ticks = lab.host.work_dir().join("c/rootfs/ticks");
        let count = || Ok(fs::read(&ticks)?.len());
        eventually(count)?;
        lab.call(&["pause", "c"])?.text()?;
        ensure!(lab.state("c")?["status"] == "paused");
        let before: usize = count()?;
        std::thread::sleep(std::time::Duration::from_millis(150));
        let after: usize = count()?;
        ensure!(before == after, "it went on: {before} {after}");
        lab.call(&["exec", "c", "true"])?.complaint()?;
        lab.call(&["resume", "c"])?.text()?;
        ensure!(lab.state("c")?["status"] == "running");
        eventually(|| {
            ensure!(count()? > after, "it stands still");
            Ok(())
        })?;
        lab.remove("c")
    });
}

#[test]
fn a_paused_container_is_removed_by_force() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        lab.call(&["pause", "c"])?.text()?;
        lab.remove("c")
    });
}

#[test]
fn a_paused_container_takes_a_kill() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        lab.call(&["pause", "c"])?.text()?;
        lab.call(&["kill", "c", "KILL"])?.text()?;
        lab.call(&["resume", "c"])?;
        lab.wait_for("c", "stopped")?;
        lab.remove("c")
    });
}

#[test]
fn resume_of_what_runs_is_refused() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        lab.call(&["resume", "c"])?.complaint()?;
        lab.remove("c")
    });
}

#[test]
fn ps_counts_all() {
    check(Who::All, |lab| {
        lab.start("c", |config| {
            config["process"]["args"] = json!(["sh", "-c", "sleep 1000 & sleep 1000 & wait"]);
        })?;
        let listed = eventually(|| {
            let text = lab.call(&["ps", "--format", "json", "c"])?.text()?;
            let listed: Vec<u32> = serde_json::from_str(&text)?;
            ensure!(listed.len() == 3, "{text}");
            Ok(listed)
        })?;
        ensure!(listed.contains(&lab.pid("c")?), "{listed:?}");
        let table = lab.call(&["ps", "c"])?.text()?;
        holds(table, &["PID", "sleep 1000"])?;
        lab.remove("c")
    });
}

#[test]
fn update_changes_limits() {
    check(Who::All, |lab| {
        lab.start("c", limits)?;
        let file = lab.host.work_dir().join("resources.json");
        let resources = json!({
            "memory": {"limit": 128 << 20}, "cpu": {"shares": 1024, "quota": 70000, "period": 100_000},
            "pids": {"limit": 40},
        });
        fs::write(&file, serde_json::to_vec(&resources)?)?;
        lab.call(&["update", "--resources", crate::lab::path(&file), "c"])?
            .text()?;
        let told = |controller: &str, file: &str| lab.group_file("c", controller, file);
        if has_only_v2() {
            same(told("memory", "memory.max")?, "134217728")?;
            same(told("cpu", "cpu.weight")?, weight(lab, "100", "39"))?;
            same(told("cpu", "cpu.max")?, "70000 100000")?;
        } else {
            same(told("memory", "memory.limit_in_bytes")?, "134217728")?;
            same(told("cpu", "cpu.shares")?, "1024")?;
            same(told("cpu", "cpu.cfs_quota_us")?, "70000")?;
        }
        same(told("pids", "pids.max")?, "40")?;
        lab.remove("c")
    });
}

#[test]
fn update_does_not_let_devices_in() {
    check(Who::All, |lab| {
        let node = lab.bundle("c", as_is)?.join("rootfs/node");
        finish(lab.host.command("mknod").arg(node).args(["c", "10", "229"]))?.text()?;
        lab.start("c", as_is)?;
        let file = lab.host.work_dir().join("resources.json");
        fs::write(&file, r#"{"pids": {"limit": 40}}"#)?;
        lab.call(&["update", "--resources", crate::lab::path(&file), "c"])?
            .text()?;
        let told = lab.call(&["exec", "c", "sh", "-c", "exec 3<> /node"])?;
        holds(told.complaint()?, &["Operation not permitted"])?;
        lab.remove("c")
    });
}

fn with_fuse(config: &mut Value) {
    let rule = json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"});
    add(&mut config["linux"]["resources"]["devices"], rule);
}

#[test]
fn devices_that_are_allowed_can_be_opened_and_no_others() {
    check(Who::All, |lab| {
        let rootfs = lab.bundle("c", as_is)?.join("rootfs");
        for (name, major, minor) in [("fuse", "10", "229"), ("kmsg", "1", "11")] {
            let words = ["c", major, minor];
            finish(lab.host.command("mknod").arg(rootfs.join(name)).args(words))?.text()?;
        }
        lab.start("c", with_fuse)?;
        lab.exec(
            "c",
            "echo x > /dev/null && head -c1 /dev/urandom > /dev/null",
        )?;
        // A node whose driver is missing is refused too, but in other words.
        let denied = "Operation not permitted";
        let fuse = lab.call(&["exec", "c", "sh", "-c", "exec 3<> /fuse"])?;
        ensure!(!fuse.stderr.contains(denied), "{fuse:?}");
        let kmsg = lab.call(&["exec", "c", "sh", "-c", "exec 3<> /kmsg"])?;
        holds(kmsg.complaint()?, &[denied])?;
        lab.remove("c")
    });
}

#[test]
fn devices_are_on_the_list() {
    if has_only_v2() {
        // There the list is a program of the kernel's, which nobody can read.
        return;
    }
    check(Who::All, |lab| {
        lab.start("c", with_fuse)?;
        let list = lab.group_file("c", "devices", "devices.list")?;
        holds(
            &list,
            &["c 1:3 rwm", "c 10:229 rwm", "c 136:* rwm", "c 5:2 rwm"],
        )?;
        ensure!(!list.contains("a *:*"), "{list}");
        lab.remove("c")
    });
}

#[test]
fn nobody_is_left_in_the_group_of_what_ended() {
    check(Who::All, |lab| {
        // The sweep asserts it; here one that outlives its parent.
        lab.text("(setsid sleep 1000 &) ; true", as_is).map(drop)
    });
}
