//! How a failure is told: to standard error, and to the file of `--log`.
//!
//! containerd's shim takes the last line of level `error` in that file for the
//! reason that it shows to people; conmon passes standard error on.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::SystemTime;

use serde_json::json;

use crate::arguments::{Global, LogFormat};
use crate::clock::rfc3339;

/// Tells it in both places.
pub fn report(global: &Global, text: &str) {
    crate::sys::call::tell(format_args!("berth-oci: {text}"));
    let Some(file) = &global.log else { return };
    let time = rfc3339(SystemTime::now());
    let line = match global.log_format {
        LogFormat::Json => json!({"level": "error", "msg": text, "time": time}).to_string(),
        LogFormat::Text => format!("time=\"{time}\" level=error msg={text:?}"),
    };
    let opened = OpenOptions::new().create(true).append(true).open(file);
    if let Err(error) = opened.and_then(|mut log| writeln!(log, "{line}")) {
        eprintln!("berth-oci: --log {}: {error}", file.display());
    }
}
