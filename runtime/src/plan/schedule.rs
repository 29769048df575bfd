//! When and where the program runs: scheduling, I/O priority, processors, memory nodes.
//!
//! The kernel keeps all of these with the process and hands them on to its
//! children, so init sets them on itself. Each is checked here as far as the
//! specification says what goes together; what the machine has (which
//! processors, which nodes) only the kernel knows.

use oci_spec::runtime::{
    ExecCPUAffinity, IOPriorityClass, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonality,
    LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType,
    MemoryPolicyModeType, Process, Scheduler,
};

use super::SpecError;

/// What the process' own fields ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchedulePlan {
    /// `process.scheduler`.
    pub scheduler: Option<SchedulerPlan>,
    /// `process.ioPriority`, as ioprio_set(2) takes it: class and level in one number.
    pub io_priority: Option<u16>,
    /// `process.execCPUAffinity.initial`: where the runtime and init run until
    /// init is in its cgroups.
    pub initial_processors: Option<NumberSet>,
    /// `process.execCPUAffinity.final`: where the program runs.
    pub final_processors: Option<NumberSet>,
}

/// `struct sched_attr` of sched_setattr(2), but for its size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedulerPlan {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// -20 to 19, for the policies that share the processor.
    pub nice: i32,
    /// 1 to 99, for the real-time ones.
    pub priority: u32,
    /// Nanoseconds of work in a period, for deadlines.
    pub runtime: u64,
    /// Nanoseconds from a period's begin until the work must be done.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
}

/// `linux.memoryPolicy`, as set_mempolicy(2) takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPolicyPlan {
    /// `MPOL_*` with `MPOL_F_*`.
    pub mode: u32,
    /// The nodes; empty where the mode has none.
    pub nodes: NumberSet,
}

/// Numbers of processors or memory nodes, as the kernel's bit masks have them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NumberSet {
    words: Vec<u64>,
}

/// More than any machine has; the kernel's own limit is 8192 processors.
const NUMBER_LIMIT: u32 = 1 << 16;

impl NumberSet {
    /// The mask, 64 numbers a word, the lowest first.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    fn insert(&mut self, number: u32) {
        let word = number as usize / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (number % 64);
    }

    /// Reads `0-3,7`, the form of cpuset(7).
    fn parse(field: &str, text: &str) -> Result<NumberSet, SpecError> {
        let mut set = NumberSet::default();
        if text.trim().is_empty() {
            return Ok(set);
        }
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = first.trim().parse().ok().zip(last.trim().parse().ok());
            match range {
                Some((first, last)) if first <= last && last < NUMBER_LIMIT => {
                    (first..=last).for_each(|number| set.insert(number));
                }
                _ => {
                    let reason =
                        format!("expected numbers and ranges such as 0-3,7, found {text:?}");
                    return Err(SpecError::new(field, reason));
                }
            }
        }
        Ok(set)
    }
}

/// Plans what a process' own fields ask for.
///
/// # Errors
///
/// A value out of its range, or one that its policy does not have.
pub fn plan_schedule(process: &Process) -> Result<SchedulePlan, SpecError> {
    let affinity = process.exec_cpu_affinity().as_ref();
    let processors = |name: &str, list: fn(&ExecCPUAffinity) -> &Option<String>| {
        let text = affinity.and_then(|affinity| list(affinity).as_deref());
        let set =
            text.map(|text| NumberSet::parse(&format!("process.execCPUAffinity.{name}"), text));
        // An empty list says what a missing one says.
        Ok::<_, SpecError>(set.transpose()?.filter(|set| !set.is_empty()))
    };
    Ok(SchedulePlan {
        scheduler: process
            .scheduler()
            .as_ref()
            .map(plan_scheduler)
            .transpose()?,
        io_priority: process
            .io_priority()
            .as_ref()
            .map(plan_io_priority)
            .transpose()?,
        initial_processors: processors("initial", ExecCPUAffinity::initial)?,
        final_processors: processors("final", ExecCPUAffinity::cpu_affinity_final)?,
    })
}

fn plan_scheduler(scheduler: &Scheduler) -> Result<SchedulerPlan, SpecError> {
    let refused = |name: &str, reason: String| {
        Err(SpecError::new(format!("process.scheduler.{name}"), reason))
    };
    let policy = *scheduler.policy();
    let nice = scheduler.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        return refused("nice", format!("expected -20 to 19, found {nice}"));
    }
    let priority = scheduler.priority().unwrap_or(0);
    let real_time = matches!(
        policy,
        LinuxSchedulerPolicy::SchedFifo | LinuxSchedulerPolicy::SchedRr
    );
    if priority != 0 && !real_time {
        let reason = format!("expected none, for {policy} has no priorities, found {priority}");
        return refused("priority", reason);
    }
    if !(0..=99).contains(&priority) {
        return refused("priority", format!("expected 1 to 99, found {priority}"));
    }
    let times = [
        ("runtime", *scheduler.runtime()),
        ("deadline", *scheduler.deadline()),
        ("period", *scheduler.period()),
    ];
    let time = times
        .iter()
        .find(|(_, time)| time.is_some_and(|time| time != 0));
    if let (Some((name, _)), true) = (time, policy != LinuxSchedulerPolicy::SchedDeadline) {
        return refused(
            name,
            format!("expected none, for only SCHED_DEADLINE has it, not {policy}"),
        );
    }
    let flags = scheduler.flags().iter().flatten();
    Ok(SchedulerPlan {
        policy: policy_number(policy),
        flags: flags.fold(0, |all, flag| all | scheduler_flag(*flag)),
        nice,
        // Checked above to be 0 to 99.
        priority: priority.unsigned_abs(),
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    })
}

/// `<linux/sched.h>`. Number 4 was reserved for `SCHED_ISO`, which no released
/// kernel has; the kernel is left to say so.
fn policy_number(policy: LinuxSchedulerPolicy) -> u32 {
    match policy {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    }
}

/// `<linux/sched.h>`.
fn scheduler_flag(flag: LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

fn plan_io_priority(priority: &LinuxIOPriority) -> Result<u16, SpecError> {
    // IOPRIO_CLASS_SHIFT of <linux/ioprio.h>.
    const CLASS_SHIFT: u32 = 13;
    let class: u16 = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u16::try_from(priority.priority()) {
        Ok(level) if level <= 7 => Ok(class << CLASS_SHIFT | level),
        _ => Err(SpecError::new(
            "process.ioPriority.priority",
            format!("expected 0 to 7, found {}", priority.priority()),
        )),
    }
}

/// Plans `linux.personality`, as personality(2) takes it.
///
/// # Errors
///
/// A flag: the specification has none yet.
pub fn plan_personality(personality: &LinuxPersonality) -> Result<u64, SpecError> {
    if let Some(flag) = personality.flags().iter().flatten().next() {
        let reason = format!("expected none, for the specification knows no flag, found {flag:?}");
        return Err(SpecError::new("linux.personality.flags[0]", reason));
    }
    // <linux/personality.h>.
    Ok(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}

/// Plans `linux.memoryPolicy`.
///
/// # Errors
///
/// Nodes where the mode takes none, and the reverse.
pub fn plan_memory_policy(policy: &LinuxMemoryPolicy) -> Result<MemoryPolicyPlan, SpecError> {
    let nodes = policy.nodes().as_deref().unwrap_or("");
    let nodes = NumberSet::parse("linux.memoryPolicy.nodes", nodes)?;
    let mode = policy.mode();
    let (number, wanted) = memory_mode(mode);
    let wrong = match (wanted, nodes.is_empty()) {
        (Nodes::None, false) => Some(format!("expected none, for {mode} has no nodes")),
        (Nodes::Some, true) => Some(format!("expected at least one node for {mode}, found none")),
        _ => None,
    };
    if let Some(reason) = wrong {
        return Err(SpecError::new("linux.memoryPolicy.nodes", reason));
    }
    let flags = policy.flags().iter().flatten();
    Ok(MemoryPolicyPlan {
        mode: flags.fold(number, |all, flag| all | memory_flag(*flag)),
        nodes,
    })
}

/// What set_mempolicy(2) says of a mode's nodes.
enum Nodes {
    None,
    Some,
    Any,
}

/// `<linux/mempolicy.h>`.
fn memory_mode(mode: MemoryPolicyModeType) -> (u32, Nodes) {
    match mode {
        MemoryPolicyModeType::MpolDefault => (0, Nodes::None),
        // Without a node it is the node that the program runs on.
        MemoryPolicyModeType::MpolPreferred => (1, Nodes::Any),
        MemoryPolicyModeType::MpolBind => (2, Nodes::Some),
        MemoryPolicyModeType::MpolInterleave => (3, Nodes::Some),
        MemoryPolicyModeType::MpolLocal => (4, Nodes::None),
        MemoryPolicyModeType::MpolPreferredMany => (5, Nodes::Some),
        MemoryPolicyModeType::MpolWeightedInterleave => (6, Nodes::Some),
    }
}

fn memory_flag(flag: MemoryPolicyFlagType) -> u32 {
    match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    }
}

#[cfg(test)]
mod tests;
