//! `update`: other limits for a container that exists.
//!
//! The container's kept configuration is changed along with its groups, so that
//! whoever reads it later sees what holds: it is what a change of one half of a
//! pair (quota and period, memory and swap) is completed from.

/// Other classes of cache and memory bandwidth.
pub mod caches;
/// Limits in flags.
pub mod flags;

use std::io::Read;
use std::path::Path;

use oci_spec::runtime::{LinuxResources, Spec};
use serde_json::{Map, Value};

use super::{Found, find};
use crate::arguments::{Global, UpdateArguments};
use crate::error::{Error, ErrorKind};
use crate::state::Status;

/// Sets what the caller names and leaves the rest alone.
///
/// # Errors
///
/// The limit that the kernel refused; all are then as they were.
pub fn update(global: &Global, arguments: &UpdateArguments) -> Result<i32, Error> {
    let mut found = find(global, &arguments.id)?;
    if found.status == Status::Stopped {
        return Err(Error::new(ErrorKind::WrongState, "container not running"));
    }
    let caches = caches::plan(arguments)?;
    let resources: LinuxResources = match &arguments.resources {
        Some(file) => read_resources(file)?,
        None => flags::resources_of_flags(arguments)?,
    };
    let (mut config, spec) = read_kept(&found)?;
    let kept = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref());
    let before = found.record.clone();
    let changed = caches
        .map(|plan| plan.apply(&mut found.record))
        .transpose()?;
    if let Err(error) = set_cgroup(&mut found, &resources, kept) {
        if let Some(changed) = &changed {
            changed.take_back(&found.record);
        }
        return Err(error);
    }
    merge_resources(&mut config, &resources)?;
    if let Some(changed) = &changed {
        merge(&mut config, changed.configuration());
    }
    let written = serde_json::to_vec(&config)
        .map_err(|error| Error::new(ErrorKind::Failed, format!("config.json: {error}")))?;
    found.folder.write_record(&found.record)?;
    if let Err(error) = found.folder.write_config(&written) {
        // The record is the one that others go by; it tells of the new rules.
        let _ = found.folder.write_record(&before);
        return Err(error.into());
    }
    Ok(0)
}

fn set_cgroup(
    found: &mut Found,
    resources: &LinuxResources,
    kept: Option<&LinuxResources>,
) -> Result<(), Error> {
    let Some(cgroup) = &mut found.record.cgroup else {
        let text = "the container has no cgroup that could hold limits";
        return Err(Error::new(ErrorKind::WrongState, text));
    };
    Ok(cgroup.set(resources, kept)?)
}

/// The kept configuration, as it is and as it is understood.
fn read_kept(found: &Found) -> Result<(Value, Spec), Error> {
    let spec = found.folder.read_config()?;
    let file = found.folder.path().join("config.json");
    let bytes = std::fs::read(&file).map_err(|error| Error::of_file(&file, &error))?;
    let value = serde_json::from_slice(&bytes)
        .map_err(|error| Error::new(ErrorKind::BadInput, format!("{}: {error}", file.display())))?;
    Ok((value, spec))
}

fn read_resources(file: &Path) -> Result<LinuxResources, Error> {
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes).map(drop)
    } else {
        std::fs::read(file).map(|text| bytes = text)
    };
    read.map_err(|error| Error::of_file(file, &error))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::new(ErrorKind::BadInput, format!("{}: {error}", file.display())))
}

/// Puts new limits over those in `linux.resources`, field by field.
///
/// # Errors
///
/// None that a value that was read could cause.
pub fn merge_resources(config: &mut Value, resources: &LinuxResources) -> Result<(), Error> {
    let new = serde_json::to_value(resources)
        .map_err(|error| Error::new(ErrorKind::Failed, format!("resources: {error}")))?;
    let nothing = || Value::Object(Map::new());
    let Value::Object(all) = config else {
        return Ok(());
    };
    let linux = all.entry("linux").or_insert_with(nothing);
    if let Value::Object(linux) = linux {
        merge(linux.entry("resources").or_insert_with(nothing), new);
    }
    Ok(())
}

fn merge(old: &mut Value, new: Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                merge(old.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(old), Value::Array(new))
            if new.iter().all(|item| identity(item).is_some()) =>
        {
            for item in new {
                let same = |known: &&mut Value| identity(known) == identity(&item);
                match old.iter_mut().find(same) {
                    Some(known) => *known = item,
                    None => old.push(item),
                }
            }
        }
        // "Not asked" is no news.
        (_, Value::Null) => {}
        (old, new) => *old = new,
    }
}

/// What an entry of a list is about, where entries stand for themselves: a block
/// device or a page size. Device rules have an order and are one whole.
fn identity(item: &Value) -> Option<Value> {
    if item.get("allow").is_some() {
        return None;
    }
    match (item.get("major"), item.get("minor"), item.get("pageSize")) {
        (Some(major), Some(minor), _) => Some(Value::from(vec![major.clone(), minor.clone()])),
        (_, _, Some(size)) => Some(size.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::merge_resources;

    fn merged(mut config: Value, new: Value) -> Value {
        let resources = serde_json::from_value(new).expect("resources");
        merge_resources(&mut config, &resources).expect("merged");
        config["linux"]["resources"].clone()
    }

    #[test]
    fn what_is_new_covers_what_was() {
        let config = json!({"linux": {"resources": {
            "memory": {"limit": 1, "swap": 2, "ours": true},
            "devices": [{"allow": false, "access": "rwm"}],
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4}],
            "blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 50}]},
        }}});
        let new = json!({
            "memory": {"limit": 9},
            "pids": {"limit": 7},
            "hugepageLimits": [{"pageSize": "1GB", "limit": 1}, {"pageSize": "2MB", "limit": 8}],
            "blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 60}]},
        });
        let told = merged(config, new);
        assert_eq!(told["memory"], json!({"limit": 9, "swap": 2, "ours": true}));
        assert_eq!(told["pids"], json!({"limit": 7}));
        assert_eq!(told["devices"][0]["allow"], false);
        assert_eq!(told["hugepageLimits"].as_array().map(Vec::len), Some(2));
        assert_eq!(told["hugepageLimits"][0]["limit"], 8);
        assert_eq!(told["blockIO"]["weightDevice"][0]["weight"], 60);
    }

    #[test]
    fn a_list_of_rules_is_one_whole() {
        let config = json!({"linux": {"resources": {"devices": [{"allow": false}]}}});
        let rule = json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"});
        let told = merged(config, json!({"devices": [rule]}));
        assert_eq!(told["devices"].as_array().map(Vec::len), Some(1));
        assert_eq!(
            merged(json!({}), json!({"pids": {"limit": 3}}))["pids"]["limit"],
            3
        );
    }
}
