//! How a failure is told: to standard error, and to the file of `--log`.
//!
//! containerd's shim takes the last line of level `error` in that file for the
//! reason that it shows to people; conmon passes standard error on.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
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
    let written = match (file.to_str()).and_then(|text| text.split_once(':')) {
        Some(("syslog", name)) => send_to(SYSLOG, &to_syslog(name, text)),
        Some(("journald", name)) => send_to(JOURNAL, &to_journal(name, text)),
        Some(("file", path)) => append(Path::new(path), &line),
        _ => append(file, &line),
    };
    if let Err(error) = written {
        eprintln!("berth-oci: --log {}: {error}", file.display());
    }
}

fn append(file: &Path, line: &str) -> std::io::Result<()> {
    let mut log = OpenOptions::new().create(true).append(true).open(file)?;
    writeln!(log, "{line}")
}

/// Where syslog(3) writes.
const SYSLOG: &str = "/dev/log";
/// Where sd_journal_send(3) writes.
const JOURNAL: &str = "/run/systemd/journal/socket";

fn send_to(socket: &str, message: &[u8]) -> std::io::Result<()> {
    UnixDatagram::unbound()?.send_to(message, socket).map(drop)
}

/// RFC 3164 as local daemons read it: facility daemon (3), severity error (3).
fn to_syslog(name: &str, text: &str) -> Vec<u8> {
    format!("<27>{name}[{}]: {text}", std::process::id()).into_bytes()
}

/// The journal's own protocol: lines `FIELD=value`. A value with a line end in
/// it would begin another field, so line ends become spaces.
fn to_journal(name: &str, text: &str) -> Vec<u8> {
    let (name, text) = (name.replace('\n', " "), text.replace('\n', " "));
    format!("PRIORITY=3\nSYSLOG_IDENTIFIER={name}\nMESSAGE={text}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::{to_journal, to_syslog};

    #[test]
    fn no_text_makes_a_field_of_its_own() {
        let message = to_journal("a\nB=1", "x\nPRIORITY=0");
        assert_eq!(
            message,
            b"PRIORITY=3\nSYSLOG_IDENTIFIER=a B=1\nMESSAGE=x PRIORITY=0\n"
        );
        assert!(to_syslog("web", "no").starts_with(b"<27>web["));
    }
}
