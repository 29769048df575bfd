//! Common causes of failure, each produced for real: the error names stage, call
//! and errno, and says what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::check::{Who, check};
use crate::lab::{Lab, as_is, holds, path};
use crate::outcome::finish;

/// Writes a program into the container's root, runs it, and hears why not.
fn program(lab: &Lab, bytes: &[u8], mode: u32) -> Result<String> {
    let bundle = lab.bundle("c", |config| {
        config["process"]["args"] = json!(["/bin/odd"])
    })?;
    let file = bundle.join("rootfs/bin/odd");
    fs::write(&file, bytes)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
    let words = ["run", "--bundle", path(&bundle), "c"];
    Ok(lab.call(&words)?.complaint()?.to_owned())
}

/// Hears why a configuration is not run.
fn refusal(lab: &Lab, change: impl FnOnce(&mut Value)) -> Result<String> {
    Ok(lab.run("true", change)?.complaint()?.to_owned())
}

/// Calls the runtime by another program, such as setpriv(1).
fn by(lab: &Lab, before: &[&str], root: &Path) -> Result<String> {
    let bundle = lab.bundle("c", as_is)?;
    let mut command = lab.host.command(before[0]);
    command.args(&before[1..]).arg(&lab.runtime.path);
    command.arg("--root").arg(root);
    command.args(["run", "--bundle", path(&bundle), "c"]);
    Ok(finish(&mut command)?.complaint()?.to_owned())
}

#[test]
fn a_missing_interpreter() {
    check(Who::Berth, |lab| {
        let told = program(lab, b"#!/usr/bin/python9\nprint()\n", 0o755)?;
        holds(
            told,
            &[
                "stage exec-program",
                "execve(\"/bin/odd\"",
                "no such file or directory",
                "its interpreter \"/usr/bin/python9\" is not",
            ],
        )?;
        let told = program(lab, b"#!/bin/sh\r\ntrue\r\n", 0o755)?;
        holds(told, &["\\r\\n"])
    });
}

#[test]
fn another_machines_program() {
    check(Who::Berth, |lab| {
        let mut bytes = fs::read("/bin/busybox")?;
        // e_machine: RISC-V. No machine of this suite is one.
        bytes[18..20].copy_from_slice(&243u16.to_le_bytes());
        let told = program(lab, &bytes, 0o755)?;
        holds(
            told,
            &[
                "stage exec-program",
                "exec format error",
                "the program is for riscv64, this machine is",
            ],
        )?;
        let told = program(lab, b"echo no first line\n", 0o755)?;
        holds(
            told,
            &["exec format error", "neither an ELF file nor a script"],
        )
    });
}

#[test]
fn a_program_that_may_not_be_executed() {
    check(Who::Berth, |lab| {
        let told = program(lab, b"#!/bin/sh\n", 0o644)?;
        holds(
            told,
            &["stage find-program", "permission denied", "chmod +x"],
        )?;
        let told = refusal(lab, |config| {
            config["process"]["args"] = json!(["nonesuch"])
        })?;
        holds(
            told,
            &[
                "stage find-program",
                "executable file not found in $PATH",
                "in a folder of PATH",
            ],
        )
    });
}

#[test]
fn mounts_that_the_kernel_does_not_know() {
    check(Who::Berth, |lab| {
        let told = refusal(lab, |config| {
            config["mounts"][3]["type"] = json!("nonesuchfs")
        })?;
        holds(
            told,
            &[
                "stage mount-tree",
                "mounts[3]",
                "fsopen(\"nonesuchfs\",",
                "no such device",
                "/proc/filesystems",
            ],
        )?;
        let told = refusal(lab, |config| {
            config["mounts"][3]["options"] = json!(["nonsense=1"])
        })?;
        holds(
            told,
            &[
                "FSCONFIG_SET_STRING, \"nonsense\"",
                "invalid argument",
                "does not know that option",
            ],
        )?;
        let told = refusal(lab, |config| {
            config["mounts"][3] =
                json!({"destination": "/x", "source": "/nonesuch", "options": ["bind"]});
        })?;
        holds(
            told,
            &[
                "mounts[3]",
                "/nonesuch",
                "no such file or directory",
                "must exist on the host",
            ],
        )
    });
}

#[test]
fn limits_that_the_machine_cannot_keep() {
    check(Who::Berth, |lab| {
        let told = refusal(lab, |config| {
            config["linux"]["resources"]["cpu"] = json!({"cpus": "997"});
        })?;
        holds(
            told,
            &[
                "linux.resources.cpu.cpus",
                "write(",
                "cpuset.cpus",
                "lscpu -e",
            ],
        )?;
        let told = refusal(lab, |config| {
            config["process"]["rlimits"] =
                json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2_000_000_000_u64}]);
        })?;
        holds(
            told,
            &[
                "stage set-limits",
                "process.rlimits[0]",
                "operation not permitted",
                "CAP_SYS_RESOURCE",
            ],
        )
    });
}

#[test]
fn too_little_memory_to_be_made() {
    check(Who::Berth, |lab| {
        let told = refusal(lab, |config| {
            config["linux"]["resources"]["memory"] = json!({"limit": 4096, "swap": 4096});
        })?;
        holds(
            told,
            &[
                "SIGKILL",
                "4096 bytes of memory do not suffice",
                "linux.resources.memory.limit",
            ],
        )
    });
}

#[test]
fn no_right_and_no_room_for_namespaces() {
    check(Who::Berth, |lab| {
        let root = lab.root();
        let without = [
            "setpriv",
            "--bounding-set=-sys_admin",
            "--inh-caps=-sys_admin",
        ];
        let told = by(lab, &without, &root)?;
        holds(
            told,
            &[
                "stage clone-init",
                "clone3(",
                "operation not permitted",
                "CAP_SYS_ADMIN",
            ],
        )?;
        let script = "echo 0 >/proc/sys/user/max_uts_namespaces; exec \"$@\"";
        let nested = [
            "unshare",
            "--user",
            "--map-root-user",
            "sh",
            "-c",
            script,
            "sh",
        ];
        let told = by(lab, &nested, &root)?;
        holds(
            told,
            &[
                "stage clone-init",
                "clone3(",
                "no space left on device",
                "max_*_namespaces",
            ],
        )
    });
}

#[test]
fn a_state_folder_that_cannot_be_written() {
    check(Who::Berth, |lab| {
        let place = lab.host.work_dir().join("small");
        fs::create_dir(&place)?;
        for (options, words) in [
            ("nr_inodes=1", ["no space left on device", "df -i"]),
            ("ro", ["read-only file system", "--root"]),
        ] {
            let mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path(&place)];
            finish(lab.host.command(mount[0]).args(&mount[1..]))?.text()?;
            let told = by(lab, &["env"], &place)?;
            finish(lab.host.command("umount").arg(&place))?.text()?;
            holds(&told, &["stage reserve-id", "mkdir"])?;
            holds(told.to_lowercase(), &words)?;
        }
        Ok(())
    });
}

#[test]
fn files_that_the_call_names() {
    check(Who::Berth, |lab| {
        let told = lab.call(&["create", "--bundle", "/nonesuch", "c"])?;
        holds(
            told.complaint()?,
            &["/nonesuch/config.json", "--bundle names a folder"],
        )?;
        let told = refusal(lab, |config| config["root"]["path"] = json!("nonesuch"))?;
        holds(
            told,
            &["root.path", "is not a directory", "unpack an image"],
        )?;
        let bundle = lab.bundle("c", |config| config["process"]["terminal"] = json!(true))?;
        let words = [
            "create",
            "--console-socket",
            "/nonesuch/socket",
            "--bundle",
            path(&bundle),
            "c",
        ];
        holds(
            lab.call(&words)?.complaint()?,
            &["/nonesuch/socket", "no such file"],
        )
    });
}
