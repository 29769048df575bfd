//! When and where a process runs: sched(7), ioprio_set(2), set_mempolicy(2).

use super::call::{SyscallError, check, finish};
use crate::plan::schedule::{MemoryPolicyPlan, NumberSet, SchedulerPlan};

/// `struct sched_attr` of `<linux/sched/types.h>`, its second version (Linux 5.3).
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    utilization_min: u32,
    utilization_max: u32,
}

/// `int sched_setattr(pid_t, struct sched_attr *, unsigned int)` on this process.
///
/// # Errors
///
/// `EPERM`: a real-time or deadline policy, or a lower nice value, without
/// `CAP_SYS_NICE`; a deadline for a process that may not run on all processors.
/// `EINVAL`: a policy that the kernel lacks, or times that make no sense.
/// `EBUSY`: the processors have no room for such a deadline.
pub fn set_scheduler(plan: &SchedulerPlan) -> Result<(), SyscallError> {
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: plan.policy,
        flags: plan.flags,
        nice: plan.nice,
        priority: plan.priority,
        runtime: plan.runtime,
        deadline: plan.deadline,
        period: plan.period,
        utilization_min: 0,
        utilization_max: 0,
    };
    // SAFETY: the structure has the kernel's layout, its size stands in it, and
    // it outlives the call, which only reads it.
    let returned = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    finish(check(returned).map(drop), || {
        format!("sched_setattr(0, {plan:?})")
    })
}

/// `int ioprio_set(IOPRIO_WHO_PROCESS, 0, int)`: class and level of this process.
///
/// # Errors
///
/// `EPERM`: the real-time class without `CAP_SYS_NICE` or `CAP_SYS_ADMIN`.
pub fn set_io_priority(priority: u16) -> Result<(), SyscallError> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: three numbers are passed.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0,
            i32::from(priority),
        )
    };
    finish(check(returned).map(drop), || {
        format!("ioprio_set(IOPRIO_WHO_PROCESS, 0, {priority:#x})")
    })
}

/// `int sched_setaffinity(0, size_t, const unsigned long *)`.
///
/// # Errors
///
/// `EINVAL`: none of the processors is there, or is in the process' cpuset.
pub fn set_affinity(processors: &NumberSet) -> Result<(), SyscallError> {
    let words = processors.words();
    // SAFETY: the length is that of the slice in bytes, and the kernel reads
    // no more; a mask of words of 64 bits is what it takes on 64-bit machines.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            0,
            size_of_val(words),
            words.as_ptr(),
        )
    };
    finish(check(returned).map(drop), || {
        format!("sched_setaffinity(0, {words:x?})")
    })
}

/// `long set_mempolicy(int mode, const unsigned long *nodemask, unsigned long maxnode)`.
///
/// # Errors
///
/// `EINVAL`: a node that is not there or not in the process' cpuset. `ENOSYS`:
/// a kernel without NUMA.
pub fn set_memory_policy(plan: &MemoryPolicyPlan) -> Result<(), SyscallError> {
    let words = plan.nodes.words();
    // The kernel counts one bit less than it is told (set_mempolicy(2), BUGS).
    let (mask, bits) = match words {
        [] => (std::ptr::null(), 0),
        _ => (words.as_ptr(), words.len() * 64 + 1),
    };
    // SAFETY: `mask` is null with 0 bits, or has a word for every 64 bits that
    // the kernel reads after taking one off.
    let returned = unsafe { libc::syscall(libc::SYS_set_mempolicy, plan.mode, mask, bits) };
    finish(check(returned).map(drop), || {
        format!("set_mempolicy({:#x}, {words:x?})", plan.mode)
    })
}
