//! Groups inside a container's own, and what pausing and ending does to all of them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::check::{Who, check};
use crate::lab::{Lab, as_is, eventually, has_only_v2, holds, same};
use crate::outcome::start;

/// Makes a group inside the container's own in each of some hierarchies.
fn make_inner(lab: &Lab, controllers: &[&str], name: &str) -> Result<Vec<PathBuf>> {
    let place = |controller: &&str| {
        let place = format!("{}/{name}", lab.group_folder("c", controller));
        fs::create_dir_all(&place).context(place.clone())?;
        if *controller == "cpuset" && !has_only_v2() {
            // A new set is empty and takes nobody.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let above = lab.group_file("c", "cpuset", file)?;
                fs::write(format!("{place}/{file}"), above)?;
            }
        }
        Ok(PathBuf::from(place))
    };
    controllers.iter().map(place).collect()
}

fn all_controllers() -> Result<Vec<String>> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let field = |line: &str| line.split(':').nth(1).map(str::to_owned);
    let names = text
        .lines()
        .filter_map(field)
        .filter(|name| !name.is_empty());
    Ok(names
        .map(|name| name.trim_start_matches("name=").to_owned())
        .collect())
}

#[test]
fn exec_goes_into_the_groups_that_it_is_told() {
    check(Who::Hybrid, |lab| {
        lab.start("c", as_is)?;
        make_inner(lab, &["pids", "memory"], "inner")?;
        if has_only_v2() {
            // One tree has no controllers to tell apart.
            let words = ["exec", "--cgroup", "inner", "c", "cat", "/proc/self/cgroup"];
            let told = lab.call(&words)?.text()?;
            ensure!(told.ends_with("/inner"), "{told}");
            let told = lab.call(&["exec", "--cgroup", "pids:inner", "c", "true"])?;
            told.complaint()?;
            return lab.remove("c");
        }
        let words = [
            "exec",
            "--cgroup",
            "pids,memory:inner",
            "c",
            "cat",
            "/proc/self/cgroup",
        ];
        let told = lab.call(&words)?.text()?;
        let line = |name: &str| {
            let mut lines = told.lines();
            let line = lines.find(|line| line.contains(&format!(":{name}:")));
            line.unwrap_or("").to_owned()
        };
        ensure!(line("pids").ends_with("/inner"), "{told}");
        ensure!(line("memory").ends_with("/inner"), "{told}");
        ensure!(!line("cpu").ends_with("/inner"), "{told}");
        lab.remove("c")
    });
}

#[test]
fn one_path_is_for_all_hierarchies() {
    check(Who::Berth, |lab| {
        lab.start("c", as_is)?;
        let names = all_controllers()?;
        let names: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| PathBuf::from(format!("/sys/fs/cgroup/{name}")).exists())
            .chain(has_only_v2().then_some("pids"))
            .collect();
        make_inner(lab, &names, "inner")?;
        let words = [
            "exec",
            "--cgroup",
            "/inner",
            "c",
            "cat",
            "/proc/self/cgroup",
        ];
        let told = lab.call(&words)?.text()?;
        let inside = told.lines().filter(|line| line.ends_with("/inner")).count();
        ensure!(inside >= names.len().min(5), "{told}");
        lab.remove("c")
    });
}

#[test]
fn groups_that_are_not_the_containers_are_refused() {
    check(Who::Hybrid, |lab| {
        lab.start("c", as_is)?;
        for argument in ["pids:nowhere", "pids:../..", "what:inner", ":inner"] {
            let told = lab.call(&["exec", "--cgroup", argument, "c", "true"])?;
            told.complaint()
                .with_context(|| format!("--cgroup {argument}"))?;
        }
        let words = [
            "exec", "--cgroup", "pids:a", "--cgroup", "pids:b", "c", "true",
        ];
        let told = lab.call(&words)?;
        let complaint = told.complaint()?;
        // runc 1.1 takes the last one, and finds no such group.
        if lab.runtime.name == "berth-oci" {
            holds(complaint, &["specified multiple times"])?;
        }
        lab.remove("c")
    });
}

#[test]
fn groups_that_the_container_made_go_with_it() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        let made = make_inner(lab, &["pids", "memory", "freezer"], "one/two")?;
        // One of them is lived in.
        let pid = lab.pid("c")?.to_string();
        fs::write(made[0].join("cgroup.procs"), &pid)?;
        lab.remove("c")?;
        for place in made {
            ensure!(!place.exists(), "{} is left", place.display());
        }
        Ok(())
    });
}

#[test]
fn exec_into_a_paused_container_waits() {
    check(Who::Hybrid, |lab| {
        lab.start("c", as_is)?;
        lab.call(&["pause", "c"])?.text()?;
        let told = lab.call(&["exec", "c", "true"])?;
        holds(told.complaint()?, &["paused"])?;
        let words = [
            "exec",
            "--ignore-paused",
            "c",
            "sh",
            "-c",
            "touch /ran; echo ran",
        ];
        let running = start(&mut lab.command(&words))?;
        std::thread::sleep(std::time::Duration::from_millis(300));
        ensure!(!lab.host.work_dir().join("c/rootfs/ran").exists());
        lab.call(&["resume", "c"])?.text()?;
        same(running.wait()?.text()?, "ran")?;
        lab.remove("c")
    });
}

#[test]
fn kill_all_reaches_groups_inside() {
    check(Who::All, |lab| {
        lab.start("c", |config| {
            config["process"]["args"] = json!(["sh", "-c", "sleep 1000 & sleep 1000 & wait"]);
        })?;
        let pids = eventually(|| {
            let text = lab.call(&["ps", "--format", "json", "c"])?.text()?;
            let pids: Vec<u32> = serde_json::from_str(&text)?;
            ensure!(pids.len() == 3, "{text}");
            Ok(pids)
        })?;
        lab.call(&["kill", "--all", "c", "KILL"])?.text()?;
        lab.wait_for("c", "stopped")?;
        eventually(|| {
            for pid in &pids {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                ensure!(
                    status.is_empty() || status.contains("State:\tZ"),
                    "{status}"
                );
            }
            Ok(())
        })?;
        lab.remove("c")
    });
}

#[test]
fn in_a_shared_pid_namespace_kill_ends_all() {
    check(Who::Berth, |lab| {
        lab.start("c", |config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "pid");
            config["process"]["args"] = json!(["sh", "-c", "sleep 1000 & sleep 1000 & wait"]);
        })?;
        let group = || lab.group_file("c", "pids", "cgroup.procs");
        eventually(|| {
            ensure!(group()?.lines().count() == 3);
            Ok(())
        })?;
        lab.call(&["kill", "c", "KILL"])?.text()?;
        lab.wait_for("c", "stopped")?;
        same(group()?, "")?;
        lab.remove("c")
    });
}

#[test]
fn ps_takes_the_arguments_of_ps() {
    check(Who::Hybrid, |lab| {
        lab.start("c", as_is)?;
        let pid = lab.pid("c")?;
        let table = lab.call(&["ps", "c", "-o", "pid,args"])?.text()?;
        let mut lines = table.lines();
        holds(lines.next().unwrap_or(""), &["PID", "COMMAND"])?;
        let row = lines.next().unwrap_or("");
        ensure!(
            row.split_whitespace().next() == Some(&pid.to_string()),
            "{table}"
        );
        ensure!(lines.next().is_none(), "{table}");
        // Without their numbers lines cannot be told apart.
        lab.call(&["ps", "c", "-o", "args"])?.complaint()?;
        let json = lab.call(&["ps", "--format", "json", "c"])?.text()?;
        same(json, &format!("[{pid}]"))?;
        lab.remove("c")
    });
}

#[test]
fn what_is_created_can_be_paused_and_removed() {
    check(Who::Hybrid, |lab| {
        lab.create("c", as_is)?;
        lab.call(&["pause", "c"])?.text()?;
        lab.remove("c")?;
        ensure!(!lab.root().join("c").exists());
        Ok(())
    });
}
