//! The program: user, groups, capabilities, limits, variables, directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::ensure;
use serde_json::json;

use crate::check::{Who, check};
use crate::lab::{as_is, holds, path, same};

#[test]
fn user_and_groups_are_as_asked() {
    check(Who::All, |lab| {
        let told = lab.text(
            "id -u; id -g; id -G; touch /tmp/new; stat -c %u:%g /tmp/new",
            |config| {
                config["process"]["user"] =
                    json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 33]});
            },
        )?;
        same(told, "1000\n1001\n1001 5 33\n1000:1001")
    });
}

#[test]
fn no_groups_are_left_over() {
    check(Who::All, |lab| same(lab.text("id -G", as_is)?, "0"));
}

#[test]
fn umask_is_as_asked() {
    check(Who::All, |lab| {
        same(lab.text("umask", as_is)?, "0022")?;
        let change = |config: &mut serde_json::Value| {
            config["process"]["user"]["umask"] = json!(0o027);
        };
        same(lab.text("umask", change)?, "0027")
    });
}

#[test]
fn limits_are_as_asked() {
    check(Who::All, |lab| {
        let told = lab.text("ulimit -Sn; ulimit -Hn; ulimit -Hc", |config| {
            config["process"]["rlimits"] = json!([
                {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            ]);
        })?;
        same(told, "100\n200\n0")
    });
}

#[test]
fn unknown_limits_are_refused() {
    check(Who::All, |lab| {
        let refused = lab.run("true", |config| {
            config["process"]["rlimits"] =
                json!([{"type": "RLIMIT_NONSENSE", "soft": 1, "hard": 1}]);
        })?;
        holds(refused.complaint()?, &["RLIMIT_NONSENSE"])
    });
}

const SETS: &str = "grep ^Cap /proc/1/status | cut -f2";
/// Audit write, kill, bind to low ports.
const THREE: &str = "0000000020000420";
const NONE: &str = "0000000000000000";
const BIND: &str = "0000000000000400";

#[test]
fn roots_capabilities_are_those_asked_for() {
    check(Who::All, |lab| {
        let told = lab.text(SETS, as_is)?;
        same(told, &[NONE, THREE, THREE, THREE, NONE].join("\n"))
    });
}

#[test]
fn a_users_capabilities_come_by_the_ambient_set() {
    check(Who::All, |lab| {
        let told = lab.text(SETS, |config| {
            config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            let bind = json!(["CAP_NET_BIND_SERVICE"]);
            config["process"]["capabilities"]["inheritable"] = bind.clone();
            config["process"]["capabilities"]["ambient"] = bind;
        })?;
        same(told, &[BIND, BIND, BIND, THREE, BIND].join("\n"))
    });
}

#[test]
fn a_user_without_ambient_ones_has_none() {
    check(Who::All, |lab| {
        let told = lab.text(SETS, |config| {
            config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        })?;
        same(told, &[NONE, NONE, NONE, THREE, NONE].join("\n"))
    });
}

#[test]
fn root_without_capabilities_has_none() {
    check(Who::All, |lab| {
        let told = lab.text(SETS, |config| config["process"]["capabilities"] = json!({}))?;
        same(told, &[NONE; 5].join("\n"))
    });
}

#[test]
fn silence_about_capabilities_gives_none() {
    check(Who::All, |lab| {
        let told = lab.text(SETS, |config| {
            config["process"]["capabilities"] = serde_json::Value::Null;
        })?;
        same(told, &[NONE; 5].join("\n"))
    });
}

#[test]
fn no_new_privileges_is_as_asked() {
    check(Who::All, |lab| {
        for (asked, told) in [(true, "1"), (false, "0")] {
            let script = "grep NoNewPrivs /proc/self/status | cut -f2";
            let found = lab.text(script, |config| {
                config["process"]["noNewPrivileges"] = json!(asked);
            })?;
            same(found, told)?;
        }
        Ok(())
    });
}

#[test]
fn variables_are_those_asked_for() {
    check(Who::All, |lab| {
        let told = lab.text("exec env", |config| {
            config["process"]["env"] = json!([
                "PATH=/bin",
                "A=1",
                "SPACED=a b",
                "EMPTY=",
                "A=2",
                "HOME=/here"
            ]);
        })?;
        let mut lines: Vec<&str> = told.lines().collect();
        lines.sort_unstable();
        // The shell adds two of its own.
        lines.retain(|line| !line.starts_with("PWD=") && !line.starts_with("SHLVL="));
        same(
            lines.join("\n"),
            "A=2\nEMPTY=\nHOME=/here\nPATH=/bin\nSPACED=a b",
        )
    });
}

#[test]
fn home_is_the_users() {
    check(Who::All, |lab| {
        same(lab.text("echo $HOME", as_is)?, "/root")?;
        let told = lab.text("echo $HOME", |config| {
            config["process"]["user"] = json!({"uid": 33, "gid": 33});
        })?;
        same(told, "/var/www")
    });
}

#[test]
fn a_missing_directory_is_made() {
    check(Who::All, |lab| {
        let told = lab.text("pwd", |config| {
            config["process"]["cwd"] = json!("/new/folder")
        })?;
        same(told, "/new/folder")
    });
}

#[test]
fn a_relative_directory_is_refused() {
    check(Who::All, |lab| {
        let refused = lab.run("pwd", |config| config["process"]["cwd"] = json!("etc"))?;
        refused.complaint().map(drop)
    });
}

#[test]
fn the_oom_score_is_as_asked() {
    check(Who::All, |lab| {
        let told = lab.text("cat /proc/self/oom_score_adj", |config| {
            config["process"]["oomScoreAdj"] = json!(500);
        })?;
        same(told, "500")
    });
}

#[test]
fn the_program_leads_a_session_and_is_first() {
    check(Who::All, |lab| {
        let told = lab.text("echo $$; cut -d' ' -f4,5,6 /proc/1/stat", as_is)?;
        same(told, "1\n0 1 1")
    });
}

#[test]
fn signals_are_as_they_are_at_birth() {
    check(Who::All, |lab| {
        // SIGPIPE above all: a runtime ignores it, a program must not. And what a
        // script starts in the background ignores what Ctrl-C sends.
        let bundle = lab.bundle("c", |config| {
            let script = "grep -E '^Sig(Blk|Ign)' /proc/self/status | cut -f2";
            config["process"]["args"] = json!(["sh", "-c", script]);
        })?;
        let mut command = lab.host.command("sh");
        command.args(["-c", "trap '' HUP INT QUIT USR1 ALRM; exec \"$@\"", "sh"]);
        command.arg(&lab.runtime.path).arg("--root").arg(lab.root());
        command.args(["run", "--bundle", path(&bundle), "c"]);
        let told = crate::outcome::finish(&mut command)?.text()?;
        ensure!(told.lines().count() == 2, "{told}");
        for line in told.lines() {
            let set = u64::from_str_radix(line, 16)?;
            // Those of real time from 32 on may be the caller's.
            ensure!(set & 0x7fff_ffff == 0, "{told}");
        }
        Ok(())
    });
}

#[test]
fn a_program_that_is_missing_is_told_at_create() {
    check(Who::All, |lab| {
        let bundle = lab.bundle("c", |config| {
            config["process"]["args"] = json!(["nonesuch", "x"]);
        })?;
        let refused = lab.call(&["create", "--bundle", path(&bundle), "c"])?;
        holds(refused.complaint()?, &["nonesuch", "not found in $PATH"])?;
        let bundle = lab.bundle("c", |config| {
            config["process"]["args"] = json!(["/bin/nonesuch"]);
        })?;
        let refused = lab.call(&["create", "--bundle", path(&bundle), "c"])?;
        holds(
            refused.complaint()?.to_lowercase(),
            &["nonesuch", "no such file or directory"],
        )
    });
}

#[test]
fn a_program_that_cannot_run_is_told_at_create() {
    check(Who::All, |lab| {
        let bundle = lab.bundle("c", |config| config["process"]["args"] = json!(["/plain"]))?;
        let file = bundle.join("rootfs/plain");
        fs::write(&file, "echo no")?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
        let refused = lab.call(&["create", "--bundle", path(&bundle), "c"])?;
        holds(refused.complaint()?.to_lowercase(), &["permission denied"])
    });
}

#[test]
fn a_file_of_no_known_format_is_told_at_start() {
    // The elder two have stopped listening by then.
    check(Who::Berth, |lab| {
        let bundle = lab.bundle("c", |config| config["process"]["args"] = json!(["/junk"]))?;
        let file = bundle.join("rootfs/junk");
        fs::write(&file, [0u8; 64])?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        lab.call(&["create", "--bundle", path(&bundle), "c"])?
            .text()?;
        let refused = lab.call(&["start", "c"])?;
        let told = refused.complaint().map(str::to_owned);
        lab.remove("c")?;
        holds(told?.to_lowercase(), &["exec format error"])
    });
}

#[test]
fn no_program_is_refused() {
    check(Who::All, |lab| {
        let refused = lab.run("", |config| config["process"]["args"] = json!([]))?;
        refused.complaint().map(drop)
    });
}

/// Each runs with a folder of the host open as descriptor 7, as a careless
/// caller may have it.
fn with_open_folder(lab: &crate::lab::Lab, words: &[&str]) -> std::process::Command {
    let mut command = lab.host.command("sh");
    command.args(["-c", "exec 7</; exec \"$@\"", "sh"]);
    command
        .arg(&lab.runtime.path)
        .arg("--root")
        .arg(lab.root())
        .args(words);
    command
}

#[test]
fn descriptors_of_the_caller_do_not_leak() {
    check(Who::All, |lab| {
        let bundle = lab.bundle("c", |config| {
            config["process"]["args"] = json!(["sh", "-c", "ls /proc/1/fd; true"]);
        })?;
        let words = ["run", "--bundle", path(&bundle), "c"];
        let told = crate::outcome::finish(&mut with_open_folder(lab, &words))?;
        same(told.text()?, "0\n1\n2")
    });
}

#[test]
fn descriptors_do_not_leak_into_exec() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        let words = ["exec", "c", "sh", "-c", "ls /proc/$$/fd; true"];
        let told = crate::outcome::finish(&mut with_open_folder(lab, &words))?;
        same(told.text()?, "0\n1\n2")?;
        lab.remove("c")
    });
}

#[test]
fn preserved_descriptors_come_through() {
    check(Who::All, |lab| {
        let bundle = lab.bundle("c", |config| {
            config["process"]["args"] =
                json!(["sh", "-c", "cat <&3; cat <&4; ls /proc/1/fd; true"]);
        })?;
        for name in ["three", "four"] {
            fs::write(lab.host.work_dir().join(name), name)?;
        }
        let mut command = lab.host.command("sh");
        command.args(["-c", "exec 3<three 4<four 7</; exec \"$@\"", "sh"]);
        command.arg(&lab.runtime.path).arg("--root").arg(lab.root());
        command.args(["run", "--preserve-fds", "2", "--bundle", path(&bundle), "c"]);
        same(
            crate::outcome::finish(&mut command)?.text()?,
            "threefour0\n1\n2\n3\n4",
        )
    });
}

#[test]
fn sockets_of_an_activator_come_through() {
    check(Who::All, |lab| {
        let script = "cat <&3; echo $LISTEN_FDS $LISTEN_PID; ls /proc/1/fd; true";
        let bundle = lab.bundle("c", |config| {
            config["process"]["args"] = json!(["sh", "-c", script]);
        })?;
        fs::write(lab.host.work_dir().join("three"), "three ")?;
        let mut command = lab.host.command("sh");
        command.args([
            "-c",
            "exec 3<three; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"",
            "sh",
        ]);
        command.arg(&lab.runtime.path).arg("--root").arg(lab.root());
        command.args(["run", "--bundle", path(&bundle), "c"]);
        same(
            crate::outcome::finish(&mut command)?.text()?,
            "three 1 1\n0\n1\n2\n3",
        )
    });
}

/// CVE-2024-21626: a descriptor of the host as the working directory.
#[test]
fn a_descriptor_as_directory_does_not_reach_the_host() {
    check(Who::All, |lab| {
        let secret = lab.host.work_dir().join("secret");
        let script = format!(
            "pwd; for up in . .. ../.. ../../.. ../../../../..; do cat $up{}; done 2>/dev/null; true",
            secret.display()
        );
        for number in 3..12 {
            let bundle = lab.bundle("c", |config| {
                config["process"]["args"] = json!(["sh", "-c", script]);
                config["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
            })?;
            let words = ["run", "--bundle", path(&bundle), "c"];
            let told = crate::outcome::finish(&mut with_open_folder(lab, &words))?;
            ensure!(!told.stdout.contains("of the host"), "{number}: {told:?}");
            ensure!(told.code != 0, "{number}: {told:?}");
        }
        lab.start("c", as_is)?;
        for number in 3..12 {
            let cwd = format!("/proc/self/fd/{number}");
            let words = ["exec", "--cwd", &cwd, "c", "sh", "-c", &script];
            let told = crate::outcome::finish(&mut with_open_folder(lab, &words))?;
            ensure!(
                !told.stdout.contains("of the host"),
                "exec {number}: {told:?}"
            );
        }
        lab.remove("c")
    });
}
