//! Asking systemd: the unit is made, changed, and stopped.

use std::path::{Path, PathBuf};

use super::properties::{Dialect, Majors, plan_device_properties, plan_properties};
use super::{Bus, Property, ScopePlan, SystemdView};
use crate::cgroup::error::CgroupError;
use crate::cgroup::plan::CgroupPlan;
use crate::cgroup::tree::CgroupVersion;
use crate::cgroup::{devices::DeviceRule, files};
use crate::dbus::connection::{Connection, Object, Peer};
use crate::dbus::{DbusError, Value};
use oci_spec::runtime::LinuxResources;

const SERVICE: &str = "org.freedesktop.systemd1";
const ROOT: &str = "/org/freedesktop/systemd1";
const MANAGER: Object<'_> = Object {
    service: SERVICE,
    path: ROOT,
    interface: "org.freedesktop.systemd1.Manager",
};
const PROPERTIES: Object<'_> = Object {
    service: SERVICE,
    path: ROOT,
    interface: "org.freedesktop.DBus.Properties",
};
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// Looks at the systemd that is to be asked.
///
/// # Errors
///
/// [`CgroupError::Systemd`]: there is none, or it does not answer.
pub fn observe_systemd(bus: Bus) -> Result<SystemdView, CgroupError> {
    let mut connection = open(bus).map_err(|source| CgroupError::Systemd {
        what: "no systemd answers, which --systemd-cgroup needs".to_owned(),
        source,
    })?;
    let mut property = |name: &str| {
        let body = vec![Value::text(MANAGER.interface), Value::text(name)];
        let told = connection.call(&PROPERTIES, "Get", body);
        let told = told.map_err(|source| CgroupError::Systemd {
            what: format!("systemd's property {name}"),
            source,
        })?;
        let text = told.first().and_then(Value::as_text).unwrap_or("");
        Ok::<_, CgroupError>(text.to_owned())
    };
    let version = parse_version(&property("Version")?);
    let group = match bus {
        // The machine's has the whole tree; its property would say the same.
        Bus::System => PathBuf::from("/"),
        Bus::User => PathBuf::from(property("ControlGroup")?),
    };
    Ok(SystemdView {
        bus,
        version,
        group,
        majors: read_majors()?,
    })
}

/// Whose systemd a caller can ask: an ordinary user's own.
pub fn choose_bus() -> Bus {
    if is_the_machines_root() {
        Bus::System
    } else {
        Bus::User
    }
}

/// Whether the caller is root, and not of a user namespace only.
pub fn is_the_machines_root() -> bool {
    nix::unistd::geteuid().is_root() && !in_user_namespace()
}

/// Whether root is somebody else outside: the initial namespace maps all numbers.
fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        let words: Vec<&str> = map.split_whitespace().collect();
        words != ["0", "0", "4294967295"]
    })
}

/// The number at the beginning of `252.38-1~deb12u1` or `v245.4-1.fc32`.
pub fn parse_version(text: &str) -> u32 {
    let text = text.trim_start_matches(['"', 'v']);
    let end = text.find(|letter: char| !letter.is_ascii_digit());
    text[..end.unwrap_or(text.len())].parse().unwrap_or(0)
}

fn open(bus: Bus) -> Result<Connection, DbusError> {
    let given = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    match bus {
        Bus::User => {
            let folder = given("XDG_RUNTIME_DIR");
            let address = given("DBUS_SESSION_BUS_ADDRESS")
                .or_else(|| Some(format!("unix:path={}/bus", folder.as_ref()?)));
            let address = address.ok_or_else(|| {
                DbusError::Address(
                    "DBUS_SESSION_BUS_ADDRESS and XDG_RUNTIME_DIR are not set".into(),
                )
            })?;
            Connection::open(&address, Peer::Bus).or_else(|error| {
                // A user without a bus still has systemd's own socket.
                let own = folder.map(|folder| format!("unix:path={folder}/systemd/private"));
                own.and_then(|own| Connection::open(&own, Peer::Service).ok())
                    .ok_or(error)
            })
        }
        Bus::System => {
            let address = given("DBUS_SYSTEM_BUS_ADDRESS")
                .unwrap_or_else(|| "unix:path=/run/dbus/system_bus_socket".to_owned());
            Connection::open(&address, Peer::Bus).or_else(|error| {
                // A machine without a bus still has systemd's own socket.
                let own = "unix:path=/run/systemd/private";
                Connection::open(own, Peer::Service).map_err(|_| error)
            })
        }
    }
}

/// A conversation that hears of jobs' ends.
fn open_listening(bus: Bus) -> Result<Connection, DbusError> {
    let mut connection = open(bus)?;
    let rule = "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved',path='/org/freedesktop/systemd1'";
    match connection.add_match(rule) {
        // systemd's own socket is no bus and knows no rules: it tells all.
        Ok(()) | Err(DbusError::Refused { .. }) => {}
        Err(error) => return Err(error),
    }
    // Without a subscriber systemd sends no signals to a bus.
    match connection.call(&MANAGER, "Subscribe", Vec::new()) {
        Ok(_) | Err(DbusError::Refused { .. }) => Ok(connection),
        Err(error) => Err(error),
    }
}

impl ScopePlan {
    /// Makes the unit around a process, and returns when it is there.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Systemd`] with systemd's words.
    pub fn start(&self, pid: i32) -> Result<(), CgroupError> {
        self.try_start(pid).map_err(|source| CgroupError::Systemd {
            what: format!("systemd did not make {}", self.unit),
            source,
        })?;
        Ok(())
    }

    fn try_start(&self, pid: i32) -> Result<(), DbusError> {
        let mut connection = open_listening(self.bus)?;
        let mut properties = self.properties.clone();
        if !self.unit.ends_with(".slice") {
            let pids = vec![Value::Uint32(pid.unsigned_abs())];
            properties.push(("PIDs".to_owned(), Value::Array("u".to_owned(), pids)));
        }
        let body = vec![
            Value::text(&*self.unit),
            Value::text("replace"),
            property_list(&properties),
            Value::Array("(sa(sv))".to_owned(), Vec::new()),
        ];
        let mut told = connection.call(&MANAGER, "StartTransientUnit", body.clone());
        if told
            .as_ref()
            .is_err_and(|error| error.is_named(UNIT_EXISTS))
        {
            // A unit that failed stays as a remainder until somebody says so.
            self.reset(&mut connection);
            told = connection.call(&MANAGER, "StartTransientUnit", body);
        }
        let result = match await_job(&mut connection, &told?) {
            Ok(result) if result == "done" => return Ok(()),
            Ok(result) => result,
            Err(error) => {
                // It may still come to be, and then nobody would stop it.
                let body = vec![Value::text(&*self.unit), Value::text("replace")];
                let _ = connection.call(&MANAGER, "StopUnit", body);
                return Err(error);
            }
        };
        self.reset(&mut connection);
        Err(DbusError::Refused {
            member: "StartTransientUnit".to_owned(),
            name: "JobRemoved".to_owned(),
            text: format!("the unit's job ended with {result:?}"),
        })
    }

    /// Changes properties of the unit, until the next boot.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Systemd`] with systemd's words.
    pub fn set(&self, properties: &[Property]) -> Result<(), CgroupError> {
        if properties.is_empty() {
            return Ok(());
        }
        let body = vec![
            Value::text(&*self.unit),
            Value::Bool(true),
            property_list(properties),
        ];
        let done = open(self.bus)
            .and_then(|mut connection| connection.call(&MANAGER, "SetUnitProperties", body));
        done.map(drop).map_err(|source| CgroupError::Systemd {
            what: format!("systemd did not change {}", self.unit),
            source,
        })
    }

    /// Stops the unit, and returns when it is gone. One that is gone is fine.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Systemd`] with systemd's words.
    pub fn stop(&self) -> Result<(), CgroupError> {
        self.try_stop().map_err(|source| CgroupError::Systemd {
            what: format!("systemd did not stop {}", self.unit),
            source,
        })
    }

    fn try_stop(&self) -> Result<(), DbusError> {
        let mut connection = open_listening(self.bus)?;
        let body = vec![Value::text(&*self.unit), Value::text("replace")];
        match connection.call(&MANAGER, "StopUnit", body) {
            Ok(told) => {
                await_job(&mut connection, &told)?;
            }
            Err(error) if error.is_named(NO_SUCH_UNIT) => return Ok(()),
            Err(error) => return Err(error),
        }
        self.reset(&mut connection);
        Ok(())
    }

    /// Lets systemd forget a unit that failed.
    fn reset(&self, connection: &mut Connection) {
        // One that did not fail, or is gone, has nothing to forget.
        let body = vec![Value::text(&*self.unit)];
        let _ = connection.call(&MANAGER, "ResetFailedUnit", body);
    }

    /// The properties that changed limits become.
    pub(crate) fn plan_change(
        &self,
        resources: &LinuxResources,
        rules: Option<&[DeviceRule]>,
        cgroup: CgroupVersion,
    ) -> Result<Vec<Property>, CgroupError> {
        let dialect = Dialect {
            cgroup,
            version: self.version,
        };
        let mut properties = plan_properties(resources, dialect)?;
        if let Some(rules) = rules {
            properties.extend(plan_device_properties(rules, &read_majors()?));
        }
        Ok(properties)
    }
}

impl CgroupPlan {
    /// Has systemd make the container's unit around its init.
    ///
    /// # Errors
    ///
    /// As [`ScopePlan::start`].
    pub fn start_scope(&self, pid: i32) -> Result<(), CgroupError> {
        match &self.scope {
            Some(scope) => scope.start(pid),
            None => Ok(()),
        }
    }
}

/// The majors' names, of this machine.
///
/// # Errors
///
/// `/proc` is not mounted.
pub fn read_majors() -> Result<Majors, CgroupError> {
    Ok(Majors::parse(&files::read_text(Path::new(
        "/proc/devices",
    ))?))
}

fn property_list(properties: &[Property]) -> Value {
    let one = |(name, value): &Property| {
        Value::Struct(vec![Value::text(&**name), Value::variant(value.clone())])
    };
    Value::Array("(sv)".to_owned(), properties.iter().map(one).collect())
}

/// How a job ended: `JobRemoved(id, job, unit, result)`.
fn await_job(connection: &mut Connection, told: &[Value]) -> Result<String, DbusError> {
    let job = told.first().and_then(Value::as_text);
    let job = job.ok_or(DbusError::Malformed("the answer names no job"))?;
    connection.await_signal("JobRemoved", |body| {
        let ours = body.get(1)?.as_text()? == job;
        ours.then(|| body.get(3)?.as_text().map(str::to_owned))
            .flatten()
    })
}
