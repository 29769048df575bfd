//! Groups that a container made inside its own: `exec --cgroup`.
//!
//! A container that manages groups itself (another runtime, a service manager)
//! has its processes in groups below its own, and version 2 lets nobody into a
//! group that hands controllers down. So the caller of `exec` names the group:
//! `PATH` below the container's in every hierarchy, or `CONTROLLER[,…]:PATH`
//! for some of version 1's. Where nobody names one and the container's own
//! takes nobody, it is the one of init.

use std::path::{Component, Path, PathBuf};

use super::error::CgroupError;
use super::files;
use super::plan::{CgroupPlan, HierarchyPlan};
use super::tree::CgroupVersion;
use crate::sys::process::HostPid;

const FIELD: &str = "--cgroup";

/// Which groups a program is to be in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum InnerGroups {
    /// The container's own.
    #[default]
    Own,
    /// The same path below all of the container's.
    All(PathBuf),
    /// Controllers and paths; all others are the container's own.
    Each(Vec<(String, PathBuf)>),
}

/// Reads the arguments of `--cgroup`.
///
/// # Errors
///
/// [`CgroupError::Invalid`]: a path that climbs out, a controller named twice or not at all.
pub fn parse_inner_groups(words: &[String]) -> Result<InnerGroups, CgroupError> {
    let invalid = |text: String| CgroupError::invalid(FIELD, text);
    let mut each: Vec<(String, PathBuf)> = Vec::new();
    for word in words {
        let Some((controllers, path)) = word.split_once(':') else {
            if words.len() > 1 {
                return Err(invalid(format!(
                    "invalid --cgroup argument: {word} (missing <controller>: prefix)"
                )));
            }
            return Ok(InnerGroups::All(below(word)?));
        };
        let path = below(path)?;
        for controller in controllers.split(',') {
            if controller.is_empty() {
                return Err(invalid(format!(
                    "invalid --cgroup argument: {word} (empty <controller> prefix)"
                )));
            }
            if each.iter().any(|(known, _)| known == controller) {
                return Err(invalid(format!(
                    "invalid --cgroup argument(s): controller {controller} specified multiple times"
                )));
            }
            each.push((controller.to_owned(), path.clone()));
        }
    }
    Ok(if each.is_empty() {
        InnerGroups::Own
    } else {
        InnerGroups::Each(each)
    })
}

/// A path that cannot leave the group that it is joined to.
fn below(path: &str) -> Result<PathBuf, CgroupError> {
    let mut inside = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => inside.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => {
                return Err(CgroupError::invalid(
                    FIELD,
                    format!("bad sub cgroup path: {path}"),
                ));
            }
        }
    }
    Ok(inside)
}

impl CgroupPlan {
    /// The plan with other groups in the place of the container's own.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Invalid`] for a controller or a group that is not there.
    pub fn with_inner_groups(&self, groups: &InnerGroups) -> Result<CgroupPlan, CgroupError> {
        let mut plan = self.clone();
        let chosen: Vec<(&mut HierarchyPlan, &PathBuf)> = match groups {
            InnerGroups::Own => return Ok(plan),
            InnerGroups::All(path) => plan.hierarchies.iter_mut().map(|at| (at, path)).collect(),
            InnerGroups::Each(each) => return plan.with_each(each),
        };
        for (hierarchy, path) in chosen {
            enter(hierarchy, path)?;
        }
        Ok(plan)
    }

    fn with_each(mut self, each: &[(String, PathBuf)]) -> Result<CgroupPlan, CgroupError> {
        let mut entered: Vec<(usize, &PathBuf)> = Vec::new();
        for (controller, path) in each {
            let home = self.hierarchies.iter().position(|plan| {
                plan.version == CgroupVersion::V1 && plan.has(v1_name(controller))
            });
            let home = home.ok_or_else(|| {
                CgroupError::invalid(
                    FIELD,
                    format!("unknown controller {controller} in SubCgroupPaths"),
                )
            })?;
            match entered.iter().find(|(known, _)| *known == home) {
                None => entered.push((home, path)),
                Some((_, known)) if *known == path => {}
                Some(_) => {
                    return Err(CgroupError::invalid(
                        FIELD,
                        format!(
                            "{controller} shares a hierarchy with a controller of another path"
                        ),
                    ));
                }
            }
        }
        for (home, path) in entered {
            enter(&mut self.hierarchies[home], path)?;
        }
        Ok(self)
    }

    /// The plan with init's own group of version 2 in the place of the
    /// container's; none where that is the same, or there is none to be found.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read.
    pub fn with_group_of(&self, init: HostPid) -> Result<Option<CgroupPlan>, CgroupError> {
        let text = files::read_text_if_there(Path::new(&format!("/proc/{}/cgroup", init.0)))?;
        let path = text
            .iter()
            .flat_map(|text| text.lines())
            .find_map(|line| line.strip_prefix("0::"));
        let Some(path) = path.map(|path| path.trim_start_matches('/').to_owned()) else {
            return Ok(None);
        };
        let mut plan = self.clone();
        let mut hierarchies = plan.hierarchies.iter_mut();
        let unified = hierarchies.find(|plan| plan.version == CgroupVersion::V2);
        match unified {
            Some(unified)
                if unified.group != Path::new(&path)
                    && unified.mount_point.join(&path).is_dir() =>
            {
                unified.group = PathBuf::from(path);
                Ok(Some(plan))
            }
            _ => Ok(None),
        }
    }
}

/// The hierarchy without controllers has a name instead.
fn v1_name(controller: &str) -> &str {
    match controller {
        "systemd" => "name=systemd",
        same => same,
    }
}

fn enter(hierarchy: &mut HierarchyPlan, path: &Path) -> Result<(), CgroupError> {
    let group = hierarchy.group.join(path);
    if !hierarchy.mount_point.join(&group).is_dir() {
        return Err(CgroupError::invalid(
            FIELD,
            format!(
                "no such file or directory: {} is no group of the container",
                hierarchy.mount_point.join(&group).display()
            ),
        ));
    }
    hierarchy.group = group;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{InnerGroups, parse_inner_groups};

    fn parse(words: &[&str]) -> Result<InnerGroups, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        parse_inner_groups(&words).map_err(|error| error.to_string())
    }

    #[test]
    fn both_forms_are_read() {
        assert_eq!(parse(&[]), Ok(InnerGroups::Own));
        assert_eq!(parse(&["/"]), Ok(InnerGroups::All("".into())));
        assert_eq!(parse(&["a/b"]), Ok(InnerGroups::All("a/b".into())));
        assert_eq!(
            parse(&["cpu,memory:x", "pids:/y/"]),
            Ok(InnerGroups::Each(vec![
                ("cpu".into(), "x".into()),
                ("memory".into(), "x".into()),
                ("pids".into(), "y".into()),
            ]))
        );
    }

    #[test]
    fn mistakes_are_told() {
        for (words, text) in [
            (&["a", "b"][..], "missing <controller>: prefix"),
            (&[":a"], "empty <controller> prefix"),
            (&["cpu:a", "cpu:b"], "specified multiple times"),
            (&["../a"], "bad sub cgroup path"),
            (&["cpu:a/../../b"], "bad sub cgroup path"),
        ] {
            let error = parse(words).expect_err(text);
            assert!(error.contains(text), "{error}");
        }
    }
}
