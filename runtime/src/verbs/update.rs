//! `update`: other limits for a container that exists.

use std::io::Read;
use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::find;
use crate::arguments::{Global, UpdateArguments};
use crate::error::{Error, ErrorKind};
use crate::state::Status;

/// Sets what the resources name and leaves the rest alone.
///
/// # Errors
///
/// The limit that the kernel refused; those before it are set.
pub fn update(global: &Global, arguments: &UpdateArguments) -> Result<i32, Error> {
    let mut found = find(global, &arguments.id)?;
    if found.status == Status::Stopped {
        return Err(Error::new(ErrorKind::WrongState, "container not running"));
    }
    let resources = read_resources(&arguments.resources)?;
    let Some(cgroup) = &mut found.record.cgroup else {
        let text = "the container has no cgroup that could hold limits";
        return Err(Error::new(ErrorKind::WrongState, text));
    };
    cgroup.set(&resources)?;
    found.folder.write_record(&found.record)?;
    Ok(0)
}

fn read_resources(file: &Path) -> Result<LinuxResources, Error> {
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes).map(drop)
    } else {
        std::fs::read(file).map(|text| bytes = text)
    };
    read.map_err(|error| Error::of_file(file, &error))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::new(ErrorKind::BadInput, format!("{}: {error}", file.display())))
}
