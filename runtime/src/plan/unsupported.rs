//! Fields of the runtime spec that are refused by name until they are honoured.

use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec};

use super::SpecError;

/// Refuses the first field that would otherwise be passed over in silence.
///
/// # Errors
///
/// The field.
pub fn refuse_unsupported(spec: &Spec) -> Result<(), SpecError> {
    if let Some(process) = spec.process() {
        refuse_process(process)?;
    }
    if let Some(linux) = spec.linux() {
        refuse_linux(linux)?;
    }
    refuse("vm", spec.vm().is_some())
}

/// The same for the process of an `exec`.
///
/// # Errors
///
/// The field.
pub fn refuse_process(process: &Process) -> Result<(), SpecError> {
    let given = |label: &Option<String>| label.as_deref().is_some_and(|label| !label.is_empty());
    refuse("process.apparmorProfile", given(process.apparmor_profile()))?;
    refuse("process.selinuxLabel", given(process.selinux_label()))?;
    refuse("process.ioPriority", process.io_priority().is_some())?;
    refuse("process.scheduler", process.scheduler().is_some())?;
    refuse(
        "process.execCPUAffinity",
        process.exec_cpu_affinity().is_some(),
    )
}

fn refuse_linux(linux: &Linux) -> Result<(), SpecError> {
    let of_kind = |kind| {
        let namespaces = linux.namespaces().iter().flatten();
        namespaces
            .into_iter()
            .any(|namespace| namespace.typ() == kind)
    };
    let filled = |count: Option<usize>| count.is_some_and(|count| count > 0);
    refuse("linux.namespaces: user", of_kind(LinuxNamespaceType::User))?;
    refuse("linux.namespaces: time", of_kind(LinuxNamespaceType::Time))?;
    refuse(
        "linux.uidMappings",
        filled(linux.uid_mappings().as_ref().map(Vec::len)),
    )?;
    refuse(
        "linux.gidMappings",
        filled(linux.gid_mappings().as_ref().map(Vec::len)),
    )?;
    refuse(
        "linux.timeOffsets",
        filled(linux.time_offsets().as_ref().map(|map| map.len())),
    )?;
    refuse(
        "linux.netDevices",
        filled(linux.net_devices().as_ref().map(|map| map.len())),
    )?;
    refuse("linux.memoryPolicy", linux.memory_policy().is_some())?;
    refuse("linux.intelRdt", linux.intel_rdt().is_some())?;
    refuse("linux.personality", linux.personality().is_some())?;
    let label = linux.mount_label().as_deref().unwrap_or("");
    refuse("linux.mountLabel", !label.is_empty())
}

fn refuse(field: &str, present: bool) -> Result<(), SpecError> {
    if present {
        Err(SpecError::new(
            field,
            "not supported yet; the container was not made",
        ))
    } else {
        Ok(())
    }
}
