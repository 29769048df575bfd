//! The program: who it is, what it may do, what it is given.

use std::ffi::CString;

use caps::CapsHashSet;
use oci_spec::runtime::{Capabilities, LinuxCapabilities, PosixRlimit, PosixRlimitType, Process};

use super::SpecError;
use super::schedule::{SchedulePlan, plan_schedule};
use crate::ids::ContainerPath;
use crate::sys::terminal::Size;

/// The program of a container, or one that `exec` adds.
#[derive(Debug, Clone)]
pub struct ProcessPlan {
    /// Its name and arguments; never empty.
    pub arguments: Vec<CString>,
    /// `KEY=value`.
    pub environment: Vec<CString>,
    /// Where it begins.
    pub cwd: ContainerPath,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its other groups.
    pub groups: Vec<u32>,
    /// What new files do not get; 0022 where the spec is silent.
    pub umask: u32,
    /// Its capabilities: none where the spec is silent, as runc and crun have it.
    pub capabilities: CapabilityPlan,
    /// Its limits.
    pub limits: Vec<LimitPlan>,
    /// No exec gives it more.
    pub no_new_privileges: bool,
    /// How soon the OOM killer takes it, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// When and where it runs.
    pub schedule: SchedulePlan,
    /// Its label of SELinux.
    pub selinux_label: Option<String>,
    /// Its profile of AppArmor.
    pub apparmor_profile: Option<String>,
    /// It gets a terminal, of this size where one is known.
    pub terminal: Option<Option<Size>>,
}

impl ProcessPlan {
    /// Tells the program of sockets that it inherits (sd_listen_fds(3)), unless
    /// its own environment says something of them. It will be process 1.
    pub fn pass_sockets(&mut self, count: u32) {
        let told = |text: &CString| text.as_bytes().starts_with(b"LISTEN_");
        if count == 0 || self.environment.iter().any(told) {
            return;
        }
        for text in [format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()] {
            self.environment
                .push(CString::new(text).expect("there is no zero byte in it"));
        }
    }
}

/// The five sets of capabilities(7).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CapabilityPlan {
    /// The most that an exec can give.
    pub bounding: CapsHashSet,
    /// What checks look at.
    pub effective: CapsHashSet,
    /// What an exec of a program with file capabilities may keep.
    pub inheritable: CapsHashSet,
    /// What may be made effective.
    pub permitted: CapsHashSet,
    /// What any exec keeps.
    pub ambient: CapsHashSet,
}

/// One limit of getrlimit(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitPlan {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// The same in letters.
    pub name: &'static str,
    /// In force.
    pub soft: u64,
    /// How far the program may raise it.
    pub hard: u64,
}

/// Plans a process.
///
/// # Errors
///
/// A missing program or working directory, a zero byte, a limit that stands twice.
pub fn plan_process(process: &Process) -> Result<ProcessPlan, SpecError> {
    let arguments = process.args().as_deref().unwrap_or(&[]);
    if arguments.is_empty() || arguments[0].is_empty() {
        return Err(SpecError::new(
            "process.args",
            "expected a program, found none",
        ));
    }
    if !process.cwd().is_absolute() {
        let found = process.cwd();
        let reason = format!("expected an absolute path, found {found:?}");
        return Err(SpecError::new("process.cwd", reason));
    }
    let user = process.user();
    Ok(ProcessPlan {
        arguments: c_strings("process.args", arguments)?,
        environment: plan_environment(process.env().as_deref().unwrap_or(&[]))?,
        cwd: ContainerPath::new(process.cwd().clone()),
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask().unwrap_or(0o022),
        capabilities: process
            .capabilities()
            .as_ref()
            .map_or_else(CapabilityPlan::default, plan_capabilities),
        limits: plan_limits(process.rlimits().as_deref().unwrap_or(&[]))?,
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        oom_score_adj: check_oom_score(process.oom_score_adj())?,
        schedule: plan_schedule(process)?,
        selinux_label: filled(process.selinux_label()),
        apparmor_profile: filled(process.apparmor_profile()),
        terminal: process.terminal().unwrap_or(false).then(|| {
            let size = process.console_size()?;
            let small = |side: u64| u16::try_from(side).unwrap_or(u16::MAX);
            Some(Size {
                height: small(size.height()),
                width: small(size.width()),
            })
        }),
    })
}

impl CapabilityPlan {
    /// Adds to all sets but the inheritable one, as `exec --cap` does.
    pub fn grant(&mut self, capability: caps::Capability) {
        self.bounding.insert(capability);
        self.effective.insert(capability);
        self.permitted.insert(capability);
    }
}

/// A text that exec(2) can take.
///
/// # Errors
///
/// A zero byte.
pub fn c_strings(field: &str, texts: &[String]) -> Result<Vec<CString>, SpecError> {
    let numbered = texts.iter().enumerate();
    numbered
        .map(|(index, text)| {
            let reason = "expected a text without a zero byte";
            CString::new(text.as_bytes())
                .map_err(|_| SpecError::new(format!("{field}[{index}]"), reason))
        })
        .collect()
}

/// A variable that stands twice has its last value, as in runc: what an image
/// says is overridden by what is appended.
fn plan_environment(variables: &[String]) -> Result<Vec<CString>, SpecError> {
    let name = |text: &String| text.split('=').next().unwrap_or("").to_owned();
    let mut kept: Vec<String> = Vec::with_capacity(variables.len());
    for variable in variables {
        let this = name(variable);
        match kept.iter_mut().find(|other| name(other) == this) {
            Some(other) => other.clone_from(variable),
            None => kept.push(variable.clone()),
        }
    }
    c_strings("process.env", &kept)
}

fn plan_capabilities(sets: &LinuxCapabilities) -> CapabilityPlan {
    CapabilityPlan {
        bounding: capability_set(sets.bounding()),
        effective: capability_set(sets.effective()),
        inheritable: capability_set(sets.inheritable()),
        permitted: capability_set(sets.permitted()),
        ambient: capability_set(sets.ambient()),
    }
}

/// The spec's words as the kernel's numbers. Both lists are the kernel's own,
/// so a word that one knows and the other does not is a capability that this
/// kernel has not; runc leaves those away too.
fn capability_set(words: &Option<Capabilities>) -> CapsHashSet {
    let words = words.iter().flatten();
    words
        .filter_map(|word| format!("CAP_{word}").parse().ok())
        .collect()
}

fn plan_limits(limits: &[PosixRlimit]) -> Result<Vec<LimitPlan>, SpecError> {
    let mut plans: Vec<LimitPlan> = Vec::with_capacity(limits.len());
    for (index, limit) in limits.iter().enumerate() {
        let (resource, name) = resource(limit.typ());
        let field = format!("process.rlimits[{index}]");
        if plans.iter().any(|other| other.resource == resource) {
            return Err(SpecError::new(field, format!("{name} stands twice")));
        }
        if limit.soft() > limit.hard() {
            let reason = format!(
                "{name}: soft {} is above hard {}",
                limit.soft(),
                limit.hard()
            );
            return Err(SpecError::new(field, reason));
        }
        plans.push(LimitPlan {
            resource,
            name,
            soft: limit.soft(),
            hard: limit.hard(),
        });
    }
    Ok(plans)
}

/// An empty label asks for none.
fn filled(label: &Option<String>) -> Option<String> {
    label.clone().filter(|label| !label.is_empty())
}

fn check_oom_score(score: Option<i32>) -> Result<Option<i32>, SpecError> {
    match score {
        Some(score) if !(-1000..=1000).contains(&score) => Err(SpecError::new(
            "process.oomScoreAdj",
            format!("expected -1000 to 1000, found {score}"),
        )),
        other => Ok(other),
    }
}

fn resource(kind: PosixRlimitType) -> (u32, &'static str) {
    match kind {
        PosixRlimitType::RlimitCpu => (libc::RLIMIT_CPU, "RLIMIT_CPU"),
        PosixRlimitType::RlimitFsize => (libc::RLIMIT_FSIZE, "RLIMIT_FSIZE"),
        PosixRlimitType::RlimitData => (libc::RLIMIT_DATA, "RLIMIT_DATA"),
        PosixRlimitType::RlimitStack => (libc::RLIMIT_STACK, "RLIMIT_STACK"),
        PosixRlimitType::RlimitCore => (libc::RLIMIT_CORE, "RLIMIT_CORE"),
        PosixRlimitType::RlimitRss => (libc::RLIMIT_RSS, "RLIMIT_RSS"),
        PosixRlimitType::RlimitNproc => (libc::RLIMIT_NPROC, "RLIMIT_NPROC"),
        PosixRlimitType::RlimitNofile => (libc::RLIMIT_NOFILE, "RLIMIT_NOFILE"),
        PosixRlimitType::RlimitMemlock => (libc::RLIMIT_MEMLOCK, "RLIMIT_MEMLOCK"),
        PosixRlimitType::RlimitAs => (libc::RLIMIT_AS, "RLIMIT_AS"),
        PosixRlimitType::RlimitLocks => (libc::RLIMIT_LOCKS, "RLIMIT_LOCKS"),
        PosixRlimitType::RlimitSigpending => (libc::RLIMIT_SIGPENDING, "RLIMIT_SIGPENDING"),
        PosixRlimitType::RlimitMsgqueue => (libc::RLIMIT_MSGQUEUE, "RLIMIT_MSGQUEUE"),
        PosixRlimitType::RlimitNice => (libc::RLIMIT_NICE, "RLIMIT_NICE"),
        PosixRlimitType::RlimitRtprio => (libc::RLIMIT_RTPRIO, "RLIMIT_RTPRIO"),
        PosixRlimitType::RlimitRttime => (libc::RLIMIT_RTTIME, "RLIMIT_RTTIME"),
    }
}
