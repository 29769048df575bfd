//! Namespaces: new ones, those of the host, and those joined by path.

use std::fs;

use anyhow::ensure;
use berth_tests::outcome::finish;
use serde_json::{Value, json};

use crate::check::{Who, check};
use crate::lab::{as_is, holds, kernel_is, same};

const KINDS: [(&str, &str); 5] = [
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
];

fn link(pid: impl std::fmt::Display, file: &str) -> anyhow::Result<String> {
    Ok(fs::read_link(format!("/proc/{pid}/ns/{file}"))?
        .to_string_lossy()
        .into_owned())
}

fn without(config: &mut Value, kind: &str) {
    let list = config["linux"]["namespaces"].as_array_mut().unwrap();
    list.retain(|namespace| namespace["type"] != kind);
}

#[test]
fn new_ones_are_not_the_hosts() {
    check(Who::All, |lab| {
        lab.start("c", |config| {
            crate::lab::add(
                &mut config["linux"]["namespaces"],
                json!({"type": "cgroup"}),
            );
        })?;
        let init = lab.pid("c")?;
        for file in KINDS.map(|(_, file)| file).into_iter().chain(["cgroup"]) {
            ensure!(link(init, file)? != link(lab.host.pid(), file)?, "{file}");
        }
        lab.remove("c")
    });
}

#[test]
fn absent_ones_are_the_hosts() {
    check(Who::All, |lab| {
        lab.start("c", |config| {
            without(config, "network");
            without(config, "ipc");
            without(config, "uts");
            config["hostname"] = Value::Null;
            // Only a process with capabilities over the network may mount sysfs of it.
            config["mounts"]
                .as_array_mut()
                .unwrap()
                .retain(|mount| mount["type"] != "mqueue");
        })?;
        let init = lab.pid("c")?;
        for file in ["net", "ipc", "uts"] {
            same(link(init, file)?, &link(lab.host.pid(), file)?)?;
        }
        lab.remove("c")
    });
}

#[test]
fn those_of_another_container_are_joined_by_path() {
    check(Who::All, |lab| {
        lab.start("one", as_is)?;
        let first = lab.pid("one")?;
        lab.start("two", |config| {
            config["hostname"] = Value::Null;
            for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
                let kind = namespace["type"].as_str().unwrap().to_owned();
                let (_, file) = KINDS.into_iter().find(|(name, _)| *name == kind).unwrap();
                if kind != "mount" {
                    namespace["path"] = json!(format!("/proc/{first}/ns/{file}"));
                }
            }
        })?;
        let second = lab.pid("two")?;
        for file in ["pid", "net", "ipc", "uts"] {
            same(link(second, file)?, &link(first, file)?)?;
        }
        ensure!(link(second, "mnt")? != link(first, "mnt")?);
        same(lab.exec("two", "hostname")?, "lab")?;
        lab.remove("two")?;
        lab.remove("one")
    });
}

#[test]
fn a_joined_pid_namespace_ends_with_its_first_process() {
    check(Who::All, |lab| {
        lab.start("one", as_is)?;
        let first = lab.pid("one")?;
        lab.start("two", |config| {
            config["linux"]["namespaces"][0]["path"] = json!(format!("/proc/{first}/ns/pid"));
        })?;
        lab.remove("one")?;
        lab.wait_for("two", "stopped")?;
        lab.remove("two")
    });
}

#[test]
fn a_path_of_another_kind_is_refused() {
    check(Who::All, |lab| {
        let refused = lab.run("true", |config| {
            let path = format!("/proc/{}/ns/uts", lab.host.pid());
            config["linux"]["namespaces"][1]["path"] = json!(path);
        })?;
        refused.complaint().map(drop)
    });
}

#[test]
fn kill_all_ends_a_container_that_shares_pids() {
    check(Who::All, |lab| {
        lab.start("c", |config| {
            without(config, "pid");
            config["process"]["args"] = json!(["sh", "-c", "sleep 1000 & sleep 1000 & wait"]);
        })?;
        let procs = || lab.group_file("c", "pids", "cgroup.procs");
        crate::lab::eventually(|| {
            ensure!(procs()?.lines().count() == 3);
            Ok(())
        })?;
        lab.call(&["kill", "--all", "c", "KILL"])?.text()?;
        lab.wait_for("c", "stopped")?;
        crate::lab::eventually(|| same(procs()?, ""))?;
        lab.call(&["delete", "c"])?.text().map(drop)
    });
}

#[test]
fn delete_ends_all_that_share_the_hosts_pids() {
    check(Who::All, |lab| {
        lab.start("c", |config| {
            without(config, "pid");
            config["process"]["args"] = json!(["sh", "-c", "sleep 1000 & sleep 1000 & wait"]);
        })?;
        crate::lab::eventually(|| {
            ensure!(lab.group_file("c", "pids", "cgroup.procs")?.lines().count() == 3);
            Ok(())
        })?;
        lab.remove("c")
    });
}

#[test]
fn names_are_the_containers() {
    check(Who::All, |lab| {
        let before = fs::read_to_string("/proc/sys/kernel/hostname")?;
        same(lab.text("hostname", as_is)?, "lab")?;
        same(fs::read_to_string("/proc/sys/kernel/hostname")?, &before)
    });
}

#[test]
fn domain_names_are_the_containers() {
    check(Who::All, |lab| {
        let told = lab.text("cat /proc/sys/kernel/domainname", |config| {
            config["domainname"] = json!("lab.example");
        })?;
        same(told, "lab.example")
    });
}

#[test]
fn a_name_for_the_hosts_namespace_is_refused() {
    check(Who::All, |lab| {
        let before = fs::read_to_string("/proc/sys/kernel/hostname")?;
        let refused = lab.run("true", |config| without(config, "uts"))?;
        same(fs::read_to_string("/proc/sys/kernel/hostname")?, &before)?;
        refused.complaint().map(drop)
    });
}

#[test]
fn sysctls_of_namespaces_are_set() {
    check(Who::All, |lab| {
        let script = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/ping_group_range \
            /proc/sys/kernel/msgmax /proc/sys/kernel/shm_rmid_forced";
        let told = lab.text(script, |config| {
            config["linux"]["sysctl"] = json!({
                "net.ipv4.ip_forward": "1", "net.ipv4.ping_group_range": "0 1000",
                "kernel.msgmax": "4096", "kernel.shm_rmid_forced": "1",
            });
        })?;
        same(told, "1\n0\t1000\n4096\n1")
    });
}

#[test]
fn sysctls_of_the_host_are_refused() {
    check(Who::All, |lab| {
        let swappiness = fs::read_to_string("/proc/sys/vm/swappiness")?;
        for (name, value) in [
            ("vm.swappiness", "7"),
            ("kernel.panic", "7"),
            ("../vm/swappiness", "7"),
        ] {
            let refused = lab.run("true", |config| {
                config["linux"]["sysctl"] = json!({name: value});
            })?;
            refused.complaint()?;
        }
        same(fs::read_to_string("/proc/sys/vm/swappiness")?, &swappiness)
    });
}

#[test]
fn sysctls_of_a_shared_namespace_are_refused() {
    check(Who::All, |lab| {
        let refused = lab.run("true", |config| {
            without(config, "network");
            config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        })?;
        refused.complaint().map(drop)
    });
}

fn mounts_of_host(lab: &crate::lab::Lab) -> anyhow::Result<String> {
    Ok(fs::read_to_string(format!(
        "/proc/{}/mountinfo",
        lab.host.pid()
    ))?)
}

/// Whether the kernel cannot do it for us; then that is said, and nothing is left.
fn is_refused_here(lab: &crate::lab::Lab) -> anyhow::Result<bool> {
    if kernel_is((6, 15)) || !lab.runtime.path.ends_with("berth-oci") {
        return Ok(false);
    }
    let before = mounts_of_host(lab)?;
    let refused = lab.run("true", |config| without(config, "mount"))?;
    holds(
        refused.complaint()?,
        &["linux.namespaces", "type mount", "Linux 6.15"],
    )?;
    same(mounts_of_host(lab)?, &before)?;
    Ok(true)
}

#[test]
fn without_a_mount_namespace_it_is_in_the_hosts_and_leaves_nothing() {
    check(Who::All, |lab| {
        if is_refused_here(lab)? {
            return Ok(());
        }
        let before = mounts_of_host(lab)?;
        lab.start("c", |config| without(config, "mount"))?;
        let init = lab.pid("c")?;
        same(link(init, "mnt")?, &link(lab.host.pid(), "mnt")?)?;
        let seen = lab.exec("c", "cd /../..; ls -d bin; ls -d proc/1; pwd")?;
        same(seen, "bin\nproc/1\n/")?;
        lab.remove("c")?;
        same(mounts_of_host(lab)?, &before)
    });
}

#[test]
fn without_a_mount_namespace_all_mounts_are_there_and_nobody_else_sees_them() {
    check(Who::Berth, |lab| {
        if is_refused_here(lab)? {
            return Ok(());
        }
        let shared = lab.host.work_dir().join("shared");
        fs::create_dir(&shared)?;
        let shared = crate::lab::path(&shared).to_owned();
        let script = "mount -t tmpfs shared $0 && mount --make-shared $0 && mkdir -p $0/below $0/masked/file";
        finish(lab.host.command("sh").args(["-c", script, &shared]))?.text()?;
        let before = mounts_of_host(lab)?;
        lab.start("c", |config| {
            without(config, "mount");
            config["root"]["readonly"] = json!(true);
            let mounts = &mut config["mounts"];
            crate::lab::add(
                mounts,
                json!({"destination": "/shared", "source": shared, "options": ["rbind", "rslave"]}),
            );
            crate::lab::add(
                mounts,
                json!({"destination": "/shared/below", "type": "tmpfs", "options": ["ro"]}),
            );
            config["linux"]["maskedPaths"] = json!(["/proc/version", "/shared/masked"]);
            config["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
        })?;
        same(mounts_of_host(lab)?, &before)?;
        let script = "exec 2>/dev/null
            touch /x || touch /shared/below/x || touch /shared/y
            wc -c </proc/version
            echo 1 >/proc/sys/vm/swappiness || ls /sys/fs/cgroup | wc -w
            ls /shared /shared/masked";
        let seen = lab.exec("c", script)?;
        let lines: Vec<&str> = seen.lines().collect();
        ensure!(
            matches!(
                lines[..],
                ["0", groups, "/shared:", "below", "masked", "y", "", "/shared/masked:"] if groups != "0"
            ),
            "{seen}"
        );
        // Nobody asks the runtime to take anything away.
        let init = lab.pid("c")?;
        finish(lab.host.command("kill").args(["-KILL", &init.to_string()]))?.text()?;
        lab.wait_for("c", "stopped")?;
        same(mounts_of_host(lab)?, &before)?;
        lab.remove("c")?;
        finish(lab.host.command("umount").arg(&shared))?
            .text()
            .map(drop)
    });
}

#[test]
fn without_a_mount_namespace_a_failed_create_leaves_no_mount() {
    check(Who::Berth, |lab| {
        let before = mounts_of_host(lab)?;
        let refused = lab.run("true", |config| {
            without(config, "mount");
            config["process"]["args"] = json!(["/nosuch"]);
        })?;
        refused.complaint()?;
        same(mounts_of_host(lab)?, &before)?;
        let refused = lab.run("true", |config| {
            without(config, "mount");
            config["linux"]["rootfsPropagation"] = json!("shared");
        })?;
        holds(refused.complaint()?, &["linux.rootfsPropagation"])
    });
}
