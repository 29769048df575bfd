//! CVE-2019-19921, CVE-2025-52881: writes to procfs that somebody redirects.

use std::fs;

use anyhow::ensure;
use serde_json::json;

use super::grant;
use crate::check::{Who, check};
use crate::lab::{as_is, eventually, same};

/// `exec` writes its OOM score while the container's root decides what lies at `/proc`.
#[test]
fn the_score_of_an_exec_does_not_go_elsewhere() {
    check(Who::Berth, |lab| {
        let script =
            "mkdir -p /fake/self; echo decoy > /fake/self/oom_score_adj
            : > /fake/self/mountinfo; /bin/busybox mount -o bind /fake /proc && : > /ready; sleep 1000";
        lab.start("c", |config| {
            config["process"]["args"] = json!(["sh", "-c", script]);
            config["process"]["oomScoreAdj"] = json!(700);
            grant(config, &["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
        })?;
        let rootfs = lab.host.work_dir().join("c/rootfs");
        eventually(|| {
            ensure!(rootfs.join("ready").exists(), "the mount is awaited");
            Ok(())
        })?;
        lab.call(&["exec", "--detach", "c", "sleep", "77"])?
            .text()?;
        same(
            fs::read_to_string(rootfs.join("fake/self/oom_score_adj"))?,
            "decoy\n",
        )?;
        let init = lab.pid("c")?;
        let space = fs::read_link(format!("/proc/{init}/ns/pid"))?;
        let scores: Vec<String> = fs::read_dir("/proc")?
            .flatten()
            .filter(|entry| {
                fs::read_link(entry.path().join("ns/pid")).is_ok_and(|own| own == space)
            })
            .filter_map(|entry| fs::read_to_string(entry.path().join("oom_score_adj")).ok())
            .collect();
        ensure!(
            scores.len() >= 2 && scores.iter().all(|score| score == "700\n"),
            "{scores:?}"
        );
        lab.remove("c")
    });
}

/// What the image has at `/proc` is neither read nor written for a sysctl.
#[test]
fn a_sysctl_does_not_go_elsewhere() {
    check(Who::Berth, |lab| {
        let rootfs = lab.bundle("c", as_is)?.join("rootfs");
        let decoy = rootfs.join("proc/sys/kernel/domainname");
        fs::create_dir_all(decoy.parent().unwrap())?;
        fs::write(&decoy, "decoy")?;
        let told = lab.text("cat /proc/sys/kernel/domainname", |config| {
            config["linux"]["sysctl"] = json!({"kernel.domainname": "of.the.container"});
        })?;
        same(told, "of.the.container")?;
        same(fs::read_to_string(decoy)?, "decoy")
    });
}

/// A volume at `/proc` hides what the runtime would write; it is not believed.
#[test]
fn a_volume_over_proc_is_not_written() {
    check(Who::Berth, |lab| {
        let volume = lab.host.work_dir().join("volume");
        fs::create_dir_all(volume.join("self"))?;
        fs::write(volume.join("self/oom_score_adj"), "decoy")?;
        let _ = lab.run("true", |config| {
            config["process"]["oomScoreAdj"] = json!(700);
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.insert(
                0,
                json!({"destination": "/proc", "source": volume, "options": ["bind"]}),
            );
            mounts.retain(|mount| mount["type"] != "proc");
            config["linux"]["readonlyPaths"] = json!([]);
            config["linux"]["maskedPaths"] = json!([]);
        })?;
        same(
            fs::read_to_string(volume.join("self/oom_score_adj"))?,
            "decoy",
        )
    });
}
