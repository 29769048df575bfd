//! What happens when something goes wrong: nothing is left.

use std::fs;
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::check::{Who, check};
use crate::lab::{as_is, eventually, holds, path};

/// A change that makes a configuration wrong.
type Change = fn(&mut Value);

#[test]
fn bad_configurations_are_refused() {
    check(Who::All, |lab| {
        let changes: &[Change] = &[
            |config| config["root"]["path"] = json!("nonesuch"),
            |config| config["process"] = Value::Null,
            |config| config["process"]["args"] = json!("sh"),
            |config| config["linux"]["namespaces"][0]["type"] = json!("nonsense"),
            |config| config["linux"]["namespaces"][0]["path"] = json!("/nonesuch"),
            |config| config["mounts"][0]["type"] = json!("nonsense"),
            |config| config["process"]["user"]["uid"] = json!(-1),
        ];
        for (index, change) in changes.iter().enumerate() {
            let refused = lab.run("true", change)?;
            ensure!(refused.code != 0, "change {index}: {refused:?}");
        }
        Ok(())
    });
}

#[test]
fn errors_name_the_field() {
    check(Who::Berth, |lab| {
        let rows: &[(Change, &str)] = &[
            (
                |config| config["root"]["path"] = json!("nonesuch"),
                "root.path",
            ),
            (
                |config| config["process"]["args"] = json!([]),
                "process.args",
            ),
            (
                |config| config["process"]["cwd"] = json!("etc"),
                "process.cwd",
            ),
            (
                |config| config["process"]["oomScoreAdj"] = json!(5000),
                "process.oomScoreAdj",
            ),
            (
                |config| config["process"]["env"] = json!(["A\0B=1"]),
                "process.env",
            ),
            (
                |config| config["mounts"][0]["destination"] = json!(""),
                "mounts[0].destination",
            ),
            (
                |config| config["mounts"][0]["type"] = json!("nonsense"),
                "mounts[0]",
            ),
            (
                |config| config["mounts"][1]["options"] = json!(["nonsense"]),
                "mounts[1]",
            ),
            (
                |config| config["mounts"][3]["options"] = json!(["idmap"]),
                "mounts[3].options",
            ),
            (
                |config| config["linux"]["rootfsPropagation"] = json!("odd"),
                "linux.rootfsPropagation",
            ),
            (
                |config| config["linux"]["sysctl"] = json!({"vm.swappiness": "1"}),
                "vm.swappiness",
            ),
            (
                |config| config["linux"]["namespaces"][2]["path"] = json!("/nonesuch"),
                "/nonesuch",
            ),
            (
                |config| {
                    config["linux"]["uidMappings"] =
                        json!([{"containerID": 0, "hostID": 1000, "size": 1}])
                },
                "linux.uidMappings",
            ),
            (
                |config| config["process"]["apparmorProfile"] = json!("strict"),
                "process.apparmorProfile",
            ),
            (
                |config| config["linux"]["intelRdt"] = json!({"closID": "x"}),
                "linux.intelRdt",
            ),
        ];
        for (change, field) in rows {
            let refused = lab.run("true", change)?;
            holds(refused.complaint()?, &[field])?;
            ensure!(refused.stderr.lines().count() == 1, "{refused:?}");
        }
        Ok(())
    });
}

#[test]
fn a_bundle_that_is_missing_is_refused() {
    check(Who::All, |lab| {
        lab.call(&["create", "--bundle", "/nonesuch", "c"])?
            .complaint()?;
        let bundle = lab.bundle("c", as_is)?;
        fs::write(bundle.join("config.json"), "{ no json")?;
        lab.call(&["create", "--bundle", path(&bundle), "c"])?
            .complaint()
            .map(drop)
    });
}

/// Whoever calls may be killed at any moment. What is there then can be removed.
#[test]
fn a_create_that_is_killed_leaves_nothing_after_delete() {
    check(Who::Berth, |lab| {
        let bundle = lab.bundle("c", |config| {
            config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
        })?;
        // Steps through the whole time that a create takes, by an odd measure.
        for round in 0..20u64 {
            let mut running = crate::outcome::start(
                lab.command(&["create", "--bundle", path(&bundle), "c"])
                    .stdin(std::process::Stdio::null()),
            )?;
            std::thread::sleep(Duration::from_micros(1_000 + round * round * 137));
            running.kill()?;
            lab.remove("c")?;
            eventually(|| {
                let left = berth_tests::sweep::cgroups(lab.host.name());
                ensure!(left.is_empty(), "round {round}: {left:?}");
                Ok(())
            })?;
        }
        lab.start("c", as_is)?;
        lab.remove("c")
    });
}

#[test]
fn a_killed_runtime_in_the_foreground_leaves_what_can_be_removed() {
    check(Who::All, |lab| {
        let bundle = lab.bundle("c", as_is)?;
        let mut running = crate::outcome::start(
            lab.command(&["run", "--bundle", path(&bundle), "c"])
                .stdin(std::process::Stdio::null()),
        )?;
        eventually(|| lab.wait_for("c", "running"))?;
        running.kill()?;
        lab.remove("c")
    });
}

#[test]
fn a_signal_to_the_runtime_goes_to_the_program() {
    check(Who::All, |lab| {
        let script = "trap 'exit 5' TERM; : > /ready; while :; do sleep 0.05; done";
        let bundle = lab.bundle("c", |config| {
            config["process"]["args"] = json!(["sh", "-c", script]);
        })?;
        let running = crate::outcome::start(
            lab.command(&["run", "--bundle", path(&bundle), "c"])
                .stdin(std::process::Stdio::null()),
        )?;
        eventually(|| {
            ensure!(bundle.join("rootfs/ready").exists());
            Ok(())
        })?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(running.pid())?).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let ended = running.wait()?;
        ensure!(ended.code == 5, "{ended:?}");
        Ok(())
    });
}

#[test]
fn two_creates_of_one_id_give_one_container() {
    check(Who::Berth, |lab| {
        let bundle = lab.bundle("c", as_is)?;
        for _ in 0..5 {
            let begin = || {
                crate::outcome::start(
                    lab.command(&["create", "--bundle", path(&bundle), "c"])
                        .stdin(std::process::Stdio::null()),
                )
            };
            let (one, two) = (begin()?, begin()?);
            let (one, two) = (one.wait()?, two.wait()?);
            ensure!((one.code == 0) != (two.code == 0), "{one:?} {two:?}");
            ensure!(lab.state("c")?["status"] == "created");
            lab.remove("c")?;
        }
        Ok(())
    });
}

#[test]
fn a_full_root_is_told() {
    check(Who::All, |lab| {
        let bundle = lab.bundle("c", as_is)?;
        let mut command = lab.host.command(&lab.runtime.path);
        command.args([
            "--root",
            "/proc/nonesuch",
            "create",
            "--bundle",
            path(&bundle),
            "c",
        ]);
        crate::outcome::finish(&mut command)?.complaint().map(drop)
    });
}
