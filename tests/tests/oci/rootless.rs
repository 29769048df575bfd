//! Containers of an ordinary user.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::check::{Who, check};
use crate::lab::{Lab, add, copy_program, has_only_v2, holds, path, same, top_of_v2};
use crate::outcome::{Outcome, finish};

/// The user, who has no name on the machine, and one only in the test's mounts.
const USER: u32 = 23_451;
/// The first of the ids that are theirs besides.
const MORE: u32 = 500_000;

/// The user's own folder: programs, bundle and state.
struct Home {
    folder: PathBuf,
    program: PathBuf,
}

impl Home {
    fn new(lab: &Lab) -> Result<Home> {
        let folder = lab.host.work_dir().join("home");
        fs::create_dir(&folder)?;
        for open in [lab.host.directory(), &lab.host.work_dir()] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o711))?;
        }
        // Where the program is built the user may not look.
        let program = folder.join(lab.runtime.path.file_name().unwrap());
        copy_program(&lab.runtime.path, &program)?;
        fs::create_dir(folder.join("run"))?;
        let home = Home { folder, program };
        home.take(&home.folder)?;
        Ok(home)
    }

    fn take(&self, what: &std::path::Path) -> Result<()> {
        let owner = format!("{USER}:{USER}");
        finish(Command::new("chown").args(["-Rh", &owner, path(what)]))?
            .text()
            .map(drop)
    }

    /// A call of the runtime by the user.
    fn call(&self, lab: &Lab, words: &[&str]) -> Result<Outcome> {
        finish(&mut self.command(lab, words))
    }

    fn command(&self, lab: &Lab, words: &[&str]) -> Command {
        let id = USER.to_string();
        let mut command = lab.host.command("setpriv");
        command
            .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"])
            .arg(&self.program)
            .args(words)
            .env("XDG_RUNTIME_DIR", self.folder.join("run"));
        command
    }

    /// Writes a bundle in which the user alone is root.
    fn bundle(&self, lab: &Lab, id: &str, change: impl FnOnce(&mut Value)) -> Result<PathBuf> {
        let bundle = lab.bundle(id, |config| {
            add(&mut config["linux"]["namespaces"], json!({"type": "user"}));
            let own = json!([{"containerID": 0, "hostID": USER, "size": 1}]);
            config["linux"]["uidMappings"] = own.clone();
            config["linux"]["gidMappings"] = own;
            let linux = config["linux"].as_object_mut().unwrap();
            linux.remove("resources");
            linux.remove("cgroupsPath");
            config["mounts"][2]["options"]
                .as_array_mut()
                .unwrap()
                .retain(|option| option != "gid=5");
            change(config);
        })?;
        self.take(&bundle)?;
        Ok(bundle)
    }

    fn run(&self, lab: &Lab, script: &str, change: impl FnOnce(&mut Value)) -> Result<Outcome> {
        let bundle = self.bundle(lab, "c", |config| {
            config["process"]["args"] = json!(["sh", "-c", script]);
            change(config);
        })?;
        self.call(lab, &["run", "--bundle", path(&bundle), "c"])
    }
}

/// Gives the user a name and more ids, for the mounts of this host alone.
fn give_ids(lab: &Lab) -> Result<()> {
    let work = lab.host.work_dir();
    let line = format!("visitor:{MORE}:65536\n");
    let passwd = format!("root:x:0:0::/:/bin/sh\nvisitor:x:{USER}:{USER}::/:/bin/sh\n");
    for (name, text) in [("subuid", &line), ("subgid", &line), ("passwd", &passwd)] {
        fs::write(work.join(name), text)?;
        fs::set_permissions(work.join(name), fs::Permissions::from_mode(0o644))?;
        let script = format!("mount --bind {} /etc/{name}", work.join(name).display());
        finish(lab.host.command("sh").args(["-c", &script]))?.text()?;
    }
    Ok(())
}

fn take_ids(lab: &Lab) -> Result<()> {
    let files = ["/etc/subuid", "/etc/subgid", "/etc/passwd"];
    finish(lab.host.command("umount").args(files))?
        .text()
        .map(drop)
}

fn mapped(config: &mut Value) {
    let ranges = json!([
        {"containerID": 0, "hostID": USER, "size": 1},
        {"containerID": 1, "hostID": MORE, "size": 65536},
    ]);
    config["linux"]["uidMappings"] = ranges.clone();
    config["linux"]["gidMappings"] = ranges;
}

#[test]
fn a_user_is_root_of_one_id() {
    check(Who::All, |lab| {
        let home = Home::new(lab)?;
        let script = "id -u; tr -s ' ' < /proc/self/uid_map; cat /proc/self/setgroups; touch /made; \
            echo x > /dev/null && hostname && grep -c . /proc/net/dev";
        let told = home.run(lab, script, |_| {})?.text()?;
        same(told, &format!("0\n 0 {USER} 1\ndeny\nlab\n3"))?;
        let made = fs::metadata(lab.host.work_dir().join("c/rootfs/made"))?;
        ensure!((made.uid(), made.gid()) == (USER, USER));
        Ok(())
    });
}

#[test]
fn from_create_to_delete() {
    check(Who::All, |lab| {
        let home = Home::new(lab)?;
        let bundle = home.bundle(lab, "c", |_| {})?;
        home.call(lab, &["create", "--bundle", path(&bundle), "c"])?
            .text()?;
        holds(home.call(lab, &["state", "c"])?.text()?, &["created"])?;
        home.call(lab, &["start", "c"])?.text()?;
        same(home.call(lab, &["list", "-q"])?.text()?, "c")?;
        let told = home.call(
            lab,
            &["exec", "c", "sh", "-c", "id -u; hostname; touch /made"],
        )?;
        same(told.text()?, "0\nlab")?;
        home.call(lab, &["kill", "c", "KILL"])?.text()?;
        crate::lab::eventually(|| holds(home.call(lab, &["state", "c"])?.text()?, &["stopped"]))?;
        home.call(lab, &["delete", "c"])?.text()?;
        let left = fs::read_dir(home.folder.join("run"))?.count();
        ensure!(left == 1, "the state is in the user's own folder: {left}");
        Ok(())
    });
}

#[test]
fn more_ids_come_from_newuidmap() {
    check(Who::All, |lab| {
        let home = Home::new(lab)?;
        give_ids(lab)?;
        let script =
            "cd /tmp; touch root; chown 1000:1000 root && id -G && tr -s ' ' < /proc/self/uid_map";
        let told = home.run(lab, script, |config| {
            mapped(config);
            config["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [7]});
            for set in ["bounding", "effective", "permitted"] {
                add(
                    &mut config["process"]["capabilities"][set],
                    json!("CAP_CHOWN"),
                );
            }
        })?;
        same(told.text()?, &format!("0 7\n 0 {USER} 1\n 1 {MORE} 65536"))?;
        let made = fs::metadata(lab.host.work_dir().join("c/rootfs/tmp/root"))?;
        ensure!(made.uid() == MORE + 999, "{}", made.uid());
        take_ids(lab)
    });
}

#[test]
fn ids_of_others_are_refused() {
    check(Who::All, |lab| {
        let home = Home::new(lab)?;
        give_ids(lab)?;
        for host in [0, MORE - 1] {
            let refused = home.run(lab, "true", |config| {
                mapped(config);
                config["linux"]["uidMappings"][1]["hostID"] = json!(host);
            })?;
            refused.complaint()?;
        }
        take_ids(lab)
    });
}

#[test]
fn without_ids_of_its_own_the_reason_is_told() {
    check(Who::Berth, |lab| {
        let home = Home::new(lab)?;
        let refused = home.run(lab, "true", |config| {
            let linux = config["linux"].as_object_mut().unwrap();
            linux.remove("uidMappings");
            linux.remove("gidMappings");
            linux["namespaces"].as_array_mut().unwrap().pop();
        })?;
        holds(
            refused.complaint()?,
            &["clone3", "type user", "spec --rootless"],
        )
    });
}

#[test]
fn a_limit_that_cannot_be_kept_is_refused() {
    check(Who::Berth, |lab| {
        let home = Home::new(lab)?;
        let told = home.run(lab, "true", |_| {})?;
        holds(&told.stderr, &["warning", "no cgroup was delegated"])?;
        let refused = home.run(lab, "true", |config| {
            config["linux"]["resources"] = json!({"pids": {"limit": 10}});
        })?;
        holds(
            refused.complaint()?,
            &["linux.resources.pids.limit", "was delegated to this user"],
        )
    });
}

#[test]
fn a_delegated_cgroup_is_used() {
    check(Who::Berth, |lab| {
        let home = Home::new(lab)?;
        let unified = top_of_v2();
        if !has_only_v2() {
            let script = format!("mount -t cgroup2 cgroup2 {unified}");
            finish(lab.host.command("sh").args(["-c", &script]))?.text()?;
        }
        let own = PathBuf::from(format!("{unified}{}", lab.group("user")));
        // The harness sees the same tree where it stands itself.
        fs::create_dir_all(own.join("shell"))?;
        for place in [own.clone(), own.join("shell")] {
            chown(&place, Some(USER), Some(USER))?;
            chown(place.join("cgroup.procs"), Some(USER), Some(USER))?;
        }
        let bundle = home.bundle(lab, "c", |config| {
            config["linux"]["cgroupsPath"] = json!(format!("{}/c", lab.group("user")));
            config["process"]["args"] = json!(["sh", "-c", "grep ^0:: /proc/self/cgroup"]);
        })?;
        let words = ["run", "--bundle", path(&bundle), "c"];
        let inner = home.command(lab, &words);
        let line: Vec<_> = std::iter::once(inner.get_program())
            .chain(inner.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let script = format!(
            "echo 0 > {}/shell/cgroup.procs; exec {}",
            own.display(),
            line.join(" ")
        );
        let mut shell = Command::new("sh");
        lab.host.set_environment(&mut shell);
        shell
            .args(["-c", &script])
            .env("XDG_RUNTIME_DIR", home.folder.join("run"));
        let told = finish(&mut shell)?;
        ensure!(!told.stderr.contains("warning"), "{told:?}");
        same(told.text()?, &format!("0::{}/c", lab.group("user")))?;
        fs::remove_dir(own.join("shell"))?;
        fs::remove_dir(&own)?;
        if !has_only_v2() {
            finish(lab.host.command("umount").arg(unified))?.text()?;
        }
        Ok(())
    });
}

#[test]
fn the_configuration_to_begin_with_runs() {
    check(Who::All, |lab| {
        let home = Home::new(lab)?;
        let bundle = home.bundle(lab, "c", |_| {})?;
        let file = bundle.join("config.json");
        fs::remove_file(&file)?;
        home.call(lab, &["spec", "--rootless", "--bundle", path(&bundle)])?
            .text()?;
        let mut config: Value = serde_json::from_slice(&fs::read(&file)?)?;
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["id", "-u"]);
        fs::write(&file, serde_json::to_vec(&config)?)?;
        let told = home.call(lab, &["run", "--bundle", path(&bundle), "c"])?;
        same(told.text()?, "0")
    });
}
