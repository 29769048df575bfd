//! User namespaces: ids of the container's own, and mounts whose owners are moved.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::check::{Who, check};
use crate::lab::{Lab, add, holds, kernel_is, path, same, top_of_v2};
use crate::outcome::finish;

/// The host's id behind the container's 0.
pub const FIRST: u32 = 200_000;

/// Gives the container ids of its own, from [`FIRST`] on.
pub fn isolate(config: &mut Value) {
    add(&mut config["linux"]["namespaces"], json!({"type": "user"}));
    let mapping = json!([{"containerID": 0, "hostID": FIRST, "size": 65536}]);
    config["linux"]["uidMappings"] = mapping.clone();
    config["linux"]["gidMappings"] = mapping;
}

/// Makes a bundle's folder passable and its rootfs the mapped root's, as engines
/// do. (What of that is needed is another question: see below.)
pub fn hand_over(lab: &Lab, id: &str) -> Result<()> {
    let work = lab.host.work_dir();
    for folder in [lab.host.directory(), &work, &work.join(id)] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?;
    }
    let rootfs = work.join(id).join("rootfs");
    finish(std::process::Command::new("chown").args([
        "-Rh",
        &format!("{FIRST}:{FIRST}"),
        path(&rootfs),
    ]))?
    .text()
    .map(drop)
}

/// Runs a script in a container with a user namespace.
fn text(lab: &Lab, script: &str, change: impl FnOnce(&mut Value)) -> Result<String> {
    lab.bundle("c", isolate)?;
    hand_over(lab, "c")?;
    lab.text(script, |config| {
        isolate(config);
        change(config);
    })
}

/// Starts a container with a user namespace that sleeps.
fn start(lab: &Lab, id: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
    lab.bundle(id, isolate)?;
    hand_over(lab, id)?;
    lab.start(id, |config| {
        isolate(config);
        change(config);
    })
}

fn grant(config: &mut Value, capability: &str) {
    for set in ["bounding", "effective", "permitted"] {
        add(
            &mut config["process"]["capabilities"][set],
            json!(capability),
        );
    }
}

fn folder_of(lab: &Lab, name: &str) -> Result<PathBuf> {
    let folder = lab.host.work_dir().join(name);
    fs::create_dir(&folder)?;
    Ok(folder)
}

fn bind(config: &mut Value, source: &Path, destination: &str, options: &[&str]) {
    let mount = json!({
        "type": "bind", "source": source, "destination": destination, "options": options,
    });
    add(&mut config["mounts"], mount);
}

#[test]
fn root_inside_is_nobody_outside() {
    check(Who::All, |lab| {
        let script = "id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; \
            cat /proc/self/setgroups; touch /made; grep ^Groups /proc/self/status";
        let told = text(lab, script, |_| {})?;
        let line = format!(" 0 {FIRST} 65536");
        same(
            told.replace("\t\n", "\n").trim_end(),
            &format!("0\n0\n{line}\n{line}\nallow\nGroups:"),
        )?;
        let made = fs::metadata(lab.host.work_dir().join("c/rootfs/made"))?;
        ensure!((made.uid(), made.gid()) == (FIRST, FIRST));
        Ok(())
    });
}

#[test]
fn what_is_new_belongs_to_it() {
    check(Who::All, |lab| {
        let script = "hostname inside; hostname; mount -t tmpfs t /tmp && echo mounted; \
            echo 1 > /proc/sys/net/ipv4/ip_forward && echo set; \
            mknod /tmp/disk b 8 0 2>/dev/null || echo no node";
        let told = text(lab, script, |config| {
            grant(config, "CAP_SYS_ADMIN");
            grant(config, "CAP_NET_ADMIN");
            grant(config, "CAP_MKNOD");
            config["linux"]["readonlyPaths"] = json!([]);
        })?;
        same(told, "inside\nmounted\nset\nno node")
    });
}

#[test]
fn users_and_groups_are_its_own() {
    check(Who::All, |lab| {
        let script = "id -u; id -g; id -G; touch /tmp/made; stat -c %u:%g /tmp/made";
        let told = text(lab, script, |config| {
            config["process"]["user"] =
                json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 1002]});
        })?;
        same(told, "1000\n1001\n1001 5 1002\n1000:1001")?;
        let made = fs::metadata(lab.host.work_dir().join("c/rootfs/tmp/made"))?;
        ensure!((made.uid(), made.gid()) == (FIRST + 1000, FIRST + 1001));
        Ok(())
    });
}

#[test]
fn devices_are_the_hosts() {
    check(Who::All, |lab| {
        let script = "echo x > /dev/null && head -c 3 /dev/zero | wc -c; \
            stat -c '%t %T' /dev/null /dev/urandom /dev/tty; [ -e /dev/ptmx ] && echo ptmx";
        same(text(lab, script, |_| {})?, "3\n1 3\n1 9\n5 0\nptmx")
    });
}

#[test]
fn masks_and_limits_hold() {
    check(Who::All, |lab| {
        let script = "ls /sys/firmware | wc -l; \
            echo 1 2>/dev/null > /proc/sysrq-trigger || echo read-only; \
            ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; umask";
        let told = text(lab, script, |config| {
            config["process"]["rlimits"] =
                json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
            config["process"]["oomScoreAdj"] = json!(500);
            config["process"]["user"]["umask"] = json!(0o27);
        })?;
        same(told, "0\nread-only\n100\n200\n500\n0027")
    });
}

#[test]
fn it_is_counted() {
    check(Who::All, |lab| {
        start(lab, "c", |config| {
            config["linux"]["resources"]["pids"] = json!({"limit": 30});
        })?;
        let procs = lab.group_file("c", "pids", "cgroup.procs")?;
        same(procs, &lab.pid("c")?.to_string())?;
        same(lab.group_file("c", "pids", "pids.max")?, "30")?;
        holds(lab.call(&["ps", "--format", "json", "c"])?.text()?, &["["])?;
        lab.remove("c")
    });
}

#[test]
fn sysctls_of_its_namespaces_are_set() {
    check(Who::All, |lab| {
        let script = "cat /proc/sys/net/ipv4/ip_forward";
        let told = text(lab, script, |config| {
            config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        })?;
        same(told, "1")
    });
}

#[test]
fn exec_is_inside() {
    check(Who::All, |lab| {
        start(lab, "c", |_| {})?;
        let script = "id -u; tr -s ' ' < /proc/self/uid_map; touch /made; \
            for n in user pid net ipc uts mnt; do
            [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] || echo $n; done";
        same(lab.exec("c", script)?, &format!("0\n 0 {FIRST} 65536"))?;
        let made = fs::metadata(lab.host.work_dir().join("c/rootfs/made"))?;
        ensure!(made.uid() == FIRST);
        let told = lab.call(&["exec", "--user", "7:8", "c", "sh", "-c", "id -u; id -g"])?;
        same(told.text()?, "7\n8")?;
        lab.remove("c")
    });
}

#[test]
fn a_pods_containers_share_it_by_path() {
    check(Who::All, |lab| {
        start(lab, "one", |_| {})?;
        let first = lab.pid("one")?;
        lab.bundle("two", |_| {})?;
        hand_over(lab, "two")?;
        lab.start("two", |config| {
            isolate(config);
            config["hostname"] = Value::Null;
            for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
                let file = match namespace["type"].as_str().unwrap() {
                    "network" => "net",
                    kind @ ("ipc" | "uts" | "user") => kind,
                    _ => continue,
                };
                namespace["path"] = json!(format!("/proc/{first}/ns/{file}"));
            }
        })?;
        let second = lab.pid("two")?;
        let link = |pid: u32, file: &str| fs::read_link(format!("/proc/{pid}/ns/{file}"));
        for file in ["user", "net", "ipc", "uts"] {
            ensure!(link(first, file)? == link(second, file)?, "{file}");
        }
        ensure!(link(first, "mnt")? != link(second, "mnt")?);
        ensure!(link(first, "pid")? != link(second, "pid")?);
        same(lab.exec("two", "id -u; hostname; echo $$ > /made; [ $(ls /proc | grep -c '^[0-9]*$') -lt 9 ] && echo few")?, "0\nlab\nfew")?;
        lab.remove("two")?;
        lab.remove("one")
    });
}

#[test]
fn a_network_of_the_hosts_may_be_joined() {
    check(Who::All, |lab| {
        lab.start("one", |_| {})?;
        let first = lab.pid("one")?;
        start(lab, "two", |config| {
            config["linux"]["namespaces"][1]["path"] = json!(format!("/proc/{first}/ns/net"));
            // Its owner is the host, so no sysfs of it may be mounted.
            config["mounts"]
                .as_array_mut()
                .unwrap()
                .retain(|mount| mount["type"] != "sysfs" && mount["type"] != "cgroup");
        })?;
        let second = lab.pid("two")?;
        let link = |pid: u32, file: &str| fs::read_link(format!("/proc/{pid}/ns/{file}"));
        ensure!(link(first, "net")? == link(second, "net")?);
        ensure!(link(first, "user")? != link(second, "user")?);
        same(lab.exec("two", "id -u")?, "0")?;
        lab.remove("two")?;
        lab.remove("one")
    });
}

#[test]
fn where_a_namespace_is_the_hosts_so_is_its_filesystem() {
    check(Who::Berth, |lab| {
        let told = text(
            lab,
            "ls /sys/class/net | grep -x lo; test -d /proc/1 && echo proc",
            |config| {
                config["linux"]["namespaces"]
                    .as_array_mut()
                    .unwrap()
                    .retain(|namespace| {
                        namespace["type"] != "network" && namespace["type"] != "pid"
                    });
            },
        )?;
        same(told, "lo\nproc")
    });
}

#[test]
fn folders_in_the_way_may_be_closed() {
    check(Who::Berth, |lab| {
        lab.bundle("c", isolate)?;
        hand_over(lab, "c")?;
        let closed = folder_of(lab, "closed")?;
        fs::write(closed.join("file"), "reached\n")?;
        fs::set_permissions(closed.join("file"), fs::Permissions::from_mode(0o644))?;
        for folder in [lab.host.directory(), &lab.host.work_dir(), &closed] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        }
        // Of somebody else, so that not even the caller's own user gets in.
        chown(&closed, Some(4242), Some(4242))?;
        let told = lab.text(
            "cat /mnt; touch /made; grep -c berth-host /proc/mounts",
            |config| {
                isolate(config);
                bind(config, &closed.join("file"), "/mnt", &["bind", "ro"]);
            },
        );
        // The last command finds the host's folder in no mount point.
        ensure!(told.is_err(), "grep finds nothing: {told:?}");
        let told = lab.text("cat /mnt; touch /made; pwd", |config| {
            isolate(config);
            bind(config, &closed.join("file"), "/mnt", &["bind", "ro"]);
        })?;
        same(told, "reached\n/")
    });
}

#[test]
fn a_shared_volume_tells_the_host_nothing() {
    check(Who::All, |lab| {
        let folder = folder_of(lab, "shared")?;
        fs::create_dir(folder.join("below"))?;
        chown(&folder, Some(FIRST), Some(FIRST))?;
        let script = format!(
            "mount --bind {0} {0} && mount --make-shared {0}",
            folder.display()
        );
        finish(lab.host.command("sh").args(["-c", &script]))?.text()?;
        let told = text(
            lab,
            "mount -t tmpfs t /mnt/below && touch /mnt/below/in && ls /mnt/below",
            |config| {
                grant(config, "CAP_SYS_ADMIN");
                bind(config, &folder, "/mnt", &["rbind"]);
            },
        )?;
        same(told, "in")?;
        let script = format!("ls {0}/below; umount {0}", folder.display());
        same(
            finish(lab.host.command("sh").args(["-c", &script]))?.text()?,
            "",
        )
    });
}

#[test]
fn streams_may_be_opened_anew() {
    check(Who::Berth, |lab| {
        let bundle = lab.bundle("c", |config| {
            isolate(config);
            config["process"]["args"] = json!(["sh", "-c", "echo again > /dev/stdout"]);
            config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        })?;
        hand_over(lab, "c")?;
        let mut command = lab.command(&["run", "--bundle", path(&bundle), "c"]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut told = String::new();
        child.stdout.take().unwrap().read_to_string(&mut told)?;
        ensure!(child.wait()?.success());
        same(told, "again\n")
    });
}

#[test]
fn a_bad_mapping_is_refused_by_name() {
    check(Who::Berth, |lab| {
        let range = |inside: u32, outside: u64, size: u32| json!({"containerID": inside, "hostID": outside, "size": size});
        for (mappings, words) in [
            (json!([]), ["linux.uidMappings", "expected at least one"]),
            (
                json!([range(0, 5, 0)]),
                ["linux.uidMappings[0].size", "found 0"],
            ),
            (
                json!([range(0, 5, 10), range(5, 100, 10)]),
                ["linux.uidMappings[1].containerID", "meet those of [0]"],
            ),
            (
                json!([range(0, 4_294_967_295, 1)]),
                ["linux.uidMappings[0].hostID", "run past"],
            ),
        ] {
            let refused = lab.run("true", |config| {
                isolate(config);
                config["linux"]["uidMappings"] = mappings;
            })?;
            holds(refused.complaint()?, &words)?;
        }
        let refused = lab.run("true", |config| {
            isolate(config);
            config["linux"]["namespaces"].as_array_mut().unwrap().pop();
        })?;
        holds(
            refused.complaint()?,
            &["linux.uidMappings", "no user namespace"],
        )
    });
}

#[test]
fn a_map_without_zero_has_a_root_too() {
    check(Who::Berth, |lab| {
        lab.bundle("c", isolate)?;
        hand_over(lab, "c")?;
        let told = lab.text("id -u; id -g; tr -s ' ' < /proc/self/uid_map", |config| {
            isolate(config);
            let mapping = json!([{"containerID": 1000, "hostID": FIRST, "size": 1}]);
            config["linux"]["uidMappings"] = mapping.clone();
            config["linux"]["gidMappings"] = mapping;
            config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        })?;
        same(told, &format!("1000\n1000\n 1000 {FIRST} 1"))
    });
}

#[test]
fn hooks_see_the_ids() {
    check(Who::All, |lab| {
        let work = lab.host.work_dir();
        let script = format!(
            "pid=$(tr -d '\\n \"' | sed 's/.*pid:\\([0-9]*\\).*/\\1/'); cat /proc/$pid/uid_map > {}",
            work.join("told").display()
        );
        text(lab, "true", |config| {
            config["hooks"] = json!({"createRuntime": [
                {"path": "/bin/sh", "args": ["sh", "-c", script]},
            ]});
        })?;
        holds(fs::read_to_string(work.join("told"))?, &["200000", "65536"])
    });
}

#[test]
fn a_cgroup_that_shows_writable_is_handed_over() {
    check(Who::Hybrid, |lab| {
        start(lab, "c", |config| {
            add(
                &mut config["linux"]["namespaces"],
                json!({"type": "cgroup"}),
            );
            for mount in config["mounts"].as_array_mut().unwrap() {
                if mount["type"] == "cgroup" {
                    mount["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
                }
            }
        })?;
        let top = top_of_v2();
        let group = PathBuf::from(format!("{top}{}", lab.group("c")));
        let procs = fs::metadata(group.join("cgroup.procs"))?;
        let kept = fs::metadata(group.join("cgroup.type"))?;
        ensure!(fs::metadata(&group)?.uid() == FIRST && procs.uid() == FIRST);
        ensure!(kept.uid() == 0, "what limits it stays the host's");
        lab.exec("c", &format!("mkdir {top}/mine && rmdir {top}/mine"))?;
        lab.remove("c")
    });
}

/// A volume of the host's root, with a tmpfs below it.
fn volume(lab: &Lab) -> Result<PathBuf> {
    let folder = folder_of(lab, "volume")?;
    fs::create_dir(folder.join("below"))?;
    fs::write(folder.join("file"), "")?;
    chown(folder.join("file"), Some(7), Some(8))?;
    let script = format!(
        "mount -t tmpfs below {0}/below && touch {0}/below/file",
        folder.display()
    );
    finish(lab.host.command("sh").args(["-c", &script]))?.text()?;
    Ok(folder)
}

/// Whether the kernel maps ids of what lies below a volume.
fn maps_ids_of_tmpfs() -> bool {
    kernel_is((6, 3))
}

fn unmount_volume(lab: &Lab) -> Result<()> {
    let below = lab.host.work_dir().join("volume/below");
    finish(lab.host.command("umount").arg(below))?
        .text()
        .map(drop)
}

const OWNERS: &str = "stat -c %u:%g /mnt /mnt/file /mnt/below/file";

#[test]
fn an_id_mapped_volume_is_the_containers() {
    check(Who::Berth, |lab| {
        let folder = volume(lab)?;
        for (options, below) in [
            (["rbind", "idmap"], "65534:65534"),
            (["rbind", "ridmap"], "0:0"),
        ] {
            if options[1] == "ridmap" && !maps_ids_of_tmpfs() {
                let refused = lab.run(OWNERS, |config| {
                    isolate(config);
                    bind(config, &folder, "/mnt", &options);
                })?;
                holds(refused.complaint()?, &["mounts[7]", "cannot map ids"])?;
                continue;
            }
            let told = text(lab, OWNERS, |config| {
                bind(config, &folder, "/mnt", &options)
            })?;
            same(told, &format!("0:0\n7:8\n{below}"))?;
        }
        let script = "touch /mnt/new && chown 5:6 /mnt/new && echo done";
        let told = text(lab, script, |config| {
            grant(config, "CAP_CHOWN");
            bind(config, &folder, "/mnt", &["bind", "idmap"]);
        })?;
        same(told, "done")?;
        let new = fs::metadata(folder.join("new"))?;
        ensure!(
            (new.uid(), new.gid()) == (5, 6),
            "on disk they are as inside"
        );
        unmount_volume(lab)
    });
}

#[test]
fn a_mapping_of_the_mounts_own_is_kept() {
    check(Who::Berth, |lab| {
        let folder = volume(lab)?;
        let mapped = |config: &mut Value, host: u32, options: Value| {
            let mapping = json!([{"containerID": 0, "hostID": host, "size": 100}]);
            let mount = json!({"type": "bind", "source": folder, "destination": "/mnt",
                "options": options, "uidMappings": mapping, "gidMappings": mapping});
            add(&mut config["mounts"], mount);
        };
        // Without a user namespace, and without a word: the top mount alone.
        let told = lab.text(OWNERS, |config| mapped(config, 1000, json!(["rbind"])))?;
        same(told, "1000:1000\n1007:1008\n0:0")?;
        if maps_ids_of_tmpfs() {
            let told = lab.text(OWNERS, |config| {
                mapped(config, 1000, json!(["rbind", "ridmap"]))
            })?;
            same(told, "1000:1000\n1007:1008\n1000:1000")?;
        }
        let told = text(lab, OWNERS, |config| {
            mapped(config, FIRST + 10, json!(["rbind", "idmap"]))
        })?;
        same(told, "10:10\n17:18\n65534:65534")?;
        // crun's way to write it.
        let told = text(lab, OWNERS, |config| {
            bind(
                config,
                &folder,
                "/mnt",
                &["rbind", "idmap=uids=@0-20-50;gids=0-200030-50"],
            );
        })?;
        same(told, "20:30\n27:38\n65534:65534")?;
        unmount_volume(lab)
    });
}

#[test]
fn mappings_of_mounts_are_refused_by_name() {
    check(Who::Berth, |lab| {
        let mapping = json!([{"containerID": 0, "hostID": 5, "size": 1}]);
        let cases = [
            (
                json!({"options": ["bind", "idmap"]}),
                ["mounts[7].options", "a user namespace"],
            ),
            (
                json!({"options": ["bind"], "uidMappings": mapping}),
                ["mounts[7].gidMappings", "both or none"],
            ),
            (
                json!({"options": ["idmap"], "type": "tmpfs", "uidMappings": mapping, "gidMappings": mapping}),
                ["mounts[7].options", "expected a bind mount"],
            ),
            (
                json!({"options": ["bind", "idmap=uids=0-1"]}),
                ["mounts[7].options", "DISK-HOST-COUNT"],
            ),
        ];
        for (mut mount, words) in cases {
            mount["source"] = json!(lab.host.work_dir());
            mount["destination"] = json!("/mnt");
            let refused = lab.run("true", |config| add(&mut config["mounts"], mount))?;
            holds(refused.complaint()?, &words)?;
        }
        // A filesystem that cannot: procfs has no owners to move.
        let refused = lab.run("true", |config| {
            let mount = json!({"type": "bind", "source": "/proc/sys", "destination": "/mnt",
                "options": ["bind", "idmap"], "uidMappings": mapping, "gidMappings": mapping});
            add(&mut config["mounts"], mount);
        })?;
        holds(
            refused.complaint()?,
            &["mounts[7]", "MOUNT_ATTR_IDMAP", "the filesystem cannot"],
        )
    });
}
