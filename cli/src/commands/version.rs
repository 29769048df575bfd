//! `berth version`.

use serde_json::json;

use crate::error::Result;
use crate::output::{Format, print_line, print_value};

/// Prints the versions of the program and of what it speaks.
///
/// # Errors
///
/// Standard output is closed.
pub fn run(format: Format) -> Result<u8> {
    let version = env!("CARGO_PKG_VERSION");
    match format {
        Format::Json | Format::Yaml => print_value(
            format,
            &json!({"version": version, "criVersion": "v1", "kubernetesVersion": "v1.37"}),
        )?,
        _ => print_line(&format!("berth {version}"))?,
    }
    Ok(0)
}
