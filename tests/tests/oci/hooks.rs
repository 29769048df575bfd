//! Programs of the caller that run at six moments.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::check::{Who, check};
use crate::lab::{Lab, as_is, eventually, holds, path, same};

/// A hook that keeps what it is told, and its name in the order of calls.
fn keeps(folder: &Path, name: &str) -> Value {
    let script = format!(
        "cat > {0}/{name}; echo {name} >> {0}/order",
        folder.display()
    );
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
}

fn kept(folder: &Path, name: &str) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(folder.join(name))?)?)
}

#[test]
fn all_six_run_in_order_and_are_told_the_state() {
    check(Who::All, |lab| {
        let outside = lab.host.work_dir().join("kept");
        fs::create_dir(&outside)?;
        let mut bundle_of_container = None;
        let moments = [
            "prestart",
            "createRuntime",
            "createContainer",
            "poststart",
            "poststop",
        ];
        let bundle = lab.bundle("c", |config| {
            config["annotations"] = json!({"org.example.note": "told"});
            for moment in moments {
                config["hooks"][moment] = keeps(&outside, moment);
            }
            config["hooks"]["startContainer"] = keeps(Path::new("/tmp"), "startContainer");
        })?;
        let inside = bundle_of_container.get_or_insert(bundle.join("rootfs/tmp"));
        let order = |wanted: &str| same(fs::read_to_string(outside.join("order"))?, wanted);
        lab.call(&["create", "--bundle", path(&bundle), "c"])?
            .text()?;
        order("prestart\ncreateRuntime\ncreateContainer\n")?;
        ensure!(!inside.join("startContainer").exists(), "too early");
        let pid = lab.pid("c")?;
        lab.call(&["start", "c"])?.text()?;
        order("prestart\ncreateRuntime\ncreateContainer\npoststart\n")?;
        // berth-oci answers when the program has begun, after this hook; crun
        // answers while it may still run.
        let told_inside = || kept(inside, "startContainer");
        let told_inside = match lab.runtime.name.as_str() {
            "berth-oci" => told_inside()?,
            _ => eventually(told_inside)?,
        };
        ensure!(told_inside["id"] == "c", "{told_inside}");
        lab.call(&["kill", "c", "KILL"])?.text()?;
        lab.wait_for("c", "stopped")?;
        lab.call(&["delete", "c"])?.text()?;
        order("prestart\ncreateRuntime\ncreateContainer\npoststart\npoststop\n")?;
        for moment in moments {
            let told = kept(&outside, moment)?;
            ensure!(
                told["id"] == "c" && told["bundle"] == path(&bundle),
                "{moment}: {told}"
            );
            ensure!(
                told["annotations"]["org.example.note"] == "told",
                "{moment}: {told}"
            );
            ensure!(told["ociVersion"].is_string(), "{moment}: {told}");
        }
        for moment in ["prestart", "createRuntime", "poststart"] {
            ensure!(kept(&outside, moment)?["pid"] == pid, "{moment}");
        }
        ensure!(kept(&outside, "poststart")?["status"] == "running");
        ensure!(kept(&outside, "poststop")?["status"] == "stopped");
        Ok(())
    });
}

#[test]
fn namespaces_are_those_of_each_moment() {
    check(Who::All, |lab| {
        let file = lab.host.work_dir().join("seen");
        let look = |name: &str| {
            let script = format!(
                "echo {name} $(readlink /proc/self/ns/net) >> {}",
                file.display()
            );
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
        };
        lab.text("true", |config| {
            config["hooks"]["createRuntime"] = look("createRuntime");
            config["hooks"]["createContainer"] = look("createContainer");
            config["hooks"]["poststart"] = look("poststart");
        })?;
        let host = fs::read_link(format!("/proc/{}/ns/net", lab.host.pid()))?;
        let seen = fs::read_to_string(&file)?;
        let lines: Vec<&str> = seen.lines().collect();
        ensure!(lines.len() == 3, "{seen}");
        same(lines[0], &format!("createRuntime {}", host.display()))?;
        ensure!(!lines[1].ends_with(path(&host)), "{seen}");
        same(lines[2], &format!("poststart {}", host.display()))
    });
}

fn failing(lab: &Lab, moment: &str) -> Result<crate::outcome::Outcome> {
    lab.run("true", |config| {
        let script = "echo this is why >&2; exit 3";
        config["hooks"][moment] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    })
}

#[test]
fn a_failing_one_ends_the_making() {
    check(Who::All, |lab| {
        for moment in [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
        ] {
            failing(lab, moment)?.complaint()?;
        }
        Ok(())
    });
}

#[test]
fn a_failing_one_says_why() {
    check(Who::All, |lab| {
        for moment in ["prestart", "createRuntime"] {
            holds(failing(lab, moment)?.complaint()?, &["hook", "this is why"])?;
        }
        Ok(())
    });
}

#[test]
fn a_failing_one_at_start_leaves_a_stopped_container() {
    check(Who::All, |lab| {
        lab.create("c", |config| {
            config["hooks"]["startContainer"] = json!([{"path": "/bin/false"}]);
        })?;
        // The elder two have stopped listening by then.
        let started = lab.call(&["start", "c"])?;
        ensure!(
            started.code != 0 || lab.runtime.name != "berth-oci",
            "{started:?}"
        );
        lab.wait_for("c", "stopped")?;
        lab.call(&["delete", "c"])?.text().map(drop)
    });
}

#[test]
fn a_failing_one_after_the_end_stops_no_removal() {
    // crun 1.8 sometimes keeps its state then.
    check(Who::Hybrid, |lab| {
        lab.create("c", |config| {
            config["hooks"]["poststop"] = json!([{"path": "/bin/false"}]);
        })?;
        lab.call(&["delete", "--force", "c"])?;
        lab.call(&["state", "c"])?.complaint().map(drop)
    });
}

#[test]
fn a_slow_one_is_ended() {
    check(Who::All, |lab| {
        let began = Instant::now();
        let refused = lab.run("true", |config| {
            config["hooks"]["createRuntime"] =
                json!([{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]);
        })?;
        refused.complaint()?;
        ensure!(
            began.elapsed() < berth_tests::patience::stretched(Duration::from_secs(15)),
            "it was waited for"
        );
        Ok(())
    });
}

#[test]
fn a_missing_one_is_told() {
    check(Who::All, |lab| {
        let refused = lab.run("true", |config| {
            config["hooks"]["createRuntime"] = json!([{"path": "/bin/nonesuch"}]);
        })?;
        refused.complaint().map(drop)
    });
}

#[test]
fn variables_are_those_of_the_hook() {
    check(Who::All, |lab| {
        let file = lab.host.work_dir().join("seen");
        let script = format!("env > {}", file.display());
        lab.text("true", |config| {
            config["hooks"]["createRuntime"] =
                json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["NOTE=here"]}]);
        })?;
        let seen = fs::read_to_string(&file)?;
        holds(&seen, &["NOTE=here"])?;
        ensure!(
            !seen.contains(berth_tests::host::MARK),
            "the caller's came along: {seen}"
        );
        Ok(())
    });
}

/// A hook that links a network, as CNI callers do it, must find init's namespaces.
#[test]
fn init_is_there_for_hooks() {
    check(Who::All, |lab| {
        let script = "pid=$(grep -o '\"pid\" *: *[0-9]*' | grep -o '[0-9]*$'); \
            nsenter --target $pid --net ip link add made0 type bridge";
        let told = lab.text("ls /sys/class/net", |config| {
            config["hooks"]["createRuntime"] =
                json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
        })?;
        same(told, "lo\nmade0")?;
        lab.text("true", as_is).map(drop)
    });
}
