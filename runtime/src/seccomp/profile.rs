//! Our own default profile: what Kubernetes calls `RuntimeDefault`.
//!
//! It is a list of what is allowed. Everything else fails with `EPERM`: what
//! changes the whole machine (its clock, modules, swap), what opens doors past
//! the namespaces (mounts, `setns`), and old or rare calls with a history of
//! holes. A capability opens the calls that it is about, because without them
//! it would be worth nothing. The choice of calls is the well-known one that
//! Docker and containerd share, so that an image that runs there runs here.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall,
    LinuxSyscallBuilder,
};

use super::profile_table::{ALLOWED, WITH_CAPABILITY};

/// `AF_VSOCK`: talks to the hypervisor, past every network namespace.
const AF_VSOCK: u64 = 40;

/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID`, `NEWNET`:
/// a new user namespace makes root of anybody, and with it the kernel's code
/// for root becomes reachable.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// `personality(2)`: Linux, the UNAME26 variants, and the question.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The default profile for a container with these capabilities (its bounding set).
///
/// # Errors
///
/// The builders of the specification's types report a missing field; the
/// fields are all here.
pub fn default_profile(capabilities: &Capabilities) -> Result<LinuxSeccomp, OciSpecError> {
    let mut syscalls = Vec::new();
    for (_, names) in ALLOWED {
        syscalls.push(allow(names, Vec::new())?);
    }
    for (capability, names) in WITH_CAPABILITY {
        if capabilities.contains(capability) {
            syscalls.push(allow(names, Vec::new())?);
        }
    }
    syscalls.push(allow(
        "socket",
        vec![argument(
            0,
            AF_VSOCK,
            None,
            LinuxSeccompOperator::ScmpCmpNe,
        )?],
    )?);
    for personality in PERSONALITIES {
        let only = argument(0, personality, None, LinuxSeccompOperator::ScmpCmpEq)?;
        syscalls.push(allow("personality", vec![only])?);
    }
    if !capabilities.contains(&Capability::SysAdmin) {
        let none = LinuxSeccompOperator::ScmpCmpMaskedEq;
        // On s390 the flags are the second argument.
        let flags = if cfg!(target_arch = "s390x") { 1 } else { 0 };
        let only = argument(flags, CLONE_NAMESPACES, Some(0), none)?;
        syscalls.push(allow("clone", vec![only])?);
        // clone3 passes its flags in memory, where no filter can look. "No
        // such call" makes every C library fall back to clone.
        syscalls.push(
            LinuxSyscallBuilder::default()
                .names(vec!["clone3".to_owned()])
                .action(LinuxSeccompAction::ScmpActErrno)
                .errno_ret(libc::ENOSYS as u32)
                .build()?,
        );
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(libc::EPERM as u32)
        .architectures(architectures())
        .syscalls(syscalls)
        .build()
}

/// The machine's own architecture and those whose programs it runs as well.
fn architectures() -> Vec<Arch> {
    if cfg!(target_arch = "x86_64") {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    } else if cfg!(target_arch = "aarch64") {
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    } else if cfg!(target_arch = "s390x") {
        vec![Arch::ScmpArchS390x, Arch::ScmpArchS390]
    } else {
        // libseccomp begins with the machine's own.
        Vec::new()
    }
}

fn allow(names: &str, arguments: Vec<LinuxSeccompArg>) -> Result<LinuxSyscall, OciSpecError> {
    LinuxSyscallBuilder::default()
        .names(
            names
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        )
        .action(LinuxSeccompAction::ScmpActAllow)
        .args(arguments)
        .build()
}

fn argument(
    index: usize,
    value: u64,
    value_two: Option<u64>,
    operator: LinuxSeccompOperator,
) -> Result<LinuxSeccompArg, OciSpecError> {
    let mut argument = LinuxSeccompArgBuilder::default()
        .index(index)
        .value(value)
        .op(operator);
    if let Some(value_two) = value_two {
        argument = argument.value_two(value_two);
    }
    argument.build()
}

#[cfg(test)]
mod tests;
