//! Fields of the runtime spec that are refused by name until they are honoured.

use oci_spec::runtime::Spec;

use super::SpecError;

/// Refuses the first field that would otherwise be passed over in silence.
///
/// # Errors
///
/// The field.
pub fn refuse_unsupported(spec: &Spec) -> Result<(), SpecError> {
    refuse("vm", spec.vm().is_some())
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
