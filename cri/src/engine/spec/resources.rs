//! Limits, in the OCI's words.

use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxHugepageLimit, LinuxHugepageLimitBuilder, LinuxMemoryBuilder,
    LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};

use super::host::HostFacts;
use super::{Privilege, SpecInputs, devices};
use crate::engine::error::{Error, ErrorKind};
use crate::v1;

/// The OCI's `linux.resources` of a new container, with the devices' rules.
///
/// # Errors
///
/// `Invalid` or `Unsupported` with the field's name.
pub fn plan_resources(
    inputs: &SpecInputs<'_>,
    privilege: Privilege,
) -> Result<LinuxResources, Error> {
    let requested = inputs
        .container
        .linux
        .as_ref()
        .and_then(|linux| linux.resources.clone())
        .unwrap_or_default();
    let mut resources = plan_limits(&requested, inputs.host)?;
    resources.set_devices(Some(devices::plan_rules(inputs.devices, privilege)?));
    if let Some(limit) = inputs.defaults.pids_limit {
        let pids = LinuxPidsBuilder::default().limit(limit).build()?;
        resources.set_pids(Some(pids));
    }
    Ok(resources)
}

/// Limits alone, as for an update: a value of zero is "not stated".
///
/// # Errors
///
/// `Invalid` or `Unsupported` with the field's name.
pub fn plan_limits(
    requested: &v1::LinuxContainerResources,
    host: &HostFacts,
) -> Result<LinuxResources, Error> {
    let mut resources = LinuxResourcesBuilder::default().build()?;
    resources.set_devices(None);
    let mut cpu = LinuxCpuBuilder::default().build()?;
    cpu.set_shares(positive("cpu_shares", requested.cpu_shares)?);
    cpu.set_period(positive("cpu_period", requested.cpu_period)?);
    // -1 is "without limit" here, so only zero is unset.
    cpu.set_quota((requested.cpu_quota != 0).then_some(requested.cpu_quota));
    cpu.set_cpus(stated(&requested.cpuset_cpus));
    cpu.set_mems(stated(&requested.cpuset_mems));
    resources.set_cpu(Some(cpu));

    let mut memory = LinuxMemoryBuilder::default().build()?;
    memory.set_limit(stated_bytes(requested.memory_limit_in_bytes));
    memory.set_swap(stated_bytes(requested.memory_swap_limit_in_bytes));
    check_swap(requested)?;
    resources.set_memory(Some(memory));

    let hugepages = plan_hugepages(requested, host)?;
    resources.set_hugepage_limits((!hugepages.is_empty()).then_some(hugepages));
    if !requested.unified.is_empty() {
        for name in requested.unified.keys() {
            // The key becomes a file's name in the container's group.
            if name.contains('/') || !name.contains('.') || name.starts_with('.') {
                return Err(Error::invalid(format!(
                    "linux.resources.unified: {name:?} is not the name of a cgroup file, such \
                     as memory.high"
                )));
            }
        }
        resources.set_unified(Some(requested.unified.clone()));
    }
    Ok(resources)
}

/// The limits after an update: what it does not state stays.
pub fn merge_limits(
    old: &v1::LinuxContainerResources,
    update: &v1::LinuxContainerResources,
) -> v1::LinuxContainerResources {
    let number = |old: i64, new: i64| if new == 0 { old } else { new };
    let text = |old: &str, new: &str| if new.is_empty() { old } else { new }.to_owned();
    let mut merged = old.clone();
    merged.cpu_period = number(old.cpu_period, update.cpu_period);
    merged.cpu_quota = number(old.cpu_quota, update.cpu_quota);
    merged.cpu_shares = number(old.cpu_shares, update.cpu_shares);
    merged.memory_limit_in_bytes = number(old.memory_limit_in_bytes, update.memory_limit_in_bytes);
    merged.memory_swap_limit_in_bytes = number(
        old.memory_swap_limit_in_bytes,
        update.memory_swap_limit_in_bytes,
    );
    merged.cpuset_cpus = text(&old.cpuset_cpus, &update.cpuset_cpus);
    merged.cpuset_mems = text(&old.cpuset_mems, &update.cpuset_mems);
    for limit in &update.hugepage_limits {
        merged
            .hugepage_limits
            .retain(|known| known.page_size != limit.page_size);
        merged.hugepage_limits.push(limit.clone());
    }
    merged.unified.extend(update.unified.clone());
    merged
}

fn plan_hugepages(
    requested: &v1::LinuxContainerResources,
    host: &HostFacts,
) -> Result<Vec<LinuxHugepageLimit>, Error> {
    let mut limits = Vec::new();
    for limit in &requested.hugepage_limits {
        if !host.hugepage_sizes.contains(&limit.page_size) {
            // A kubelet states zero for every size it can think of: a machine
            // that has no such pages keeps that limit by itself.
            if limit.limit == 0 {
                continue;
            }
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "linux.resources.hugepage_limits: this machine cannot limit pages of {}",
                    limit.page_size
                ),
            ));
        }
        let bytes = i64::try_from(limit.limit).map_err(|_| {
            Error::invalid(format!(
                "linux.resources.hugepage_limits: {} bytes is more than the OCI can state",
                limit.limit
            ))
        })?;
        limits.push(
            LinuxHugepageLimitBuilder::default()
                .page_size(limit.page_size.clone())
                .limit(bytes)
                .build()?,
        );
    }
    Ok(limits)
}

/// The OCI's swap value holds memory and swap together.
fn check_swap(requested: &v1::LinuxContainerResources) -> Result<(), Error> {
    let (memory, both) = (
        requested.memory_limit_in_bytes,
        requested.memory_swap_limit_in_bytes,
    );
    if both > 0 && memory > both {
        return Err(Error::invalid(format!(
            "linux.resources.memory_swap_limit_in_bytes: {both} is memory and swap together, so \
             it cannot be less than memory_limit_in_bytes {memory}"
        )));
    }
    Ok(())
}

fn positive(field: &str, value: i64) -> Result<Option<u64>, Error> {
    match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(Error::invalid(format!(
            "linux.resources.{field}: {value} is negative"
        ))),
    }
}

fn stated_bytes(value: i64) -> Option<i64> {
    (value != 0).then_some(value)
}

fn stated(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn host() -> HostFacts {
        HostFacts {
            hugepage_sizes: BTreeSet::from(["2MB".to_owned()]),
            ..HostFacts::default()
        }
    }

    #[test]
    fn zero_is_not_stated() {
        let limits = plan_limits(&v1::LinuxContainerResources::default(), &host()).unwrap();
        assert_eq!(limits.memory().as_ref().unwrap().limit(), None);
        assert_eq!(limits.cpu().as_ref().unwrap().shares(), None);
        assert_eq!(limits.cpu().as_ref().unwrap().quota(), None);
        assert_eq!(limits.hugepage_limits(), &None);
        assert_eq!(limits.devices(), &None);
    }

    #[test]
    fn limits_are_carried_over() {
        let requested = v1::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: -1,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            cpuset_cpus: "0-1".to_owned(),
            hugepage_limits: vec![
                v1::HugepageLimit {
                    page_size: "2MB".to_owned(),
                    limit: 4 << 20,
                },
                v1::HugepageLimit {
                    page_size: "1GB".to_owned(),
                    limit: 0,
                },
            ],
            ..Default::default()
        };
        let limits = plan_limits(&requested, &host()).unwrap();
        let cpu = limits.cpu().as_ref().unwrap();
        assert_eq!(
            (cpu.shares(), cpu.quota(), cpu.period()),
            (Some(512), Some(-1), Some(100_000))
        );
        assert_eq!(cpu.cpus().as_deref(), Some("0-1"));
        assert_eq!(limits.memory().as_ref().unwrap().limit(), Some(64 << 20));
        assert_eq!(limits.hugepage_limits().as_ref().unwrap().len(), 1);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_field() {
        let refused = |resources: v1::LinuxContainerResources| {
            plan_limits(&resources, &host()).unwrap_err().to_string()
        };
        let text = refused(v1::LinuxContainerResources {
            cpu_shares: -2,
            ..Default::default()
        });
        assert!(text.contains("cpu_shares"), "{text}");
        let text = refused(v1::LinuxContainerResources {
            memory_limit_in_bytes: 2,
            memory_swap_limit_in_bytes: 1,
            ..Default::default()
        });
        assert!(text.contains("memory_swap_limit_in_bytes"), "{text}");
        let text = refused(v1::LinuxContainerResources {
            hugepage_limits: vec![v1::HugepageLimit {
                page_size: "1GB".to_owned(),
                limit: 1 << 30,
            }],
            ..Default::default()
        });
        assert!(text.contains("1GB"), "{text}");
        let text = refused(v1::LinuxContainerResources {
            unified: [("../x".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        });
        assert!(text.contains("unified"), "{text}");
    }

    #[test]
    fn an_update_keeps_what_it_does_not_state() {
        let old = v1::LinuxContainerResources {
            cpu_shares: 512,
            memory_limit_in_bytes: 1 << 20,
            ..Default::default()
        };
        let update = v1::LinuxContainerResources {
            memory_limit_in_bytes: 2 << 20,
            ..Default::default()
        };
        let merged = merge_limits(&old, &update);
        assert_eq!(merged.cpu_shares, 512);
        assert_eq!(merged.memory_limit_in_bytes, 2 << 20);
    }
}
