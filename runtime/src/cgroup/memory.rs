//! `linux.resources.memory`: pages, swap, and what happens when they run out.
//!
//! The two versions count swap differently. Version 1 limits the *sum* of
//! memory and swap (`memory.memsw.limit_in_bytes`), which is also the meaning
//! of the specification's `swap`; version 2 limits swap alone
//! (`memory.swap.max`), so there the difference is written.
//!
//! `kernel` is accepted and ignored: the kernel counts its own memory within
//! the same limit since 5.4 and refuses any other.

use std::borrow::Cow;

use oci_spec::runtime::LinuxMemory;

use super::error::CgroupError;
use super::plan::{Change, Draft, HierarchyPlan};
use super::tree::CgroupVersion;

const LIMIT: &str = "linux.resources.memory.limit";
const SWAP: &str = "linux.resources.memory.swap";
const RESERVATION: &str = "linux.resources.memory.reservation";
const SWAPPINESS: &str = "linux.resources.memory.swappiness";
const KERNEL_TCP: &str = "linux.resources.memory.kernelTCP";
const DISABLE_OOM_KILLER: &str = "linux.resources.memory.disableOOMKiller";

/// Adds the writes for memory.
pub(crate) fn plan_memory(memory: &LinuxMemory, draft: &mut Draft) -> Result<(), CgroupError> {
    let Some(field) = first_field(memory) else {
        return Ok(());
    };
    if let Some(swappiness) = memory.swappiness()
        && swappiness > 100
    {
        return Err(CgroupError::invalid(
            SWAPPINESS,
            format!("expected 0 to 100, found {swappiness}"),
        ));
    }
    check_pair(memory)?;
    let change = draft.change.clone();
    let home = draft.home("memory", field)?;
    match home.version {
        CgroupVersion::V1 => plan_v1(memory, &change, home),
        CgroupVersion::V2 => plan_v2(memory, &change, home)?,
    }
    Ok(())
}

/// The first field that asks for something. Zero means "not asked", as
/// callers written in Go send it for a field that was never set.
fn first_field(memory: &LinuxMemory) -> Option<&'static str> {
    let asked = |value: Option<i64>| value.is_some_and(|bytes| bytes != 0);
    [
        (asked(memory.limit()), LIMIT),
        (asked(memory.swap()), SWAP),
        (asked(memory.reservation()), RESERVATION),
        (memory.swappiness().is_some(), SWAPPINESS),
        (asked(memory.kernel_tcp()), KERNEL_TCP),
        (
            memory.disable_oom_killer() == Some(true),
            DISABLE_OOM_KILLER,
        ),
    ]
    .into_iter()
    .find_map(|(asked, field)| asked.then_some(field))
}

fn check_pair(memory: &LinuxMemory) -> Result<(), CgroupError> {
    if let (Some(limit), Some(swap)) = (memory.limit(), memory.swap())
        && limit > 0
        && swap > 0
        && swap < limit
    {
        return Err(CgroupError::invalid(
            SWAP,
            format!(
                "expected memory and swap together, so at least the memory limit of {limit} bytes, found {swap}"
            ),
        ));
    }
    Ok(())
}

fn plan_v1(memory: &LinuxMemory, change: &Change, home: &mut HierarchyPlan) {
    let limit = memory.limit().filter(|bytes| *bytes != 0);
    // Without a memory limit a limit on the sum would be all that is left.
    let swap = match (limit, memory.swap().filter(|bytes| *bytes != 0)) {
        (Some(limit), None) if limit < 0 && *change != Change::Create => Some(-1),
        (_, swap) => swap,
    };
    // The kernel keeps "memory at most memory plus swap" at every instant. In a
    // new group both are unlimited, so memory goes first. In an old one either
    // order can be the wrong one: try the sum first, and set it for good after
    // the memory limit made room.
    if *change != Change::Create
        && let Some(bytes) = swap
    {
        home.try_write("memory.memsw.limit_in_bytes", bytes.to_string(), SWAP);
    }
    if let Some(bytes) = limit {
        home.write("memory.limit_in_bytes", bytes.to_string(), LIMIT);
    }
    if let Some(bytes) = swap {
        if memory.swap().is_some() {
            home.write("memory.memsw.limit_in_bytes", bytes.to_string(), SWAP);
        } else {
            // Nobody asked for swap, so a kernel without its accounting is fine.
            home.try_write("memory.memsw.limit_in_bytes", bytes.to_string(), SWAP);
        }
    }
    if let Some(bytes) = memory.reservation().filter(|bytes| *bytes != 0) {
        home.write("memory.soft_limit_in_bytes", bytes.to_string(), RESERVATION);
    }
    if let Some(bytes) = memory.kernel_tcp().filter(|bytes| *bytes != 0) {
        home.write(
            "memory.kmem.tcp.limit_in_bytes",
            bytes.to_string(),
            KERNEL_TCP,
        );
    }
    if let Some(swappiness) = memory.swappiness() {
        home.write("memory.swappiness", swappiness.to_string(), SWAPPINESS);
    }
    if memory.disable_oom_killer() == Some(true) {
        home.write("memory.oom_control", "1", DISABLE_OOM_KILLER);
    }
    // `useHierarchy` needs no write: kernels since 5.11 know nothing else.
}

fn plan_v2(
    memory: &LinuxMemory,
    change: &Change,
    home: &mut HierarchyPlan,
) -> Result<(), CgroupError> {
    let only_v1 = [
        (memory.swappiness().is_some(), SWAPPINESS),
        (
            memory.kernel_tcp().is_some_and(|bytes| bytes != 0),
            KERNEL_TCP,
        ),
        (
            memory.disable_oom_killer() == Some(true),
            DISABLE_OOM_KILLER,
        ),
    ];
    if let Some((_, field)) = only_v1.iter().find(|(asked, _)| *asked) {
        return Err(CgroupError::invalid(
            *field,
            "cgroup version 2 has no such setting, and this machine's memory controller is version 2",
        ));
    }
    let asked = |value: Option<i64>| value.filter(|bytes| *bytes != 0);
    let (limit, sum) = (asked(memory.limit()), asked(memory.swap()));
    // The sum is what the caller holds on to: when only one of the two numbers
    // is new, swap is what the old other one leaves of it.
    let kept = match change {
        Change::Update { memory, .. } => memory.as_deref(),
        Change::Create => None,
    };
    let known_limit = limit.or_else(|| asked(kept?.limit()));
    let known_sum = match limit {
        // Unlimited memory with nothing said of swap: both.
        Some(limit) if limit < 0 && sum.is_none() => Some(-1),
        Some(_) => sum.or_else(|| asked(kept?.swap())),
        None => sum,
    };
    // Swap first: a lower memory limit pushes pages out, and they need a place.
    if let Some(known_sum) = known_sum {
        let value = swap_alone(known_sum, known_limit)?;
        if matches!(&*value, "max" | "0") {
            // That is so already on a machine that counts no swap.
            home.write_if_there("memory.swap.max", value, SWAP);
        } else {
            home.write("memory.swap.max", value, SWAP);
        }
    }
    if let Some(bytes) = limit {
        home.write("memory.max", or_max(bytes), LIMIT);
    }
    if let Some(bytes) = asked(memory.reservation()) {
        home.write("memory.low", or_max(bytes), RESERVATION);
    }
    Ok(())
}

/// Swap without memory, out of the sum that the specification talks of.
fn swap_alone(sum: i64, limit: Option<i64>) -> Result<Cow<'static, str>, CgroupError> {
    if sum < 0 {
        return Ok("max".into());
    }
    match limit {
        // With unlimited memory the number can only mean swap.
        Some(limit) if limit < 0 => Ok(sum.to_string().into()),
        Some(limit) if sum < limit => Err(CgroupError::invalid(
            SWAP,
            format!("memory+swap limit should be >= memory limit: {sum} is below {limit}"),
        )),
        Some(limit) => Ok((sum - limit).to_string().into()),
        None => Err(CgroupError::invalid(
            SWAP,
            format!(
                "{sum} is memory and swap together, and without {LIMIT} the share of swap is unknown"
            ),
        )),
    }
}

fn or_max(bytes: i64) -> Cow<'static, str> {
    if bytes < 0 {
        "max".into()
    } else {
        bytes.to_string().into()
    }
}
