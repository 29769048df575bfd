//! `linux.resources.cpu`: a share of the processors, a ceiling, and which ones.
//!
//! Version 1 has three controllers for it (`cpu` gives time, `cpuset` places,
//! `cpuacct` counts), version 2 two (`cpu`, `cpuset`). A weight is called
//! `cpu.shares` (2 to 262144, normal 1024) in version 1 and `cpu.weight` (1 to
//! 10000, normal 100) in version 2. See [`weight_from_shares`] for the bridge.

use oci_spec::runtime::LinuxCpu;

use super::error::CgroupError;
use super::plan::{Change, Draft, HierarchyPlan};
use super::tree::CgroupVersion;

const SHARES: &str = "linux.resources.cpu.shares";
const QUOTA: &str = "linux.resources.cpu.quota";
const PERIOD: &str = "linux.resources.cpu.period";
const BURST: &str = "linux.resources.cpu.burst";
const IDLE: &str = "linux.resources.cpu.idle";
const REALTIME_RUNTIME: &str = "linux.resources.cpu.realtimeRuntime";
const REALTIME_PERIOD: &str = "linux.resources.cpu.realtimePeriod";
const CPUS: &str = "linux.resources.cpu.cpus";
const MEMS: &str = "linux.resources.cpu.mems";

/// The kernel's own period, in microseconds.
const DEFAULT_PERIOD_US: u64 = 100_000;

/// Adds the writes for processor time and processor sets.
pub(crate) fn plan_cpu(cpu: &LinuxCpu, draft: &mut Draft) -> Result<(), CgroupError> {
    if let Some(idle) = cpu.idle()
        && !(0..=1).contains(&idle)
    {
        return Err(CgroupError::invalid(
            IDLE,
            format!("expected 0 or 1, found {idle}"),
        ));
    }
    if let Some(field) = first_time_field(cpu) {
        let change = draft.change.clone();
        let home = draft.home("cpu", field)?;
        match home.version {
            CgroupVersion::V1 => plan_time_v1(cpu, &change, home),
            CgroupVersion::V2 => plan_time_v2(cpu, &change, home)?,
        }
    }
    for (list, file, field) in [
        (cpu.cpus(), "cpuset.cpus", CPUS),
        (cpu.mems(), "cpuset.mems", MEMS),
    ] {
        let Some(list) = list.as_ref().filter(|list| !list.is_empty()) else {
            continue;
        };
        check_list(list, field)?;
        draft
            .home("cpuset", field)?
            .write(file, list.clone(), field);
    }
    Ok(())
}

/// The first field that the `cpu` controller has to serve. Zero is "not asked".
fn first_time_field(cpu: &LinuxCpu) -> Option<&'static str> {
    let some = |value: Option<u64>| value.is_some_and(|number| number != 0);
    let signed = |value: Option<i64>| value.is_some_and(|number| number != 0);
    [
        (some(cpu.shares()), SHARES),
        (signed(cpu.quota()), QUOTA),
        (some(cpu.period()), PERIOD),
        (cpu.burst().is_some(), BURST),
        (cpu.idle().is_some(), IDLE),
        (signed(cpu.realtime_runtime()), REALTIME_RUNTIME),
        (some(cpu.realtime_period()), REALTIME_PERIOD),
    ]
    .into_iter()
    .find_map(|(asked, field)| asked.then_some(field))
}

fn plan_time_v1(cpu: &LinuxCpu, change: &Change, home: &mut HierarchyPlan) {
    let period = cpu.period().filter(|us| *us != 0).map(|us| us.to_string());
    let quota = cpu
        .quota()
        .filter(|us| *us != 0)
        .map(|us| us.max(-1).to_string());
    let burst = cpu.burst().map(|us| us.to_string());
    if let Some(idle) = cpu.idle() {
        home.write("cpu.idle", idle.to_string(), IDLE);
    }
    // An idle group's weight is fixed, and the kernel refuses another.
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0)
        && cpu.idle() != Some(1)
    {
        home.write("cpu.shares", shares.to_string(), SHARES);
    }
    // Realtime: the period first, because the runtime must fit into it.
    if let Some(us) = cpu.realtime_period().filter(|us| *us != 0) {
        home.write("cpu.rt_period_us", us.to_string(), REALTIME_PERIOD);
    }
    if let Some(us) = cpu.realtime_runtime().filter(|us| *us != 0) {
        home.write("cpu.rt_runtime_us", us.to_string(), REALTIME_RUNTIME);
    }
    // Quota and period are checked as a pair against the parent's, and a burst
    // may not exceed the quota. From old values to new ones no single order is
    // always legal, so a changed group gets the ones that may fail first, and
    // all of them for good afterwards.
    if *change != Change::Create {
        for (value, file, field) in [
            (&burst, "cpu.cfs_burst_us", BURST),
            (&period, "cpu.cfs_period_us", PERIOD),
            (&quota, "cpu.cfs_quota_us", QUOTA),
        ] {
            if let Some(value) = value {
                home.try_write(file, value.clone(), field);
            }
        }
    }
    for (value, file, field) in [
        (period, "cpu.cfs_period_us", PERIOD),
        (quota, "cpu.cfs_quota_us", QUOTA),
        (burst, "cpu.cfs_burst_us", BURST),
    ] {
        if let Some(value) = value {
            home.write(file, value, field);
        }
    }
}

fn plan_time_v2(
    cpu: &LinuxCpu,
    change: &Change,
    home: &mut HierarchyPlan,
) -> Result<(), CgroupError> {
    for (asked, field) in [
        (
            cpu.realtime_runtime().is_some_and(|us| us != 0),
            REALTIME_RUNTIME,
        ),
        (
            cpu.realtime_period().is_some_and(|us| us != 0),
            REALTIME_PERIOD,
        ),
    ] {
        if asked {
            return Err(CgroupError::invalid(
                field,
                "cgroup version 2 has no realtime limits, and this machine's cpu controller is version 2",
            ));
        }
    }
    if let Some(idle) = cpu.idle() {
        home.write("cpu.idle", idle.to_string(), IDLE);
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0)
        && cpu.idle() != Some(1)
    {
        home.write("cpu.weight", weight_from_shares(shares).to_string(), SHARES);
    }
    let burst = cpu.burst().map(|us| us.to_string());
    if *change != Change::Create
        && let Some(burst) = &burst
    {
        home.try_write("cpu.max.burst", burst.clone(), BURST);
    }
    if let Some((value, field)) = ceiling(cpu, change) {
        home.write("cpu.max", value, field);
    }
    if let Some(burst) = burst {
        home.write("cpu.max.burst", burst, BURST);
    }
    Ok(())
}

/// The text of `cpu.max`: quota and period, in microseconds.
fn ceiling(cpu: &LinuxCpu, change: &Change) -> Option<(String, &'static str)> {
    let quota = cpu.quota().filter(|us| *us != 0).map(|us| {
        if us < 0 {
            "max".to_owned()
        } else {
            us.to_string()
        }
    });
    let period = cpu.period().filter(|us| *us != 0);
    match (quota, period, change) {
        (None, None, _) => None,
        (Some(quota), Some(period), _) => Some((format!("{quota} {period}"), QUOTA)),
        (Some(quota), None, Change::Create) => {
            Some((format!("{quota} {DEFAULT_PERIOD_US}"), QUOTA))
        }
        // A lone number leaves the period as it is.
        (Some(quota), None, Change::Update { .. }) => Some((quota, QUOTA)),
        (None, Some(period), Change::Create) => Some((format!("max {period}"), PERIOD)),
        (None, Some(period), Change::Update { quota, .. }) => {
            let quota = quota.as_deref().unwrap_or("max");
            Some((format!("{quota} {period}"), PERIOD))
        }
    }
}

/// The version 2 weight for version 1 shares.
///
/// A straight line from 2..262144 to 1..10000 would give the normal 1024
/// shares a weight of 39, far below a neighbour's normal 100. runc and crun
/// therefore use a curve through (2, 1), (1024, 100) and (262144, 10000),
/// quadratic in the logarithms, and so do we.
pub fn weight_from_shares(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // The range was cut above, so the result fits.
    10f64.powf(exponent).ceil() as u64
}

/// A list of numbers and ranges as `0-2,7`: cpuset(7), "List format".
fn check_list(list: &str, field: &str) -> Result<(), CgroupError> {
    let number = |text: &str| text.trim().parse::<u32>().ok();
    let good = list.split(',').all(|part| match part.split_once('-') {
        Some((low, high)) => {
            matches!((number(low), number(high)), (Some(low), Some(high)) if low <= high)
        }
        None => number(part).is_some(),
    });
    if good {
        Ok(())
    } else {
        Err(CgroupError::invalid(
            field,
            format!("expected numbers and ranges as \"0-2,7\", found {list:?}"),
        ))
    }
}

#[cfg(test)]
mod tests;
