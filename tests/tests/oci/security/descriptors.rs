//! CVE-2024-21626 and its like: descriptors that stay open, directories that lie outside.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::check::{Who, check};
use crate::lab::{Lab, path, same};
use crate::outcome::{Outcome, finish};

/// A call with folders of the host open as 3, 4 and 7.
fn call(lab: &Lab, words: &[&str]) -> Result<Outcome> {
    let mut command = lab.host.command("sh");
    command.args(["-c", "exec 3</ 4</etc 7</; exec \"$@\"", "sh"]);
    command.arg(&lab.runtime.path).arg("--root").arg(lab.root());
    finish(command.args(words))
}

#[test]
fn only_what_is_to_be_kept_is_open() {
    check(Who::All, |lab| {
        let list = "ls /proc/self/fd | wc -l; readlink /proc/1/fd/7; true";
        for (keep, wanted) in [("0", "4"), ("1", "5"), ("2", "6")] {
            let bundle = lab.bundle("c", |config| {
                config["process"]["args"] = json!(["sh", "-c", list]);
            })?;
            let words = [
                "run",
                "--preserve-fds",
                keep,
                "--bundle",
                path(&bundle),
                "c",
            ];
            same(call(lab, &words)?.text()?, wanted)?;
        }
        Ok(())
    });
}

#[test]
fn create_start_and_exec_keep_nothing() {
    check(Who::All, |lab| {
        let list = "ls /proc/self/fd > /open; sleep 1000";
        let bundle = lab.bundle("c", |config| {
            config["process"]["args"] = json!(["sh", "-c", list]);
        })?;
        call(lab, &["create", "--bundle", path(&bundle), "c"])?.text()?;
        call(lab, &["start", "c"])?.text()?;
        let open = bundle.join("rootfs/open");
        // The fourth is that of ls itself, on /proc/self/fd.
        crate::lab::eventually(|| same(fs::read_to_string(&open)?, "0\n1\n2\n3\n"))?;
        let words = ["exec", "c", "sh", "-c", "ls /proc/self/fd"];
        same(call(lab, &words)?.text()?, "0\n1\n2\n3")?;
        lab.remove("c")
    });
}

/// What is opened next takes the number of a descriptor that the caller closed: a file of
/// the host would be the program's standard input.
#[test]
fn closed_standard_descriptors_are_the_null_device() {
    check(Who::Berth, |lab| {
        let bundle = lab.bundle("c", |config| {
            let look = "stat -Lc %t:%T /proc/self/fd/0 /proc/self/fd/2";
            config["process"]["args"] = json!(["sh", "-c", look]);
        })?;
        let mut command = lab.host.command("sh");
        command.args(["-c", "exec \"$@\" <&- 2>&-", "sh"]);
        command.arg(&lab.runtime.path).arg("--root").arg(lab.root());
        command.args(["run", "--bundle", path(&bundle), "c"]);
        same(finish(&mut command)?.text()?, "1:3\n1:3")
    });
}

#[test]
fn hooks_get_none() {
    check(Who::Berth, |lab| {
        let outside = lab.host.work_dir().join("open");
        fs::create_dir(&outside)?;
        let moments = ["prestart", "createRuntime", "createContainer", "poststart"];
        let bundle = lab.bundle("c", |config| {
            config["process"]["args"] = json!(["true"]);
            for moment in moments {
                let script = format!("ls /proc/self/fd > {}/{moment}", outside.display());
                config["hooks"][moment] =
                    json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
            }
            let script = "ls /proc/self/fd > /startContainer";
            config["hooks"]["startContainer"] =
                json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
        })?;
        let words = ["run", "--preserve-fds", "2", "--bundle", path(&bundle), "c"];
        call(lab, &words)?.text()?;
        for moment in moments {
            let open = fs::read_to_string(outside.join(moment))?;
            // The fourth is that of ls itself.
            ensure!(open == "0\n1\n2\n3\n", "{moment}: {open:?}");
        }
        let open = fs::read_to_string(bundle.join("rootfs/startContainer"))?;
        same(open, "0\n1\n2\n3\n")
    });
}

/// A directory of the rootfs, reached by the host's mount of it: the kernel says
/// that it cannot be reached, but who climbs up from it comes to the root.
#[test]
fn a_directory_of_the_rootfs_on_the_hosts_mount_is_outside() {
    check(Who::All, |lab| {
        let bundle = lab.bundle("c", |config| {
            config["process"]["args"] = json!(["sh", "-c", "cat ../../../secret; true"]);
            config["process"]["cwd"] = json!("/proc/self/fd/3");
        })?;
        let folder = bundle.join("rootfs/etc");
        let mut command = lab.host.command("sh");
        command.args([
            "-c",
            "exec 3<\"$1\"; shift; exec \"$@\"",
            "sh",
            path(&folder),
        ]);
        command.arg(&lab.runtime.path).arg("--root").arg(lab.root());
        command.args(["run", "--preserve-fds", "1", "--bundle", path(&bundle), "c"]);
        let told = finish(&mut command)?;
        super::assert_secret(&told)?;
        told.complaint().map(drop)
    });
}
