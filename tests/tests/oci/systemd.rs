//! `--systemd-cgroup`: what systemd is asked, in which words.
//!
//! Two judges. A real `dbus-daemon` with a stand-in for systemd behind it: the
//! bus refuses a message that is not well-formed, and the stand-in keeps what it
//! is asked. And a real systemd, where the suite runs on a machine that has one
//! (`just vm-test`); elsewhere those cases say that they did not run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_runtime::dbus::connection::{Connection, Peer};
use berth_runtime::dbus::{Kind, Message, Value};
use serde_json::json;

use crate::check::{Who, check};
use crate::lab::{Lab, as_is, eventually, has_only_v2, holds, path, same};
use crate::outcome::{Outcome, finish};

const SLICE: &str = "berthtests.slice";
const BUS_CONFIGURATION: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>custom</type>
  <listen>unix:path=SOCKET</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/>
    <allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"#;

/// A bus of its own with a stand-in for systemd on it.
struct StandIn {
    daemon: Child,
    address: String,
    calls: Arc<Mutex<Vec<Message>>>,
}

impl StandIn {
    /// `refuse` names a method that is answered with an error.
    fn start(lab: &Lab, refuse: Option<&'static str>) -> Result<StandIn> {
        let folder = lab.host.work_dir();
        let socket = folder.join("bus");
        let configuration = folder.join("bus.conf");
        fs::write(
            &configuration,
            BUS_CONFIGURATION.replace("SOCKET", path(&socket)),
        )?;
        let daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", configuration.display()))
            .args(["--nofork", "--nopidfile", "--nosyslog"])
            .stdout(Stdio::null())
            .spawn()
            .context("dbus-daemon is missing: apt-get install dbus-daemon")?;
        let address = format!("unix:path={}", socket.display());
        let calls = Arc::new(Mutex::new(Vec::new()));
        let stand_in = StandIn {
            daemon,
            address,
            calls: calls.clone(),
        };
        let mut connection = eventually(|| Ok(Connection::open(&stand_in.address, Peer::Bus)?))?;
        connection.request_name("org.freedesktop.systemd1")?;
        std::thread::spawn(move || serve(&mut connection, &calls, refuse));
        Ok(stand_in)
    }

    fn call(&self, lab: &Lab, words: &[&str]) -> Result<Outcome> {
        finish(
            lab.command(words)
                .env("DBUS_SYSTEM_BUS_ADDRESS", &self.address),
        )
    }

    fn named(&self, member: &str) -> Vec<Message> {
        let calls = self.calls.lock().unwrap();
        let named = calls
            .iter()
            .filter(|call| call.member.as_deref() == Some(member));
        named.cloned().collect()
    }

    /// The value of a property in the one call of a method.
    fn property(&self, member: &str, at: usize, name: &str) -> Result<Value> {
        let calls = self.named(member);
        ensure!(calls.len() == 1, "{member} is called once: {calls:?}");
        let Some(Value::Array(_, list)) = calls[0].body.get(at) else {
            anyhow::bail!("a list: {:?}", calls[0]);
        };
        let value = list.iter().rev().find_map(|pair| match pair {
            Value::Struct(pair) if pair[0].as_text() == Some(name) => match &pair[1] {
                Value::Variant(value) => Some((**value).clone()),
                _ => None,
            },
            _ => None,
        });
        value.with_context(|| format!("no {name} in {list:?}"))
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // Its socket goes with it, and the thread behind ends.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        for hierarchy in hierarchies() {
            let _ = fs::remove_dir(hierarchy.join(SLICE));
        }
    }
}

/// Answers as systemd does, as far as units go.
fn serve(bus: &mut Connection, calls: &Mutex<Vec<Message>>, refuse: Option<&str>) {
    let far = Instant::now() + Duration::from_secs(600);
    while let Ok(call) = bus.read(far, "a call") {
        if call.kind != Kind::Call {
            continue;
        }
        calls.lock().unwrap().push(call.clone());
        let member = call.member.clone().unwrap_or_default();
        let mut reply = Message::new(Kind::Reply, 0);
        reply.reply_to = Some(call.serial);
        reply.destination.clone_from(&call.sender);
        let job = Value::Path("/org/freedesktop/systemd1/job/7".to_owned());
        let is_job = member == "StartTransientUnit" || member == "StopUnit";
        if refuse == Some(member.as_str()) {
            reply.kind = Kind::Error;
            reply.error = Some("org.freedesktop.DBus.Error.AccessDenied".to_owned());
            reply.body = vec![Value::text("Access to this unit is denied.")];
        } else if member == "Get" {
            reply.body = vec![Value::variant(Value::text("252.38-1~deb12u1"))];
        } else if is_job {
            reply.body = vec![job.clone()];
        }
        let sent = bus.send(reply);
        if is_job && refuse != Some(member.as_str()) {
            let mut signal = Message::new(Kind::Signal, 0);
            signal.path = Some("/org/freedesktop/systemd1".to_owned());
            signal.interface = Some("org.freedesktop.systemd1.Manager".to_owned());
            signal.member = Some("JobRemoved".to_owned());
            let unit = call.body.first().cloned().unwrap_or(Value::text(""));
            signal.body = vec![Value::Uint32(7), job, unit, Value::text("done")];
            let _ = bus.send(signal);
        }
        if sent.is_err() {
            return;
        }
    }
}

/// The roots of the machine's hierarchies.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_cgroup = |line: &&str| line.contains(" - cgroup");
    let point = |line: &str| line.split(' ').nth(4).map(PathBuf::from);
    mounts.lines().filter(is_cgroup).filter_map(point).collect()
}

fn unit(lab: &Lab, id: &str) -> String {
    format!("berth-{}-{id}.scope", lab.host.name())
}

/// The unit's group where numbers of processes are limited.
fn unit_group(lab: &Lab, id: &str) -> String {
    let hierarchy = if has_only_v2() { "" } else { "/pids" };
    format!("/sys/fs/cgroup{hierarchy}/{SLICE}/{}", unit(lab, id))
}

fn in_slice(lab: &Lab, id: &str, config: &mut serde_json::Value) {
    config["linux"]["cgroupsPath"] = format!("{SLICE}:berth:{}-{id}", lab.host.name()).into();
}

#[test]
fn a_scope_is_asked_for_in_the_words_of_the_bus() {
    check(Who::Berth, |lab| {
        let systemd = StandIn::start(lab, None)?;
        let bundle = lab.bundle("c", |config| {
            in_slice(lab, "c", config);
            config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
            config["linux"]["resources"]["pids"] = json!({"limit": 20});
            config["linux"]["resources"]["cpu"] =
                json!({"cpus": "0", "quota": 50_000, "period": 100_000});
            config["annotations"] = json!({
                "org.systemd.property.CollectMode": "'inactive-or-failed'",
                "org.systemd.property.TimeoutStopSec": "uint64 10",
            });
        })?;
        let words = ["--systemd-cgroup", "create", "--bundle", path(&bundle), "c"];
        systemd.call(lab, &words)?.text()?;
        let started = systemd.named("StartTransientUnit");
        ensure!(started.len() == 1, "{started:?}");
        ensure!(
            started[0].body[0] == Value::text(unit(lab, "c")),
            "{started:?}"
        );
        ensure!(started[0].body[1] == Value::text("replace"), "{started:?}");
        let property = |name: &str| systemd.property("StartTransientUnit", 2, name);
        let pid = lab.pid("c")?;
        let pids = Value::Array("u".to_owned(), vec![Value::Uint32(pid)]);
        // systemd calls a limit of version 1 by another name.
        let memory = if has_only_v2() {
            "MemoryMax"
        } else {
            "MemoryLimit"
        };
        for (name, value) in [
            ("Slice", Value::text(SLICE)),
            ("Delegate", Value::Bool(true)),
            ("DefaultDependencies", Value::Bool(false)),
            ("MemoryAccounting", Value::Bool(true)),
            ("PIDs", pids),
            ("TasksMax", Value::Uint64(20)),
            (memory, Value::Uint64(64 << 20)),
            ("CPUQuotaPerSecUSec", Value::Uint64(500_000)),
            (
                "AllowedCPUs",
                Value::Array("y".to_owned(), vec![Value::Byte(1)]),
            ),
            ("DevicePolicy", Value::text("strict")),
            ("CollectMode", Value::text("inactive-or-failed")),
            ("TimeoutStopUSec", Value::Uint64(10_000_000)),
        ] {
            let found = property(name)?;
            ensure!(found == value, "{name}: {found:?}");
        }
        // Its groups are where systemd has them, with the limits, and init inside.
        let group = unit_group(lab, "c");
        same(
            fs::read_to_string(format!("{group}/cgroup.procs"))?.trim(),
            &pid.to_string(),
        )?;
        same(
            fs::read_to_string(format!("{group}/pids.max"))?.trim(),
            "20",
        )?;

        systemd.call(lab, &["start", "c"])?.text()?;
        systemd
            .call(
                lab,
                &["update", "--pids-limit", "30", "--memory", "96M", "c"],
            )?
            .text()?;
        same(
            fs::read_to_string(format!("{group}/pids.max"))?.trim(),
            "30",
        )?;
        let changed = systemd.property("SetUnitProperties", 2, "TasksMax")?;
        ensure!(changed == Value::Uint64(30), "{changed:?}");
        same(
            systemd
                .call(lab, &["exec", "c", "echo", "inside"])?
                .text()?,
            "inside",
        )?;
        systemd.call(lab, &["pause", "c"])?.text()?;
        ensure!(lab.state("c")?["status"] == "paused");
        systemd.call(lab, &["resume", "c"])?.text()?;

        systemd.call(lab, &["delete", "--force", "c"])?.text()?;
        ensure!(systemd.named("StopUnit").len() == 1);
        ensure!(systemd.named("ResetFailedUnit").len() == 1);
        ensure!(!Path::new(&group).exists(), "{group} is left");
        Ok(())
    });
}

#[test]
fn its_refusal_is_told_and_nothing_is_left() {
    check(Who::Berth, |lab| {
        let systemd = StandIn::start(lab, Some("StartTransientUnit"))?;
        let bundle = lab.bundle("c", |config| in_slice(lab, "c", config))?;
        let words = ["--systemd-cgroup", "run", "--bundle", path(&bundle), "c"];
        let told = systemd.call(lab, &words)?;
        holds(
            told.complaint()?,
            &[
                "systemd did not make berth-",
                "Access to this unit is denied.",
            ],
        )?;
        ensure!(!lab.root().join("c").exists());
        Ok(())
    });
}

#[test]
fn a_change_that_it_refuses_is_taken_back() {
    check(Who::Berth, |lab| {
        let systemd = StandIn::start(lab, Some("SetUnitProperties"))?;
        let bundle = lab.bundle("c", |config| {
            in_slice(lab, "c", config);
            config["linux"]["resources"]["pids"] = json!({"limit": 20});
        })?;
        let words = [
            "--systemd-cgroup",
            "run",
            "--detach",
            "--bundle",
            path(&bundle),
            "c",
        ];
        systemd.call(lab, &words)?.text()?;
        let told = systemd.call(lab, &["update", "--pids-limit", "30", "c"])?;
        holds(told.complaint()?, &["Access to this unit is denied."])?;
        let file = format!("{}/pids.max", unit_group(lab, "c"));
        same(fs::read_to_string(file)?.trim(), "20")?;
        systemd
            .call(lab, &["delete", "--force", "c"])?
            .text()
            .map(drop)
    });
}

#[test]
fn without_systemd_it_is_said() {
    check(Who::Berth, |lab| {
        let bundle = lab.bundle("c", |config| in_slice(lab, "c", config))?;
        let words = ["--systemd-cgroup", "run", "--bundle", path(&bundle), "c"];
        let nobody = format!("unix:path={}/nobody", lab.host.work_dir().display());
        let told = finish(lab.command(&words).env("DBUS_SYSTEM_BUS_ADDRESS", nobody))?;
        if !has_systemd() {
            holds(told.complaint()?, &["no systemd answers", "/nobody"])?;
        }
        // A path of the other form is told before anybody is asked for a unit.
        let systemd = StandIn::start(lab, None)?;
        let bundle = lab.bundle("c", as_is)?;
        let words = ["--systemd-cgroup", "run", "--bundle", path(&bundle), "c"];
        let told = systemd.call(lab, &words)?;
        holds(told.complaint()?, &["slice:prefix:name"])
    });
}

fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// What `systemctl show` says of one property.
fn shown(unit: &str, property: &str) -> Result<String> {
    let mut command = Command::new("systemctl");
    finish(command.args(["show", "--value", "--property", property, unit]))?.text()
}

#[test]
fn a_real_systemd_makes_keeps_and_stops_a_scope() {
    if !has_systemd() {
        eprintln!("NOT RUN: this machine has no systemd (/run/systemd/system); `just vm-test` has");
        return;
    }
    check(Who::Berth, |lab| {
        let bundle = lab.bundle("c", |config| {
            in_slice(lab, "c", config);
            config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
            config["linux"]["resources"]["pids"] = json!({"limit": 20});
        })?;
        let words = [
            "--systemd-cgroup",
            "run",
            "--detach",
            "--bundle",
            path(&bundle),
            "c",
        ];
        lab.call(&words)?.text()?;
        let unit = unit(lab, "c");
        same(shown(&unit, "ActiveState")?, "active")?;
        same(shown(&unit, "Slice")?, SLICE)?;
        same(shown(&unit, "Delegate")?, "yes")?;
        same(shown(&unit, "TasksMax")?, "20")?;
        let pid = lab.pid("c")?;
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        holds(groups, &[&format!("/{SLICE}/{unit}")])?;
        lab.call(&["update", "--pids-limit", "30", "c"])?.text()?;
        same(shown(&unit, "TasksMax")?, "30")?;
        // A reload writes systemd's view into the files: it has to be ours.
        finish(Command::new("systemctl").arg("daemon-reload"))?.text()?;
        same(lab.exec("c", "echo > /dev/null && echo still")?, "still")?;
        lab.call(&["pause", "c"])?.text()?;
        ensure!(lab.state("c")?["status"] == "paused");
        lab.remove("c")?;
        eventually(|| same(shown(&unit, "ActiveState")?, "inactive"))?;
        let _ = finish(Command::new("systemctl").args(["stop", SLICE]));
        Ok(())
    });
}
