//! Ids of the host for pods that want a user namespace and bring none.
//!
//! A kubelet chooses by itself. For `berth run` the engine does: each pod gets
//! 65536 ids, from a multiple of 65536 on, that no other sandbox has, whoever
//! chose that one's. What is taken is read from the records, under the lock of
//! names, so that two processes cannot give the same range; a range is free
//! again when its sandbox is removed. A sandbox whose record cannot be read runs
//! on, and its monitor's configuration tells what it has: two pods with one range
//! would be one user to the kernel.
//!
//! The ranges are cut from what `/etc/subuid` and `/etc/subgid` give to the user
//! `berth` (subuid(5)): the same range in both, as a kubelet wants it for its own
//! user. Without such a line it is [`DEFAULT`], which lies above the ids of people,
//! of systemd's services and containers (they end at 0x6FFF_0000) and below 2^31,
//! from where on some programs read a negative number.

use std::path::Path;

use berth_runtime::plan::mappings::{IdRange, Mappings};

use super::error::{Error, ErrorKind};
use super::monitor_link;
use super::paths::Paths;
use super::records::{PodRecord, Records};
use super::spec::user_namespace::{PodUsers, cri_ranges};
use crate::v1;

/// How many ids a pod gets: all that a uid of 16 bits can name, as in KEP-127.
const LENGTH: u32 = 65_536;
/// Ids for 1024 pods where the administrator has not said otherwise.
const DEFAULT: Pool = Pool {
    first: 0x7000_0000,
    count: 1024 * LENGTH,
};
/// Whose lines are looked for.
const OWNER: &str = "berth";

/// The ids that pods may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pool {
    first: u32,
    count: u32,
}

/// The host's ids that sandboxes have, whether their records can be read or not.
///
/// # Errors
///
/// `Storage` when the records' directory cannot be read.
pub(super) fn observe_taken(records: &Records, paths: &Paths) -> Result<Vec<IdRange>, Error> {
    let mut taken = Vec::new();
    for id in records.pod_ids()? {
        match records.read_pod(&id) {
            Ok(record) => taken.extend(record.iter().flat_map(ranges_of)),
            // Lists tell of the record. Without a configuration no monitor was started.
            Err(_) => taken.extend(ranges_of_monitor(&paths.pod(&id))),
        }
    }
    Ok(taken)
}

/// Chooses ids that are not taken and writes them into the options of a sandbox
/// that left the choice to the engine.
///
/// # Errors
///
/// `Invalid` for a wrong file, `Exhausted` when all ids are given away.
pub(super) fn choose(
    taken: &[IdRange],
    config: &mut v1::PodSandboxConfig,
) -> Result<Mappings, Error> {
    let pool = read_pool(Path::new("/etc/subuid"), Path::new("/etc/subgid"))?;
    let first = find_free(pool, taken).ok_or_else(|| {
        Error::new(
            ErrorKind::Exhausted,
            format!(
                "all {} ranges of {LENGTH} ids from {} on are given to pods; more can be had by a \
                 line for {OWNER} in /etc/subuid and /etc/subgid",
                pool.count / LENGTH,
                pool.first
            ),
        )
    })?;
    let range = IdRange {
        inside: 0,
        outside: first,
        count: LENGTH,
    };
    let stated = config
        .linux
        .as_mut()
        .and_then(|linux| linux.security_context.as_mut())
        .and_then(|context| context.namespace_options.as_mut())
        .and_then(|options| options.userns_options.as_mut());
    if let Some(options) = stated {
        options.uids = cri_ranges(&[range]);
        options.gids = cri_ranges(&[range]);
    }
    Ok(Mappings {
        uids: vec![range],
        gids: vec![range],
    })
}

/// The host's ids of a pod. Users and groups are of one range in all that we
/// choose, but need not be in what others chose.
fn ranges_of(record: &PodRecord) -> Vec<IdRange> {
    match PodUsers::plan(&record.config.0) {
        Ok(PodUsers::Own(mappings)) => all_ranges(mappings),
        _ => Vec::new(),
    }
}

/// The same, from what the pod's monitor was told.
fn ranges_of_monitor(pod_dir: &Path) -> Vec<IdRange> {
    let config = monitor_link::read_configuration(pod_dir);
    let mappings = config.and_then(|config| config.id_mappings);
    mappings.map(all_ranges).unwrap_or_default()
}

fn all_ranges(mappings: Mappings) -> Vec<IdRange> {
    mappings.uids.into_iter().chain(mappings.gids).collect()
}

fn find_free(pool: Pool, taken: &[IdRange]) -> Option<u32> {
    let end = u64::from(pool.first) + u64::from(pool.count);
    let step = u64::from(LENGTH);
    let mut first = u64::from(pool.first).next_multiple_of(step);
    while first + step <= end {
        let meets = |range: &IdRange| {
            let outside = u64::from(range.outside);
            outside < first + step && first < outside + u64::from(range.count)
        };
        if !taken.iter().any(meets) {
            return u32::try_from(first).ok();
        }
        first += step;
    }
    None
}

fn read_pool(subuid: &Path, subgid: &Path) -> Result<Pool, Error> {
    match (read_line(subuid)?, read_line(subgid)?) {
        (None, None) => Ok(DEFAULT),
        (Some(uids), Some(gids)) if uids == gids => Ok(uids),
        (uids, gids) => Err(Error::invalid(format!(
            "{} and {}: expected the same range for {OWNER} in both, found {} and {}",
            subuid.display(),
            subgid.display(),
            words(uids),
            words(gids)
        ))),
    }
}

/// `berth:FIRST:COUNT`, once.
fn read_line(path: &Path) -> Result<Option<Pool>, Error> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let what = format!("read {}", path.display());
            return Err(Error::caused(ErrorKind::Storage, what, error));
        }
    };
    let own = |line: &&str| line.split(':').next() == Some(OWNER);
    let lines: Vec<&str> = text.lines().filter(own).collect();
    match lines.as_slice() {
        [] => Ok(None),
        [line] => parse_line(line).map(Some).ok_or_else(|| {
            Error::invalid(format!(
                "{}: {line:?}: expected {OWNER}:FIRST:COUNT with at least {LENGTH} ids from a \
                 multiple of {LENGTH} on, below 4294967295",
                path.display()
            ))
        }),
        more => Err(Error::invalid(format!(
            "{}: expected one line for {OWNER}, found {}",
            path.display(),
            more.len()
        ))),
    }
}

fn parse_line(line: &str) -> Option<Pool> {
    let mut fields = line.split(':').skip(1);
    let pool = Pool {
        first: fields.next()?.trim().parse().ok()?,
        count: fields.next()?.trim().parse().ok()?,
    };
    pool.first.checked_add(pool.count)?;
    (fields.next().is_none() && find_free(pool, &[]).is_some()).then_some(pool)
}

fn words(pool: Option<Pool>) -> String {
    match pool {
        None => "none".to_owned(),
        Some(pool) => format!("{} ids from {} on", pool.count, pool.first),
    }
}

#[cfg(test)]
mod tests {
    use berth_runtime::monitor::protocol::{CONFIG_NAME, MonitorConfig};

    use super::*;

    fn taken(outside: u32, count: u32) -> IdRange {
        IdRange {
            inside: 0,
            outside,
            count,
        }
    }

    #[test]
    fn a_range_is_given_once() {
        let pool = Pool {
            first: 65_000,
            count: 200_000,
        };
        assert_eq!(find_free(pool, &[]), Some(65_536));
        assert_eq!(find_free(pool, &[taken(65_536, LENGTH)]), Some(131_072));
        // A kubelet's, not on our borders.
        assert_eq!(find_free(pool, &[taken(131_071, 1)]), Some(131_072));
        let all = [taken(65_536, LENGTH), taken(150_000, 10)];
        assert_eq!(find_free(pool, &all), Some(196_608));
        assert_eq!(find_free(pool, &[taken(0, 300_000)]), None);
    }

    #[test]
    fn a_pod_whose_record_is_damaged_keeps_its_ids() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(&folder.path().join("data")).unwrap();
        let paths = Paths::new(&folder.path().join("run"));
        let id = crate::engine::id::random_id();
        let record = records.directory().join(&id);
        std::fs::create_dir(&record).unwrap();
        std::fs::write(record.join("pod.json"), "{").unwrap();
        assert!(observe_taken(&records, &paths).unwrap().is_empty());
        let range = taken(131_072, LENGTH);
        let monitor = MonitorConfig {
            pod_id: id.clone(),
            hostname: None,
            namespaces: Vec::new(),
            id_mappings: Some(Mappings {
                uids: vec![range],
                gids: vec![range],
            }),
            sysctls: std::collections::BTreeMap::new(),
            cgroup: None,
            oci_runtime: "/usr/bin/berth-oci".into(),
            oci_root: "/run/berth/oci".into(),
            oci_arguments: Vec::new(),
        };
        let pod_dir = paths.pod(&id);
        std::fs::create_dir_all(&pod_dir).unwrap();
        let monitor = serde_json::to_vec(&monitor).unwrap();
        std::fs::write(pod_dir.join(CONFIG_NAME), monitor).unwrap();
        assert_eq!(observe_taken(&records, &paths).unwrap(), [range, range]);
    }

    #[test]
    fn the_files_agree_or_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (uids, gids) = (folder.path().join("u"), folder.path().join("g"));
        assert_eq!(read_pool(&uids, &gids).unwrap(), DEFAULT);
        let write = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
        write(&uids, "other:1:2\nberth:131072:131072\n");
        let refusal = read_pool(&uids, &gids).unwrap_err().to_string();
        assert!(refusal.contains("the same range for berth"), "{refusal}");
        write(&gids, "berth:131072:131072\n");
        let pool = read_pool(&uids, &gids).unwrap();
        assert_eq!((pool.first, pool.count), (131_072, 131_072));
        for wrong in [
            "berth:131072:10",
            "berth:x:65536",
            "berth:131073:65536",
            "berth:4294901760:65536",
        ] {
            write(&uids, wrong);
            let refusal = read_pool(&uids, &gids).unwrap_err().to_string();
            assert!(refusal.contains(wrong), "{refusal}");
        }
        write(&uids, "berth:131072:65536\nberth:262144:65536\n");
        let refusal = read_pool(&uids, &gids).unwrap_err().to_string();
        assert!(refusal.contains("one line for berth, found 2"), "{refusal}");
    }
}
