//! The profile, checked and in one normal form, without any architecture's numbers.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::SeccompError;

/// What the kernel does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// `SIGSYS`, not to be caught, to the thread.
    KillThread,
    /// `SIGSYS`, not to be caught, to the whole process.
    KillProcess,
    /// `SIGSYS` that can be caught.
    Trap,
    /// The call fails with this errno.
    Errno(u16),
    /// A tracer is told, with this number; without one the call fails with `ENOSYS`.
    Trace(u16),
    /// A listener is told, and decides.
    Notify,
    /// The call is made and logged.
    Log,
    /// The call is made.
    Allow,
}

/// How an argument is compared with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// Not equal.
    NotEqual,
    /// Less.
    Less,
    /// Less or equal.
    LessOrEqual,
    /// Equal.
    Equal,
    /// Greater or equal.
    GreaterOrEqual,
    /// Greater.
    Greater,
    /// Equal after `and` with this mask.
    MaskedEqual(u64),
}

/// One comparison: all of a rule's must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Condition {
    /// Which argument, from 0 to 5.
    pub argument: u8,
    /// The comparison.
    pub comparison: Comparison,
    /// The value on its right side.
    pub value: u64,
}

/// One call, under conditions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// The call's name.
    pub name: String,
    /// What happens to it.
    pub verdict: Verdict,
    /// When: always if there is none.
    pub conditions: Vec<Condition>,
    /// The entry of `linux.seccomp.syscalls` that it stands in.
    pub entry: usize,
}

/// Flags of `seccomp(2)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FilterFlags(pub u32);

impl FilterFlags {
    /// All threads of the process get the filter.
    pub const TSYNC: u32 = 1;
    /// Everything but "allow" is logged.
    pub const LOG: u32 = 2;
    /// The mitigation against speculative store bypass stays off.
    pub const SPEC_ALLOW: u32 = 4;
    /// The call that installs the filter returns a descriptor to listen on.
    pub const NEW_LISTENER: u32 = 8;
    /// A thread that refuses a common filter is told by an errno, for the
    /// number that is returned is the listener's.
    pub const TSYNC_ESRCH: u32 = 16;
    /// Who waits for a listener's answer can be killed, and is not disturbed by
    /// other signals once the listener has the question (Linux 5.19).
    pub const WAIT_KILLABLE_RECV: u32 = 32;
}

/// A filter before it is compiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterPlan {
    /// What happens to a call that no rule names.
    pub default: Verdict,
    /// Architectures beside the machine's own.
    pub architectures: Vec<Arch>,
    /// The rules in the profile's order.
    pub rules: Vec<Rule>,
    /// Flags of the installing call.
    pub flags: FilterFlags,
    /// What becomes of a call that the library does not know.
    pub unknown: Unknown,
}

/// What becomes of a call that the library does not know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// It gets the default verdict: profiles are written for newer kernels too.
    #[default]
    Ignore,
    /// The profile is refused.
    Refuse,
}

impl FilterPlan {
    /// A number that is the same for the same filter, on every machine and in every run.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        // Each item ends with a byte that cannot be in it, so that no two
        // different plans can be the same row of bytes.
        hash.update(b"berth filter plan 1\n");
        hash.update(format!(
            "{:?}\n{:?}\n{}\n",
            self.default, self.architectures, self.flags.0
        ));
        if self.unknown == Unknown::Refuse {
            hash.update("no unknown calls\n");
        }
        let mut line = String::new();
        for rule in &self.rules {
            line.clear();
            line.push_str(&rule.name);
            line.push('\0');
            // Of the entry's index only error messages make use.
            push_debug(&mut line, &rule.verdict, &rule.conditions);
            hash.update(&line);
        }
        hash.finalize().into()
    }
}

fn push_debug(line: &mut String, verdict: &Verdict, conditions: &[Condition]) {
    use std::fmt::Write;
    // Writing into a String cannot fail.
    let _ = write!(line, "{verdict:?}");
    for condition in conditions {
        let _ = write!(line, " {condition:?}");
    }
    line.push('\n');
}

/// Checks a profile and brings it into one form. Touches nothing.
///
/// Names are not resolved: one that no architecture knows is ignored when the
/// filter is compiled, because profiles are written for newer kernels too.
///
/// # Errors
///
/// [`SeccompError::Invalid`] with the field.
pub fn plan_filter(profile: &LinuxSeccomp) -> Result<FilterPlan, SeccompError> {
    let default = plan_verdict(
        profile.default_action(),
        profile.default_errno_ret(),
        "linux.seccomp.defaultErrnoRet",
    )?;
    if default == Verdict::Notify {
        let reason = "SCMP_ACT_NOTIFY cannot be the default: init itself would wait for a listener before it could name one";
        return Err(SeccompError::invalid("linux.seccomp.defaultAction", reason));
    }
    let mut rules = Vec::new();
    for (index, entry) in profile.syscalls().iter().flatten().enumerate() {
        plan_entry(entry, index, default, &mut rules)?;
    }
    let asks = rules.iter().any(|rule| rule.verdict == Verdict::Notify);
    let flags = plan_flags(profile.flags().iter().flatten());
    let flags = FilterFlags(match asks {
        true if flags.0 & FilterFlags::TSYNC != 0 => {
            flags.0 | FilterFlags::NEW_LISTENER | FilterFlags::TSYNC_ESRCH
        }
        true => flags.0 | FilterFlags::NEW_LISTENER,
        // It says how to wait for a listener, and the kernel refuses it without one.
        false => flags.0 & !FilterFlags::WAIT_KILLABLE_RECV,
    });
    check_listener(profile, flags)?;
    Ok(FilterPlan {
        default,
        architectures: profile.architectures().clone().unwrap_or_default(),
        rules,
        flags,
        unknown: Unknown::default(),
    })
}

/// Who is to listen must be said, and nothing be said to nobody.
fn check_listener(profile: &LinuxSeccomp, flags: FilterFlags) -> Result<(), SeccompError> {
    let path = profile.listener_path().as_deref();
    let named = path.is_some_and(|path| !path.as_os_str().is_empty());
    let metadata = profile.listener_metadata().as_deref().unwrap_or("");
    if !named && !metadata.is_empty() {
        let reason = "expected none without linux.seccomp.listenerPath, for nobody would get it";
        return Err(SeccompError::invalid(
            "linux.seccomp.listenerMetadata",
            reason,
        ));
    }
    if !named && flags.0 & FilterFlags::NEW_LISTENER != 0 {
        let reason = "expected a socket's path, for SCMP_ACT_NOTIFY asks somebody; found none";
        return Err(SeccompError::invalid("linux.seccomp.listenerPath", reason));
    }
    Ok(())
}

fn plan_entry(
    entry: &LinuxSyscall,
    index: usize,
    default: Verdict,
    rules: &mut Vec<Rule>,
) -> Result<(), SeccompError> {
    let field = format!("linux.seccomp.syscalls[{index}]");
    if entry.names().is_empty() {
        return Err(SeccompError::invalid(
            format!("{field}.names"),
            "expected at least one name of a system call, found none",
        ));
    }
    let verdict = plan_verdict(
        entry.action(),
        entry.errno_ret(),
        &format!("{field}.errnoRet"),
    )?;
    let alternatives = plan_conditions(entry.args().as_deref().unwrap_or_default(), &field)?;
    // Init writes the listener's number to the runtime when the filter holds
    // already. A write that waited for the listener would wait for ever.
    if verdict == Verdict::Notify && entry.names().iter().any(|name| name == "write") {
        let reason = "SCMP_ACT_NOTIFY cannot be used for write: init tells of the listener by it";
        return Err(SeccompError::invalid(format!("{field}.action"), reason));
    }
    // What happens anyway needs no rule, and libseccomp refuses one.
    if verdict == default {
        return Ok(());
    }
    for name in entry.names() {
        rules.extend(alternatives.iter().map(|conditions| Rule {
            name: name.clone(),
            verdict,
            conditions: conditions.clone(),
            entry: index,
        }));
    }
    Ok(())
}

/// The lists of conditions of which one must hold.
///
/// All comparisons of an entry must hold, says the specification. But a filter
/// cannot compare one argument twice in a row of "and", and long-lived profiles
/// list the allowed values of one argument side by side and mean "or". As in
/// runc, such an entry becomes one rule for each comparison.
fn plan_conditions(
    arguments: &[LinuxSeccompArg],
    field: &str,
) -> Result<Vec<Vec<Condition>>, SeccompError> {
    let mut conditions = Vec::with_capacity(arguments.len());
    for (position, argument) in arguments.iter().enumerate() {
        if argument.index() > 5 {
            return Err(SeccompError::invalid(
                format!("{field}.args[{position}].index"),
                format!(
                    "expected 0 to 5, because a call has at most six arguments, found {}",
                    argument.index()
                ),
            ));
        }
        conditions.push(plan_condition(argument));
    }
    let repeated = conditions.iter().enumerate().any(|(position, condition)| {
        conditions[..position]
            .iter()
            .any(|earlier| earlier.argument == condition.argument)
    });
    if repeated {
        Ok(conditions
            .into_iter()
            .map(|condition| vec![condition])
            .collect())
    } else {
        Ok(vec![conditions])
    }
}

fn plan_condition(argument: &LinuxSeccompArg) -> Condition {
    let (comparison, value) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (Comparison::NotEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpLt => (Comparison::Less, argument.value()),
        LinuxSeccompOperator::ScmpCmpLe => (Comparison::LessOrEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpEq => (Comparison::Equal, argument.value()),
        LinuxSeccompOperator::ScmpCmpGe => (Comparison::GreaterOrEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpGt => (Comparison::Greater, argument.value()),
        // The first value is the mask, the second what is left to compare with.
        LinuxSeccompOperator::ScmpCmpMaskedEq => (
            Comparison::MaskedEqual(argument.value()),
            argument.value_two().unwrap_or(0),
        ),
    };
    Condition {
        // Checked by the caller to be at most 5.
        argument: argument.index() as u8,
        comparison,
        value,
    }
}

fn plan_verdict(
    action: LinuxSeccompAction,
    errno: Option<u32>,
    errno_field: &str,
) -> Result<Verdict, SeccompError> {
    let number = || match errno {
        None => Ok(libc::EPERM as u16),
        Some(number) => u16::try_from(number).map_err(|_| {
            SeccompError::invalid(
                errno_field,
                format!("expected at most 65535, found {number}"),
            )
        }),
    };
    let verdict = match action {
        LinuxSeccompAction::ScmpActErrno => return number().map(Verdict::Errno),
        LinuxSeccompAction::ScmpActTrace => return number().map(Verdict::Trace),
        LinuxSeccompAction::ScmpActNotify => Verdict::Notify,
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            Verdict::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => Verdict::KillProcess,
        LinuxSeccompAction::ScmpActTrap => Verdict::Trap,
        LinuxSeccompAction::ScmpActLog => Verdict::Log,
        LinuxSeccompAction::ScmpActAllow => Verdict::Allow,
    };
    // The specification has it an error to name an errno that nobody would see.
    match errno {
        None => Ok(verdict),
        Some(number) => Err(SeccompError::invalid(
            errno_field,
            format!(
                "expected nothing, because only SCMP_ACT_ERRNO and SCMP_ACT_TRACE return a number, found {number}"
            ),
        )),
    }
}

fn plan_flags<'a>(flags: impl Iterator<Item = &'a LinuxSeccompFilterFlag>) -> FilterFlags {
    let bits = flags.map(|flag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => FilterFlags::TSYNC,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => FilterFlags::LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FilterFlags::SPEC_ALLOW,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
            FilterFlags::WAIT_KILLABLE_RECV
        }
    });
    FilterFlags(bits.fold(0, |all, bit| all | bit))
}

#[cfg(test)]
mod tests;
