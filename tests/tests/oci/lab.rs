//! A machine with one runtime on it: makes bundles, calls the runtime, looks.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use berth_tests::host::Host;
use berth_tests::image::busybox;
use berth_tests::image::layer::Content;
use berth_tests::patience::stretched;
use serde_json::{Value, json};

use crate::check::Runtime;
use crate::outcome::{LIMIT, Outcome, finish};

/// Which cgroups the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hierarchies {
    /// Those of one version only: v1 where the machine has v1 and v2 side by side.
    OneVersion,
    /// Whatever the machine has that runs the suite.
    AsTheMachine,
}

/// Whether version 2 is all that the machine has.
pub fn has_only_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Where version 2 is mounted, beside version 1 or alone.
pub fn top_of_v2() -> &'static str {
    match has_only_v2() {
        true => "/sys/fs/cgroup",
        false => "/sys/fs/cgroup/unified",
    }
}

/// Copies a program that is then executed. By another process: a child that some other
/// case starts meanwhile has this one's descriptors until its exec, and a file that
/// anybody may write to cannot be executed (`ETXTBSY`).
pub fn copy_program(from: &Path, to: &Path) -> Result<()> {
    let mut copy = std::process::Command::new("cp");
    crate::outcome::finish(copy.args([from, to]))?
        .text()
        .map(drop)
}

/// Whether the kernel is of this version or a later one.
pub fn kernel_is(wanted: (u32, u32)) -> bool {
    let found = rustix::system::uname();
    let release = found.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= wanted,
        _ => panic!("{release:?} is no kernel's release"),
    }
}

/// The machine.
pub struct Lab {
    /// Its namespaces and folders.
    pub host: Host,
    /// The runtime under test.
    pub runtime: Runtime,
    ids: RefCell<Vec<String>>,
}

/// Does not change the configuration.
pub fn as_is(_: &mut Value) {}

impl Lab {
    /// Makes the machine, with a file `secret` outside of all containers.
    ///
    /// # Errors
    ///
    /// The caller is not root.
    pub fn new(runtime: Runtime, hierarchies: Hierarchies) -> Result<Lab> {
        let host = Host::new()?;
        let unified = Path::new("/sys/fs/cgroup/unified");
        if hierarchies == Hierarchies::OneVersion && unified.join("cgroup.procs").exists() {
            finish(host.command("umount").arg(unified))?.text()?;
        }
        fs::write(host.work_dir().join("secret"), "of the host\n")?;
        Ok(Lab {
            host,
            runtime,
            ids: RefCell::default(),
        })
    }

    /// A call of the runtime.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.host.command(&self.runtime.path);
        command.arg("--root").arg(self.root()).args(words);
        command
    }

    /// Where the runtime keeps its state.
    pub fn root(&self) -> PathBuf {
        self.host.run_dir().join("oci")
    }

    /// Calls the runtime and waits.
    ///
    /// # Errors
    ///
    /// It took too long. That it failed is no error here.
    pub fn call(&self, words: &[&str]) -> Result<Outcome> {
        finish(&mut self.command(words))
    }

    /// Makes a bundle with a rootfs of busybox; `change` has the last word on
    /// its configuration.
    ///
    /// # Errors
    ///
    /// The disk is full.
    pub fn bundle(&self, id: &str, change: impl FnOnce(&mut Value)) -> Result<PathBuf> {
        self.ids.borrow_mut().push(id.to_owned());
        let bundle = self.host.work_dir().join(id);
        let rootfs = bundle.join("rootfs");
        if !rootfs.exists() {
            make_rootfs(&rootfs)?;
        }
        let mut config = configuration(&self.group(id));
        change(&mut config);
        fs::write(bundle.join("config.json"), serde_json::to_vec(&config)?)?;
        Ok(bundle)
    }

    /// The container's cgroup. Not below another one: runc leaves those behind.
    pub fn group(&self, id: &str) -> String {
        format!("/{}-{id}", self.host.name())
    }

    /// The folder of the container's group with a controller. In version 2 it is one
    /// for all controllers.
    pub fn group_folder(&self, id: &str, controller: &str) -> String {
        match has_only_v2() {
            true => format!("/sys/fs/cgroup{}", self.group(id)),
            false => format!("/sys/fs/cgroup/{controller}{}", self.group(id)),
        }
    }

    /// Reads a file of the container's group.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn group_file(&self, id: &str, controller: &str, file: &str) -> Result<String> {
        let path = format!("{}/{file}", self.group_folder(id, controller));
        let text = fs::read_to_string(&path).context(path)?;
        Ok(text.trim().to_owned())
    }

    /// Runs a script of the shell in a container `c` to its end.
    ///
    /// # Errors
    ///
    /// It took too long.
    pub fn run(&self, script: &str, change: impl FnOnce(&mut Value)) -> Result<Outcome> {
        let bundle = self.bundle("c", |config| {
            config["process"]["args"] = json!(["sh", "-c", script]);
            change(config);
        })?;
        self.call(&["run", "--bundle", path(&bundle), "c"])
    }

    /// What a script writes.
    ///
    /// # Errors
    ///
    /// It failed.
    pub fn text(&self, script: &str, change: impl FnOnce(&mut Value)) -> Result<String> {
        self.run(script, change)?.text()
    }

    /// Creates a container whose program sleeps unless `change` says otherwise.
    ///
    /// # Errors
    ///
    /// The runtime refused.
    pub fn create(&self, id: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
        let bundle = self.bundle(id, change)?;
        let words = ["create", "--bundle", path(&bundle), id];
        self.call(&words)?.text().context("create").map(drop)
    }

    /// Creates and starts a container.
    ///
    /// # Errors
    ///
    /// The runtime refused.
    pub fn start(&self, id: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
        self.create(id, change)?;
        self.call(&["start", id])?.text().context("start").map(drop)
    }

    /// Runs a script in a container that runs.
    ///
    /// # Errors
    ///
    /// It failed.
    pub fn exec(&self, id: &str, script: &str) -> Result<String> {
        self.call(&["exec", id, "sh", "-c", script])?
            .text()
            .context("exec")
    }

    /// The container's state.
    ///
    /// # Errors
    ///
    /// There is no such container.
    pub fn state(&self, id: &str) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.call(&["state", id])?.text().context("state")?,
        )?)
    }

    /// The number of init.
    ///
    /// # Errors
    ///
    /// There is no such container.
    pub fn pid(&self, id: &str) -> Result<u32> {
        let state = self.state(id)?;
        let pid = state["pid"]
            .as_u64()
            .ok_or_else(|| anyhow!("a pid: {state}"))?;
        Ok(u32::try_from(pid)?)
    }

    /// Waits for a status.
    ///
    /// # Errors
    ///
    /// It did not come.
    pub fn wait_for(&self, id: &str, status: &str) -> Result<()> {
        eventually(|| {
            let state = self.state(id)?;
            ensure!(state["status"] == status, "{status} is awaited: {state}");
            Ok(())
        })
    }

    /// Ends a container and takes it away.
    ///
    /// # Errors
    ///
    /// The runtime refused.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.call(&["delete", "--force", id])?
            .text()
            .context("delete --force")
            .map(drop)
    }

    /// Takes away whatever a broken case may have left.
    pub fn clean_up(&self) {
        for id in self.ids.borrow().iter() {
            if self.root().join(id).exists() {
                // There is nobody left to tell.
                let _ = self.call(&["delete", "--force", id]);
            }
        }
        for group in berth_tests::sweep::cgroups(self.host.name()).iter().rev() {
            let _ = fs::remove_dir(group);
        }
    }
}

/// Tries again until it goes well or the time is over.
///
/// # Errors
///
/// The last one.
pub fn eventually<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + stretched(LIMIT);
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => {}
            outcome => return outcome,
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A path as an argument.
///
/// # Panics
///
/// It is no text; the harness makes none such.
pub fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Asserts two texts to be the same.
///
/// # Errors
///
/// They are not.
pub fn same(found: impl AsRef<str>, wanted: &str) -> Result<()> {
    let found = found.as_ref();
    ensure!(found == wanted, "found {found:?}, wanted {wanted:?}");
    Ok(())
}

/// Asserts that a text holds all of some words.
///
/// # Errors
///
/// One is missing.
pub fn holds(text: impl AsRef<str>, words: &[&str]) -> Result<()> {
    let text = text.as_ref();
    match words.iter().find(|word| !text.contains(**word)) {
        Some(word) => bail!("{word:?} is not in {text:?}"),
        None => Ok(()),
    }
}

/// Adds to a list in the configuration, which may be missing yet.
pub fn add(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = json!([item]),
    }
}

/// Writes the rootfs from the plan of the image.
fn make_rootfs(rootfs: &Path) -> Result<()> {
    fs::create_dir_all(rootfs)?;
    for entry in busybox::layer()?.entries {
        let place = rootfs.join(&entry.path);
        match &entry.content {
            Content::Directory => fs::create_dir(&place)?,
            Content::File(bytes) => fs::write(&place, bytes)?,
            Content::Symlink(target) => symlink(target, &place)?,
            Content::HardLink(target) => fs::hard_link(rootfs.join(target), &place)?,
            _ => bail!("{} is none of busybox's kinds", entry.path),
        }
        if matches!(entry.content, Content::Directory | Content::File(_)) {
            fs::set_permissions(&place, fs::Permissions::from_mode(entry.mode))?;
        }
    }
    Ok(())
}

/// A configuration as engines write it.
fn configuration(group: &str) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["sleep", "1000"],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "lab",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
        ],
        "linux": {
            "cgroupsPath": group,
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"},
                {"type": "uts"}, {"type": "mount"}
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}
