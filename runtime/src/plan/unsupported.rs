//! Fields of the runtime spec that are refused by name until they are honoured.

use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};

use super::SpecError;

/// Refuses the first field that would otherwise be passed over in silence.
///
/// # Errors
///
/// The field.
pub fn refuse_unsupported(spec: &Spec) -> Result<(), SpecError> {
    if let Some(linux) = spec.linux() {
        refuse_linux(linux)?;
    }
    refuse("vm", spec.vm().is_some())
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
    )
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
