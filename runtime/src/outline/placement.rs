//! Where a container's memory, caches and network devices are, and what its
//! annotations ask for, in words.

use serde::Serialize;

use super::shown;
use crate::plan::annotations::AnnotationPlan;
use crate::plan::cache_group::CacheGroupPlan;
use crate::plan::links::LinkPlan;
use crate::plan::schedule::{MemoryPolicyPlan, NumberSet};
use crate::seccomp::plan::Unknown;

/// What few containers ask for.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Ids of the user namespace, as `uids=INSIDE-OUTSIDE-COUNT`.
    pub id_mappings: Vec<String>,
    /// How clocks of the time namespace differ: name, seconds, nanoseconds.
    pub clock_offsets: Vec<String>,
    /// What labelled mounts are told.
    pub mount_label: Option<String>,
    /// Devices of the host that move in.
    pub network_devices: Vec<NetworkDevice>,
    /// The class of resctrl.
    pub intel_rdt: Option<CacheGroup>,
    /// Flags of personality(2).
    pub personality: Option<String>,
    /// As set_mempolicy(2) has it.
    pub memory_policy: Option<MemoryPolicy>,
    /// What crun's annotations ask for.
    pub extensions: Extensions,
}

/// A device that moves into the container.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkDevice {
    /// On the host.
    pub name: String,
    /// In the container.
    pub new_name: String,
}

/// A class of resctrl.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheGroup {
    /// Its name.
    pub class: String,
    /// It is made and removed with the container.
    pub own: bool,
    /// Lines that are written to it.
    pub schemata: Vec<String>,
    /// The group that counts, where one is asked for.
    pub monitor: Option<String>,
}

/// Where memory comes from.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryPolicy {
    /// `MPOL_*` as a number.
    pub mode: u32,
    /// The nodes.
    pub nodes: Vec<usize>,
}

/// What crun's annotations ask for.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Extensions {
    /// The program keeps the caller's other groups.
    pub keeps_groups: bool,
    /// A socket that gets a descriptor of init.
    pub pidfd_receiver: Option<String>,
    /// Calls that libseccomp does not know are an error.
    pub refuses_unknown_calls: bool,
    /// The length of a filter that stands in place of the profile.
    pub raw_filter_instructions: Option<usize>,
}

/// A device that moves in.
pub fn outline_link(plan: &LinkPlan) -> NetworkDevice {
    let LinkPlan { name, new_name } = plan;
    NetworkDevice {
        name: name.clone(),
        new_name: new_name.clone(),
    }
}

/// A class of resctrl.
pub fn outline_cache_group(plan: &CacheGroupPlan) -> CacheGroup {
    let CacheGroupPlan {
        class,
        own,
        schemas,
        schemata,
        monitor,
    } = plan;
    CacheGroup {
        class: class.clone(),
        own: *own,
        schemata: schemas.iter().chain(schemata).cloned().collect(),
        monitor: monitor.clone(),
    }
}

/// Where memory comes from.
pub fn outline_policy(plan: &MemoryPolicyPlan) -> MemoryPolicy {
    let MemoryPolicyPlan { mode, nodes } = plan;
    MemoryPolicy {
        mode: *mode,
        nodes: numbers(nodes),
    }
}

/// What annotations ask for.
pub fn outline_wishes(plan: &AnnotationPlan) -> Extensions {
    let AnnotationPlan {
        keep_groups,
        pidfd_receiver,
        unknown_calls,
        raw_filter,
    } = plan;
    Extensions {
        keeps_groups: *keep_groups,
        pidfd_receiver: pidfd_receiver.as_deref().map(shown),
        refuses_unknown_calls: *unknown_calls == Unknown::Refuse,
        raw_filter_instructions: raw_filter.as_ref().map(|filter| filter.instructions.len()),
    }
}

/// The members of a set, from the smallest on.
pub fn numbers(set: &NumberSet) -> Vec<usize> {
    let bits = set.words().len() * 64;
    let holds = |number: &usize| set.words()[number / 64] >> (number % 64) & 1 == 1;
    (0..bits).filter(holds).collect()
}
