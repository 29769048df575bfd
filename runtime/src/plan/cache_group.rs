//! Which share of the processor's caches and memory bandwidth the container has
//! (`linux.intelRdt`).
//!
//! The kernel's resctrl filesystem is like cgroups of one level: a directory is a
//! class of service, its file `schemata` says what the class may use, and its file
//! `tasks` takes processes. The class may be the operator's (`closID`), shared with
//! others and left behind, or the container's own, named by its id.

use oci_spec::runtime::LinuxIntelRdt;

use super::SpecError;
use crate::ids::ContainerId;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheGroupPlan {
    /// The class' directory below the mount; empty for the default class, the root.
    pub class: String,
    /// The class is the container's own: made for it, and removed with it.
    pub own: bool,
    /// Lines of `l3CacheSchema` and `memBwSchema`: a class that exists must have them.
    pub schemas: Vec<String>,
    /// Lines of `schemata`: they are written in any case, after those.
    pub schemata: Vec<String>,
    /// The name of the container's own monitoring group.
    pub monitor: Option<String>,
}

/// Plans `linux.intelRdt`.
///
/// # Errors
///
/// A class that is no name of one directory, a line that is more than a line.
pub fn plan_cache_group(
    id: &ContainerId,
    asked: &LinuxIntelRdt,
) -> Result<CacheGroupPlan, SpecError> {
    let named = asked.clos_id().as_deref().filter(|name| !name.is_empty());
    let class = match named {
        // The root of the filesystem is the class of all who have no other.
        Some("/") => "",
        Some(name) if name.contains('/') || name == "." || name == ".." => {
            let reason = format!("expected the name of one directory, or /, found {name:?}");
            return Err(SpecError::new("linux.intelRdt.closID", reason));
        }
        Some(name) => name,
        None => id.as_str(),
    };
    Ok(CacheGroupPlan {
        class: class.to_owned(),
        own: named.is_none(),
        schemas: plan_schemas(asked)?,
        schemata: plan_schemata(asked)?,
        monitor: wants_monitor(asked).then(|| id.as_str().to_owned()),
    })
}

/// Plans the lines of `l3CacheSchema` and `memBwSchema` for a container that is there.
///
/// # Errors
///
/// A text that is no such line.
pub fn plan_schemas(asked: &LinuxIntelRdt) -> Result<Vec<String>, SpecError> {
    let single = [
        ("l3CacheSchema", asked.l3_cache_schema()),
        ("memBwSchema", asked.mem_bw_schema()),
    ];
    let mut lines = Vec::new();
    for (name, text) in single {
        let Some(text) = text.as_deref().filter(|text| !text.is_empty()) else {
            continue;
        };
        if name == "memBwSchema" && !text.starts_with("MB:") {
            let reason = format!("expected a text that begins with MB:, found {text:?}");
            return Err(SpecError::new("linux.intelRdt.memBwSchema", reason));
        }
        lines.push(one_line(format!("linux.intelRdt.{name}"), text)?);
    }
    Ok(lines)
}

fn plan_schemata(asked: &LinuxIntelRdt) -> Result<Vec<String>, SpecError> {
    let lines = asked.schemata().iter().flatten().enumerate();
    lines
        .map(|(index, line)| one_line(format!("linux.intelRdt.schemata[{index}]"), line))
        .collect()
}

fn one_line(field: String, text: &str) -> Result<String, SpecError> {
    match text.contains('\n') {
        true => Err(SpecError::new(field, "expected one line, found several")),
        false => Ok(text.to_owned()),
    }
}

/// `enableCMT` and `enableMBM` asked for the same until 1.3 made one field of them.
#[allow(deprecated, reason = "configurations of 1.1 and 1.2 have them")]
fn wants_monitor(asked: &LinuxIntelRdt) -> bool {
    let fields = [
        asked.enable_monitoring(),
        asked.enable_cmt(),
        asked.enable_mbm(),
    ];
    fields.into_iter().any(|field| *field == Some(true))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{CacheGroupPlan, plan_cache_group};
    use crate::ids::ContainerId;

    fn plan(asked: Value) -> Result<CacheGroupPlan, String> {
        let asked = serde_json::from_value(asked).expect("the shape is right");
        let id = ContainerId::parse("c").expect("an id");
        plan_cache_group(&id, &asked).map_err(|error| error.to_string())
    }

    #[test]
    fn a_class_is_the_operators_or_the_containers() {
        let own = plan(json!({})).expect("sound");
        assert_eq!((own.class.as_str(), own.own), ("c", true));
        let named = plan(json!({"closID": "gold"})).expect("sound");
        assert_eq!((named.class.as_str(), named.own), ("gold", false));
        let root = plan(json!({"closID": "/"})).expect("sound");
        assert_eq!((root.class.as_str(), root.own), ("", false));
        for wrong in ["a/b", "..", "/x"] {
            let error = plan(json!({"closID": wrong})).expect_err(wrong);
            assert!(error.contains("linux.intelRdt.closID"), "{error}");
        }
    }

    #[test]
    fn lines_keep_the_specifications_order() {
        let asked = json!({"schemata": ["L2:0=f"], "memBwSchema": "MB:0=20", "l3CacheSchema": "L3:0=f",
                           "enableMonitoring": true});
        let plan = plan(asked).expect("sound");
        assert_eq!(plan.schemas, ["L3:0=f", "MB:0=20"]);
        assert_eq!(plan.schemata, ["L2:0=f"]);
        assert_eq!(plan.monitor.as_deref(), Some("c"));
    }

    #[test]
    fn a_line_is_one_line() {
        for (asked, field) in [
            (json!({"l3CacheSchema": "L3:0=f\nMB:0=1"}), "l3CacheSchema"),
            (json!({"schemata": ["L3:0=f", "a\nb"]}), "schemata[1]"),
            (json!({"memBwSchema": "L3:0=f"}), "memBwSchema"),
        ] {
            let error = plan(asked).expect_err(field);
            assert!(
                error.contains(&format!("linux.intelRdt.{field}")),
                "{error}"
            );
        }
    }
}
