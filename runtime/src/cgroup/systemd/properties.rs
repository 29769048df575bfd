//! Limits as a unit's properties: the third spelling, beside the files of
//! version 1 and version 2.
//!
//! systemd has one set of names for both versions (`MemoryMax`, `CPUWeight`),
//! and older ones that only say something about version 1 (`MemoryLimit`,
//! `CPUShares`). What has no property is written to the group's files only.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::Property;
use crate::cgroup::cpu::weight_from_shares;
use crate::cgroup::devices::{Access, DeviceKind, DeviceRule};
use crate::cgroup::error::CgroupError;
use crate::cgroup::tree::CgroupVersion;
use crate::dbus::Value;

/// systemd's word for "no limit".
const INFINITY: u64 = u64::MAX;
const DEFAULT_PERIOD_US: u64 = 100_000;
/// Since when systemd knows `CPUQuotaPeriodUSec`.
const KNOWS_PERIOD: u32 = 242;
/// … `AllowedCPUs` and `AllowedMemoryNodes`.
const KNOWS_CPUSET: u32 = 244;
/// … a weight of zero for `cpu.idle`.
const KNOWS_IDLE: u32 = 252;
/// … `OOMPolicy` of scopes.
const KNOWS_OOM_POLICY: u32 = 253;

/// Which names hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// Of the machine's groups.
    pub cgroup: CgroupVersion,
    /// Of systemd.
    pub version: u32,
}

/// The properties that limits become.
///
/// # Errors
///
/// [`CgroupError::Invalid`] for a text that is no number where one is needed.
pub fn plan_properties(
    resources: &LinuxResources,
    dialect: Dialect,
) -> Result<Vec<Property>, CgroupError> {
    let mut list = List(Vec::new());
    if let Some(memory) = resources.memory() {
        add_memory(memory, dialect, &mut list);
    }
    if let Some(cpu) = resources.cpu() {
        add_cpu(cpu, dialect, &mut list)?;
    }
    if let Some(pids) = resources.pids() {
        match pids.limit() {
            0 => {}
            limit => list.number("TasksMax", limit_or_infinity(limit)),
        }
    }
    if let Some(block_io) = resources.block_io()
        && let Some(weight) = block_io.weight().filter(|weight| *weight != 0)
        && dialect.cgroup == CgroupVersion::V1
    {
        list.number("BlockIOWeight", weight.into());
    }
    if let Some(unified) = resources.unified() {
        add_unified(unified, dialect, &mut list)?;
    }
    Ok(list.0)
}

/// What a unit can be told only when it is made.
pub fn plan_creation_properties(resources: &LinuxResources, dialect: Dialect) -> Vec<Property> {
    let unified = resources.unified().as_ref();
    let group = unified.and_then(|files| files.get("memory.oom.group"));
    let policy = match group.map(|text| text.trim()) {
        Some("0") => "continue",
        Some("1") => "kill",
        _ => return Vec::new(),
    };
    if dialect.version < KNOWS_OOM_POLICY {
        return Vec::new();
    }
    vec![("OOMPolicy".to_owned(), Value::text(policy))]
}

/// The device rules as systemd takes them: nothing but what is listed.
///
/// systemd knows no denials. A container that may use all but a few devices gets
/// no rules from systemd, and ours beside them still hold; what is listed here
/// is never less than what ours allow.
pub fn plan_device_properties(rules: &[DeviceRule], majors: &Majors) -> Vec<Property> {
    let begin = rules.iter().rposition(|rule| rule.kind.is_none());
    let open = begin.is_some_and(|at| rules[at].allow);
    let entry =
        |path: String, rights: &str| Value::Struct(vec![Value::Text(path), Value::text(rights)]);
    let mut allowed = Vec::new();
    if !open {
        for rule in &rules[begin.map_or(0, |at| at + 1)..] {
            if let (true, Some(path)) = (rule.allow, device_path(rule, majors)) {
                allowed.push(entry(path, &letters(rule.access)));
            }
        }
    }
    let policy = if open { "auto" } else { "strict" };
    vec![
        ("DevicePolicy".to_owned(), Value::text(policy)),
        (
            "DeviceAllow".to_owned(),
            Value::Array("(ss)".to_owned(), allowed),
        ),
    ]
}

/// The names of major numbers, out of `/proc/devices`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Majors {
    names: Vec<(DeviceKind, u32, String)>,
}

impl Majors {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Majors {
        let mut kind = DeviceKind::Char;
        let mut names = Vec::new();
        for line in text.lines() {
            match line.trim() {
                "Character devices:" => kind = DeviceKind::Char,
                "Block devices:" => kind = DeviceKind::Block,
                row => {
                    if let Some((number, name)) = row.split_once(' ')
                        && let Ok(number) = number.parse()
                    {
                        names.push((kind, number, name.trim().to_owned()));
                    }
                }
            }
        }
        Majors { names }
    }

    fn name(&self, kind: DeviceKind, major: u32) -> Option<&str> {
        let mut names = self.names.iter();
        names
            .find(|(of, number, _)| *of == kind && *number == major)
            .map(|(_, _, name)| name.as_str())
    }
}

/// The device as systemd names it; none for a driver that is not there, which
/// then has no device to open.
fn device_path(rule: &DeviceRule, majors: &Majors) -> Option<String> {
    let kind = rule.kind?;
    let word = match kind {
        DeviceKind::Block => "block",
        DeviceKind::Char => "char",
    };
    match (rule.major, rule.minor) {
        (Some(major), Some(minor)) => Some(format!("/dev/{word}/{major}:{minor}")),
        (Some(major), None) => Some(format!("{word}-{}", majors.name(kind, major)?)),
        (None, _) => Some(format!("{word}-*")),
    }
}

fn letters(access: Access) -> String {
    [
        (Access::READ, 'r'),
        (Access::WRITE, 'w'),
        (Access::MAKE, 'm'),
    ]
    .into_iter()
    .filter(|(right, _)| access.contains(*right))
    .map(|(_, letter)| letter)
    .collect()
}

/// Properties, the later of two of one name alone.
struct List(Vec<Property>);

impl List {
    fn add(&mut self, name: &str, value: Value) {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), value));
    }

    fn number(&mut self, name: &str, number: u64) {
        self.add(name, Value::Uint64(number));
    }
}

fn limit_or_infinity(limit: i64) -> u64 {
    // Every negative number means "none".
    u64::try_from(limit).unwrap_or(INFINITY)
}

fn add_memory(memory: &LinuxMemory, dialect: Dialect, list: &mut List) {
    let asked = |value: Option<i64>| value.filter(|bytes| *bytes != 0);
    let limit = asked(memory.limit());
    if dialect.cgroup == CgroupVersion::V1 {
        if let Some(limit) = limit {
            list.number("MemoryLimit", limit_or_infinity(limit));
        }
        return;
    }
    if let Some(limit) = limit {
        list.number("MemoryMax", limit_or_infinity(limit));
    }
    if let Some(low) = asked(memory.reservation()) {
        list.number("MemoryLow", limit_or_infinity(low));
    }
    // The specification's number is memory and swap together, systemd's is swap.
    match (limit, asked(memory.swap())) {
        (Some(limit), None) if limit < 0 => list.number("MemorySwapMax", INFINITY),
        (_, Some(sum)) if sum < 0 => list.number("MemorySwapMax", INFINITY),
        (Some(limit), Some(sum)) if limit < 0 => {
            list.number("MemorySwapMax", limit_or_infinity(sum));
        }
        (Some(limit), Some(sum)) => list.number("MemorySwapMax", limit_or_infinity(sum - limit)),
        // Without a limit the share of swap is unknown; the planner of the files says so.
        (None, _) | (_, None) => {}
    }
}

fn add_cpu(cpu: &LinuxCpu, dialect: Dialect, list: &mut List) -> Result<(), CgroupError> {
    let shares = cpu.shares().filter(|shares| *shares != 0);
    let idle = cpu.idle() == Some(1) && dialect.version >= KNOWS_IDLE;
    match (dialect.cgroup, shares) {
        (CgroupVersion::V2, _) if idle => list.number("CPUWeight", 0),
        (CgroupVersion::V2, Some(shares)) => {
            list.number("CPUWeight", weight_from_shares(shares));
        }
        (CgroupVersion::V1, Some(shares)) => list.number("CPUShares", shares),
        _ => {}
    }
    let quota = cpu.quota().filter(|us| *us != 0);
    let period = cpu.period().filter(|us| *us != 0);
    add_quota(quota, period, dialect, list);
    for (text, name, field) in [
        (cpu.cpus(), "AllowedCPUs", "linux.resources.cpu.cpus"),
        (cpu.mems(), "AllowedMemoryNodes", "linux.resources.cpu.mems"),
    ] {
        if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) {
            add_set(name, text, field, dialect, list)?;
        }
    }
    Ok(())
}

fn add_quota(quota: Option<i64>, period: Option<u64>, dialect: Dialect, list: &mut List) {
    if let Some(period) = period
        && dialect.version >= KNOWS_PERIOD
    {
        list.number("CPUQuotaPeriodUSec", period);
    }
    if quota.is_none() && period.is_none() {
        return;
    }
    let per_second = match quota {
        Some(quota) if quota > 0 => {
            let period = u128::from(period.unwrap_or(DEFAULT_PERIOD_US));
            let exact = u128::from(quota.unsigned_abs()) * 1_000_000 / period;
            // systemd thinks in whole percents of a processor. It is rounded up,
            // so that what we write to the file afterwards is not refused.
            u64::try_from(exact.next_multiple_of(10_000)).unwrap_or(INFINITY)
        }
        _ => INFINITY,
    };
    list.number("CPUQuotaPerSecUSec", per_second);
}

/// A set of processors or memory nodes: systemd takes it as bits.
fn add_set(
    name: &str,
    text: &str,
    field: &str,
    dialect: Dialect,
    list: &mut List,
) -> Result<(), CgroupError> {
    if dialect.version < KNOWS_CPUSET {
        // It is written to the files all the same.
        return Ok(());
    }
    let bits = set_bits(text).ok_or_else(|| {
        CgroupError::invalid(
            field,
            format!("expected numbers and ranges as \"0-2,7\", found {text:?}"),
        )
    })?;
    let bytes = bits.into_iter().map(Value::Byte).collect();
    list.add(name, Value::Array("y".to_owned(), bytes));
    Ok(())
}

/// `0-2,7` as bytes, the lowest numbers in the first.
pub fn set_bits(text: &str) -> Option<Vec<u8>> {
    const MOST: usize = 1 << 16;
    let mut bits: Vec<u8> = Vec::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high): (usize, usize) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
        if low > high || high >= MOST {
            return None;
        }
        bits.resize(bits.len().max(high / 8 + 1), 0);
        for number in low..=high {
            bits[number / 8] |= 1 << (number % 8);
        }
    }
    (!bits.is_empty()).then_some(bits)
}

fn add_unified(
    files: &HashMap<String, String>,
    dialect: Dialect,
    list: &mut List,
) -> Result<(), CgroupError> {
    let mut sorted: Vec<_> = files.iter().collect();
    sorted.sort();
    let idle = files.get("cpu.idle").map(|text| text.trim()) == Some("1");
    let idle = idle && dialect.version >= KNOWS_IDLE;
    for (file, text) in sorted {
        let text = text.trim();
        let field = format!("linux.resources.unified.{file}");
        let number = || match text {
            "max" => Ok(INFINITY),
            _ => text.parse::<u64>().map_err(|_| {
                CgroupError::invalid(
                    &*field,
                    format!("expected a number or \"max\", found {text:?}"),
                )
            }),
        };
        match file.as_str() {
            "cpu.idle" if idle => list.number("CPUWeight", 0),
            // systemd has one property for both.
            "cpu.weight" if idle => {}
            "cpu.weight" => list.number("CPUWeight", number()?),
            "cpu.max" => {
                let mut words = text.split_whitespace();
                let quota = words.next().and_then(|word| word.parse().ok());
                let period = words.next().and_then(|word| word.parse().ok());
                add_quota(
                    quota,
                    Some(period.unwrap_or(DEFAULT_PERIOD_US)),
                    dialect,
                    list,
                );
            }
            "cpuset.cpus" => add_set("AllowedCPUs", text, &field, dialect, list)?,
            "cpuset.mems" => add_set("AllowedMemoryNodes", text, &field, dialect, list)?,
            "memory.high" => list.number("MemoryHigh", number()?),
            "memory.low" => list.number("MemoryLow", number()?),
            "memory.min" => list.number("MemoryMin", number()?),
            "memory.max" => list.number("MemoryMax", number()?),
            "memory.swap.max" => list.number("MemorySwapMax", number()?),
            // systemd takes no zero here.
            "pids.max" => list.number("TasksMax", number()?.max(1)),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
