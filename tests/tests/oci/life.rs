//! From `run` and `create` to `delete`.

use std::fs;

use anyhow::ensure;
use serde_json::json;

use crate::check::{Who, check};
use crate::lab::{as_is, holds, path, same};

#[test]
fn run_passes_output_on() {
    check(Who::All, |lab| {
        let outcome = lab.run("echo out; echo err >&2", as_is)?;
        same(outcome.text()?, "out")?;
        same(outcome.stderr, "err\n")
    });
}

#[test]
fn run_on_both_kinds_of_cgroups() {
    check(Who::Hybrid, |lab| same(lab.text("echo out", as_is)?, "out"));
}

#[test]
fn exit_code_is_the_programs() {
    check(Who::All, |lab| {
        ensure!(lab.run("exit 37", as_is)?.code == 37);
        Ok(())
    });
}

#[test]
fn a_signals_exit_code_is_128_and_the_signal() {
    check(Who::All, |lab| {
        let outcome = lab.run("", |config| {
            // The container's init gets no signal that it does not catch,
            // except from outside, so a child of its shell takes it and tells.
            config["process"]["args"] = json!(["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]);
        })?;
        ensure!(outcome.code == 137, "{outcome:?}");
        lab.bundle("c", as_is)?;
        let bundle = lab.host.work_dir().join("c");
        let running = crate::outcome::start(
            lab.command(&["run", "--bundle", path(&bundle), "c"])
                .stdin(std::process::Stdio::null()),
        )?;
        crate::lab::eventually(|| lab.wait_for("c", "running"))?;
        lab.call(&["kill", "c", "KILL"])?.text()?;
        let outcome = running.wait()?;
        ensure!(outcome.code == 137, "{outcome:?}");
        Ok(())
    });
}

#[test]
fn a_container_lives_from_create_to_delete() {
    check(Who::All, |lab| {
        let bundle = lab.bundle("c", |config| {
            config["process"]["args"] = json!(["sh", "-c", "echo began > /began; exec sleep 1000"]);
            config["annotations"] = json!({"org.example.note": "seen"});
        })?;
        let pid_file = lab.host.work_dir().join("pid");
        let words = [
            "create",
            "--bundle",
            path(&bundle),
            "--pid-file",
            path(&pid_file),
            "c",
        ];
        lab.call(&words)?.text()?;
        let state = lab.state("c")?;
        ensure!(state["status"] == "created", "{state}");
        ensure!(
            state["id"] == "c" && state["bundle"] == path(&bundle),
            "{state}"
        );
        ensure!(
            state["annotations"]["org.example.note"] == "seen",
            "{state}"
        );
        same(fs::read_to_string(&pid_file)?, &state["pid"].to_string())?;
        ensure!(
            !bundle.join("rootfs/began").exists(),
            "it began before start"
        );
        lab.call(&["start", "c"])?.text()?;
        lab.wait_for("c", "running")?;
        crate::lab::eventually(|| {
            ensure!(bundle.join("rootfs/began").exists(), "it did not begin");
            Ok(())
        })?;
        let refused = lab.call(&["start", "c"])?;
        refused.complaint()?;
        lab.call(&["kill", "c", "KILL"])?.text()?;
        lab.wait_for("c", "stopped")?;
        lab.call(&["delete", "c"])?.text()?;
        lab.call(&["state", "c"])?.complaint()?;
        Ok(())
    });
}

#[test]
fn an_id_is_taken_once() {
    check(Who::All, |lab| {
        lab.create("c", as_is)?;
        let bundle = lab.host.work_dir().join("c");
        let again = lab.call(&["create", "--bundle", path(&bundle), "c"])?;
        holds(again.complaint()?, &["exist"])?;
        // The first is as it was.
        ensure!(lab.state("c")?["status"] == "created");
        lab.remove("c")
    });
}

#[test]
fn bad_ids_are_refused() {
    check(Who::All, |lab| {
        let bundle = lab.bundle("c", as_is)?;
        for id in ["../x", "a/b", "..", ""] {
            lab.call(&["create", "--bundle", path(&bundle), id])?
                .complaint()?;
        }
        Ok(())
    });
}

#[test]
fn delete_of_a_running_container_needs_force() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        let refused = lab.call(&["delete", "c"])?;
        refused.complaint()?;
        ensure!(lab.state("c")?["status"] == "running");
        lab.remove("c")
    });
}

#[test]
fn delete_takes_a_created_container() {
    check(Who::All, |lab| {
        lab.create("c", as_is)?;
        lab.remove("c")
    });
}

#[test]
fn force_does_not_miss_what_does_not_exist() {
    check(Who::All, |lab| lab.remove("nobody"));
}

#[test]
fn unknown_ids_are_refused() {
    check(Who::All, |lab| {
        for verb in ["state", "start", "kill", "delete", "pause", "resume", "ps"] {
            let outcome = lab.call(&[verb, "nobody"])?;
            outcome.complaint()?;
        }
        Ok(())
    });
}

#[test]
fn a_stopped_container_cannot_be_killed() {
    check(Who::All, |lab| {
        lab.start("c", |config| config["process"]["args"] = json!(["true"]))?;
        lab.wait_for("c", "stopped")?;
        let refused = lab.call(&["kill", "c", "KILL"])?;
        refused.complaint()?;
        lab.call(&["delete", "c"])?.text().map(drop)
    });
}

#[test]
fn a_created_container_can_be_killed() {
    check(Who::All, |lab| {
        lab.create("c", as_is)?;
        lab.call(&["kill", "c", "KILL"])?.text()?;
        lab.wait_for("c", "stopped")?;
        lab.call(&["delete", "c"])?.text().map(drop)
    });
}

#[test]
fn signals_have_names_and_numbers() {
    check(Who::All, |lab| {
        let script = "for s in USR1 HUP TERM; do trap \"echo $s >> /seen\" $s; done
            : > /ready; while :; do sleep 0.05; done";
        lab.start("c", |config| {
            config["process"]["args"] = json!(["sh", "-c", script])
        })?;
        let rootfs = lab.host.work_dir().join("c/rootfs");
        let wait = |file: &str, text: &str| {
            crate::lab::eventually(|| same(fs::read_to_string(rootfs.join(file))?, text))
        };
        wait("ready", "")?;
        lab.call(&["kill", "c", "SIGUSR1"])?.text()?;
        wait("seen", "USR1\n")?;
        lab.call(&["kill", "c", "1"])?.text()?;
        wait("seen", "USR1\nHUP\n")?;
        lab.call(&["kill", "c"])?.text()?;
        wait("seen", "USR1\nHUP\nTERM\n")?;
        lab.remove("c")
    });
}

#[test]
fn unknown_signals_are_refused() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        lab.call(&["kill", "c", "SIGNONSENSE"])?.complaint()?;
        lab.remove("c")
    });
}

/// Callers look for these words: containerd for the first two, podman for all.
#[test]
fn words_that_callers_look_for() {
    check(Who::All, |lab| {
        for verb in ["state", "start", "kill", "delete"] {
            let outcome = lab.call(&[verb, "nobody"])?;
            holds(outcome.complaint()?, &["does not exist"])?;
        }
        lab.start("c", |config| config["process"]["args"] = json!(["true"]))?;
        lab.wait_for("c", "stopped")?;
        let refused = lab.call(&["kill", "c", "KILL"])?;
        holds(refused.complaint()?, &["container not running"])?;
        lab.remove("c")?;
        lab.start("d", as_is)?;
        let refused = lab.call(&["delete", "d"])?;
        holds(
            refused.complaint()?,
            &["cannot delete container d that is not stopped: running"],
        )?;
        lab.remove("d")
    });
}

#[test]
fn run_detached_leaves_the_container() {
    check(Who::All, |lab| {
        let bundle = lab.bundle("c", as_is)?;
        let pid_file = lab.host.work_dir().join("pid");
        let words = [
            "run",
            "--detach",
            "--pid-file",
            path(&pid_file),
            "--bundle",
            path(&bundle),
            "c",
        ];
        lab.call(&words)?.text()?;
        ensure!(lab.state("c")?["status"] == "running");
        same(fs::read_to_string(&pid_file)?, &lab.pid("c")?.to_string())?;
        lab.remove("c")
    });
}

#[test]
fn list_names_containers() {
    check(Who::All, |lab| {
        lab.start("one", as_is)?;
        lab.create("two", as_is)?;
        let quiet = lab.call(&["list", "--quiet"])?.text()?;
        let mut names: Vec<&str> = quiet.lines().collect();
        names.sort_unstable();
        ensure!(names == ["one", "two"], "{names:?}");
        let listed: serde_json::Value =
            serde_json::from_str(&lab.call(&["list", "--format", "json"])?.text()?)?;
        let rows = listed.as_array().cloned().unwrap_or_default();
        let status = |id: &str| {
            let row = rows.iter().find(|row| row["id"] == id);
            row.map(|row| row["status"].clone())
        };
        ensure!(status("one") == Some(json!("running")), "{listed}");
        ensure!(status("two") == Some(json!("created")), "{listed}");
        lab.remove("one")?;
        lab.remove("two")
    });
}
