//! The service manager's way: systemd makes the groups, and we ask it to.
//!
//! On a machine of systemd all of the cgroup tree belongs to it (its
//! `CGROUP_DELEGATION` document calls that the single-writer rule). Who wants
//! groups of his own asks for a *scope*: a unit around processes that systemd
//! did not start. With `Delegate` the groups below the scope are the asker's.
//! A scope stands in a *slice*, and slices form a tree by their names:
//!
//! ```text
//! linux.cgroupsPath  machine-web.slice : berth : c1
//! unit               berth-c1.scope
//! group              /machine.slice/machine-web.slice/berth-c1.scope
//! ```
//!
//! A scope without a process cannot be. So init is cloned first, the scope is
//! made around it, and init waits for that before it goes on (`await-cgroup`).
//!
//! Limits are told to systemd as properties, because it writes the files of its
//! groups again whenever it is reloaded; what it has no property for we write
//! ourselves. This file decides (names, group, which properties); [`scope`] talks.
//!
//! See systemd.scope(5), systemd.slice(5), systemd.resource-control(5),
//! org.freedesktop.systemd1(5). Try `systemd-cgls` and `systemctl show UNIT`.

/// `org.systemd.property.*`.
pub mod annotations;
/// Limits as properties.
pub mod properties;
/// Asking.
pub mod scope;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::CgroupError;
use crate::dbus::Value;

const FIELD: &str = "linux.cgroupsPath";

/// Whose systemd.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bus {
    /// The machine's.
    #[default]
    System,
    /// The calling user's own.
    User,
}

/// What has to be known of the systemd that is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemdView {
    /// Whose it is.
    pub bus: Bus,
    /// Its version: not every property is known to all.
    pub version: u32,
    /// Its own group: a user's systemd has a part of the tree only.
    pub group: PathBuf,
    /// Names of devices' majors, by which it takes rules.
    #[serde(skip)]
    pub majors: properties::Majors,
}

/// One property of a unit.
pub type Property = (String, Value);

/// A container's unit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ScopePlan {
    /// Its name.
    pub unit: String,
    /// Whose systemd has it.
    pub bus: Bus,
    /// That systemd's version.
    pub version: u32,
    /// What it is made with; not needed any more afterwards.
    #[serde(skip)]
    pub properties: Vec<Property>,
}

// The numbers of properties are never NaN: none of ours are, and the text of an
// annotation is refused then.
impl Eq for ScopePlan {}

/// The names in `slice:prefix:name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitName {
    /// The slice that it stands in.
    pub slice: String,
    /// The unit.
    pub unit: String,
    /// The last part, for people.
    pub name: String,
}

/// Takes `linux.cgroupsPath` apart; without one, the id names a scope.
///
/// # Errors
///
/// [`CgroupError::Invalid`] in runc's words for anything but three parts.
pub fn parse_unit(path: Option<&Path>, id: &str, bus: Bus) -> Result<UnitName, CgroupError> {
    let default_slice = match bus {
        Bus::System => "system.slice",
        Bus::User => "user.slice",
    };
    let text = path.map(Path::to_string_lossy).unwrap_or_default();
    if text.is_empty() {
        return Ok(UnitName {
            slice: default_slice.to_owned(),
            unit: format!("berth-{id}.scope"),
            name: id.to_owned(),
        });
    }
    let parts: Vec<&str> = text.split(':').collect();
    let [slice, prefix, name] = parts.as_slice() else {
        return Err(CgroupError::invalid(
            FIELD,
            format!(
                "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {text:?} instead"
            ),
        ));
    };
    let slice = if slice.is_empty() {
        default_slice
    } else {
        slice
    };
    let unit = match (name.ends_with(".slice"), prefix.is_empty()) {
        (true, _) => (*name).to_owned(),
        (false, false) => format!("{prefix}-{name}.scope"),
        (false, true) => format!("{name}.scope"),
    };
    // systemd would refuse it too, but only once init is there.
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    if name.is_empty() || unit.len() > 255 || !unit.bytes().all(known) {
        return Err(CgroupError::invalid(
            FIELD,
            format!(
                "expected letters, digits and \":-_.\\\" in the name of a unit, found {unit:?}"
            ),
        ));
    }
    Ok(UnitName {
        slice: slice.to_owned(),
        unit,
        name: (*name).to_owned(),
    })
}

/// Where a slice is in the tree: `a-b.slice` is in `a.slice`.
///
/// # Errors
///
/// [`CgroupError::Invalid`] for what is no slice's name.
pub fn expand_slice(slice: &str) -> Result<PathBuf, CgroupError> {
    let invalid = || {
        CgroupError::invalid(
            FIELD,
            format!("invalid slice name: {slice}; expected a name such as \"machine-web.slice\""),
        )
    };
    let name = slice.strip_suffix(".slice").ok_or_else(invalid)?;
    if name.is_empty() || name.contains('/') {
        return Err(invalid());
    }
    // The root of all slices.
    if name == "-" {
        return Ok(PathBuf::new());
    }
    let mut path = PathBuf::new();
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return Err(invalid());
        }
        path.push(format!("{prefix}{part}.slice"));
        prefix.push_str(part);
        prefix.push('-');
    }
    Ok(path)
}

/// The unit's group, below the mount point.
///
/// # Errors
///
/// As [`expand_slice`].
pub fn unit_group(name: &UnitName, view: &SystemdView) -> Result<PathBuf, CgroupError> {
    let mut group = match view.bus {
        Bus::System => PathBuf::new(),
        Bus::User => view
            .group
            .strip_prefix("/")
            .unwrap_or(&view.group)
            .to_owned(),
    };
    group.push(expand_slice(&name.slice)?);
    group.push(&name.unit);
    Ok(group)
}

/// What a new unit is made with, its process, limits and devices left aside.
pub fn plan_unit_properties(name: &UnitName) -> Vec<Property> {
    let mut all = Vec::new();
    let mut add = |property: &str, value: Value| all.push((property.to_owned(), value));
    add(
        "Description",
        Value::text(format!("container {}", name.name)),
    );
    if name.unit.ends_with(".slice") {
        // A slice's place follows from its name; this keeps its parent alive.
        add("Wants", Value::texts([name.slice.as_str()]));
    } else {
        add("Slice", Value::text(&*name.slice));
        add("Delegate", Value::Bool(true));
    }
    for accounting in [
        "MemoryAccounting",
        "CPUAccounting",
        "IOAccounting",
        "TasksAccounting",
    ] {
        add(accounting, Value::Bool(true));
    }
    // Otherwise it would be stopped at the beginning of a shutdown, before the
    // engine that knows how to end it.
    add("DefaultDependencies", Value::Bool(false));
    all
}

#[cfg(test)]
mod tests;
