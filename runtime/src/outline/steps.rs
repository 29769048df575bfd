//! Hooks, the filter, and which stages have something to do.

use std::collections::BTreeMap;
use std::path::Path;

use nix::sched::CloneFlags;
use oci_spec::runtime::{Hooks, LinuxSeccomp};
use serde::Serialize;

use super::shown;
use crate::cgroup::tree::CgroupVersion;
use crate::creation::Creation;
use crate::seccomp::compile::is_compiled;
use crate::seccomp::error::SeccompError;
use crate::seccomp::plan::{FilterFlags, FilterPlan, Unknown, Verdict, plan_filter};
use crate::stage::Run;
use crate::stages::hooks_runtime::{has_runtime_hooks, prestart};
use crate::stages::make_filter::cache_directory;

/// One program of the caller.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hook {
    /// Which of all, from 1 on.
    pub order: usize,
    /// Its moment, in the spec's words.
    pub moment: &'static str,
    /// The stage, or the command that runs it.
    pub by: &'static str,
    /// The program.
    pub path: String,
    /// Its arguments, the name first.
    pub args: Vec<String>,
    /// How long it may take, in seconds; `None`: as long as it likes.
    pub timeout_seconds: Option<i64>,
}

/// The filter of system calls.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    /// What happens to a call that no rule names.
    pub default_action: String,
    /// How many rules (a call under conditions) there are of each action.
    pub rules_by_action: BTreeMap<String, usize>,
    /// Beside the machine's own.
    pub architectures: Vec<String>,
    /// Of seccomp(2).
    pub flags: Vec<&'static str>,
    /// The program is on disk already, so that it is not compiled again.
    pub cached: bool,
}

/// One stage.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// From 1 on.
    pub order: usize,
    /// Its name.
    pub name: &'static str,
    /// `runtime` or `init`.
    pub actor: &'static str,
    /// What holds once it is done.
    pub effect: &'static str,
    /// Why it has nothing to do here; `None`: it has.
    pub idle: Option<&'static str>,
}

/// The caller's programs in the order in which they run.
pub fn outline_hooks(hooks: &Hooks) -> Vec<Hook> {
    let moments = [
        ("prestart", "hooks-runtime", Some(prestart(hooks))),
        (
            "createRuntime",
            "hooks-runtime",
            hooks.create_runtime().as_deref(),
        ),
        (
            "createContainer",
            "hooks-inside",
            hooks.create_container().as_deref(),
        ),
        (
            "startContainer",
            "hooks-start",
            hooks.start_container().as_deref(),
        ),
        ("poststart", "start", hooks.poststart().as_deref()),
        ("poststop", "delete", hooks.poststop().as_deref()),
    ];
    let each = moments.into_iter().flat_map(|(moment, by, hooks)| {
        let hooks = hooks.unwrap_or(&[]).iter();
        hooks.map(move |hook| (moment, by, hook))
    });
    each.enumerate()
        .map(|(index, (moment, by, hook))| Hook {
            order: index + 1,
            moment,
            by,
            path: shown(hook.path()),
            args: hook.args().clone().unwrap_or_default(),
            timeout_seconds: hook.timeout(),
        })
        .collect()
}

/// Puts a profile into words.
///
/// # Errors
///
/// A profile that no filter can be made of.
pub fn outline_filter(
    profile: &LinuxSeccomp,
    unknown: Unknown,
    root: &Path,
) -> Result<Filter, SeccompError> {
    let mut plan = plan_filter(profile)?;
    plan.unknown = unknown;
    let cached = is_compiled(&plan, &cache_directory(root))?;
    let FilterPlan {
        default,
        architectures,
        rules,
        flags,
        // It is among the extensions.
        unknown: _,
    } = plan;
    let mut rules_by_action = BTreeMap::new();
    for rule in &rules {
        *rules_by_action
            .entry(verdict_text(rule.verdict))
            .or_default() += 1;
    }
    let flag_words = [
        (FilterFlags::TSYNC, "SECCOMP_FILTER_FLAG_TSYNC"),
        (FilterFlags::LOG, "SECCOMP_FILTER_FLAG_LOG"),
        (FilterFlags::SPEC_ALLOW, "SECCOMP_FILTER_FLAG_SPEC_ALLOW"),
    ];
    Ok(Filter {
        default_action: verdict_text(default),
        rules_by_action,
        architectures: architectures.iter().map(in_spec_words).collect(),
        flags: flag_words
            .into_iter()
            .filter(|(bit, _)| flags.0 & bit != 0)
            .map(|(_, word)| word)
            .collect(),
        cached,
    })
}

fn in_spec_words(value: &impl Serialize) -> String {
    serde_json::to_value(value).map_or_else(
        |_| String::new(),
        |value| value.as_str().unwrap_or_default().to_owned(),
    )
}

/// The spec's word, with the errno where there is one.
fn verdict_text(verdict: Verdict) -> String {
    match verdict {
        Verdict::KillThread => "SCMP_ACT_KILL_THREAD".to_owned(),
        Verdict::KillProcess => "SCMP_ACT_KILL_PROCESS".to_owned(),
        Verdict::Trap => "SCMP_ACT_TRAP".to_owned(),
        Verdict::Notify => "SCMP_ACT_NOTIFY".to_owned(),
        Verdict::Errno(number) => {
            let name = nix::errno::Errno::from_raw(i32::from(number));
            format!("SCMP_ACT_ERRNO {name:?}")
        }
        Verdict::Trace(number) => format!("SCMP_ACT_TRACE {number}"),
        Verdict::Log => "SCMP_ACT_LOG".to_owned(),
        Verdict::Allow => "SCMP_ACT_ALLOW".to_owned(),
    }
}

/// The table, with the reason where a stage has nothing to do.
pub fn outline_stages(creation: &Creation) -> Vec<Step> {
    let numbered = creation.table.iter().enumerate();
    numbered
        .map(|(index, stage)| Step {
            order: index + 1,
            name: stage.name,
            actor: stage.run.actor(),
            effect: stage.effect,
            idle: IDLE
                .iter()
                .filter(|(name, _, _)| *name == stage.name)
                .find(|(_, _, holds)| holds(creation))
                .map(|(_, why, _)| *why)
                .or_else(|| match stage.run {
                    Run::RuntimeIf(asked, _) if !asked(creation) => Some("nothing asks for it"),
                    _ => None,
                }),
        })
        .collect()
}

/// A stage, why it has nothing to do, and whether that holds.
type Idle = (&'static str, &'static str, fn(&Creation) -> bool);

/// When a stage's own first lines return at once.
const IDLE: &[Idle] = &[
    ("make-filter", "no linux.seccomp", |creation| {
        creation.plan.seccomp.is_none()
    }),
    ("create-v2", "no cgroups are wanted", |creation| {
        creation.cgroup.is_none()
    }),
    ("create-v2", "no version 2 tree is mounted", |creation| {
        !has_version(creation, CgroupVersion::V2)
    }),
    ("create-v1", "no cgroups are wanted", |creation| {
        creation.cgroup.is_none()
    }),
    ("create-v1", "no version 1 tree is mounted", |creation| {
        !has_version(creation, CgroupVersion::V1)
    }),
    (
        "join-spaces",
        "no namespace is joined by its path",
        |creation| creation.plan.namespaces.joined.is_empty(),
    ),
    ("set-names", "no hostname and no domainname", |creation| {
        creation.plan.hostname.is_none() && creation.plan.domainname.is_none()
    }),
    (
        "quiet-mounts",
        "no mount namespace: the host's mounts stay as they are",
        |creation| creation.plan.namespaces.shares_mounts(),
    ),
    ("set-sysctls", "no linux.sysctl", |creation| {
        creation.plan.sysctls.is_empty()
    }),
    (
        "mount-tree",
        "no mounts before that of the cgroups",
        |creation| crate::stages::mount_tree::first_of_cgroups(&creation.plan.mounts) == 0,
    ),
    ("own-cgroup", "no new cgroup namespace", |creation| {
        !creation
            .plan
            .namespaces
            .new
            .contains(CloneFlags::CLONE_NEWCGROUP)
    }),
    ("make-devices", "/dev is the host's own", |creation| {
        creation.plan.devices.is_none()
    }),
    (
        "hooks-runtime",
        "no hooks prestart or createRuntime",
        |creation| !has_runtime_hooks(&creation.plan.hooks),
    ),
    ("hooks-inside", "no hooks createContainer", |creation| {
        is_empty(creation.plan.hooks.create_container())
    }),
    ("open-console", "process.terminal is false", |creation| {
        creation.plan.process.terminal.is_none()
    }),
    (
        "mask-paths",
        "no linux.maskedPaths and no linux.readonlyPaths",
        |creation| creation.plan.masked_paths.is_empty() && creation.plan.readonly_paths.is_empty(),
    ),
    ("hooks-start", "no hooks startContainer", |creation| {
        is_empty(creation.plan.hooks.start_container())
    }),
];

fn has_version(creation: &Creation, version: CgroupVersion) -> bool {
    let groups = creation.cgroup.iter();
    let mut hierarchies = groups.flat_map(|cgroup| &cgroup.hierarchies);
    hierarchies.any(|hierarchy| hierarchy.version == version)
}

fn is_empty<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_none_or(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::IDLE;

    #[test]
    fn every_reason_is_of_a_stage_that_there_is() {
        for (name, _, _) in IDLE {
            assert!(crate::stages::is_known(name), "{name}");
        }
    }
}
