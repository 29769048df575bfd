//! From the plan to the program, by libseccomp.
//!
//! libseccomp knows the numbers of every call on every architecture and sorts
//! them into a binary tree, so that a call costs a dozen compares instead of
//! hundreds. That takes it about ten milliseconds, more than the rest of a
//! container's start; hence the cache in `seccomp::cache`.

use std::io::{Read, Seek};
use std::path::Path;

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
    ScmpVersion,
};
use oci_spec::runtime::Arch;

use super::cache;
use super::error::SeccompError;
use super::newer::{self, Highest};
use super::plan::{Comparison, FilterPlan, Rule, Unknown, Verdict};
use crate::sys::call::finish;
use crate::sys::seccomp::{BpfProgram, Instruction};

/// The longest program that the kernel takes (`BPF_MAXINSNS`).
const LONGEST: usize = 4096;

/// Makes the program, or takes it from the cache when it was made before.
///
/// A cache that cannot be read, trusted or written is passed over: it saves
/// time and decides nothing.
///
/// # Errors
///
/// [`SeccompError::Invalid`] for an architecture that libseccomp does not know,
/// [`SeccompError::Library`], [`SeccompError::TooLong`].
pub fn compile_filter(
    plan: &FilterPlan,
    cache_dir: Option<&Path>,
) -> Result<BpfProgram, SeccompError> {
    let name = cache::file_name(plan, &library_version()?);
    if let Some(directory) = cache_dir
        && let Some(bytes) = cache::read(directory, &name)
    {
        return Ok(program(&bytes, plan.flags.0));
    }
    let bytes = compile(plan)?;
    if let Some(directory) = cache_dir {
        cache::write(directory, &name, &bytes);
    }
    Ok(program(&bytes, plan.flags.0))
}

/// Whether the program was made before and can be taken from the cache.
///
/// # Errors
///
/// [`SeccompError::Library`].
pub fn is_compiled(plan: &FilterPlan, cache_dir: &Path) -> Result<bool, SeccompError> {
    let name = cache::file_name(plan, &library_version()?);
    Ok(cache::read(cache_dir, &name).is_some())
}

/// The spec's names of the architectures that the loaded libseccomp can filter.
///
/// # Errors
///
/// [`SeccompError::Library`].
pub fn known_architectures() -> Result<Vec<Arch>, SeccompError> {
    let mut filter = ScmpFilterContext::new(ScmpAction::Allow)
        .map_err(|source| library("linux.seccomp", "make a filter", source))?;
    let native = ScmpArch::native();
    let pairs = ARCHITECTURES.iter();
    let mut known: Vec<Arch> = pairs
        .filter(|(_, arch)| *arch == native || filter.add_arch(*arch).is_ok())
        .map(|(name, _)| *name)
        .collect();
    known.sort_by_key(|name| format!("{name:?}"));
    Ok(known)
}

/// The version of the libseccomp that is loaded, as `2.5.4`.
///
/// # Errors
///
/// [`SeccompError::Library`] if it does not tell.
pub fn library_version() -> Result<String, SeccompError> {
    let version = ScmpVersion::current()
        .map_err(|source| library("linux.seccomp", "tell its version", source))?;
    Ok(format!(
        "{}.{}.{}",
        version.major, version.minor, version.micro
    ))
}

fn program(bytes: &[u8], flags: u32) -> BpfProgram {
    let instruction = |eight: &[u8]| Instruction {
        code: u16::from_ne_bytes([eight[0], eight[1]]),
        jump_true: eight[2],
        jump_false: eight[3],
        constant: u32::from_ne_bytes([eight[4], eight[5], eight[6], eight[7]]),
    };
    BpfProgram {
        instructions: bytes.chunks_exact(8).map(instruction).collect(),
        flags,
    }
}

fn compile(plan: &FilterPlan) -> Result<Vec<u8>, SeccompError> {
    let mut filter = ScmpFilterContext::new(action(plan.default))
        .map_err(|source| library("linux.seccomp.defaultAction", "begin a filter", source))?;
    let architectures = add_architectures(plan, &mut filter)?;
    filter
        .set_ctl_optimize(2)
        .map_err(|source| library("linux.seccomp", "choose the binary tree", source))?;
    for rule in &plan.rules {
        add_rule(rule, plan.unknown, &mut filter)?;
    }
    let mut bytes = Vec::new();
    if newer::wants_prefix(plan.default) {
        for instruction in newer::prefix(&highest_numbers(plan, &architectures)) {
            bytes.extend(instruction.code.to_ne_bytes());
            bytes.extend([instruction.jump_true, instruction.jump_false]);
            bytes.extend(instruction.constant.to_ne_bytes());
        }
    }
    bytes.extend(export(&filter)?);
    let length = bytes.len() / 8;
    if length > LONGEST {
        return Err(SeccompError::TooLong(length));
    }
    Ok(bytes)
}

/// Adds the profile's architectures, and returns all that the filter covers.
/// The machine's own is always among them: libseccomp begins with it.
fn add_architectures(
    plan: &FilterPlan,
    filter: &mut ScmpFilterContext,
) -> Result<Vec<(Arch, ScmpArch)>, SeccompError> {
    let native = ScmpArch::native();
    let mut covered: Vec<(Arch, ScmpArch)> = ARCHITECTURES
        .iter()
        .copied()
        .filter(|(_, arch)| *arch == native)
        .collect();
    for (index, wanted) in plan.architectures.iter().enumerate() {
        if *wanted == Arch::ScmpArchNative {
            continue;
        }
        let field = format!("linux.seccomp.architectures[{index}]");
        let Some(pair) = ARCHITECTURES.iter().find(|(name, _)| name == wanted) else {
            return Err(SeccompError::invalid(
                field,
                format!("expected an architecture of this build, found {wanted:?}"),
            ));
        };
        if covered.contains(pair) {
            continue;
        }
        filter.add_arch(pair.1).map_err(|source| {
            library(&field, format!("add the architecture {wanted:?}"), source)
        })?;
        covered.push(*pair);
    }
    Ok(covered)
}

fn add_rule(
    rule: &Rule,
    unknown: Unknown,
    filter: &mut ScmpFilterContext,
) -> Result<(), SeccompError> {
    // Profiles list calls of all kernels and architectures; one that this
    // library has never heard of gets the default verdict.
    let Ok(call) = ScmpSyscall::from_name(&rule.name) else {
        return match unknown {
            Unknown::Ignore => Ok(()),
            Unknown::Refuse => Err(SeccompError::invalid(
                format!("linux.seccomp.syscalls[{}].names", rule.entry),
                format!(
                    "expected calls that libseccomp knows, found {:?}",
                    rule.name
                ),
            )),
        };
    };
    let conditions: Vec<ScmpArgCompare> = rule
        .conditions
        .iter()
        .map(|condition| {
            let operator = match condition.comparison {
                Comparison::NotEqual => ScmpCompareOp::NotEqual,
                Comparison::Less => ScmpCompareOp::Less,
                Comparison::LessOrEqual => ScmpCompareOp::LessOrEqual,
                Comparison::Equal => ScmpCompareOp::Equal,
                Comparison::GreaterOrEqual => ScmpCompareOp::GreaterEqual,
                Comparison::Greater => ScmpCompareOp::Greater,
                Comparison::MaskedEqual(mask) => ScmpCompareOp::MaskedEqual(mask),
            };
            ScmpArgCompare::new(condition.argument.into(), operator, condition.value)
        })
        .collect();
    let added = if conditions.is_empty() {
        filter.add_rule(action(rule.verdict), call)
    } else {
        filter.add_rule_conditional(action(rule.verdict), call, &conditions)
    };
    added.map(drop).map_err(|source| {
        library(
            &format!("linux.seccomp.syscalls[{}]", rule.entry),
            format!("add the call {:?}", rule.name),
            source,
        )
    })
}

/// For each architecture the highest number among the rules.
fn highest_numbers(plan: &FilterPlan, architectures: &[(Arch, ScmpArch)]) -> Vec<Highest> {
    let highest = |(architecture, arch): &(Arch, ScmpArch)| {
        let numbers = plan
            .rules
            .iter()
            .filter_map(|rule| ScmpSyscall::from_name_by_arch(&rule.name, *arch).ok())
            // Negative numbers stand for calls of other architectures.
            .filter_map(|call| u32::try_from(call.as_raw_syscall()).ok());
        numbers.max().map(|number| Highest {
            architecture: *architecture,
            number,
        })
    };
    architectures.iter().filter_map(highest).collect()
}

/// libseccomp before 2.6 writes programs to descriptors only.
fn export(filter: &ScmpFilterContext) -> Result<Vec<u8>, SeccompError> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let memory = finish(rustix::fs::memfd_create("seccomp", flags), || {
        "memfd_create(\"seccomp\", MFD_CLOEXEC)".to_owned()
    })?;
    let mut file = std::fs::File::from(memory);
    filter
        .export_bpf(&file)
        .map_err(|source| library("linux.seccomp", "compile the filter", source))?;
    let mut bytes = Vec::new();
    let read = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    finish(read, || "read(seccomp memfd)".to_owned())?;
    Ok(bytes)
}

fn action(verdict: Verdict) -> ScmpAction {
    match verdict {
        Verdict::KillThread => ScmpAction::KillThread,
        Verdict::KillProcess => ScmpAction::KillProcess,
        Verdict::Trap => ScmpAction::Trap,
        Verdict::Errno(errno) => ScmpAction::Errno(errno.into()),
        Verdict::Trace(number) => ScmpAction::Trace(number),
        Verdict::Notify => ScmpAction::Notify,
        Verdict::Log => ScmpAction::Log,
        Verdict::Allow => ScmpAction::Allow,
    }
}

fn library(
    field: &str,
    step: impl Into<String>,
    source: libseccomp::error::SeccompError,
) -> SeccompError {
    SeccompError::Library {
        field: field.to_owned(),
        step: step.into(),
        source,
    }
}

/// The specification's architectures and libseccomp's. A newer library knows
/// more of them than an older: it says so when one is added.
const ARCHITECTURES: [(Arch, ScmpArch); 23] = [
    (Arch::ScmpArchX86_64, ScmpArch::X8664),
    (Arch::ScmpArchX86, ScmpArch::X86),
    (Arch::ScmpArchX32, ScmpArch::X32),
    (Arch::ScmpArchAarch64, ScmpArch::Aarch64),
    (Arch::ScmpArchArm, ScmpArch::Arm),
    (Arch::ScmpArchMips, ScmpArch::Mips),
    (Arch::ScmpArchMips64, ScmpArch::Mips64),
    (Arch::ScmpArchMips64n32, ScmpArch::Mips64N32),
    (Arch::ScmpArchMipsel, ScmpArch::Mipsel),
    (Arch::ScmpArchMipsel64, ScmpArch::Mipsel64),
    (Arch::ScmpArchMipsel64n32, ScmpArch::Mipsel64N32),
    (Arch::ScmpArchPpc, ScmpArch::Ppc),
    (Arch::ScmpArchPpc64, ScmpArch::Ppc64),
    (Arch::ScmpArchPpc64le, ScmpArch::Ppc64Le),
    (Arch::ScmpArchS390, ScmpArch::S390),
    (Arch::ScmpArchS390x, ScmpArch::S390X),
    (Arch::ScmpArchParisc, ScmpArch::Parisc),
    (Arch::ScmpArchParisc64, ScmpArch::Parisc64),
    (Arch::ScmpArchRiscv64, ScmpArch::Riscv64),
    (Arch::ScmpArchLoongarch64, ScmpArch::Loongarch64),
    (Arch::ScmpArchM68k, ScmpArch::M68k),
    (Arch::ScmpArchSh, ScmpArch::Sh),
    (Arch::ScmpArchSheb, ScmpArch::Sheb),
];

#[cfg(test)]
mod tests;
