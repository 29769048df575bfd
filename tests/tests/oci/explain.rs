//! What berth-oci says of a container before and while it is made.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::check::{Who, check};
use crate::lab::{Lab, add, as_is, holds, path, same};

/// What `plan` says of a bundle.
fn plan_of(lab: &Lab, bundle: &std::path::Path) -> Result<Value> {
    let words = ["plan", "--bundle", path(bundle), "--format", "json", "c"];
    Ok(serde_json::from_str(&lab.call(&words)?.text()?)?)
}

#[test]
fn a_plan_does_nothing() {
    check(Who::Berth, |lab| {
        let bundle = lab.bundle("c", |config| {
            config["linux"]["resources"] = json!({"pids": {"limit": 7}});
        })?;
        let told = lab
            .call(&["plan", "--bundle", path(&bundle), "c"])?
            .text()?;
        holds(
            &told,
            &[
                "namespaces",
                "pids.max = \"7\" (linux.resources.pids.limit",
                "stages",
                "exec-program",
            ],
        )?;
        ensure!(!lab.root().exists(), "the state's root was made");
        ensure!(
            lab.group_file("c", "pids", "pids.max").is_err(),
            "a group was made"
        );
        Ok(())
    });
}

#[test]
fn a_plan_is_what_create_does() {
    check(Who::Berth, |lab| {
        let bundle = lab.bundle("c", |config| {
            config["hostname"] = json!("planned");
            config["linux"]["resources"] = json!({"pids": {"limit": 9}, "cpu": {"shares": 512}});
            add(
                &mut config["mounts"],
                json!({"destination": "/extra", "type": "tmpfs", "source": "extra",
                       "options": ["nosuid", "noexec", "mode=711"]}),
            );
            config["linux"]["maskedPaths"] = json!(["/proc/kcore"]);
        })?;
        let plan = plan_of(lab, &bundle)?;
        let create = ["create", "--bundle", path(&bundle), "c"];
        lab.call(&create)?.text()?;
        let init = lab.pid("c")?;
        // Each value that was to be written stands in its file.
        let mut values = 0;
        for group in plan["cgroups"]["groups"].as_array().unwrap() {
            let directory = group["directory"].as_str().unwrap();
            ensure!(std::path::Path::new(directory).is_dir(), "{directory}");
            for write in group["writes"].as_array().unwrap() {
                let file = write["file"].as_str().unwrap();
                if ["pids.max", "cpu.shares", "cpu.weight"].contains(&file) {
                    let found = fs::read_to_string(format!("{directory}/{file}"))?;
                    same(found.trim(), write["value"].as_str().unwrap())?;
                    values += 1;
                }
            }
        }
        ensure!(values == 2, "{plan}");
        // Each namespace is new or the caller's, as it says.
        for namespace in plan["namespaces"].as_array().unwrap() {
            let name = match namespace["type"].as_str().unwrap() {
                "network" => "net",
                "mount" => "mnt",
                other => other,
            };
            let link = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{name}"));
            let differs = link(&init.to_string())? != link("self")?;
            match namespace["how"].as_str() {
                Some("new") => ensure!(differs, "{namespace}"),
                // The suite's machine itself is in others than the suite.
                _ if ["mnt", "net", "pid"].contains(&name) => {}
                _ => ensure!(!differs, "{namespace}"),
            }
        }
        // Each mount is there, in the order.
        let mounts = fs::read_to_string(format!("/proc/{init}/mountinfo"))?;
        let mut places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        for mount in plan["mounts"].as_array().unwrap() {
            let place = mount["destination"].as_str().unwrap();
            ensure!(
                places.any(|found| found == place),
                "{place} in order in {mounts}"
            );
        }
        let extra = mounts
            .lines()
            .find(|line| line.contains(" /extra "))
            .unwrap();
        holds(extra, &["nosuid", "noexec", "mode=711"])?;
        lab.remove("c")
    });
}

#[test]
fn a_plan_has_creates_complaints() {
    check(Who::Berth, |lab| {
        let bundle = lab.bundle("c", |config| config["process"]["cwd"] = json!("etc"))?;
        let planned = lab.call(&["plan", "--bundle", path(&bundle), "c"])?;
        let created = lab.call(&["create", "--bundle", path(&bundle), "c"])?;
        same(planned.complaint()?, created.complaint()?)
    });
}

#[test]
fn a_plan_knows_a_kept_filter() {
    check(Who::Berth, |lab| {
        let bundle = lab.bundle("c", |config| {
            config["process"]["args"] = json!(["true"]);
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mount", "umount2"], "action": "SCMP_ACT_ERRNO"}],
            });
        })?;
        let before = plan_of(lab, &bundle)?;
        ensure!(before["seccomp"]["cached"] == false, "{before}");
        ensure!(
            before["seccomp"]["defaultAction"] == "SCMP_ACT_ALLOW",
            "{before}"
        );
        ensure!(
            before["seccomp"]["rulesByAction"]["SCMP_ACT_ERRNO EPERM"] == 2,
            "{before}"
        );
        lab.call(&["run", "--bundle", path(&bundle), "c"])?.text()?;
        let after = plan_of(lab, &bundle)?;
        ensure!(after["seccomp"]["cached"] == true, "{after}");
        Ok(())
    });
}

#[test]
fn diff_has_the_exit_status_of_diff() {
    check(Who::Berth, |lab| {
        let one = lab.bundle("a", as_is)?;
        let same_thing = lab.bundle("b", |config| {
            config["linux"]["cgroupsPath"] = json!(lab.group("a"));
            config["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .reverse();
            config["process"]["env"].as_array_mut().unwrap().reverse();
            config["process"]["terminal"] = json!(false);
        })?;
        let other = lab.bundle("d", |config| {
            config["linux"]["cgroupsPath"] = json!(lab.group("a"));
            add(
                &mut config["process"]["capabilities"]["effective"],
                json!("CAP_SYS_MODULE"),
            );
        })?;
        let call = |words: &[&str]| lab.call(&[&["diff"], words].concat());
        let found = call(&[path(&one), path(&same_thing)])?;
        ensure!(found.code == 0 && found.stdout.is_empty(), "{found:?}");
        let found = call(&[path(&one), path(&other.join("config.json"))])?;
        ensure!(found.code == 1, "{found:?}");
        holds(
            &found.stdout,
            &[
                "process.capabilities.effective[CAP_SYS_MODULE]\n  A: -\n  B: true\n",
                "B may load and unload kernel modules",
            ],
        )?;
        let found = call(&["--format", "json", path(&one), path(&other)])?;
        let told: Value = serde_json::from_str(&found.stdout)?;
        ensure!(found.code == 1 && told["same"] == false, "{found:?}");
        ensure!(told["differences"].as_array().unwrap().len() == 1, "{told}");
        for missing in ["/nonesuch", "/etc/passwd"] {
            let found = call(&[path(&one), missing])?;
            ensure!(found.code == 2, "{found:?}");
            holds(&found.stderr, &[missing])?;
        }
        Ok(())
    });
}

#[test]
fn checkpoint_is_not_there_and_features_says_so() {
    check(Who::Berth, |lab| {
        for verb in ["checkpoint", "restore"] {
            let refused = lab.call(&[
                verb,
                "--image-path",
                "/nonesuch",
                "--work-path",
                "/nonesuch",
                "c",
            ])?;
            ensure!(refused.code == 1, "{refused:?}");
            holds(refused.complaint()?, &[verb, "not supported"])?;
        }
        let told: Value = serde_json::from_str(&lab.call(&["features"])?.text()?)?;
        same(
            told["annotations"]["org.opencontainers.runc.checkpoint.enabled"]
                .as_str()
                .unwrap_or(""),
            "false",
        )
    });
}

/// Walks with these answers.
fn walk(lab: &Lab, bundle: &std::path::Path, answers: &str) -> Result<crate::outcome::Outcome> {
    use std::io::Write;
    let words = ["step", "--bundle", path(bundle), "c"];
    let mut command = lab.command(&words);
    let mut running = crate::outcome::start(command.stdin(std::process::Stdio::piped()))?;
    let mut input = running.take_stdin().unwrap();
    // One that gives up reads no further.
    let _ = input.write_all(answers.as_bytes());
    drop(input);
    running.wait()
}

#[test]
fn a_walk_makes_every_stage_in_order() {
    check(Who::Berth, |lab| {
        for with_hooks in [false, true] {
            let bundle = lab.bundle("c", |config| {
                config["process"]["args"] = json!(["sh", "-c", "echo told; cat"]);
                if with_hooks {
                    let hook = json!([{"path": "/bin/true"}]);
                    config["hooks"] = json!({"createRuntime": hook, "createContainer": hook});
                }
            })?;
            let stages = lab.call(&["stages"])?.text()?;
            let names: Vec<&str> = stages
                .lines()
                .filter_map(|line| line.split('`').nth(1))
                .collect();
            let answers = "\n".repeat(names.len()) + "for the program\n";
            let walked = walk(lab, &bundle, &answers)?;
            // What stands behind the answers is the program's.
            same(walked.text()?, "told\nfor the program")?;
            let mut rest = walked.stderr.as_str();
            for (index, name) in names.iter().enumerate() {
                let title = format!("\n{}. {name} (", index + 1);
                let Some((_, behind)) = rest.split_once(&title) else {
                    // The two that wait for each other may change places.
                    ensure!(
                        ["await-init", "hooks-runtime"].contains(name)
                            || walked.stderr.contains(&title),
                        "{title:?} is not in {rest}"
                    );
                    continue;
                };
                if !["await-start", "hooks-inside"].contains(name) {
                    rest = behind;
                }
            }
        }
        Ok(())
    });
}

#[test]
fn a_walk_can_be_given_up_anywhere() {
    check(Who::Berth, |lab| {
        let bundle = lab.bundle("c", as_is)?;
        for made in [0, 1, 3, 4, 8, 13, 17, 22, 29, 31, 33] {
            for end in ["q\n", ""] {
                let walked = walk(lab, &bundle, &("\n".repeat(made) + end))?;
                ensure!(walked.code == 1, "{made} {end:?}: {walked:?}");
                holds(
                    &walked.stderr,
                    &["given up; all that was made is taken back"],
                )?;
                ensure!(lab.call(&["state", "c"])?.code != 0, "{made} {end:?}");
                ensure!(
                    lab.group_file("c", "pids", "pids.max").is_err(),
                    "{made} {end:?}"
                );
            }
        }
        Ok(())
    });
}

#[test]
fn an_interrupt_takes_everything_back() {
    check(Who::Berth, |lab| {
        let bundle = lab.bundle("c", as_is)?;
        for made in [2, 15, 32] {
            let mut command = lab.command(&["step", "--bundle", path(&bundle), "c"]);
            let mut running = crate::outcome::start(command.stdin(std::process::Stdio::piped()))?;
            let mut input = running.take_stdin().unwrap();
            std::io::Write::write_all(&mut input, "\n".repeat(made).as_bytes())?;
            // It waits for an answer that does not come.
            let pid = running.pid();
            crate::lab::eventually(|| {
                let call = fs::read_to_string(format!("/proc/{pid}/syscall"))?;
                ensure!(call.starts_with("0 0x0 "), "{call}");
                Ok(())
            })?;
            let number = rustix::process::Pid::from_raw(i32::try_from(pid)?).unwrap();
            rustix::process::kill_process(number, rustix::process::Signal::INT)?;
            let ended = running.wait()?;
            ensure!(ended.code == 1, "{made}: {ended:?}");
            holds(&ended.stderr, &["given up"])?;
        }
        Ok(())
    });
}

#[test]
fn a_walker_looks_and_enters() {
    check(Who::Berth, |lab| {
        let bundle = lab.bundle("c", |config| config["process"]["args"] = json!(["true"]))?;
        // Before clone-init there is nobody to look at; before the program there is.
        let answers = "l\n".to_owned() + &"\n".repeat(33) + "l\ns\nhostname\nexit\n\n";
        let walked = walk(lab, &bundle, &answers)?;
        // The shell of busybox reads ahead, so that nothing is left for the walk.
        holds(
            walked.complaint()?,
            &[
                "there is no init yet",
                "namespaces  its own: ipc mnt net pid uts",
                "CapBnd:",
                "cgroup ",
                "\nlab\n",
            ],
        )
    });
}

#[test]
fn run_stops_before_the_last_stages_too() {
    check(Who::Berth, |lab| {
        let bundle = lab.bundle("c", |config| config["process"]["args"] = json!(["true"]))?;
        for stage in ["hooks-start", "filter-calls", "exec-program"] {
            let words = [
                "run",
                "--stop-before",
                stage,
                "--bundle",
                path(&bundle),
                "c",
            ];
            let mut running =
                crate::outcome::start(lab.command(&words).stdin(std::process::Stdio::null()))?;
            let pid = running.pid();
            crate::lab::eventually(|| {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
                ensure!(stat.contains(") T "), "{stat}");
                Ok(())
            })?;
            ensure!(running.is_running()?);
            let number = rustix::process::Pid::from_raw(i32::try_from(pid)?).unwrap();
            rustix::process::kill_process(number, rustix::process::Signal::CONT)?;
            let ended = running.wait()?;
            holds(&ended.stderr, &[stage])?;
            ended.text()?;
            let words = [
                "create",
                "--stop-before",
                stage,
                "--bundle",
                path(&bundle),
                "c",
            ];
            holds(lab.call(&words)?.complaint()?, &[stage, "`run`"])?;
        }
        Ok(())
    });
}
