//! What a container sees below its root.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::check::{Who, check};
use crate::lab::{Lab, add, as_is, has_only_v2, holds, same};
use crate::outcome::finish;

fn bind(config: &mut Value, source: &std::path::Path, destination: &str, options: &[&str]) {
    let mount = json!({
        "type": "bind", "source": source, "destination": destination, "options": options,
    });
    add(&mut config["mounts"], mount);
}

/// A folder of the host with a file in it, and a tmpfs below it with another.
fn shared_folder(lab: &Lab) -> Result<std::path::PathBuf> {
    let folder = lab.host.work_dir().join("shared");
    fs::create_dir_all(folder.join("below"))?;
    fs::write(folder.join("file"), "top\n")?;
    let script = format!(
        "mount -t tmpfs below {0} && echo below > {0}/file",
        folder.join("below").display()
    );
    finish(lab.host.command("sh").args(["-c", &script]))?.text()?;
    Ok(folder)
}

fn unmount(lab: &Lab) -> Result<()> {
    let below = lab.host.work_dir().join("shared/below");
    finish(lab.host.command("umount").arg(below))?
        .text()
        .map(drop)
}

const WRITES: &str = "for f in /mnt/file /mnt/below/file; do
    if echo x 2>/dev/null >> $f; then echo yes; else echo no; fi; done";

#[test]
fn bind_shows_one_mount_only() {
    check(Who::All, |lab| {
        let folder = shared_folder(lab)?;
        let told = lab.text(
            "cat /mnt/file; ls /mnt/below; echo new > /mnt/new",
            |config| {
                bind(config, &folder, "/mnt", &["bind", "rw"]);
            },
        )?;
        same(told, "top")?;
        same(fs::read_to_string(folder.join("new"))?, "new\n")?;
        unmount(lab)
    });
}

#[test]
fn rbind_shows_those_below() {
    check(Who::All, |lab| {
        let folder = shared_folder(lab)?;
        let told = lab.text("cat /mnt/file /mnt/below/file", |config| {
            bind(config, &folder, "/mnt", &["rbind"]);
        })?;
        same(told, "top\nbelow")?;
        unmount(lab)
    });
}

#[test]
fn ro_is_for_the_top_mount() {
    check(Who::All, |lab| {
        let folder = shared_folder(lab)?;
        let told = lab.text(WRITES, |config| {
            bind(config, &folder, "/mnt", &["rbind", "ro"])
        })?;
        same(told, "no\nyes")?;
        // The host's own view is as it was.
        fs::write(folder.join("file"), "still")?;
        unmount(lab)
    });
}

#[test]
fn rro_is_for_all() {
    check(Who::All, |lab| {
        let folder = shared_folder(lab)?;
        let told = lab.text(WRITES, |config| {
            bind(config, &folder, "/mnt", &["rbind", "rro"])
        })?;
        same(told, "no\nno")?;
        unmount(lab)
    });
}

#[test]
fn a_file_is_bound_and_its_target_made() {
    check(Who::All, |lab| {
        let file = lab.host.work_dir().join("hosts");
        fs::write(&file, "127.0.0.1 lab\n")?;
        let told = lab.text("cat /etc/hosts /new/folder/file", |config| {
            bind(config, &file, "/etc/hosts", &["bind", "ro"]);
            bind(config, &file, "/new/folder/file", &["bind"]);
        })?;
        same(told, "127.0.0.1 lab\n127.0.0.1 lab")
    });
}

#[test]
fn flags_of_a_bind_hold() {
    check(Who::All, |lab| {
        let folder = lab.host.work_dir().join("shared");
        fs::create_dir(&folder)?;
        let told = lab.text("grep ' /mnt ' /proc/mounts", |config| {
            bind(
                config,
                &folder,
                "/mnt",
                &["rbind", "nosuid", "nodev", "noexec", "ro"],
            );
        })?;
        holds(told, &["ro,", "nosuid", "nodev", "noexec"])
    });
}

#[test]
fn a_missing_source_is_refused() {
    check(Who::All, |lab| {
        let refused = lab.run("true", |config| {
            bind(
                config,
                &lab.host.work_dir().join("nothing"),
                "/mnt",
                &["bind"],
            );
        })?;
        holds(refused.complaint()?, &["nothing"])
    });
}

#[test]
fn tmpfs_has_its_options() {
    check(Who::All, |lab| {
        let script = "grep ' /t ' /proc/mounts; stat -c %a /t; touch /t/new";
        let told = lab.text(script, |config| {
            let options = ["nosuid", "nodev", "noexec", "size=1m", "mode=1770"];
            add(
                &mut config["mounts"],
                json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": options}),
            );
        })?;
        holds(told, &["nosuid", "nodev", "noexec", "size=1024k", "1770"])
    });
}

#[test]
fn tmpcopyup_keeps_what_the_image_has() {
    check(Who::All, |lab| {
        let told = lab.text("stat -f -c %T /etc; cat /etc/nsswitch.conf", |config| {
            let options = ["tmpcopyup", "mode=755"];
            add(
                &mut config["mounts"],
                json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": options}),
            );
        })?;
        same(told, "tmpfs\nhosts: files dns")
    });
}

/// An image's links must not lead a mount out of the rootfs.
#[test]
fn links_of_the_image_stay_inside() {
    check(Who::All, |lab| {
        let outside = lab.host.work_dir().join("outside");
        fs::create_dir(&outside)?;
        let source = lab.host.work_dir().join("secret");
        let bundle = lab.bundle("c", as_is)?;
        let rootfs = bundle.join("rootfs");
        symlink(&outside, rootfs.join("absolute"))?;
        symlink("../../../../../../../..", rootfs.join("up"))?;
        symlink("/etc", rootfs.join("inside"))?;
        fs::create_dir_all(rootfs.join(outside.strip_prefix("/")?))?;
        let told = lab.text("cat /inside/file; find / -xdev -name landed", |config| {
            bind(config, &source, "/absolute/landed", &["bind"]);
            bind(config, &source, "/up/up/tmp/landed", &["bind"]);
            bind(config, &source, "/../../inside/file", &["bind"]);
        })?;
        holds(&told, &["of the host", "/tmp/landed"])?;
        ensure!(
            fs::read_dir(&outside)?.next().is_none(),
            "the host was reached"
        );
        ensure!(
            !std::path::Path::new("/tmp/landed").exists(),
            "the host was reached"
        );
        ensure!(rootfs.join("tmp/landed").exists(), "it is not inside");
        Ok(())
    });
}

#[test]
fn a_link_without_a_target_gets_one_inside() {
    check(Who::All, |lab| {
        let source = lab.host.work_dir().join("secret");
        let rootfs = lab.bundle("c", as_is)?.join("rootfs");
        symlink("/run/not/there", rootfs.join("dangling"))?;
        let told = lab.text("cat /run/not/there/file", |config| {
            bind(config, &source, "/dangling/file", &["bind"]);
        })?;
        same(told, "of the host")?;
        ensure!(
            !std::path::Path::new("/run/not").exists(),
            "the host was reached"
        );
        Ok(())
    });
}

#[test]
fn numbers_of_the_machine_may_be_replaced() {
    check(Who::All, |lab| {
        let source = lab.host.work_dir().join("secret");
        let told = lab.text("cat /proc/uptime", |config| {
            bind(config, &source, "/proc/uptime", &["bind", "ro"]);
        })?;
        same(told, "of the host")
    });
}

/// The old root is detached from a namespace that is a peer of the host's: the
/// host's own mounts must not go with it. The sweep looks.
#[test]
fn a_shared_host_keeps_its_mounts() {
    check(Who::All, |lab| {
        finish(lab.host.command("mount").args(["--make-rshared", "/"]))?.text()?;
        for word in ["shared", "rslave", "rprivate"] {
            same(
                lab.text("echo out", |config| {
                    config["linux"]["rootfsPropagation"] = json!(word);
                })?,
                "out",
            )?;
        }
        Ok(())
    });
}

#[test]
fn a_mount_of_the_container_goes_out_by_rshared() {
    check(Who::All, |lab| {
        let folder = shared_folder(lab)?;
        let below = folder.join("below");
        fs_in_host(
            lab,
            &format!("mount --make-shared {0} && mkdir {0}/late", below.display()),
        )?;
        lab.start("c", |config| {
            bind(config, &below, "/mnt", &["rbind", "rshared"]);
            config["linux"]["rootfsPropagation"] = json!("shared");
            for set in ["bounding", "effective", "permitted"] {
                add(
                    &mut config["process"]["capabilities"][set],
                    json!("CAP_SYS_ADMIN"),
                );
            }
        })?;
        lab.exec(
            "c",
            "mount -t tmpfs late /mnt/late && echo hello > /mnt/late/file",
        )?;
        fs_in_host(
            lab,
            &format!(
                "grep hello {0}/late/file && umount {0}/late",
                below.display()
            ),
        )?;
        lab.remove("c")?;
        unmount(lab)
    });
}

#[test]
fn proc_shows_the_containers_processes() {
    check(Who::All, |lab| {
        let told = lab.text(
            "cat /proc/1/cmdline | tr '\\0' ' '; grep ' /proc ' /proc/mounts",
            as_is,
        )?;
        holds(told, &["sh -c", "proc /proc proc rw"])
    });
}

/// CVE-2019-16884, CVE-2023-27561: `/proc` must be a real one.
#[test]
fn nothing_is_mounted_over_proc() {
    check(Who::All, |lab| {
        let folder = lab.host.work_dir().join("fake");
        fs::create_dir(&folder)?;
        for place in ["/proc/self", "/proc/1", "/proc/sys"] {
            let refused = lab.run("true", |config| bind(config, &folder, place, &["bind"]))?;
            refused.complaint()?;
        }
        Ok(())
    });
}

#[test]
fn sys_is_read_only() {
    check(Who::All, |lab| {
        let told = lab.text(
            "grep -c ' /sys sysfs ro' /proc/mounts; ls /sys/class/net; mkdir /sys/x 2>/dev/null || echo no",
            as_is,
        )?;
        same(told, "1\nlo\nno")
    });
}

#[test]
fn dev_has_its_nodes_and_links() {
    check(Who::All, |lab| {
        let told = lab.text(
            "cd /dev; for n in null zero full random urandom tty; do stat -c '%n %t:%T %a' $n; done
            for l in fd stdin stdout stderr ptmx; do echo $l $(readlink $l); done
            head -c 3 /dev/zero | wc -c; echo x > /dev/null; echo x 2>/dev/null > /dev/full || echo full",
            as_is,
        )?;
        same(
            told,
            "null 1:3 666\nzero 1:5 666\nfull 1:7 666\nrandom 1:8 666\nurandom 1:9 666\ntty 5:0 666\n\
            fd /proc/self/fd\nstdin /proc/self/fd/0\nstdout /proc/self/fd/1\nstderr /proc/self/fd/2\n\
            ptmx pts/ptmx\n3\nfull",
        )
    });
}

#[test]
fn cgroups_show_the_containers_own() {
    check(Who::All, |lab| {
        let script = match has_only_v2() {
            true => {
                "head -1 /sys/fs/cgroup/cgroup.procs; grep -c ' /sys/fs/cgroup cgroup2 ro' /proc/mounts"
            }
            false => {
                "head -1 /sys/fs/cgroup/pids/cgroup.procs; grep -c ' /sys/fs/cgroup/memory cgroup ro' /proc/mounts"
            }
        };
        let told = lab.text(script, |config| {
            add(
                &mut config["linux"]["namespaces"],
                json!({"type": "cgroup"}),
            )
        })?;
        same(told, "1\n1")
    });
}

#[test]
fn a_read_only_root_cannot_be_written() {
    check(Who::All, |lab| {
        let script = "touch /new 2>/dev/null || echo no; touch /dev/shm/new && echo yes";
        same(
            lab.text(script, |config| config["root"]["readonly"] = json!(true))?,
            "no\nyes",
        )
    });
}

#[test]
fn masked_paths_are_empty() {
    check(Who::All, |lab| {
        let script = "cat /etc/passwd; ls /home; touch /home/x 2>/dev/null || echo no; \
            ls /proc/keys /sys/firmware";
        fs::create_dir_all(lab.bundle("c", as_is)?.join("rootfs/home/user"))?;
        let told = lab.text(script, |config| {
            for masked in ["/etc/passwd", "/home", "/not/there"] {
                add(&mut config["linux"]["maskedPaths"], json!(masked));
            }
        })?;
        same(told, "no\n/proc/keys\n\n/sys/firmware:")
    });
}

/// CVE-2025-31133: what masks a file must be the real /dev/null.
#[test]
fn a_false_null_device_masks_nothing_wrong() {
    check(Who::All, |lab| {
        let bundle = lab.bundle("c", as_is)?;
        symlink(
            "/proc/sys/kernel/core_pattern",
            bundle.join("rootfs/dev/null"),
        )?;
        let told = lab.run("cat /etc/passwd; echo end", |config| {
            config["mounts"]
                .as_array_mut()
                .unwrap()
                .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
            add(&mut config["linux"]["maskedPaths"], json!("/etc/passwd"));
        })?;
        // It is refused, or the node was made anew.
        ensure!(told.code != 0 || told.stdout == "end\n", "{told:?}");
        Ok(())
    });
}

#[test]
fn read_only_paths_are_read_only() {
    check(Who::All, |lab| {
        let script = "cat /proc/sys/kernel/ostype; echo 1 2>/dev/null > /proc/sys/net/ipv4/ip_forward || echo no
            touch /home/x 2>/dev/null || echo no";
        let told = lab.text(script, |config| {
            add(&mut config["linux"]["readonlyPaths"], json!("/home"));
            add(&mut config["linux"]["readonlyPaths"], json!("/not/there"));
        })?;
        same(told, "Linux\nno\nno")
    });
}

#[test]
fn host_mounts_do_not_show_inside() {
    check(Who::All, |lab| {
        let told = lab.text("cat /proc/self/mountinfo", as_is)?;
        for line in told.lines() {
            let place = line.split(' ').nth(4).unwrap_or_default();
            let known = ["/", "/proc", "/dev", "/sys"];
            let below = known
                .iter()
                .skip(1)
                .any(|top| place.starts_with(&format!("{top}/")));
            ensure!(known.contains(&place) || below, "{line}");
        }
        Ok(())
    });
}

#[test]
fn propagation_of_a_mount_is_as_asked() {
    check(Who::All, |lab| {
        let folder = shared_folder(lab)?;
        finish(
            lab.host
                .command("mount")
                .args(["--make-shared"])
                .arg(folder.join("below")),
        )?
        .text()?;
        for (option, word) in [
            ("rslave", "master:"),
            ("rshared", "shared:"),
            ("rprivate", " - "),
        ] {
            let told = lab.text("grep ' /mnt ' /proc/self/mountinfo", |config| {
                bind(config, &folder.join("below"), "/mnt", &["rbind", option]);
                let root = if option == "rshared" {
                    "shared"
                } else {
                    "rslave"
                };
                config["linux"]["rootfsPropagation"] = json!(root);
            })?;
            holds(&told, &[word])?;
            ensure!(option == "rshared" || !told.contains("shared:"), "{told}");
        }
        unmount(lab)
    });
}

#[test]
fn a_mount_of_the_host_comes_in_by_rslave() {
    check(Who::All, |lab| {
        let folder = shared_folder(lab)?;
        let below = folder.join("below");
        finish(lab.host.command("mount").arg("--make-shared").arg(&below))?.text()?;
        fs_in_host(lab, &format!("mkdir {}/late", below.display()))?;
        lab.start("c", |config| {
            bind(config, &below, "/mnt", &["rbind", "rslave"]);
            config["linux"]["rootfsPropagation"] = json!("rslave");
        })?;
        let late = below.join("late");
        fs_in_host(
            lab,
            &format!(
                "mount -t tmpfs late {0} && echo hello > {0}/file",
                late.display()
            ),
        )?;
        same(lab.exec("c", "cat /mnt/late/file")?, "hello")?;
        fs_in_host(lab, &format!("umount {}", late.display()))?;
        lab.remove("c")?;
        unmount(lab)
    });
}

fn fs_in_host(lab: &Lab, script: &str) -> Result<()> {
    finish(lab.host.command("sh").args(["-c", script]))?
        .text()
        .map(drop)
}

#[test]
fn root_propagation_is_as_asked() {
    check(Who::All, |lab| {
        for (asked, shared) in [("private", false), ("shared", true)] {
            let told = lab.text(
                "grep ' / / ' /proc/self/mountinfo || grep -m1 ' / ' /proc/self/mountinfo",
                |config| {
                    config["linux"]["rootfsPropagation"] = json!(asked);
                },
            )?;
            ensure!(told.contains("shared:") == shared, "{asked}: {told}");
        }
        Ok(())
    });
}

#[test]
fn devices_are_made_and_allowed() {
    check(Who::All, |lab| {
        let script = "stat -c '%n %t:%T %a %u:%g %F' /dev/extra; head -c 2 /dev/extra | wc -c
            mknod /dev/x c 1 3 2>/dev/null; ls /dev/fuse 2>/dev/null; true";
        let told = lab.text(script, |config| {
            config["linux"]["devices"] = json!([{
                "path": "/dev/extra", "type": "c", "major": 1, "minor": 5,
                "fileMode": 0o604, "uid": 3, "gid": 4,
            }]);
            let rule = json!({"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rw"});
            add(&mut config["linux"]["resources"]["devices"], rule);
        })?;
        same(told, "/dev/extra 1:5 604 3:4 character special file\n2")
    });
}

#[test]
fn devices_that_no_rule_allows_are_denied() {
    check(Who::All, |lab| {
        let bundle = lab.bundle("c", as_is)?;
        let node = bundle.join("rootfs/node");
        finish(lab.host.command("mknod").arg(node).args(["c", "10", "229"]))?.text()?;
        let outcome = lab.run("head -c 1 /node", as_is)?;
        holds(outcome.complaint()?, &["Operation not permitted"])?;
        let told = lab.text("exec 3<> /node && echo open", |config| {
            let rule =
                json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"});
            add(&mut config["linux"]["resources"]["devices"], rule);
        })?;
        same(told, "open")
    });
}
