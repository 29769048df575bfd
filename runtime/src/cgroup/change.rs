//! Other limits for a group that lives: all of them, or none.
//!
//! The kernel takes limits one by one and may refuse the fifth. So what stands
//! in the files is read first, and written back when a write fails. What a
//! file says is not always what it takes: devices are lines with a key, and
//! some files begin with the word `default`. [`former`] knows.

use std::path::PathBuf;

use oci_spec::runtime::LinuxResources;

use super::apply::{enable_controllers, write_limits};
use super::devices::{self, DeviceRule};
use super::error::CgroupError;
use super::files;
use super::plan::{self, CgroupPlan, Change, Draft, FileWrite, HierarchyPlan, Refused};
use super::tree::CgroupVersion;

impl CgroupPlan {
    /// Changes limits of a living container; `kept` are those that it was given before.
    ///
    /// Only what `resources` names is touched. New device rules replace the
    /// old, also in this plan: keep it again afterwards.
    ///
    /// # Errors
    ///
    /// As [`Self::create`]; the limits are then as they were.
    pub fn set(
        &mut self,
        resources: &LinuxResources,
        kept: Option<&LinuxResources>,
    ) -> Result<(), CgroupError> {
        let (changed, new_rules) = self.plan_change(resources, kept)?;
        self.check_memory_in_use(resources)?;
        let version = match self.home("memory", "memory") {
            Some(home) => home.version,
            None => CgroupVersion::V2,
        };
        let properties = match &self.scope {
            Some(scope) => scope.plan_change(resources, new_rules.as_deref(), version)?,
            None => Vec::new(),
        };
        let before = observe_before(&changed)?;
        let done = changed.write_all(new_rules.is_some()).and_then(|()| {
            let Some(scope) = &self.scope else {
                return Ok(());
            };
            scope.set(&properties)?;
            // systemd rounds some values; ours are the exact ones.
            changed.write_all(new_rules.is_some())
        });
        if let Err(error) = done {
            self.write_back(&before, new_rules.is_some());
            return Err(error);
        }
        self.device_rules = changed.device_rules;
        Ok(())
    }

    /// The plan with nothing but the changes, and the device rules if they are others.
    fn plan_change(
        &self,
        resources: &LinuxResources,
        kept: Option<&LinuxResources>,
    ) -> Result<(CgroupPlan, Option<Vec<DeviceRule>>), CgroupError> {
        let mut changed = self.clone();
        for hierarchy in &mut changed.hierarchies {
            hierarchy.writes.clear();
            hierarchy.enable.clear();
            hierarchy.wanted.clear();
        }
        // Callers like containerd send the unchanged device list along with
        // every update; rewriting it would deny all devices for a moment.
        let new_rules = match resources.devices() {
            Some(list) if !list.is_empty() => Some(devices::plan_rules(Some(list))?),
            _ => None,
        }
        .filter(|rules| *rules != self.device_rules);
        if let Some(rules) = &new_rules {
            devices::plan_devices(&mut changed.hierarchies, rules)?;
            changed.device_rules.clone_from(rules);
        }
        let kept = kept.and_then(|kept| kept.memory().as_ref());
        let mut draft = Draft {
            change: Change::Update {
                quota: self.observe_quota(resources)?,
                memory: kept.cloned().map(Box::new),
            },
            hierarchies: &mut changed.hierarchies,
        };
        plan::plan_resources(resources, &mut draft)?;
        Ok((changed, new_rules))
    }

    fn write_all(&self, with_devices: bool) -> Result<(), CgroupError> {
        for hierarchy in &self.hierarchies {
            enable_controllers(hierarchy)?;
            write_limits(hierarchy)?;
        }
        if with_devices {
            self.attach_device_program()?;
        }
        Ok(())
    }

    /// Everything as it was. What fails here is no news: the first error is told.
    fn write_back(&self, before: &[(PathBuf, String)], with_devices: bool) {
        // Some limits may not pass others, and which way is not known here. The
        // second round finds the first one's room.
        for _ in 0..2 {
            for (path, value) in before.iter().rev() {
                let _ = files::write(path, value);
            }
        }
        if with_devices {
            let mut old = self.clone();
            for hierarchy in &mut old.hierarchies {
                hierarchy.writes.clear();
            }
            let planned = devices::plan_devices(&mut old.hierarchies, &self.device_rules);
            let _ = planned.and_then(|()| old.write_all(true));
        }
    }

    /// The quota in force, if only the period is to change.
    fn observe_quota(&self, resources: &LinuxResources) -> Result<Option<String>, CgroupError> {
        let Some(cpu) = resources.cpu() else {
            return Ok(None);
        };
        match self.home("cpu", "cpu") {
            Some(home)
                if home.version == CgroupVersion::V2
                    && cpu.period().is_some()
                    && cpu.quota().is_none() =>
            {
                let text = files::read_text_if_there(&home.directory().join("cpu.max"))?;
                Ok(text.and_then(|text| text.split_whitespace().next().map(str::to_owned)))
            }
            _ => Ok(None),
        }
    }

    /// `checkBeforeUpdate`: version 2 would kill to get below a new limit, so
    /// the question is asked first. Version 1 refuses by itself, with `EBUSY`.
    fn check_memory_in_use(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let Some(memory) = resources.memory() else {
            return Ok(());
        };
        let Some(home) = self
            .home("memory", "memory")
            .filter(|home| home.version == CgroupVersion::V2)
        else {
            return Ok(());
        };
        let (Some(true), Some(limit)) = (memory.check_before_update(), memory.limit()) else {
            return Ok(());
        };
        let text = files::read_text(&home.directory().join("memory.current"))?;
        match text.trim().parse::<i64>() {
            Ok(used) if limit > 0 && used > limit => Err(CgroupError::invalid(
                "linux.resources.memory.limit",
                format!("{limit} is below the {used} bytes in use, and checkBeforeUpdate is set"),
            )),
            _ => Ok(()),
        }
    }
}

/// What has to be written to have the files as they are now, in the plan's order.
fn observe_before(changed: &CgroupPlan) -> Result<Vec<(PathBuf, String)>, CgroupError> {
    let mut before = Vec::new();
    for hierarchy in &changed.hierarchies {
        for write in &hierarchy.writes {
            if let Some((path, write)) = existing(hierarchy, write)
                && !is_write_only(&write.file)
                && let Some(text) = files::read_text_if_there(&path)?
                && let Some(value) = former(&write.file, &write.value, &text)
            {
                before.push((path, value));
            }
        }
    }
    Ok(before)
}

/// The one of a write's files that this kernel has.
fn existing<'a>(
    hierarchy: &HierarchyPlan,
    write: &'a FileWrite,
) -> Option<(PathBuf, &'a FileWrite)> {
    let path = hierarchy.directory().join(&*write.file);
    match &write.refused {
        _ if path.exists() => Some((path, write)),
        Refused::Instead(other) => existing(hierarchy, other),
        _ => None,
    }
}

/// Files that do not tell what was written to them: a read of them fails. Their
/// rules are planned anew.
fn is_write_only(file: &str) -> bool {
    matches!(file, "devices.allow" | "devices.deny")
}

/// What takes `written` back, out of the file's text before it.
fn former(file: &str, written: &str, text: &str) -> Option<String> {
    if file == "memory.oom_control" {
        let word = text
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill_disable "));
        return word.map(|word| word.trim().to_owned());
    }
    let key = written.split_once(' ').map(|(key, _)| key);
    let Some((key, without)) = key.zip(without_entry(file)) else {
        let value = text.lines().next()?.trim();
        return Some(value.strip_prefix("default ").unwrap_or(value).to_owned());
    };
    let mut lines = text.lines().map(str::trim);
    let line = lines.find(|line| line.split_whitespace().next() == Some(key));
    Some(line.map_or_else(|| format!("{key} {without}"), str::to_owned))
}

/// For a file of lines with a key: what a line says for which there was none.
fn without_entry(file: &str) -> Option<&'static str> {
    Some(match file {
        "io.max" => "rbps=max wbps=max riops=max wiops=max",
        "io.weight" | "io.bfq.weight" => "default",
        "rdma.max" => "hca_handle=max hca_object=max",
        _ if file.starts_with("blkio.throttle.") || file.contains("weight_device") => "0",
        "net_prio.ifpriomap" => "0",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::former;

    #[test]
    fn files_are_put_back_in_the_words_that_they_take() {
        for (file, written, text, wanted) in [
            ("memory.max", "1000", "max\n", Some("max")),
            ("cpu.max", "5000 100000", "max 100000\n", Some("max 100000")),
            (
                "memory.oom_control",
                "1",
                "oom_kill_disable 0\nunder_oom 0\n",
                Some("0"),
            ),
            ("devices.allow", "c 1:3 r", "", None),
            ("io.weight", "50", "default 100\n8:0 200\n", Some("100")),
            (
                "io.weight",
                "8:0 50",
                "default 100\n8:0 200\n",
                Some("8:0 200"),
            ),
            (
                "io.weight",
                "8:16 50",
                "default 100\n8:0 200\n",
                Some("8:16 default"),
            ),
            (
                "io.max",
                "8:0 rbps=5",
                "",
                Some("8:0 rbps=max wbps=max riops=max wiops=max"),
            ),
            (
                "io.max",
                "8:0 rbps=5",
                "8:0 rbps=9 wbps=max riops=max wiops=max\n",
                Some("8:0 rbps=9 wbps=max riops=max wiops=max"),
            ),
            (
                "blkio.throttle.read_bps_device",
                "8:0 5",
                "8:16 7\n",
                Some("8:0 0"),
            ),
            ("net_prio.ifpriomap", "lo 5", "lo 3\neth0 0\n", Some("lo 3")),
        ] {
            assert_eq!(
                former(file, written, text).as_deref(),
                wanted,
                "{file} {written}"
            );
        }
    }
}
