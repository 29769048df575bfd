//! The small controllers, each a file or two, and the `unified` map.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxHugepageLimit, LinuxNetwork, LinuxPids, LinuxRdma};

use super::error::CgroupError;
use super::plan::Draft;
use super::tree::CgroupVersion;

const PIDS: &str = "linux.resources.pids.limit";
const HUGEPAGES: &str = "linux.resources.hugepageLimits";
const CLASS_ID: &str = "linux.resources.network.classID";
const PRIORITIES: &str = "linux.resources.network.priorities";
const RDMA: &str = "linux.resources.rdma";
const UNIFIED: &str = "linux.resources.unified";

/// How many processes and threads may exist. Negative is unlimited, zero is "not asked".
pub(crate) fn plan_pids(pids: &LinuxPids, draft: &mut Draft) -> Result<(), CgroupError> {
    let value = match pids.limit() {
        0 => return Ok(()),
        limit if limit < 0 => "max".to_owned(),
        limit => limit.to_string(),
    };
    draft.home("pids", PIDS)?.write("pids.max", value, PIDS);
    Ok(())
}

/// Huge pages by their size, in bytes.
pub(crate) fn plan_hugepages(
    limits: &[LinuxHugepageLimit],
    draft: &mut Draft,
) -> Result<(), CgroupError> {
    for limit in limits {
        let size = limit.page_size();
        if !is_page_size(size) {
            return Err(CgroupError::invalid(
                format!("{HUGEPAGES}.pageSize"),
                format!("expected a size as \"64KB\", \"2MB\" or \"1GB\", found {size:?}"),
            ));
        }
        let home = draft.home("hugetlb", HUGEPAGES)?;
        // Reservations are counted apart since Linux 5.7; without a limit on
        // them a process dies by SIGBUS at its first touch instead of getting
        // ENOMEM from mmap. Older kernels lack the file.
        let (file, reserved, value) = match home.version {
            CgroupVersion::V1 => (
                format!("hugetlb.{size}.limit_in_bytes"),
                format!("hugetlb.{size}.rsvd.limit_in_bytes"),
                limit.limit().to_string(),
            ),
            CgroupVersion::V2 => (
                format!("hugetlb.{size}.max"),
                format!("hugetlb.{size}.rsvd.max"),
                match limit.limit() {
                    bytes if bytes < 0 => "max".to_owned(),
                    bytes => bytes.to_string(),
                },
            ),
        };
        home.write(file, value.clone(), HUGEPAGES);
        home.try_write(reserved, value, HUGEPAGES);
    }
    Ok(())
}

/// `^[1-9][0-9]*[KMG]B$`, as the specification has it. This also keeps a slash
/// out of the file's name.
fn is_page_size(text: &str) -> bool {
    let number = ["KB", "MB", "GB"]
        .iter()
        .find_map(|unit| text.strip_suffix(unit));
    number.is_some_and(|number| {
        !number.is_empty()
            && !number.starts_with('0')
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Marks for the packets of the group: version 1 only.
pub(crate) fn plan_network(network: &LinuxNetwork, draft: &mut Draft) -> Result<(), CgroupError> {
    if let Some(class) = network.class_id().filter(|class| *class != 0) {
        draft
            .home("net_cls", CLASS_ID)?
            .write("net_cls.classid", class.to_string(), CLASS_ID);
    }
    for priority in network.priorities().iter().flatten() {
        let line = format!("{} {}", priority.name(), priority.priority());
        draft
            .home("net_prio", PRIORITIES)?
            .write("net_prio.ifpriomap", line, PRIORITIES);
    }
    Ok(())
}

/// Handles and objects of RDMA adapters, by device.
pub(crate) fn plan_rdma(
    devices: &HashMap<String, LinuxRdma>,
    draft: &mut Draft,
) -> Result<(), CgroupError> {
    for (device, limit) in sorted(devices) {
        let number = |value: Option<u32>| value.map_or("max".to_owned(), |value| value.to_string());
        let line = format!(
            "{device} hca_handle={} hca_object={}",
            number(limit.hca_handles()),
            number(limit.hca_objects())
        );
        draft.home("rdma", RDMA)?.write("rdma.max", line, RDMA);
    }
    Ok(())
}

/// Version 2 files by name: what no other field can say.
pub(crate) fn plan_unified(
    files: &HashMap<String, String>,
    draft: &mut Draft,
) -> Result<(), CgroupError> {
    for (file, value) in sorted(files) {
        let field = format!("{UNIFIED}.{file}");
        // With a slash the write would land outside the container's group.
        if file.contains('/') {
            return Err(CgroupError::invalid(
                field,
                "expected the name of a file, without \"/\"",
            ));
        }
        let Some((controller, _)) = file.split_once('.').filter(|(name, _)| !name.is_empty())
        else {
            return Err(CgroupError::invalid(
                field,
                "expected the form CONTROLLER.PARAMETER, as \"memory.high\"",
            ));
        };
        let mut hierarchies = draft.hierarchies.iter();
        if !hierarchies.any(|plan| plan.version == CgroupVersion::V2) {
            return Err(CgroupError::invalid(
                field,
                "cannot use unified on cgroup v1: this machine has no version 2 hierarchy",
            ));
        }
        let home = if controller == "cgroup" {
            draft
                .hierarchies
                .iter_mut()
                .find(|plan| plan.version == CgroupVersion::V2)
        } else {
            draft
                .hierarchies
                .iter_mut()
                .find(|plan| plan.version == CgroupVersion::V2 && plan.has(controller))
        };
        let Some(home) = home else {
            return Err(CgroupError::NoController {
                field,
                controller: format!("{controller} (version 2)"),
            });
        };
        if controller != "cgroup" {
            home.want(controller);
        }
        // Files as io.max take one line a write.
        for line in value.lines() {
            home.write(file.clone(), line.to_owned(), field.clone());
        }
    }
    Ok(())
}

/// A map's order is random, a plan's is not.
fn sorted<T>(map: &HashMap<String, T>) -> Vec<(&String, &T)> {
    let mut pairs: Vec<_> = map.iter().collect();
    pairs.sort_by_key(|(name, _)| *name);
    pairs
}
