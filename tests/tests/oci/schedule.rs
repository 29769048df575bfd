//! When and where the program runs, and what the kernel shares out to it.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::check::{Who, check};
use crate::lab::{Lab, as_is, holds, path, same};

/// Nice value and policy: fields 19 and 41 of `/proc/PID/stat`.
const SCHEDULE: &str = "cut -d' ' -f19,41 /proc/self/stat";

fn process_file(lab: &Lab, change: impl FnOnce(&mut Value)) -> Result<std::path::PathBuf> {
    let mut process = json!({
        "user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"],
        "args": ["sh", "-c", "true"],
    });
    change(&mut process);
    let file = lab.host.work_dir().join("process.json");
    fs::write(&file, process.to_string())?;
    Ok(file)
}

#[test]
fn a_policy_and_its_nice_value_are_as_asked() {
    check(Who::All, |lab| {
        let told = lab.text(SCHEDULE, |config| {
            config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
        })?;
        same(told, "5 3")
    });
}

#[test]
fn a_policys_flags_are_the_specifications() {
    check(Who::Berth, |lab| {
        // Children of such a process are not preferred, as it is.
        let script = "cut -d' ' -f19 /proc/1/stat; cut -d' ' -f19 /proc/self/stat; true";
        let told = lab.text(script, |config| {
            config["process"]["scheduler"] = json!({
                "policy": "SCHED_OTHER", "nice": -5, "flags": ["SCHED_FLAG_RESET_ON_FORK"],
            });
        })?;
        same(told, "-5\n0")
    });
}

#[test]
fn an_impossible_policy_names_its_field_and_leaves_nothing() {
    check(Who::Berth, |lab| {
        let refused = lab.run("true", |config| {
            config["process"]["scheduler"] =
                json!({"policy": "SCHED_DEADLINE", "runtime": 5, "deadline": 4, "period": 3});
        })?;
        holds(
            refused.complaint()?,
            &[
                "stage set-schedule",
                "process.scheduler",
                "sched_setattr",
                "invalid argument",
            ],
        )?;
        let refused = lab.run("true", |config| {
            config["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "priority": 3});
        })?;
        holds(refused.complaint()?, &["process.scheduler.priority"])
    });
}

#[test]
fn io_priority_is_as_asked() {
    check(Who::All, |lab| {
        for (class, priority, words) in [
            ("IOPRIO_CLASS_BE", 6, "best-effort: prio 6"),
            ("IOPRIO_CLASS_IDLE", 0, "idle"),
        ] {
            let told = lab.text("ionice -p 1", |config| {
                config["process"]["ioPriority"] = json!({"class": class, "priority": priority});
            })?;
            same(told, words)?;
        }
        Ok(())
    });
}

#[test]
fn personality_is_as_asked() {
    check(Who::All, |lab| {
        same(lab.text("uname -m", as_is)?, std::env::consts::ARCH)?;
        let told = lab.text("uname -m", |config| {
            config["linux"]["personality"] = json!({"domain": "LINUX32"});
        })?;
        same(told, "i686")
    });
}

#[test]
fn personality_holds_for_what_exec_adds() {
    check(Who::Berth, |lab| {
        lab.start("c", |config| {
            config["linux"]["personality"] = json!({"domain": "LINUX32"});
        })?;
        same(lab.exec("c", "uname -m")?, "i686")?;
        lab.remove("c")
    });
}

#[test]
fn memory_policy_is_as_asked() {
    check(Who::Berth, |lab| {
        // The second word of each mapping is its policy.
        let script = "head -1 /proc/self/numa_maps | cut -d' ' -f2";
        let told = lab.text(script, |config| {
            config["linux"]["memoryPolicy"] =
                json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
        })?;
        same(told, "bind=static:0")?;
        let refused = lab.run("true", |config| {
            config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "1000"});
        })?;
        holds(
            refused.complaint()?,
            &["linux.memoryPolicy", "set_mempolicy"],
        )
    });
}

#[test]
fn exec_runs_on_its_own_processors() {
    check(Who::Berth, |lab| {
        let script = "grep Cpus_allowed_list /proc/self/status | cut -f2";
        let all = lab.text(script, as_is)?;
        lab.start("c", |config| {
            config["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "1"});
        })?;
        same(lab.exec("c", script)?, "1")?;
        same(lab.exec("c", &script.replace("self", "1"))?, &all)?;
        let file = process_file(lab, |process| {
            process["args"] = json!(["sh", "-c", script]);
            process["execCPUAffinity"] = json!({"final": "0"});
        })?;
        let told = lab.call(&["exec", "--process", path(&file), "c"])?;
        same(told.text()?, "0")?;
        let file = process_file(lab, |process| {
            process["execCPUAffinity"] = json!({"final": "4000"});
        })?;
        let refused = lab.call(&["exec", "--process", path(&file), "c"])?;
        holds(
            refused.complaint()?,
            &["process.execCPUAffinity.final", "sched_setaffinity"],
        )?;
        lab.remove("c")
    });
}

#[test]
fn exec_is_scheduled_by_its_file_and_else_as_the_container() {
    check(Who::Berth, |lab| {
        lab.start("c", |config| {
            config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 2});
            config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 7});
        })?;
        let script = format!("{SCHEDULE}; ionice -p $$");
        same(lab.exec("c", &script)?, "2 3\nbest-effort: prio 7")?;
        let file = process_file(lab, |process| {
            process["args"] = json!(["sh", "-c", script]);
            process["scheduler"] = json!({"policy": "SCHED_IDLE"});
        })?;
        let told = lab.call(&["exec", "--process", path(&file), "c"])?;
        same(told.text()?, "0 5\nbest-effort: prio 7")?;
        lab.remove("c")
    });
}

#[test]
fn shares_of_caches_need_their_filesystem() {
    check(Who::Berth, |lab| {
        if fs::read_to_string("/proc/mounts")?.contains(" resctrl ") {
            // A machine that has it is not this case's to change.
            return Ok(());
        }
        let refused = lab.run("true", |config| {
            config["linux"]["intelRdt"] = json!({"closID": "gold", "schemata": ["L3:0=f"]});
        })?;
        holds(
            refused.complaint()?,
            &["linux.intelRdt", "no resctrl filesystem is mounted"],
        )?;
        ensure!(!lab.root().join("c").exists(), "the id is free again");
        Ok(())
    });
}
