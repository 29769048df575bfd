//! What a group used so far, in one shape for both versions.
//!
//! Each number comes from one file. A file that is not there leaves its number
//! out, because kernels differ in what they were built with; a file that is
//! there and cannot be read is an error. Times are in nanoseconds, sizes in
//! bytes, whatever unit the kernel used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::CgroupError;
use super::files;
use super::plan::{CgroupPlan, HierarchyPlan};
use super::tree::CgroupVersion;

/// The numbers of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupStats {
    /// Processor time; none without the controller.
    pub cpu: Option<CpuStats>,
    /// Memory; none without the controller.
    pub memory: Option<MemoryStats>,
    /// Processes and threads; none without the controller.
    pub pids: Option<PidsStats>,
    /// Block devices by `major:minor`.
    pub block_io: BTreeMap<String, BlockIoStats>,
    /// Huge pages by their size, as `2MB`.
    pub hugetlb: BTreeMap<String, HugetlbStats>,
}

/// Processor time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuStats {
    /// Time on any processor.
    pub usage_ns: u64,
    /// The part of it in user space.
    pub user_ns: u64,
    /// The part of it in the kernel.
    pub system_ns: u64,
    /// Periods in which the group was runnable, where a quota is set.
    pub periods: u64,
    /// Periods in which the quota ran out.
    pub throttled_periods: u64,
    /// Time spent waiting for the next period.
    pub throttled_ns: u64,
}

/// Memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStats {
    /// In use, caches included.
    pub usage_bytes: u64,
    /// The highest use so far, where the kernel records it.
    pub max_usage_bytes: Option<u64>,
    /// The limit; none when unlimited.
    pub limit_bytes: Option<u64>,
    /// Swap in use, where the kernel counts it.
    pub swap_bytes: Option<u64>,
    /// In use and not easily given back: usage without inactive file pages.
    /// The kubelet evicts by this number.
    pub working_set_bytes: u64,
    /// Anonymous memory.
    pub rss_bytes: u64,
    /// Processes killed by the kernel for lack of memory.
    pub oom_kills: u64,
    /// How often the limit was hit.
    pub limit_hits: u64,
    /// The file `memory.stat` as it is: names differ between versions.
    pub detail: BTreeMap<String, u64>,
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidsStats {
    /// How many there are.
    pub current: u64,
    /// The limit; none when unlimited.
    pub limit: Option<u64>,
}

/// One block device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockIoStats {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Requests to read.
    pub reads: u64,
    /// Requests to write.
    pub writes: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugetlbStats {
    /// In use.
    pub usage_bytes: u64,
    /// How often the limit was hit.
    pub limit_hits: u64,
}

impl CgroupPlan {
    /// Reads the numbers. Those of groups that are gone are left out.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Unreadable`] for a file with unexpected content.
    pub fn stats(&self) -> Result<CgroupStats, CgroupError> {
        Ok(CgroupStats {
            cpu: self.cpu_stats()?,
            memory: self.memory_stats()?,
            pids: self.pids_stats()?,
            block_io: self.block_io_stats()?,
            hugetlb: self.hugetlb_stats()?,
        })
    }

    fn cpu_stats(&self) -> Result<Option<CpuStats>, CgroupError> {
        let mut stats = CpuStats::default();
        let mut found = false;
        // Version 2 has cpu.stat in every group, with or without the controller.
        if let Some(unified) = self.unified()
            && self
                .home("cpuacct", "cpu")
                .is_none_or(|home| home.version == CgroupVersion::V2)
            && let Some(table) = read_table(&unified.directory().join("cpu.stat"))?
        {
            let us = |name: &str| value(&table, name) * 1_000;
            stats.usage_ns = us("usage_usec");
            stats.user_ns = us("user_usec");
            stats.system_ns = us("system_usec");
            stats.throttled_ns = us("throttled_usec");
            stats.periods = value(&table, "nr_periods");
            stats.throttled_periods = value(&table, "nr_throttled");
            return Ok(Some(stats));
        }
        if let Some(home) = self.v1_home("cpuacct") {
            for (file, number) in [
                ("cpuacct.usage", &mut stats.usage_ns),
                ("cpuacct.usage_user", &mut stats.user_ns),
                ("cpuacct.usage_sys", &mut stats.system_ns),
            ] {
                if let Some(read) = read_number(&home.join(file))? {
                    *number = read;
                    found = true;
                }
            }
        }
        if let Some(home) = self.v1_home("cpu")
            && let Some(table) = read_table(&home.join("cpu.stat"))?
        {
            stats.periods = value(&table, "nr_periods");
            stats.throttled_periods = value(&table, "nr_throttled");
            stats.throttled_ns = value(&table, "throttled_time");
            found = true;
        }
        Ok(found.then_some(stats))
    }

    fn memory_stats(&self) -> Result<Option<MemoryStats>, CgroupError> {
        let Some(home) = self.home("memory", "memory") else {
            return Ok(None);
        };
        let directory = home.directory();
        let number = |file: &str| read_number(&directory.join(file));
        let Some(detail) = read_table(&directory.join("memory.stat"))? else {
            return Ok(None);
        };
        let mut stats = MemoryStats::default();
        let inactive = match home.version {
            CgroupVersion::V1 => {
                stats.usage_bytes = number("memory.usage_in_bytes")?.unwrap_or(0);
                stats.max_usage_bytes = number("memory.max_usage_in_bytes")?;
                // Unlimited is a huge number here, rounded down to pages.
                stats.limit_bytes =
                    number("memory.limit_in_bytes")?.filter(|bytes| *bytes < i64::MAX as u64 / 2);
                stats.swap_bytes = number("memory.memsw.usage_in_bytes")?
                    .map(|sum| sum.saturating_sub(stats.usage_bytes));
                stats.limit_hits = number("memory.failcnt")?.unwrap_or(0);
                stats.rss_bytes = value(&detail, "total_rss");
                value(&detail, "total_inactive_file")
            }
            CgroupVersion::V2 => {
                stats.usage_bytes = number("memory.current")?.unwrap_or(0);
                stats.max_usage_bytes = number("memory.peak")?;
                stats.limit_bytes = number("memory.max")?;
                stats.swap_bytes = number("memory.swap.current")?;
                let events = read_table(&directory.join("memory.events"))?.unwrap_or_default();
                stats.limit_hits = value(&events, "max");
                stats.rss_bytes = value(&detail, "anon");
                value(&detail, "inactive_file")
            }
        };
        stats.working_set_bytes = stats.usage_bytes.saturating_sub(inactive);
        stats.oom_kills = self.oom_kills()?;
        stats.detail = detail;
        Ok(Some(stats))
    }

    fn pids_stats(&self) -> Result<Option<PidsStats>, CgroupError> {
        let Some(home) = self.home("pids", "pids") else {
            return Ok(None);
        };
        let directory = home.directory();
        let Some(current) = read_number(&directory.join("pids.current"))? else {
            return Ok(None);
        };
        Ok(Some(PidsStats {
            current,
            limit: read_number(&directory.join("pids.max"))?,
        }))
    }

    fn block_io_stats(&self) -> Result<BTreeMap<String, BlockIoStats>, CgroupError> {
        let mut all = BTreeMap::new();
        let Some(home) = self.home("blkio", "io") else {
            return Ok(all);
        };
        let directory = home.directory();
        match home.version {
            CgroupVersion::V1 => {
                // BFQ counts on its own; the throttling layer counts for all schedulers.
                for (file, bytes) in [
                    ("blkio.throttle.io_service_bytes_recursive", true),
                    ("blkio.throttle.io_serviced_recursive", false),
                ] {
                    let text =
                        files::read_text_if_there(&directory.join(file))?.unwrap_or_default();
                    add_v1_block_io(&text, bytes, &mut all);
                }
            }
            CgroupVersion::V2 => {
                let text =
                    files::read_text_if_there(&directory.join("io.stat"))?.unwrap_or_default();
                add_v2_block_io(&text, &mut all);
            }
        }
        Ok(all)
    }

    fn hugetlb_stats(&self) -> Result<BTreeMap<String, HugetlbStats>, CgroupError> {
        let mut all = BTreeMap::new();
        let Some(home) = self.home("hugetlb", "hugetlb") else {
            return Ok(all);
        };
        let directory = home.directory();
        let v1 = home.version == CgroupVersion::V1;
        let (used, hits) = if v1 {
            (".usage_in_bytes", ".failcnt")
        } else {
            (".current", ".events")
        };
        for size in page_sizes(&directory, used) {
            let file = |suffix: &str| directory.join(format!("hugetlb.{size}{suffix}"));
            let Some(usage_bytes) = read_number(&file(used))? else {
                continue;
            };
            let limit_hits = if v1 {
                read_number(&file(hits))?.unwrap_or(0)
            } else {
                value(&read_table(&file(hits))?.unwrap_or_default(), "max")
            };
            all.insert(
                size,
                HugetlbStats {
                    usage_bytes,
                    limit_hits,
                },
            );
        }
        Ok(all)
    }

    fn v1_home(&self, controller: &str) -> Option<PathBuf> {
        self.hierarchies
            .iter()
            .find(|plan| plan.version == CgroupVersion::V1 && plan.has(controller))
            .map(HierarchyPlan::directory)
    }
}

/// Lines as `8:0 Read 4096`; a last line `Total 8192` has two words and is skipped.
fn add_v1_block_io(text: &str, bytes: bool, all: &mut BTreeMap<String, BlockIoStats>) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(device), Some(operation), Some(number)) = (
            words.next(),
            words.next(),
            words.next().and_then(|number| number.parse::<u64>().ok()),
        ) else {
            continue;
        };
        let stats = all.entry(device.to_owned()).or_default();
        match (operation, bytes) {
            ("Read", true) => stats.read_bytes = number,
            ("Write", true) => stats.written_bytes = number,
            ("Read", false) => stats.reads = number,
            ("Write", false) => stats.writes = number,
            _ => {}
        }
    }
}

/// Lines as `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn add_v2_block_io(text: &str, all: &mut BTreeMap<String, BlockIoStats>) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(device) = words.next() else { continue };
        let stats = all.entry(device.to_owned()).or_default();
        for (key, number) in words.filter_map(|word| word.split_once('=')) {
            let number = number.parse().unwrap_or(0);
            match key {
                "rbytes" => stats.read_bytes = number,
                "wbytes" => stats.written_bytes = number,
                "rios" => stats.reads = number,
                "wios" => stats.writes = number,
                _ => {}
            }
        }
    }
}

/// The page sizes that have a file `hugetlb.SIZE` with this ending.
fn page_sizes(directory: &Path, ending: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| {
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(ending)?;
            // `2MB.rsvd` counts reservations, which are no use yet.
            (!size.contains('.')).then(|| size.to_owned())
        })
        .collect()
}

/// A file with one number; `max` and a missing file are none.
fn read_number(path: &Path) -> Result<Option<u64>, CgroupError> {
    let Some(text) = files::read_text_if_there(path)? else {
        return Ok(None);
    };
    match text.trim() {
        "max" => Ok(None),
        number => number
            .parse()
            .map(Some)
            .map_err(|_| CgroupError::Unreadable {
                path: path.to_owned(),
                found: number.to_owned(),
                expected: "a number or \"max\"",
            }),
    }
}

/// A file of lines with a name and a number.
fn read_table(path: &Path) -> Result<Option<BTreeMap<String, u64>>, CgroupError> {
    let Some(text) = files::read_text_if_there(path)? else {
        return Ok(None);
    };
    let row = |line: &str| {
        let (name, number) = line.split_once(' ')?;
        // Some lines of some kernels hold more than a number; they are left out.
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    Ok(Some(text.lines().filter_map(row).collect()))
}

fn value(table: &BTreeMap<String, u64>, name: &str) -> u64 {
    table.get(name).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests;
