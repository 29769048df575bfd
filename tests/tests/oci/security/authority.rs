//! Capabilities, users and groups that a program got and should not have.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::ensure;
use serde_json::json;

use crate::check::{Who, check};
use crate::lab::{as_is, holds, same};

/// CVE-2022-29162, CVE-2022-27650, CVE-2025-27612: `--cap` adds nothing that
/// passes on to a program with file capabilities.
#[test]
fn an_exec_inherits_no_capabilities() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        let script = "grep -E 'CapInh|CapAmb' /proc/self/status";
        for words in [
            &["exec", "c", "sh", "-c", script][..],
            &["exec", "--cap", "CAP_NET_RAW", "c", "sh", "-c", script],
            &["exec", "--user", "1000:1000", "c", "sh", "-c", script],
        ] {
            let told = lab.call(words)?.text()?;
            holds(
                &told,
                &["CapInh:\t0000000000000000", "CapAmb:\t0000000000000000"],
            )?;
        }
        lab.remove("c")
    });
}

/// CVE-2026-30892: a number is a number. CVE-2016-3697: and no name of the image's.
#[test]
fn a_user_is_the_number_that_was_asked_for() {
    check(Who::Berth, |lab| {
        let rootfs = lab.bundle("c", as_is)?.join("rootfs");
        fs::write(
            rootfs.join("etc/passwd"),
            "1:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\n",
        )?;
        lab.start("c", as_is)?;
        for (asked, wanted) in [
            ("1", "1:0"),
            ("1000", "1000:0"),
            ("1:1", "1:1"),
            ("0", "0:0"),
        ] {
            let words = [
                "exec",
                "--user",
                asked,
                "c",
                "sh",
                "-c",
                "echo $(id -u):$(id -g)",
            ];
            same(lab.call(&words)?.text()?, wanted)?;
        }
        lab.remove("c")
    });
}

/// The caller's groups, keys, umask and inheritable capabilities are not the program's.
#[test]
fn nothing_of_the_callers_passes_on() {
    check(Who::Berth, |lab| {
        let script = "id -G; umask; grep -E 'CapInh|CapAmb|NoNewPrivs|Seccomp:' /proc/self/status; cat /proc/self/loginuid 2>/dev/null; true";
        let bundle = lab.bundle("c", |config| {
            config["process"]["args"] = json!(["sh", "-c", script]);
            config["process"]["user"] = json!({"uid": 7, "gid": 8, "umask": 0o27});
            config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        })?;
        let mut command = lab.host.command("setpriv");
        command.args([
            "--groups",
            "5,6",
            "--inh-caps",
            "+sys_admin,+net_raw",
            "--ambient-caps",
            "+net_raw",
        ]);
        command.args(["sh", "-c", "umask 0; exec \"$@\"", "sh"]);
        command.arg(&lab.runtime.path).arg("--root").arg(lab.root());
        command.args(["run", "--bundle", crate::lab::path(&bundle), "c"]);
        let told = crate::outcome::finish(&mut command)?.text()?;
        ensure!(told.starts_with("8\n0027\n"), "{told}");
        holds(
            &told,
            &[
                "CapInh:\t0000000000000000",
                "CapAmb:\t0000000000000000",
                "NoNewPrivs:\t1",
                "Seccomp:\t2",
            ],
        )
    });
}

/// A cache of filters that somebody else can write to is a gate in every wall.
#[test]
fn a_filter_is_not_taken_from_a_cache_of_others() {
    check(Who::Berth, |lab| {
        let change = |config: &mut serde_json::Value| {
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]
            });
        };
        let blocked = || -> anyhow::Result<()> {
            let told = lab.run("mkdir /made; ls -d /made", change)?;
            ensure!(told.code != 0 && !told.stdout.contains("made"), "{told:?}");
            Ok(())
        };
        blocked()?;
        let folders: Vec<_> = walk(lab.host.run_dir())
            .into_iter()
            .filter(|path| path.is_dir() && path.to_string_lossy().contains("seccomp"))
            .collect();
        ensure!(!folders.is_empty(), "the cache is somewhere");
        let allow_all = {
            // BPF_RET | BPF_K, SECCOMP_RET_ALLOW.
            let program = [0x06, 0, 0, 0, 0, 0, 0xff, 0x7f];
            use sha2::Digest;
            [
                b"berth-seccomp-1\n".as_slice(),
                sha2::Sha256::digest(program).as_slice(),
                &program,
            ]
            .concat()
        };
        for folder in &folders {
            for file in fs::read_dir(folder)?.flatten() {
                let whole = fs::read(file.path())?;
                // Cut off, then turned over: neither is believed.
                fs::write(file.path(), &whole[..whole.len() / 2])?;
                blocked()?;
                fs::write(file.path(), [&whole[..60], &[0xff], &whole[61..]].concat())?;
                blocked()?;
                // A sound file of somebody else's.
                fs::write(file.path(), &allow_all)?;
                std::os::unix::fs::chown(file.path(), Some(1000), None)?;
                blocked()?;
                // A sound file in a directory where somebody else may write.
                std::os::unix::fs::chown(file.path(), Some(0), None)?;
                fs::write(file.path(), &allow_all)?;
                fs::set_permissions(folder, fs::Permissions::from_mode(0o777))?;
                blocked()?;
                fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
                // A link to it.
                let elsewhere = lab.host.work_dir().join("poison");
                fs::write(&elsewhere, &allow_all)?;
                fs::remove_file(file.path())?;
                std::os::unix::fs::symlink(&elsewhere, file.path())?;
                blocked()?;
            }
        }
        Ok(())
    });
}

fn walk(folder: std::path::PathBuf) -> Vec<std::path::PathBuf> {
    let mut found = vec![folder];
    let mut next = 0;
    while next < found.len() {
        if let Ok(entries) = fs::read_dir(&found[next]) {
            found.extend(entries.flatten().map(|entry| entry.path()));
        }
        next += 1;
    }
    found
}
