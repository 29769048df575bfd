//! What a runtime tells: logs, features, versions, stages.

use std::collections::BTreeMap;
use std::fs;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::check::{Who, check};
use crate::lab::{as_is, eventually, holds, path, same};

#[test]
fn a_log_file_in_json() {
    check(Who::All, |lab| {
        let log = lab.host.work_dir().join("log.json");
        let bundle = lab.bundle("c", |config| {
            config["process"]["args"] = serde_json::json!(["nonesuch"]);
        })?;
        let words = [
            "--log",
            path(&log),
            "--log-format",
            "json",
            "create",
            "--bundle",
            path(&bundle),
            "c",
        ];
        lab.call(&words)?.complaint()?;
        let text = fs::read_to_string(&log)?;
        let mut errors = 0;
        for line in text.lines() {
            let line: Value = serde_json::from_str(line)?;
            ensure!(
                line["msg"].is_string() && line["time"].is_string(),
                "{line}"
            );
            if line["level"] == "error" {
                errors += 1;
                holds(line["msg"].as_str().unwrap(), &["nonesuch"])?;
            }
        }
        ensure!(errors > 0, "{text}");
        Ok(())
    });
}

#[test]
fn features_are_json() {
    check(Who::Hybrid, |lab| {
        let told: Value = serde_json::from_str(&lab.call(&["features"])?.text()?)?;
        ensure!(
            told["ociVersionMin"].is_string() && told["ociVersionMax"].is_string(),
            "{told}"
        );
        for list in [
            &told["hooks"],
            &told["mountOptions"],
            &told["linux"]["namespaces"],
            &told["linux"]["capabilities"],
            &told["linux"]["seccomp"]["actions"],
        ] {
            ensure!(
                list.as_array().is_some_and(|list| !list.is_empty()),
                "{told}"
            );
        }
        ensure!(told["linux"]["cgroup"]["v1"] == true, "{told}");
        ensure!(told["linux"]["seccomp"]["enabled"] == true, "{told}");
        Ok(())
    });
}

#[test]
fn the_version_has_runcs_lines() {
    check(Who::All, |lab| {
        let told = lab.call(&["--version"])?.text()?;
        holds(&told, &["version ", "commit: ", "spec: "])?;
        ensure!(told.starts_with(&lab.runtime.name), "{told}");
        Ok(())
    });
}

#[test]
fn the_first_configuration_runs() {
    check(Who::All, |lab| {
        let bundle = lab.bundle("c", as_is)?;
        fs::remove_file(bundle.join("config.json"))?;
        let mut command = lab.command(&["spec"]);
        command.current_dir(&bundle);
        // The harness goes to the working directory of the host itself.
        let words = [
            "sh",
            "-c",
            "cd \"$1\" && shift && exec \"$@\"",
            "sh",
            path(&bundle),
        ];
        let mut command = lab.host.command(words[0]);
        command.args(&words[1..]).arg(&lab.runtime.path).arg("spec");
        crate::outcome::finish(&mut command)?.text()?;
        let mut config: Value = serde_json::from_slice(&fs::read(bundle.join("config.json"))?)?;
        config["process"]["terminal"] = Value::Bool(false);
        config["process"]["args"] = serde_json::json!(["echo", "first"]);
        // The suite's cgroups have names of their own.
        config["linux"]["cgroupsPath"] = Value::String(lab.group("c"));
        config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|namespace| namespace["type"] != "cgroup");
        fs::write(bundle.join("config.json"), serde_json::to_vec(&config)?)?;
        let told = lab.call(&["run", "--bundle", path(&bundle), "c"])?;
        same(told.text()?, "first")
    });
}

#[test]
fn a_create_stops_before_a_stage() {
    check(Who::Berth, |lab| {
        for (stage, has_proc) in [
            ("mount-tree", false),
            ("enter-root", true),
            ("publish-state", true),
        ] {
            let bundle = lab.bundle("c", as_is)?;
            let mut running = crate::outcome::start(
                lab.command(&[
                    "create",
                    "--stop-before",
                    stage,
                    "--bundle",
                    path(&bundle),
                    "c",
                ])
                .stdin(std::process::Stdio::null()),
            )?;
            let pid = running.pid();
            eventually(|| {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
                ensure!(stat.contains(") T "), "{stat}");
                Ok(())
            })?;
            ensure!(
                lab.state("c")?["status"] == "creating",
                "{}",
                lab.state("c")?
            );
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
            let init: u32 = children.trim().parse()?;
            let mounts = fs::read_to_string(format!("/proc/{init}/mountinfo"))?;
            let inside = mounts
                .lines()
                .filter(|line| line.contains(" - proc "))
                .count();
            ensure!(
                (inside > 1 || stage == "publish-state") == has_proc,
                "{stage}: {mounts}"
            );
            ensure!(running.is_running()?);
            let number = rustix::process::Pid::from_raw(i32::try_from(pid)?).unwrap();
            rustix::process::kill_process(number, rustix::process::Signal::CONT)?;
            let ended = running.wait()?;
            holds(&ended.stderr, &[stage])?;
            ended.text()?;
            lab.call(&["start", "c"])?.text()?;
            lab.remove("c")?;
        }
        let bundle = lab.bundle("c", as_is)?;
        let words = [
            "create",
            "--stop-before",
            "nonsense",
            "--bundle",
            path(&bundle),
            "c",
        ];
        holds(lab.call(&words)?.complaint()?, &["nonsense"])
    });
}

/// The calls of which strace(1) and the narration must agree: mounts, namespaces,
/// and who one is in them. Not `seccomp`: libseccomp asks the kernel with it what it knows.
const COMPARED: &[&str] = &[
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "fsopen",
    "fsconfig",
    "fsmount",
    "open_tree",
    "move_mount",
    "mount_setattr",
    "clone3",
    "unshare",
    "setns",
    "setsid",
    "sethostname",
    "mknodat",
    "symlinkat",
    "setgroups",
    "setresuid",
    "setresgid",
    "capset",
    "keyctl",
];

/// How often each of [`COMPARED`] begins a line.
fn count<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for line in lines {
        let called = line.split('(').next().unwrap_or("");
        if let Some(name) = COMPARED.iter().find(|name| **name == called) {
            *counts.entry(*name).or_default() += 1;
        }
    }
    counts
}

#[test]
fn narration_tells_every_call_that_strace_sees() {
    check(Who::Berth, |lab| {
        let bundle = lab.bundle("c", |config| {
            config["process"]["args"] = json!(["true"]);
            config["linux"]["resources"]["pids"] = json!({"limit": 77});
            let new = json!({"type": "cgroup"});
            crate::lab::add(&mut config["linux"]["namespaces"], new);
            config["linux"]["rootfsPropagation"] = json!("rslave");
            config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]});
            let extra = json!({"destination": "/extra", "type": "bind", "source": "/tmp",
                "options": ["rbind", "rro", "noexec", "rslave"]});
            crate::lab::add(&mut config["mounts"], extra);
            config["hooks"] = json!({"createRuntime": [
                {"path": "/bin/true", "args": ["true", "hooked"]}]});
        })?;
        let trace = lab.host.work_dir().join("trace");
        let pid_file = lab.host.work_dir().join("pid");
        let mut command = lab.host.command("strace");
        command
            .args(["-f", "-y", "-s", "200", "-o", path(&trace)])
            .arg(&lab.runtime.path)
            .args(["--narrate", "--root", path(&lab.root())])
            .args(["run", "--pid-file", path(&pid_file)])
            .args(["--bundle", path(&bundle), "c"]);
        let told = crate::outcome::finish(&mut command)?;
        ensure!(told.code == 0, "{told:?}");
        let trace = fs::read_to_string(&trace)?;
        // Behind the number of the process; what was interrupted is told of once.
        let calls = trace
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(_, call)| call.trim_start());
        let narration = told.stderr.lines().map(str::trim_start);
        let (seen, narrated) = (count(calls.clone()), count(narration.clone()));
        ensure!(seen.len() > 12, "{seen:?}");
        ensure!(
            seen == narrated,
            "strace: {seen:?}, narration: {narrated:?}"
        );
        // Groups: each one made, and each value written to one of their files.
        let mut writes = 0;
        for call in calls {
            let Some((name, rest)) = call.split_once('(') else {
                continue;
            };
            let wanted = match name {
                "mkdir" | "rmdir" if rest.starts_with("\"/sys/fs/cgroup") => {
                    let directory = rest.split('"').nth(1).unwrap_or("");
                    format!("{name}(\"{directory}\"")
                }
                "write" if rest.contains("</sys/fs/cgroup") => {
                    let file = rest.split(['<', '>']).nth(1).unwrap_or("");
                    let value = rest.split('"').nth(1).unwrap_or("");
                    format!("write(\"{file}\", \"{value}\")")
                }
                _ => continue,
            };
            writes += 1;
            let is_told = narration.clone().any(|line| line.starts_with(&wanted));
            ensure!(is_told, "{wanted} is not told: {}", told.stderr);
        }
        // Version 1 has a group for each controller.
        let least = if crate::lab::has_only_v2() { 3 } else { 10 };
        ensure!(writes > least, "{writes} writes: {trace}");
        holds(
            &told.stderr,
            &[
                "CLONE_NEWNS|",
                "MS_REC|MS_SLAVE",
                "MOUNT_ATTR_NOSUID",
                "O_PATH|O_CLOEXEC",
                "hooks.createRuntime[0]: execve(\"/bin/true\", [\"true\", \"hooked\"])",
                "hooks.createRuntime[0]: /bin/true = exit status: 0",
                "state.json",
                path(&pid_file),
                "execve(\"/bin/true\", [\"true\"])",
                "= Exited(0)",
            ],
        )
    });
}

#[test]
fn narration_tells_stages_and_calls() {
    check(Who::Berth, |lab| {
        let bundle = lab.bundle("c", |config| {
            config["process"]["args"] = serde_json::json!(["echo", "out"]);
        })?;
        let told = lab.call(&["--narrate", "run", "--bundle", path(&bundle), "c"])?;
        same(told.text()?, "out")?;
        let stages = lab.call(&["stages"])?.text()?;
        // Nobody asked for these, so there is nothing to tell.
        let unasked = [
            "open-sources",
            "map-ids",
            "own-ids",
            "limit-init",
            "join-cache",
            "move-links",
            "join-pids",
            "set-schedule",
            "set-labels",
            "enter-pids",
            "send-pidfd",
        ];
        for name in stages.lines().filter_map(|line| line.split('`').nth(1)) {
            if !["exec-program", "await-start"].contains(&name) && !unasked.contains(&name) {
                holds(&told.stderr, &[name])?;
            }
        }
        holds(
            &told.stderr,
            &["move_mount(", "pivot_root(", "mount_setattr("],
        )
    });
}

/// What runc states in `features` and berth-oci does not, by path and word.
const NOT_AS_RUNC: &[(&str, &str, &str)] = &[
    ("/ociVersionMax", "", "berth-oci reads newer configurations"),
    (
        "/mountOptions",
        "acl noacl iversion noiversion",
        "bits of mount(2) that are the kernel's own: it refuses them from outside",
    ),
    (
        "/mountOptions",
        "remount",
        "a mount is made once, as it is to be",
    ),
    (
        "/linux/seccomp/archs",
        "SCMP_ARCH_MIPS SCMP_ARCH_MIPS64 SCMP_ARCH_MIPS64N32 SCMP_ARCH_PPC SCMP_ARCH_PPC64 \
         SCMP_ARCH_S390 SCMP_ARCH_S390X",
        "of the other byte order: no machine runs them beside its own, so no filter holds both",
    ),
    (
        "/annotations/org.opencontainers.runc.checkpoint.enabled",
        "",
        "there is no checkpoint",
    ),
    (
        "/annotations/org.opencontainers.runc.commit",
        "",
        "berth-oci is not runc",
    ),
    (
        "/annotations/org.opencontainers.runc.version",
        "",
        "berth-oci is not runc",
    ),
    (
        "/annotations/io.github.seccomp.libseccomp.version",
        "",
        "it may be linked with another",
    ),
];

/// Collects where `ours` does not state what `theirs` does.
fn compare(path: &str, theirs: &Value, ours: &Value, wrong: &mut Vec<String>) {
    let is_known = |word: &str| {
        let known = |row: &&(&str, &str, &str)| {
            row.0 == path && (row.1.is_empty() || row.1.split(' ').any(|one| one == word))
        };
        NOT_AS_RUNC.iter().any(|row| known(&row))
    };
    match theirs {
        Value::Object(fields) => {
            for (name, value) in fields {
                compare(&format!("{path}/{name}"), value, &ours[name], wrong);
            }
        }
        Value::Array(items) => {
            for item in items {
                let has = ours.as_array().is_some_and(|ours| ours.contains(item));
                if !has && !is_known(item.as_str().unwrap_or("")) {
                    wrong.push(format!("{path}: {item}"));
                }
            }
        }
        _ if theirs != ours && !is_known("") => wrong.push(format!("{path}: {theirs}, {ours}")),
        _ => {}
    }
}

#[test]
fn features_state_what_runcs_do() {
    check(Who::Berth, |lab| {
        let of = |text: String| Ok::<Value, anyhow::Error>(serde_json::from_str(&text)?);
        let mut runc = lab.host.command("runc");
        let theirs = of(crate::outcome::finish(runc.arg("features"))?.text()?)?;
        let ours = of(lab.call(&["features"])?.text()?)?;
        let mut wrong = Vec::new();
        compare("", &theirs, &ours, &mut wrong);
        ensure!(wrong.is_empty(), "{wrong:?}");
        Ok(())
    });
}

#[test]
fn every_option_that_features_name_mounts() {
    check(Who::Berth, |lab| {
        let told: Value = serde_json::from_str(&lab.call(&["features"])?.text()?)?;
        let words: Vec<&str> = told["mountOptions"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            // They need a user namespace, and have cases of their own.
            .filter(|word| !word.ends_with("idmap"))
            .collect();
        ensure!(words.len() > 40, "{words:?}");
        let found = lab.text("cat /proc/self/mountinfo", |config| {
            for word in &words {
                let place = format!("/w/{word}");
                let mount = match *word {
                    "bind" | "rbind" => json!({"destination": place, "type": "none",
                        "source": "/tmp", "options": [word]}),
                    _ => json!({"destination": place, "type": "tmpfs", "source": "w",
                        "options": [word]}),
                };
                crate::lab::add(&mut config["mounts"], mount);
            }
        })?;
        for word in words {
            let place = format!("/w/{word}");
            let line = found
                .lines()
                .find(|line| line.split(' ').nth(4) == Some(&place));
            let Some(line) = line else {
                anyhow::bail!("{word} did not mount: {found}");
            };
            let shown = [
                "ro",
                "nosuid",
                "nodev",
                "noexec",
                "noatime",
                "nodiratime",
                "nosymfollow",
            ];
            let plain = word
                .strip_prefix('r')
                .filter(|rest| shown.contains(rest))
                .unwrap_or(word);
            if shown.contains(&plain) {
                let options = line.split(' ').nth(5).unwrap_or("");
                ensure!(options.split(',').any(|one| one == plain), "{word}: {line}");
            }
        }
        Ok(())
    });
}

#[test]
fn expressions_name_many_containers() {
    check(Who::Berth, |lab| {
        for id in ["web-1", "web-2", "db-1"] {
            lab.start(id, as_is)?;
        }
        lab.call(&["kill", "--regex", "^web-[0-9]$", "KILL"])?
            .text()?;
        lab.wait_for("web-1", "stopped")?;
        lab.wait_for("web-2", "stopped")?;
        lab.wait_for("db-1", "running")?;
        lab.call(&["delete", "--regex", "web"])?.text()?;
        same(lab.call(&["list", "-q"])?.text()?, "db-1")?;
        // One that runs is not taken away without --force; one that is no expression is refused.
        lab.call(&["delete", "--regex", "d."])?.complaint()?;
        holds(
            lab.call(&["kill", "--regex", "("])?.complaint()?,
            &["--regex", "nothing was done"],
        )?;
        lab.call(&["delete", "--regex", "--force", "."])?.text()?;
        lab.call(&["delete", "--regex", "nobody"])?.text()?;
        same(lab.call(&["list", "-q"])?.text()?, "")
    });
}

#[test]
fn a_first_configuration_goes_where_it_is_told() {
    check(Who::Berth, |lab| {
        let folder = lab.host.work_dir();
        let words = ["spec", "--bundle", path(&folder), "--file", "other.json"];
        lab.call(&words)?.text()?;
        let text = fs::read_to_string(folder.join("other.json"))?;
        ensure!(serde_json::from_str::<Value>(&text)?["root"]["path"] == "rootfs");
        lab.call(&words)?.complaint()?;
        let script = lab.call(&["completion", "bash"])?.text()?;
        holds(script, &["berth-oci", "--stop-before", "--regex"])
    });
}
