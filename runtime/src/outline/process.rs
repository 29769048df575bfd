//! The program in words.

use caps::CapsHashSet;
use serde::Serialize;

use super::placement::numbers;
use super::shown;
use crate::plan::process::{CapabilityPlan, LimitPlan, ProcessPlan};
use crate::plan::schedule::{SchedulePlan, SchedulerPlan};

/// The program and what it may do.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Its name and arguments.
    pub args: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// Where it begins.
    pub cwd: String,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its other groups.
    pub additional_gids: Vec<u32>,
    /// In octal.
    pub umask: String,
    /// The five sets.
    pub capabilities: Capabilities,
    /// In order.
    pub rlimits: Vec<Limit>,
    /// No exec gives it more.
    pub no_new_privileges: bool,
    /// -1000 to 1000; `None`: its caller's.
    pub oom_score_adj: Option<i32>,
    /// When and where it runs.
    pub schedule: Schedule,
    /// Its label of SELinux.
    pub selinux_label: Option<String>,
    /// Its profile of AppArmor.
    pub apparmor_profile: Option<String>,
    /// `None`: no terminal.
    pub terminal: Option<Terminal>,
}

/// When and where a program runs; `None`: as its caller does.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// As sched_setattr(2) has it.
    pub scheduler: Option<Scheduler>,
    /// As ioprio_set(2) takes it.
    pub io_priority: Option<u16>,
    /// Where init runs until it is in its cgroups.
    pub initial_processors: Option<Vec<usize>>,
    /// Where the program runs.
    pub final_processors: Option<Vec<usize>>,
}

/// As sched_setattr(2) has it; times in nanoseconds.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scheduler {
    /// `SCHED_*` as a number.
    pub policy: u32,
    /// `SCHED_FLAG_*` as a number.
    pub flags: u64,
    /// -20 to 19.
    pub nice: i32,
    /// 1 to 99 for real-time policies.
    pub priority: u32,
    /// Work in a period.
    pub runtime: u64,
    /// Until when it must be done.
    pub deadline: u64,
    /// The period.
    pub period: u64,
}

/// The five sets of capabilities(7), each sorted.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// The most that an exec can give.
    pub bounding: Vec<String>,
    /// What checks look at.
    pub effective: Vec<String>,
    /// What an exec of a program with file capabilities may keep.
    pub inheritable: Vec<String>,
    /// What may be made effective.
    pub permitted: Vec<String>,
    /// What any exec keeps.
    pub ambient: Vec<String>,
}

/// One limit.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    /// `RLIMIT_*`.
    #[serde(rename = "type")]
    pub name: &'static str,
    /// In force.
    pub soft: u64,
    /// How far it may be raised.
    pub hard: u64,
}

/// A terminal.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Terminal {
    /// Rows; `None`: as its caller's.
    pub height: Option<u16>,
    /// Columns; `None`: as its caller's.
    pub width: Option<u16>,
}

/// Puts a process into words.
pub fn outline_process(plan: &ProcessPlan) -> Process {
    let ProcessPlan {
        arguments,
        environment,
        cwd,
        uid,
        gid,
        groups,
        umask,
        capabilities,
        limits,
        no_new_privileges,
        oom_score_adj,
        schedule,
        selinux_label,
        apparmor_profile,
        terminal,
    } = plan;
    let texts = |texts: &[std::ffi::CString]| {
        let texts = texts.iter();
        texts
            .map(|text| text.to_string_lossy().into_owned())
            .collect()
    };
    Process {
        args: texts(arguments),
        env: texts(environment),
        cwd: shown(cwd.as_path()),
        uid: *uid,
        gid: *gid,
        additional_gids: groups.clone(),
        umask: format!("{umask:04o}"),
        capabilities: outline_capabilities(capabilities),
        rlimits: limits.iter().map(outline_limit).collect(),
        no_new_privileges: *no_new_privileges,
        oom_score_adj: *oom_score_adj,
        schedule: outline_schedule(schedule),
        selinux_label: selinux_label.clone(),
        apparmor_profile: apparmor_profile.clone(),
        terminal: terminal.map(|size| Terminal {
            height: size.map(|size| size.height),
            width: size.map(|size| size.width),
        }),
    }
}

fn outline_schedule(plan: &SchedulePlan) -> Schedule {
    let SchedulePlan {
        scheduler,
        io_priority,
        initial_processors,
        final_processors,
    } = plan;
    let outline_scheduler = |plan: SchedulerPlan| {
        let SchedulerPlan {
            policy,
            flags,
            nice,
            priority,
            runtime,
            deadline,
            period,
        } = plan;
        Scheduler {
            policy,
            flags,
            nice,
            priority,
            runtime,
            deadline,
            period,
        }
    };
    Schedule {
        scheduler: scheduler.map(outline_scheduler),
        io_priority: *io_priority,
        initial_processors: initial_processors.as_ref().map(numbers),
        final_processors: final_processors.as_ref().map(numbers),
    }
}

fn outline_capabilities(plan: &CapabilityPlan) -> Capabilities {
    let CapabilityPlan {
        bounding,
        effective,
        inheritable,
        permitted,
        ambient,
    } = plan;
    Capabilities {
        bounding: names(bounding),
        effective: names(effective),
        inheritable: names(inheritable),
        permitted: names(permitted),
        ambient: names(ambient),
    }
}

fn names(set: &CapsHashSet) -> Vec<String> {
    let mut names: Vec<String> = set.iter().map(ToString::to_string).collect();
    names.sort();
    names
}

fn outline_limit(plan: &LimitPlan) -> Limit {
    let LimitPlan {
        // The same as the name, in the kernel's number.
        resource: _,
        name,
        soft,
        hard,
    } = plan;
    Limit {
        name,
        soft: *soft,
        hard: *hard,
    }
}
