//! `update --l3-cache-schema L3:0=f --mem-bw-schema MB:0=50`: another share of the
//! processor's caches and memory bandwidth.
//!
//! A container that has no class of its own yet gets one, as with runc, and all its
//! processes are put into it. In the class of an operator (`closID`) the limits are
//! others for all who are in it: that is what was asked for.

use std::path::PathBuf;

use oci_spec::runtime::LinuxIntelRdt;
use serde_json::{Value, json};

use crate::arguments::UpdateArguments;
use crate::error::{Error, ErrorKind};
use crate::plan::cache_group::{CacheGroupPlan, plan_schemas};
use crate::resctrl::{CacheGroup, ResctrlError, ensure_group, find_root, has_resource};
use crate::stage::StageError;
use crate::state::Record;
use crate::sys::process::HostPid;

/// Lines for a class.
#[derive(Debug)]
pub struct Plan {
    root: PathBuf,
    asked: LinuxIntelRdt,
    lines: Vec<String>,
}

/// What was changed.
#[derive(Debug)]
pub struct Changed {
    plan: Plan,
    /// The lines that held before; nothing where the class is new.
    before: Option<Vec<String>>,
}

/// What the flags ask for; nothing where they are not given.
///
/// # Errors
///
/// A machine or kernel without such limits, in runc's words; a text that is no schema.
pub fn plan(arguments: &UpdateArguments) -> Result<Option<Plan>, Error> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (cache, memory) = (
        given(&arguments.l3_cache_schema),
        given(&arguments.mem_bw_schema),
    );
    if cache.is_none() && memory.is_none() {
        return Ok(None);
    }
    let root = find_root().ok();
    let lacks = |resource| {
        root.as_ref()
            .is_none_or(|root| !has_resource(root, resource))
    };
    if cache.is_some() && lacks("L3") {
        let text = "Intel RDT/CAT: l3 cache schema is not enabled";
        return Err(Error::new(ErrorKind::BadInput, text));
    }
    if memory.is_some() && lacks("MB") {
        let text = "Intel RDT/MBA: memory bandwidth schema is not enabled";
        return Err(Error::new(ErrorKind::BadInput, text));
    }
    let mut asked = LinuxIntelRdt::default();
    asked.set_l3_cache_schema(cache);
    asked.set_mem_bw_schema(memory);
    let lines =
        plan_schemas(&asked).map_err(|error| Error::new(ErrorKind::BadInput, error.to_string()))?;
    Ok(Some(Plan {
        root: root.unwrap_or_default(),
        asked,
        lines,
    }))
}

impl Plan {
    /// Sets the lines, and puts a container without a class into a new one.
    ///
    /// # Errors
    ///
    /// What the kernel refused; all is then as it was.
    pub fn apply(self, record: &mut Record) -> Result<Changed, Error> {
        let before = match &record.cache_group {
            Some(group) => Some(group.set(&self.root, &self.lines).map_err(told)?),
            None => {
                record.cache_group = Some(self.make_group(record).map_err(told)?);
                None
            }
        };
        Ok(Changed { plan: self, before })
    }

    fn make_group(&self, record: &Record) -> Result<CacheGroup, ResctrlError> {
        let plan = CacheGroupPlan {
            class: record.id.as_str().to_owned(),
            own: true,
            schemas: self.lines.clone(),
            schemata: Vec::new(),
            monitor: None,
        };
        let group = ensure_group(&self.root, &plan)?;
        // Children are born into their parent's class, so init alone would not do for
        // those that are there; one that has ended meanwhile needs none.
        let init = record.init.map(|init| init.pid.0);
        let cgroup = record.cgroup.as_ref();
        let others = cgroup.and_then(|cgroup| cgroup.pids().ok());
        let others = others.unwrap_or_default().into_iter();
        let others = others.filter(|pid| Some(*pid) != init);
        let added = init.map_or(Ok(()), |pid| group.add(&self.root, HostPid(pid)));
        if let Err(error) = added {
            // What cannot be taken back either is told by the first error.
            let _ = group.take_back();
            return Err(error);
        }
        for pid in others {
            let _ = group.add(&self.root, HostPid(pid));
        }
        Ok(group)
    }
}

impl Changed {
    /// Goes back to what held; what cannot be put back stays, for there is another
    /// failure to tell of.
    pub fn take_back(&self, record: &Record) {
        let Some(group) = &record.cache_group else {
            return;
        };
        let _ = match &self.before {
            Some(lines) => group.set(&self.plan.root, lines).map(drop),
            None => group.take_back(),
        };
    }

    /// What holds now, to be laid over the kept configuration.
    pub fn configuration(&self) -> Value {
        json!({ "linux": { "intelRdt": self.plan.asked } })
    }
}

fn told(error: ResctrlError) -> Error {
    StageError::from(error).into()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use serde_json::json;

    use super::Plan;
    use crate::resctrl::CacheGroup;
    use crate::state::Record;
    use crate::state::tests::record;
    use crate::verbs::update::merge;

    fn plan(root: &Path) -> Plan {
        Plan {
            root: root.to_owned(),
            asked: serde_json::from_value(json!({"l3CacheSchema": "L3:0=f"})).expect("the shape"),
            lines: vec!["L3:0=f".to_owned()],
        }
    }

    fn in_class(class: &Path) -> Record {
        let id = crate::ids::ContainerId::parse("c").expect("an id");
        let mut record = record(&id, None);
        record.cache_group = Some(CacheGroup {
            class: class.to_owned(),
            made: true,
            own: true,
            monitor: None,
        });
        record
    }

    #[test]
    fn a_class_gets_other_lines_and_back() {
        let root = tempfile::tempdir().expect("a directory");
        let class = root.path().join("c");
        fs::create_dir(&class).expect("a class");
        fs::write(class.join("schemata"), "    MB:0=100\n    L3:0=00ff\n").expect("a file");
        let mut record = in_class(&class);
        let changed = plan(root.path()).apply(&mut record).expect("it is set");
        let kept = || fs::read_to_string(class.join("schemata")).expect("schemata");
        assert!(kept().ends_with("L3:0=00ff\nL3:0=f\n"), "{}", kept());
        let mut config = json!({"linux": {"intelRdt": {"closID": "gold"}}});
        merge(&mut config, changed.configuration());
        let told = &config["linux"]["intelRdt"];
        assert_eq!(*told, json!({"closID": "gold", "l3CacheSchema": "L3:0=f"}));
        changed.take_back(&record);
        assert!(kept().ends_with("L3:0=f\nL3:0=00ff\n"), "{}", kept());
    }

    #[test]
    fn a_container_whose_class_cannot_be_made_stays_where_it_is() {
        let root = tempfile::tempdir().expect("a directory");
        let mut record = in_class(root.path());
        record.cache_group = None;
        // A plain directory has no schemata to write to, so this is a refusal.
        let refused = plan(root.path())
            .apply(&mut record)
            .expect_err("no schemata");
        assert!(refused.to_string().contains("linux.intelRdt"), "{refused}");
        assert_eq!(record.cache_group, None);
        assert!(!root.path().join("c").exists());
    }
}
