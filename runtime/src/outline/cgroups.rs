//! Groups and the values that are written to their files, in words.

use serde::Serialize;

use super::shown;
use crate::cgroup::devices::{DeviceKind, DeviceRule};
use crate::cgroup::plan::{CgroupPlan, FileWrite, HierarchyPlan, Refused};
use crate::cgroup::systemd::ScopePlan;
use crate::cgroup::tree::CgroupVersion;

/// The container's groups.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cgroups {
    /// One in each hierarchy.
    pub groups: Vec<Group>,
    /// Which devices may be opened, the later rule wins; `a *:* rwm` is all.
    pub device_rules: Vec<String>,
    /// The unit, where systemd makes the groups.
    pub scope: Option<Scope>,
}

/// A unit of systemd.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scope {
    /// Its name.
    pub unit: String,
    /// Whose systemd has it.
    pub bus: String,
    /// That systemd's version.
    pub systemd_version: u32,
    /// What it is made with.
    pub properties: Vec<String>,
}

/// The group in one hierarchy.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// 1 or 2.
    pub version: u8,
    /// What the hierarchy counts and limits.
    pub controllers: Vec<String>,
    /// The directory that is made.
    pub directory: String,
    /// Version 2: controllers that are switched on above it.
    pub enable: Vec<String>,
    /// In order.
    pub writes: Vec<Write>,
}

/// One write.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Write {
    /// The file's name in the group.
    pub file: String,
    /// What is written.
    pub value: String,
    /// The field of `config.json` behind it.
    pub field: String,
    /// What happens when the kernel refuses.
    pub if_refused: String,
}

/// Puts the groups into words.
pub fn outline_cgroups(plan: &CgroupPlan) -> Cgroups {
    let CgroupPlan {
        hierarchies,
        device_rules,
        scope,
    } = plan;
    Cgroups {
        groups: hierarchies.iter().map(outline_group).collect(),
        device_rules: device_rules.iter().map(rule_text).collect(),
        scope: scope.as_ref().map(outline_scope),
    }
}

fn outline_scope(plan: &ScopePlan) -> Scope {
    let ScopePlan {
        unit,
        bus,
        version,
        properties,
    } = plan;
    Scope {
        unit: unit.clone(),
        bus: format!("{bus:?}").to_lowercase(),
        systemd_version: *version,
        properties: properties
            .iter()
            .map(|property| format!("{property:?}"))
            .collect(),
    }
}

fn outline_group(plan: &HierarchyPlan) -> Group {
    let directory = shown(&plan.directory());
    let HierarchyPlan {
        version,
        controllers,
        // Both are in the directory.
        mount_point: _,
        group: _,
        enable,
        // Those of `enable` that may not fail.
        wanted: _,
        writes,
    } = plan;
    Group {
        version: match version {
            CgroupVersion::V1 => 1,
            CgroupVersion::V2 => 2,
        },
        controllers: controllers.clone(),
        directory,
        enable: enable.clone(),
        writes: writes.iter().map(outline_write).collect(),
    }
}

fn outline_write(write: &FileWrite) -> Write {
    let FileWrite {
        file,
        value,
        field,
        refused,
    } = write;
    Write {
        file: file.to_string(),
        value: value.to_string(),
        field: field.to_string(),
        if_refused: match refused {
            Refused::Fail => "the container is not made".to_owned(),
            Refused::Ignore => "goes on".to_owned(),
            Refused::IfThere => "goes on, if there is no such file".to_owned(),
            Refused::Instead(other) => {
                format!(
                    "writes {} to {}, if there is no {file}",
                    other.value, other.file
                )
            }
        },
    }
}

/// As the files of version 1 have it: `allow c 1:3 rwm`.
fn rule_text(rule: &DeviceRule) -> String {
    let DeviceRule {
        allow,
        kind,
        major,
        minor,
        access,
    } = rule;
    let number = |number: &Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
    let word = if *allow { "allow" } else { "deny" };
    let kind = match kind {
        None => "a",
        Some(DeviceKind::Block) => "b",
        Some(DeviceKind::Char) => "c",
    };
    let (major, minor, access) = (number(major), number(minor), access.letters());
    format!("{word} {kind} {major}:{minor} {access}")
}
