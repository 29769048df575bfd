//! `state`: what a container is, as JSON.

use std::collections::HashMap;
use std::fmt::Display;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::{Found, find};
use crate::arguments::Global;
use crate::error::{Error, ErrorKind};
use crate::state::{Record, Status};

/// The spec's state, and what runc and crun add to it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StateView<'a> {
    oci_version: &'a str,
    id: &'a str,
    pid: i32,
    status: Status,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    owner: &'a str,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: &'a HashMap<String, String>,
}

/// Prints it.
///
/// # Errors
///
/// [`ErrorKind::NotFound`].
pub fn state(global: &Global, id: &str) -> Result<i32, Error> {
    let Found { record, status, .. } = find(global, id)?;
    print_json(&view(&record, status))
}

/// What others are told of a container.
pub fn view(record: &Record, status: Status) -> StateView<'_> {
    StateView {
        oci_version: &record.oci_version,
        id: record.id.as_str(),
        // One that has ended has no number any more: another may have it.
        pid: match (status, record.init) {
            (Status::Stopped, _) | (_, None) => 0,
            (_, Some(init)) => init.pid.0,
        },
        status,
        bundle: &record.bundle,
        rootfs: &record.rootfs,
        created: &record.created,
        owner: &record.owner,
        annotations: &record.annotations,
    }
}

/// Prints a value for programs and people.
///
/// # Errors
///
/// When standard output is closed.
pub fn print_json(value: &impl Serialize) -> Result<i32, Error> {
    let mut output = std::io::stdout().lock();
    let written = serde_json::to_writer_pretty(&mut output, value)
        .map_err(std::io::Error::from)
        .and_then(|()| output.write_all(b"\n"));
    finish(written)
}

/// Prints a text.
///
/// # Errors
///
/// When standard output is closed.
pub fn print_text(text: &impl Display) -> Result<i32, Error> {
    finish(write!(std::io::stdout().lock(), "{text}"))
}

fn finish(written: std::io::Result<()>) -> Result<i32, Error> {
    match written {
        Ok(()) => Ok(0),
        Err(error) => Err(Error::new(
            ErrorKind::Failed,
            format!("standard output: {error}"),
        )),
    }
}
