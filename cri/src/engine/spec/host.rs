//! What this machine has and allows, observed once.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::Path;

use oci_spec::runtime::Capability;

use super::capabilities;
use super::devices::{self, ObservedDevice};
use crate::engine::error::{Error, ErrorKind};

/// `CAP_SYS_RESOURCE`, as a number (`linux/capability.h`).
const CAP_SYS_RESOURCE: u32 = 24;

/// Facts about the machine and about this process on it.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    /// What this process can give away: its bounding set.
    pub capabilities: HashSet<Capability>,
    /// The lowest value of oom_score_adj that this process may set.
    pub lowest_oom_score_adj: i32,
    /// Page sizes that can be limited, as the OCI writes them: `2MB`, `1GB`.
    pub hugepage_sizes: BTreeSet<String>,
    /// Whether AppArmor confines programs here.
    pub apparmor: bool,
    /// All device nodes below /dev, for privileged containers.
    pub devices: Vec<ObservedDevice>,
}

/// Looks at the machine. Changes nothing.
///
/// # Errors
///
/// `Storage` when /proc cannot be read.
pub fn observe_host() -> Result<HostFacts, Error> {
    let status = read("/proc/self/status")?;
    let bounding = mask_of(&status, "CapBnd:")?;
    let effective = mask_of(&status, "CapEff:")?;
    let lowest_oom_score_adj = if effective & (1 << CAP_SYS_RESOURCE) != 0 {
        -1000
    } else {
        let own = read("/proc/self/oom_score_adj")?;
        own.trim()
            .parse()
            .map_err(|error: std::num::ParseIntError| {
                Error::caused(ErrorKind::Storage, "read /proc/self/oom_score_adj", error)
            })?
    };
    Ok(HostFacts {
        capabilities: capabilities::from_mask(bounding),
        lowest_oom_score_adj,
        hugepage_sizes: hugepage_sizes(),
        apparmor: fs::read_to_string("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.trim() == "Y"),
        devices: devices::observe_all(Path::new("/dev")),
    })
}

fn read(path: &str) -> Result<String, Error> {
    fs::read_to_string(path)
        .map_err(|error| Error::caused(ErrorKind::Storage, format!("read {path}"), error))
}

fn mask_of(status: &str, field: &str) -> Result<u64, Error> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|value| u64::from_str_radix(value.trim(), 16).ok())
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Storage,
                format!("/proc/self/status has no mask {field}"),
            )
        })
}

/// The sizes that the hugetlb controller could limit; none when it is absent.
fn hugepage_sizes() -> BTreeSet<String> {
    let controllers = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    if !controllers
        .lines()
        .any(|line| line.starts_with("hugetlb\t"))
    {
        return BTreeSet::new();
    }
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else {
        return BTreeSet::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let size = name
                .to_str()?
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?;
            size.parse().ok().map(page_size_name)
        })
        .collect()
}

/// 2048 KiB is written `2MB` in cgroup file names.
fn page_size_name(kib: u64) -> String {
    match kib {
        kib if kib % (1 << 20) == 0 => format!("{}GB", kib >> 20),
        kib if kib % (1 << 10) == 0 => format!("{}MB", kib >> 10),
        kib => format!("{kib}KB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_named_as_the_cgroup_files() {
        assert_eq!(page_size_name(64), "64KB");
        assert_eq!(page_size_name(2048), "2MB");
        assert_eq!(page_size_name(1_048_576), "1GB");
    }

    #[test]
    fn this_machine_can_be_observed() {
        let facts = observe_host().unwrap();
        assert!((-1000..=1000).contains(&facts.lowest_oom_score_adj));
        assert!(
            facts
                .devices
                .iter()
                .any(|device| device.path == Path::new("/dev/null"))
        );
    }

    #[test]
    fn masks_are_hexadecimal() {
        assert_eq!(mask_of("CapBnd:\t00ff\n", "CapBnd:").unwrap(), 255);
        assert!(mask_of("", "CapBnd:").is_err());
    }
}
