//! `list`: all containers below a root.

use super::state::{print_json, view};
use crate::arguments::{Global, ListArguments, ListFormat};
use crate::error::Error;
use crate::state::StateStore;

/// Prints them by name.
///
/// # Errors
///
/// When the root cannot be read. A container whose state cannot be read is told
/// of on standard error, and the others are listed.
pub fn list(global: &Global, arguments: &ListArguments) -> Result<i32, Error> {
    let store = StateStore::new(&global.root);
    let mut found = Vec::new();
    for (id, folder) in store.list()? {
        match folder.read_record() {
            Ok(record) => {
                let status = folder.observe_status(&record);
                found.push((record, status));
            }
            Err(crate::state::StateError::Missing(_)) => {}
            Err(error) => eprintln!("berth-oci: {id}: {}", crate::causes::chain(&error)),
        }
    }
    if arguments.quiet {
        for (record, _) in &found {
            println!("{}", record.id);
        }
        return Ok(0);
    }
    let views: Vec<_> = found
        .iter()
        .map(|(record, status)| view(record, *status))
        .collect();
    if arguments.format == ListFormat::Json {
        return print_json(&views);
    }
    let width = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
    let id = width(&mut found.iter().map(|(record, _)| record.id.as_str().len())).max(2);
    let bundle = width(
        &mut found
            .iter()
            .map(|(record, _)| record.bundle.as_os_str().len()),
    )
    .max(6);
    println!(
        "{:id$}  {:<8}  {:<8}  {:bundle$}  {:<31}  OWNER",
        "ID", "PID", "STATUS", "BUNDLE", "CREATED"
    );
    for (record, status) in &found {
        let pid = record
            .init
            .filter(|_| *status != crate::state::Status::Stopped);
        println!(
            "{:id$}  {:<8}  {:<8}  {:bundle$}  {:<31}  {}",
            record.id.as_str(),
            pid.map_or(0, |init| init.pid.0),
            status.word(),
            record.bundle.display(),
            record.created,
            record.owner
        );
    }
    Ok(0)
}
