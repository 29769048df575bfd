//! What a group used, in the shape of `runc events`.
//!
//! Programs read that JSON (containerd's go-runc, cAdvisor's descendants), so
//! its names, its units and what it leaves out are runc's
//! (`types/events.go`): zeros are left out where runc leaves them out, sizes
//! that are unlimited are the largest number, and version 2's counters stand
//! under version 1's names. The shape of [`super::stats`] is ours.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::error::CgroupError;
use super::files;
use super::plan::{CgroupPlan, HierarchyPlan};
use super::tree::CgroupVersion;

/// What version 1 answers for "no limit" is nearly this; version 2 says `max`.
const UNLIMITED: u64 = u64::MAX;
/// `cpuacct.stat` counts in hundredths of a second: USER_HZ, which is part of
/// the kernel's promise to programs.
const NS_PER_TICK: u64 = 10_000_000;

impl CgroupPlan {
    /// The `data` of an event of type `stats`.
    ///
    /// # Errors
    ///
    /// A file that is there and cannot be read.
    pub fn event_stats(&self) -> Result<Value, CgroupError> {
        Ok(json!({
            "cpu": self.cpu_event()?,
            "cpuset": self.cpuset_event()?,
            "memory": self.memory_event()?,
            "pids": self.pids_event()?,
            "blkio": self.block_io_event()?,
            "hugetlb": self.hugetlb_event()?,
            // Filled in by who knows the container's group in resctrl.
            "intel_rdt": {},
            // runc counts interfaces that it made itself, and it makes none.
            "network_interfaces": null,
        }))
    }

    fn cpu_event(&self) -> Result<Value, CgroupError> {
        let mut usage = Map::new();
        let mut throttling = Map::new();
        let mut pressure = None;
        let (mut user, mut kernel) = (0, 0);
        let v1_cpuacct = self.v1_directory("cpuacct");
        if let Some(directory) = &v1_cpuacct {
            put(
                &mut usage,
                "total",
                number(&directory.join("cpuacct.usage"))?,
            );
            let percpu = numbers(&directory.join("cpuacct.usage_percpu"))?;
            put_list(&mut usage, "percpu", percpu);
            let all = text(&directory.join("cpuacct.usage_all"))?;
            // `cpu user system`, then a line for each processor.
            let column = |index: usize| -> Vec<u64> {
                let rows = all.lines().skip(1);
                rows.filter_map(|row| row.split_whitespace().nth(index)?.parse().ok())
                    .collect()
            };
            put_list(&mut usage, "percpu_kernel", column(2));
            put_list(&mut usage, "percpu_user", column(1));
            let table = Table::read(&directory.join("cpuacct.stat"))?;
            user = table.get("user") * NS_PER_TICK;
            kernel = table.get("system") * NS_PER_TICK;
        }
        let directory = match (self.v1_directory("cpu"), self.unified()) {
            (Some(directory), _) => Some((directory, "throttled_time", 1)),
            (None, Some(unified)) => Some((unified.directory(), "throttled_usec", 1_000)),
            (None, None) => None,
        };
        if let Some((directory, throttled, unit)) = directory {
            let table = Table::read(&directory.join("cpu.stat"))?;
            if v1_cpuacct.is_none() {
                put(&mut usage, "total", table.get("usage_usec") * 1_000);
                user = table.get("user_usec") * 1_000;
                kernel = table.get("system_usec") * 1_000;
            }
            put(&mut throttling, "periods", table.get("nr_periods"));
            put(
                &mut throttling,
                "throttledPeriods",
                table.get("nr_throttled"),
            );
            put(
                &mut throttling,
                "throttledTime",
                table.get(throttled) * unit,
            );
            pressure = read_pressure(&directory.join("cpu.pressure"))?;
        }
        usage.insert("kernel".to_owned(), kernel.into());
        usage.insert("user".to_owned(), user.into());
        let mut cpu = Map::new();
        cpu.insert("usage".to_owned(), usage.into());
        cpu.insert("throttling".to_owned(), throttling.into());
        put_pressure(&mut cpu, pressure);
        Ok(cpu.into())
    }

    fn cpuset_event(&self) -> Result<Value, CgroupError> {
        let mut all = Map::new();
        let directory = self.v1_directory("cpuset");
        for (name, file) in [("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")] {
            let list = match &directory {
                Some(directory) => numbers_of_list(&text(&directory.join(file))?),
                None => Vec::new(),
            };
            put_list(&mut all, name, list);
        }
        for name in [
            "cpu_exclusive",
            "mem_hardwall",
            "mem_exclusive",
            "memory_migrate",
            "memory_spread_page",
            "memory_spread_slab",
            "memory_pressure",
            "sched_load_balance",
            "sched_relax_domain_level",
        ] {
            let number: i64 = match &directory {
                // The level may be -1: "as the system has it".
                Some(directory) => text(&directory.join(format!("cpuset.{name}")))?
                    .trim()
                    .parse()
                    .unwrap_or(0),
                None => 0,
            };
            all.insert(name.to_owned(), number.into());
        }
        Ok(all.into())
    }

    fn memory_event(&self) -> Result<Value, CgroupError> {
        let mut all = Map::new();
        let nothing = || json!({"limit": 0, "failcnt": 0});
        for name in ["usage", "swap", "kernel", "kernelTCP"] {
            all.insert(name.to_owned(), nothing());
        }
        let Some(home) = self.home("memory", "memory") else {
            return Ok(all.into());
        };
        let directory = home.directory();
        let table = Table::read(&directory.join("memory.stat"))?;
        if home.version == CgroupVersion::V1 {
            put(&mut all, "cache", table.get("cache"));
            for (name, part) in [
                ("usage", ""),
                ("swap", "memsw."),
                ("kernel", "kmem."),
                ("kernelTCP", "kmem.tcp."),
            ] {
                let entry = memory_entry_v1(&directory, part)?;
                all.insert(name.to_owned(), entry);
            }
        } else {
            put(&mut all, "cache", table.get("file"));
            let file = |name: &str| number_or_max(&directory.join(name));
            let usage = file("memory.current")?.unwrap_or(0);
            let limit = file("memory.max")?.unwrap_or(0);
            let peak = file("memory.peak")?.unwrap_or(0);
            all.insert("usage".to_owned(), memory_entry(limit, usage, peak, 0));
            // Memory and swap together, as version 1 counts it.
            let swap = file("memory.swap.current")?.unwrap_or(0);
            let swap_limit = match file("memory.swap.max")? {
                Some(UNLIMITED) => UNLIMITED,
                Some(bytes) => bytes.saturating_add(limit),
                None => limit,
            };
            let entry = memory_entry(swap_limit, swap + usage, 0, 0);
            all.insert("swap".to_owned(), entry);
            let pressure = read_pressure(&directory.join("memory.pressure"))?;
            put_pressure(&mut all, pressure);
        }
        if !table.rows.is_empty() {
            all.insert("raw".to_owned(), table.into_json());
        }
        Ok(all.into())
    }

    fn pids_event(&self) -> Result<Value, CgroupError> {
        let mut all = Map::new();
        if let Some(home) = self.home("pids", "pids") {
            let directory = home.directory();
            put(
                &mut all,
                "current",
                number(&directory.join("pids.current"))?,
            );
            let limit = number_or_max(&directory.join("pids.max"))?;
            // Unlimited is told as nothing here.
            let limit = limit.filter(|limit| *limit != UNLIMITED);
            put(&mut all, "limit", limit.unwrap_or(0));
        }
        Ok(all.into())
    }

    fn block_io_event(&self) -> Result<Value, CgroupError> {
        let mut all = Map::new();
        let Some(home) = self.home("blkio", "io") else {
            return Ok(all.into());
        };
        let directory = home.directory();
        if home.version == CgroupVersion::V2 {
            let (bytes, requests) = v2_block_io(&text(&directory.join("io.stat"))?);
            put_entries(&mut all, "ioServiceBytesRecursive", bytes);
            put_entries(&mut all, "ioServicedRecursive", requests);
            put_pressure(&mut all, read_pressure(&directory.join("io.pressure"))?);
            return Ok(all.into());
        }
        // BFQ counts by itself, and everything; the throttling layer counts for
        // all schedulers, and two things only.
        let bfq = v1_block_io(&text(&directory.join("blkio.bfq.io_serviced_recursive"))?);
        if bfq.is_empty() {
            for (name, file) in [
                (
                    "ioServiceBytesRecursive",
                    "blkio.throttle.io_service_bytes_recursive",
                ),
                (
                    "ioServicedRecursive",
                    "blkio.throttle.io_serviced_recursive",
                ),
            ] {
                let entries = v1_block_io(&text(&directory.join(file))?);
                put_entries(&mut all, name, entries);
            }
            return Ok(all.into());
        }
        put_entries(&mut all, "ioServicedRecursive", bfq);
        for (name, file) in [
            ("ioServiceBytesRecursive", "io_service_bytes_recursive"),
            ("ioQueueRecursive", "io_queued_recursive"),
            ("ioServiceTimeRecursive", "io_service_time_recursive"),
            ("ioWaitTimeRecursive", "io_wait_time_recursive"),
            ("ioMergedRecursive", "io_merged_recursive"),
            ("ioTimeRecursive", "time_recursive"),
            ("sectorsRecursive", "sectors_recursive"),
        ] {
            let file = directory.join(format!("blkio.bfq.{file}"));
            put_entries(&mut all, name, v1_block_io(&text(&file)?));
        }
        Ok(all.into())
    }

    fn hugetlb_event(&self) -> Result<Value, CgroupError> {
        let mut all = Map::new();
        let Some(home) = self.home("hugetlb", "hugetlb") else {
            return Ok(all.into());
        };
        let directory = home.directory();
        let (used, most, hits) = match home.version {
            CgroupVersion::V1 => ("usage_in_bytes", "max_usage_in_bytes", "failcnt"),
            CgroupVersion::V2 => ("current", "", "events"),
        };
        for size in huge_page_sizes(&directory, used) {
            // Reservations, where the kernel counts them: what is promised is
            // as good as used.
            let reserved = directory.join(format!("hugetlb.{size}.rsvd.{used}"));
            let part = if reserved.exists() { ".rsvd" } else { "" };
            let file = |name: &str| directory.join(format!("hugetlb.{size}{part}.{name}"));
            let mut entry = Map::new();
            put(&mut entry, "usage", number(&file(used))?);
            let failures = match home.version {
                CgroupVersion::V1 => {
                    put(&mut entry, "max", number(&file(most))?);
                    number(&file(hits))?
                }
                CgroupVersion::V2 => {
                    let file = directory.join(format!("hugetlb.{size}.{hits}"));
                    Table::read(&file)?.get("max")
                }
            };
            entry.insert("failcnt".to_owned(), failures.into());
            all.insert(size, entry.into());
        }
        Ok(all.into())
    }

    fn v1_directory(&self, controller: &str) -> Option<PathBuf> {
        let mut plans = self.hierarchies.iter();
        plans
            .find(|plan| plan.version == CgroupVersion::V1 && plan.has(controller))
            .map(HierarchyPlan::directory)
    }
}

fn memory_entry_v1(directory: &Path, part: &str) -> Result<Value, CgroupError> {
    let file = |name: &str| number_or_max(&directory.join(format!("memory.{part}{name}")));
    let all = (file("usage_in_bytes")?, file("limit_in_bytes")?);
    // A kernel that does not count it has none of the files.
    let (Some(usage), Some(limit)) = all else {
        return Ok(memory_entry(0, 0, 0, 0));
    };
    let most = file("max_usage_in_bytes")?.unwrap_or(0);
    let failures = file("failcnt")?.unwrap_or(0);
    Ok(memory_entry(limit, usage, most, failures))
}

fn memory_entry(limit: u64, usage: u64, most: u64, failures: u64) -> Value {
    let mut entry = Map::new();
    entry.insert("limit".to_owned(), limit.into());
    put(&mut entry, "usage", usage);
    put(&mut entry, "max", most);
    entry.insert("failcnt".to_owned(), failures.into());
    entry.into()
}

/// Adds a number unless it is zero.
fn put(map: &mut Map<String, Value>, name: &str, number: u64) {
    if number != 0 {
        map.insert(name.to_owned(), number.into());
    }
}

fn put_list(map: &mut Map<String, Value>, name: &str, numbers: Vec<u64>) {
    if !numbers.is_empty() {
        map.insert(name.to_owned(), numbers.into());
    }
}

fn put_entries(map: &mut Map<String, Value>, name: &str, entries: Vec<Value>) {
    if !entries.is_empty() {
        map.insert(name.to_owned(), entries.into());
    }
}

fn put_pressure(map: &mut Map<String, Value>, pressure: Option<Value>) {
    if let Some(pressure) = pressure {
        map.insert("psi".to_owned(), pressure);
    }
}

/// How long tasks waited, in `cpu.pressure` and its siblings. None where the
/// kernel does not count it, or was told not to.
fn read_pressure(path: &Path) -> Result<Option<Value>, CgroupError> {
    match files::read_text_if_there(path) {
        Ok(text) => Ok(text.and_then(|text| pressure(&text))),
        Err(error) if error.errno() == nix::errno::Errno::EOPNOTSUPP => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Lines as `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn pressure(text: &str) -> Option<Value> {
    let mut all = Map::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let mut row = Map::new();
        for (key, number) in words.filter_map(|word| word.split_once('=')) {
            let number = if key == "total" {
                Value::from(number.parse::<u64>().ok()?)
            } else {
                Value::from(number.parse::<f64>().ok()?)
            };
            row.insert(key.to_owned(), number);
        }
        all.insert(name.to_owned(), row.into());
    }
    (!all.is_empty()).then(|| all.into())
}

/// Lines as `8:0 Read 4096`; the sum at the end has no device.
fn v1_block_io(text: &str) -> Vec<Value> {
    let row = |line: &str| {
        let mut words = line.split(|letter: char| letter == ':' || letter.is_whitespace());
        let (major, minor) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let (operation, value) = match (words.next()?, words.next()) {
            (operation, Some(value)) => (operation, value),
            // Times and sectors have no operation.
            (value, None) => ("", value),
        };
        Some(block_io_entry(major, minor, operation, value.parse().ok()?))
    };
    text.lines().filter_map(row).collect()
}

/// Lines as `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`: bytes and requests.
fn v2_block_io(text: &str) -> (Vec<Value>, Vec<Value>) {
    let (mut bytes, mut requests) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let device = words.next().and_then(|device| device.split_once(':'));
        let Some((Ok(major), Ok(minor))) =
            device.map(|(major, minor)| (major.parse(), minor.parse()))
        else {
            continue;
        };
        for (key, number) in words.filter_map(|word| word.split_once('=')) {
            let Ok(number) = number.parse() else { continue };
            let (list, operation) = match key {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "rios" => (&mut requests, "Read"),
                "wios" => (&mut requests, "Write"),
                // runc has no place for discards.
                _ => continue,
            };
            list.push(block_io_entry(major, minor, operation, number));
        }
    }
    (bytes, requests)
}

fn block_io_entry(major: u64, minor: u64, operation: &str, value: u64) -> Value {
    let mut entry = Map::new();
    put(&mut entry, "major", major);
    put(&mut entry, "minor", minor);
    if !operation.is_empty() {
        entry.insert("op".to_owned(), operation.into());
    }
    put(&mut entry, "value", value);
    entry.into()
}

/// The page sizes that have a file of this name.
fn huge_page_sizes(directory: &Path, file: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut sizes: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| {
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(file)?;
            let size = size.strip_suffix('.')?;
            (!size.contains('.')).then(|| size.to_owned())
        })
        .collect();
    sizes.sort();
    sizes
}

/// `0-2,7` as numbers.
fn numbers_of_list(list: &str) -> Vec<u64> {
    let range = |part: &str| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        Some(low.parse().ok()?..=high.parse().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

/// The text of a file; one that is not there is empty.
fn text(path: &Path) -> Result<String, CgroupError> {
    Ok(files::read_text_if_there(path)?.unwrap_or_default())
}

fn numbers(path: &Path) -> Result<Vec<u64>, CgroupError> {
    let text = text(path)?;
    let words = text.split_whitespace();
    Ok(words.filter_map(|word| word.parse().ok()).collect())
}

/// A file with one number; zero if it is not there.
fn number(path: &Path) -> Result<u64, CgroupError> {
    Ok(number_or_max(path)?.unwrap_or(0))
}

/// The same, with `max` as the largest number and none if it is not there.
fn number_or_max(path: &Path) -> Result<Option<u64>, CgroupError> {
    let Some(text) = files::read_text_if_there(path)? else {
        return Ok(None);
    };
    match text.trim() {
        "max" => Ok(Some(UNLIMITED)),
        word => word.parse().map(Some).map_err(|_| CgroupError::Unreadable {
            path: path.to_owned(),
            found: word.to_owned(),
            expected: "a number or \"max\"",
        }),
    }
}

/// A file of lines with a name and a number.
struct Table {
    rows: Vec<(String, u64)>,
}

impl Table {
    fn read(path: &Path) -> Result<Table, CgroupError> {
        let row = |line: &str| {
            let (name, number) = line.split_once(' ')?;
            Some((name.to_owned(), number.trim().parse().ok()?))
        };
        let rows = text(path)?.lines().filter_map(row).collect();
        Ok(Table { rows })
    }

    fn get(&self, name: &str) -> u64 {
        let mut rows = self.rows.iter();
        rows.find(|(known, _)| known == name)
            .map_or(0, |(_, number)| *number)
    }

    fn into_json(self) -> Value {
        let rows = self.rows.into_iter();
        rows.map(|(name, number)| (name, Value::from(number)))
            .collect::<Map<_, _>>()
            .into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{numbers_of_list, pressure, v1_block_io, v2_block_io};

    #[test]
    fn block_devices_are_told_as_runc_tells_them() {
        let text = "8:0 Read 4096\n8:0 Total 4096\n8:16 77\nTotal 4096\n";
        assert_eq!(
            v1_block_io(text),
            [
                json!({"major": 8, "op": "Read", "value": 4096}),
                json!({"major": 8, "op": "Total", "value": 4096}),
                json!({"major": 8, "minor": 16, "value": 77}),
            ]
        );
        let (bytes, requests) =
            v2_block_io("253:1 rbytes=10 wbytes=0 rios=2 wios=3 dbytes=9 dios=9\n");
        assert_eq!(
            bytes,
            [
                json!({"major": 253, "minor": 1, "op": "Read", "value": 10}),
                json!({"major": 253, "minor": 1, "op": "Write"}),
            ]
        );
        assert_eq!(requests.len(), 2);
    }

    #[test]
    fn pressure_and_lists() {
        let text = "some avg10=0.12 avg60=0.00 avg300=0.00 total=77\n";
        assert_eq!(
            pressure(text),
            Some(json!({"some": {"avg10": 0.12, "avg60": 0.0, "avg300": 0.0, "total": 77}}))
        );
        assert_eq!(pressure(""), None);
        assert_eq!(numbers_of_list("0-2,7\n"), [0, 1, 2, 7]);
        assert!(numbers_of_list("").is_empty());
    }
}
