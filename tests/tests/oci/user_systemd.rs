//! A user's systemd: it has a part of the tree, and makes scopes in it for its user.
//!
//! The case starts one as `user@.service` would, and asks it twice: by its own
//! socket while the user has no bus, and then by the user's bus. The runtime is
//! called by that user, who is no root and may do all the same (ambient
//! capabilities, capabilities(7)), so that only the conversation is judged here.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::TempDir;

use crate::check::{Who, check};
use crate::lab::{Lab, eventually, has_only_v2, holds, path, same};
use crate::outcome::{Outcome, finish};

/// A user who is on every machine and does nothing.
const USER: &str = "daemon";
const UID: u32 = 1;
const SLICE: &str = "berthtests.slice";
const BUS_SOCKET: &str = "[Socket]\nListenStream=%t/bus\n";
const BUS_SERVICE: &str = "[Unit]
Requires=dbus.socket

[Service]
ExecStart=/usr/bin/dbus-daemon --session --address=systemd: --nofork --nopidfile --syslog-only
";

/// The user's systemd, with what it has in memory and on disk.
struct UserSystemd {
    folder: TempDir,
    unit: String,
}

impl UserSystemd {
    fn start(lab: &Lab) -> Result<UserSystemd> {
        let folder = tempfile::Builder::new().prefix("berth-user-").tempdir()?;
        let units = folder.path().join("units/systemd/user");
        fs::create_dir_all(&units)?;
        fs::write(units.join("dbus.socket"), BUS_SOCKET)?;
        fs::write(units.join("dbus.service"), BUS_SERVICE)?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        chown(folder.path(), Some(UID), Some(UID))?;
        let unit = format!("{}.service", lab.host.name());
        let place = path(folder.path());
        let mut run = Command::new("systemd-run");
        run.args(["--collect", "--unit", &unit])
            .args(["--property", &format!("User={USER}")])
            .args(["--property", "Delegate=yes"])
            .args(["--setenv", &format!("HOME={place}")])
            .args(["--setenv", &format!("XDG_RUNTIME_DIR={place}")])
            .args(["--setenv", &format!("XDG_CONFIG_HOME={place}/units")])
            .args(["/lib/systemd/systemd", "--user"]);
        finish(&mut run)?.text()?;
        let user = UserSystemd { folder, unit };
        eventually(|| user.control(&["is-active", "basic.target"])?.text())
            .context("the user's systemd")?;
        Ok(user)
    }

    /// `systemctl`, as the user.
    fn control(&self, words: &[&str]) -> Result<Outcome> {
        let mut command = as_user("systemctl");
        command
            .arg("--user")
            .args(words)
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .env("XDG_RUNTIME_DIR", self.folder.path());
        finish(&mut command)
    }

    /// Whether it has come to a bus: it is told that there is one, and takes its time.
    fn is_on(&self, bus: &str) -> Result<String> {
        let mut command = as_user("busctl");
        command
            .arg(format!("--address={bus}"))
            .args(["call", "org.freedesktop.DBus", "/org/freedesktop/DBus"])
            .args(["org.freedesktop.DBus", "NameHasOwner", "s"])
            .arg("org.freedesktop.systemd1");
        finish(&mut command)?.text()
    }

    fn shown(&self, unit: &str, property: &str) -> Result<String> {
        self.control(&["show", "--value", "--property", property, unit])?
            .text()
    }

    /// The runtime, called by the user.
    fn call(&self, lab: &Lab, way: (&str, &str), words: &[&str]) -> Result<Outcome> {
        let mut command = lab.host.command("setpriv");
        command
            .args([&format!("--reuid={USER}"), &format!("--regid={USER}")])
            .args(["--clear-groups", "--inh-caps=+all", "--ambient-caps=+all"])
            .arg(&lab.runtime.path)
            .arg("--root")
            .arg(lab.root())
            .args(words)
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .env_remove("XDG_RUNTIME_DIR")
            .env(way.0, way.1);
        finish(&mut command)
    }
}

/// A program, called by the user.
fn as_user(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args([&format!("--reuid={USER}"), &format!("--regid={USER}")])
        .args(["--clear-groups", program]);
    command
}

impl Drop for UserSystemd {
    fn drop(&mut self) {
        let _ = finish(Command::new("systemctl").args(["stop", &self.unit]));
    }
}

#[test]
fn a_users_systemd_makes_keeps_and_stops_a_scope() {
    if !Path::new("/run/systemd/system").is_dir() || !has_only_v2() {
        eprintln!("NOT RUN: no systemd with version 2 only here; `./x vm-test` has");
        return;
    }
    check(Who::Berth, |lab| {
        let user = UserSystemd::start(lab)?;
        let place = path(user.folder.path());
        ensure!(!Path::new(place).join("bus").exists(), "a bus by itself");
        scope_lives(lab, &user, "own", ("XDG_RUNTIME_DIR", place)).context("by its own socket")?;
        user.control(&["start", "dbus.socket", "dbus.service"])?
            .text()?;
        let bus = format!("unix:path={place}/bus");
        eventually(|| same(user.is_on(&bus)?, "b true")).context("its name on the bus")?;
        scope_lives(lab, &user, "bus", ("DBUS_SESSION_BUS_ADDRESS", &bus)).context("by the bus")
    });
}

/// A container's life in a scope of the user's; `way` is the variable that leads
/// the runtime to systemd.
fn scope_lives(lab: &Lab, user: &UserSystemd, id: &str, way: (&str, &str)) -> Result<()> {
    let call = |words: &[&str]| user.call(lab, way, words);
    let bundle = lab.bundle(id, |config| {
        config["linux"]["cgroupsPath"] = format!("{SLICE}:berth:{}-{id}", lab.host.name()).into();
        config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
        config["linux"]["resources"]["pids"] = json!({"limit": 20});
    })?;
    let words = ["--systemd-cgroup", "run", "--detach", "--bundle"];
    call(&[&words[..], &[path(&bundle), id]].concat())?.text()?;
    let unit = format!("berth-{}-{id}.scope", lab.host.name());
    same(user.shown(&unit, "ActiveState")?, "active")?;
    same(user.shown(&unit, "Slice")?, SLICE)?;
    same(user.shown(&unit, "TasksMax")?, "20")?;
    let pid = lab.pid(id)?;
    let group = format!("/system.slice/{}/{SLICE}/{unit}", user.unit);
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    holds(groups, &[&group])?;
    let words = ["update", "--pids-limit", "30", id];
    call(&words)?.text()?;
    same(user.shown(&unit, "TasksMax")?, "30")?;
    user.control(&["daemon-reload"])?.text()?;
    let file = format!("/sys/fs/cgroup{group}/pids.max");
    same(fs::read_to_string(file)?.trim(), "30")?;
    let words = ["exec", id, "echo", "inside"];
    same(call(&words)?.text()?, "inside")?;
    call(&["delete", "--force", id])?.text()?;
    eventually(|| same(user.shown(&unit, "ActiveState")?, "inactive"))?;
    ensure!(!Path::new(&format!("/sys/fs/cgroup{group}")).exists());
    Ok(())
}
