//! Clocks of a time namespace, as far as they differ from the host's.
//!
//! Only the two clocks that count from the machine's start can differ:
//! `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME`. The time of day is the machine's.
//!
//! Read more: time_namespaces(7), config-linux.md#offset-for-time-namespace.

use oci_spec::runtime::Linux;

use super::SpecError;
use super::namespaces::NamespacePlan;

/// The names that `/proc/PID/timens_offsets` knows.
const CLOCKS: &[&str] = &["boottime", "monotonic"];

/// Lines for `/proc/PID/timens_offsets`, one a clock: name, seconds, nanoseconds.
///
/// # Errors
///
/// Offsets without a new time namespace, a clock that has none, nanoseconds that
/// are a second or more.
pub fn plan_offsets(linux: &Linux, namespaces: &NamespacePlan) -> Result<Vec<String>, SpecError> {
    let field = "linux.timeOffsets";
    let mut lines = Vec::new();
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        let field = format!("{field}.{clock}");
        if !CLOCKS.contains(&clock.as_str()) {
            let reason = "expected boottime or monotonic, the clocks that a namespace can have";
            return Err(SpecError::new(field, reason));
        }
        let nanoseconds = offset.nanosecs().unwrap_or(0);
        if nanoseconds >= 1_000_000_000 {
            let reason = format!("expected less than 1000000000, found {nanoseconds}");
            return Err(SpecError::new(format!("{field}.nanosecs"), reason));
        }
        lines.push(format!(
            "{clock} {} {nanoseconds}\n",
            offset.secs().unwrap_or(0)
        ));
    }
    let kind = NamespacePlan::TIME;
    if lines.is_empty() || namespaces.new.contains(kind) {
        lines.sort();
        return Ok(lines);
    }
    let reason = match namespaces.joins(kind) {
        true => "the time namespace is joined by its path, and its clocks are set already",
        false => "there is no time namespace in linux.namespaces to have them",
    };
    Err(SpecError::new(field, reason))
}
