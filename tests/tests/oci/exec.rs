//! One more program in a container that runs.

use std::fs;

use anyhow::ensure;
use serde_json::json;

use crate::check::{Who, check};
use crate::lab::{as_is, eventually, holds, path, same};
use crate::outcome::finish;

#[test]
fn output_and_exit_code() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        let told = lab.call(&["exec", "c", "sh", "-c", "echo out; echo err >&2; exit 7"])?;
        ensure!(told.code == 7, "{told:?}");
        same(told.stdout, "out\n")?;
        same(told.stderr, "err\n")?;
        let told = lab.call(&["exec", "c", "sh", "-c", "kill -9 $$"])?;
        ensure!(told.code == 137, "{told:?}");
        lab.remove("c")
    });
}

#[test]
fn input_comes_through() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        let mut command = lab.command(&["exec", "c", "cat"]);
        let mut running = crate::outcome::start(command.stdin(std::process::Stdio::piped()))?;
        let mut input = running.take_stdin().unwrap();
        std::io::Write::write_all(&mut input, b"spoken")?;
        drop(input);
        same(running.wait()?.text()?, "spoken")?;
        lab.remove("c")
    });
}

#[test]
fn it_is_where_the_container_is() {
    check(Who::All, |lab| {
        lab.start("c", |config| config["process"]["cwd"] = json!("/etc"))?;
        let script = "pwd; hostname; for n in pid net ipc uts mnt cgroup; do \
            [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] || echo $n; done
            [ \"$(cat /proc/self/cgroup)\" = \"$(cat /proc/1/cgroup)\" ] || echo cgroup";
        same(lab.exec("c", script)?, "/etc\nlab")?;
        lab.remove("c")
    });
}

#[test]
fn flags_change_the_program() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        let words = [
            "exec",
            "--env",
            "NOTE=a b",
            "--env",
            "TERM=dumb",
            "--user",
            "1000:1001",
            "--cwd",
            "/tmp",
            "c",
            "sh",
            "-c",
            "echo $NOTE $TERM; id -u; id -g; pwd",
        ];
        same(lab.call(&words)?.text()?, "a b dumb\n1000\n1001\n/tmp")?;
        lab.remove("c")
    });
}

#[test]
fn groups_and_capabilities_are_added() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        let words = [
            "exec",
            "--additional-gids",
            "33",
            "--cap",
            "CAP_NET_RAW",
            "c",
            "sh",
            "-c",
            "id -G; grep CapEff /proc/self/status | cut -f2",
        ];
        same(lab.call(&words)?.text()?, "0 33\n0000000020002420")?;
        lab.remove("c")
    });
}

#[test]
fn a_user_has_no_capabilities() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        let words = [
            "exec",
            "--user",
            "1000",
            "c",
            "grep",
            "-E",
            "Cap(Prm|Eff|Amb)",
            "/proc/self/status",
        ];
        let told = lab.call(&words)?.text()?;
        ensure!(told.lines().count() == 3, "{told}");
        ensure!(
            told.lines().all(|line| line.ends_with("0000000000000000")),
            "{told}"
        );
        lab.remove("c")
    });
}

#[test]
fn limits_are_the_containers() {
    check(Who::All, |lab| {
        lab.start("c", |config| {
            config["process"]["rlimits"] =
                json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
        })?;
        same(
            lab.exec("c", "ulimit -Hn; grep NoNewPrivs /proc/self/status")?,
            "200\nNoNewPrivs:\t1",
        )?;
        lab.remove("c")
    });
}

#[test]
fn the_program_from_a_file() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        let file = lab.host.work_dir().join("process.json");
        let process = json!({
            "user": {"uid": 33, "gid": 33, "additionalGids": [5]},
            "args": ["sh", "-c", "id -u; id -G; pwd; echo $NOTE; echo $HOME; grep CapBnd /proc/self/status | cut -f2"],
            "env": ["PATH=/bin", "NOTE=file"], "cwd": "/tmp",
            "capabilities": {"bounding": ["CAP_KILL"]},
            "noNewPrivileges": true
        });
        fs::write(&file, serde_json::to_vec(&process)?)?;
        let told = lab.call(&["exec", "--process", path(&file), "c"])?.text()?;
        same(told, "33\n33 5\n/tmp\nfile\n/var/www\n0000000000000020")?;
        lab.remove("c")
    });
}

#[test]
fn detached_with_a_pid_file() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        let file = lab.host.work_dir().join("pid");
        let words = [
            "exec",
            "--detach",
            "--pid-file",
            path(&file),
            "c",
            "sleep",
            "500",
        ];
        lab.call(&words)?.text()?;
        let pid: u32 = fs::read_to_string(&file)?.parse()?;
        let words = eventually(|| {
            let words = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
            ensure!(words.starts_with("sleep"), "{words:?}");
            Ok(words)
        })?;
        holds(words, &["500"])?;
        holds(
            lab.group_file("c", "pids", "cgroup.procs")?,
            &[&pid.to_string()],
        )?;
        lab.remove("c")
    });
}

#[test]
fn a_missing_program_is_told() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        let told = lab.call(&["exec", "c", "nonesuch"])?;
        holds(told.complaint()?, &["nonesuch", "not found in $PATH"])?;
        let told = lab.call(&["exec", "c", "/etc/passwd"])?;
        holds(told.complaint()?.to_lowercase(), &["permission denied"])?;
        lab.remove("c")
    });
}

/// What kubelet and podman take from a runtime's exit code.
#[test]
fn a_missing_program_has_its_own_code() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        let told = lab.call(&["exec", "c", "nonesuch"])?;
        ensure!(told.code == 255, "{told:?}");
        lab.remove("c")
    });
}

/// Two processes make the program: one joins the namespaces, and goes on as a child of
/// its own. Nothing orders what the two say to the runtime.
#[test]
fn the_child_may_be_ready_before_its_maker_has_told_of_it() {
    check(Who::Berth, |lab| {
        lab.start("c", as_is)?;
        let mut command = lab.host.command("strace");
        command
            .args(["-f", "-o", "/dev/null", "-e", "trace=clone3"])
            .args(["-e", "inject=clone3:delay_exit=300000"])
            .arg(&lab.runtime.path)
            .arg("--root")
            .arg(lab.root())
            .args(["exec", "c", "hostname"]);
        same(finish(&mut command)?.text()?, "lab")?;
        lab.remove("c")
    });
}

#[test]
fn a_stopped_container_takes_none() {
    check(Who::All, |lab| {
        lab.start("c", |config| config["process"]["args"] = json!(["true"]))?;
        lab.wait_for("c", "stopped")?;
        lab.call(&["exec", "c", "true"])?.complaint()?;
        lab.remove("c")
    });
}

#[test]
fn a_created_container_takes_one() {
    check(Who::All, |lab| {
        lab.create("c", as_is)?;
        same(lab.exec("c", "hostname")?, "lab")?;
        ensure!(lab.state("c")?["status"] == "created");
        lab.remove("c")
    });
}

/// The program must not be able to look at the runtime while it comes in:
/// whatever of the host it holds would be open to `/proc/PID` (CVE-2016-9962).
#[test]
fn nothing_of_the_host_is_open_while_it_comes_in() {
    check(Who::All, |lab| {
        let watch =
            "while :; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) continue;; esac
            for f in $p/fd/* $p/cwd $p/root; do t=$(readlink $f 2>/dev/null) || continue
            case $t in /tmp/berth-host*) echo $f $t >> /reached;; esac
            [ -e $f/../../etc/debian_version ] && echo $f >> /reached; done; done; done";
        lab.start("c", |config| {
            config["process"]["args"] = json!(["sh", "-c", watch]);
            for set in ["bounding", "effective", "permitted"] {
                crate::lab::add(
                    &mut config["process"]["capabilities"][set],
                    json!("CAP_SYS_PTRACE"),
                );
            }
        })?;
        for _ in 0..5 {
            lab.call(&["exec", "c", "true"])?.text()?;
        }
        let reached = fs::read_to_string(lab.host.work_dir().join("c/rootfs/reached"));
        ensure!(reached.is_err(), "{reached:?}");
        lab.remove("c")
    });
}
