//! `berth load`: images from files.

use berth_cri::images::ImageStore;
use clap::Args;

use crate::error::{Context, Error, Result};
use crate::output::print_line;

/// `berth load`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  berth load docker-archive:image.tar     what 'docker save' and 'podman save' write
  berth load oci-archive:image.tar
  berth load oci:layout:1.0               a directory in the OCI image layout")]
pub struct LoadArguments {
    /// docker-archive:FILE, oci-archive:FILE[:TAG] or oci:DIRECTORY[:TAG]
    #[arg(required = true, value_name = "SOURCE")]
    pub sources: Vec<String>,
}

/// Imports images and prints their names, or their ids where they have none.
///
/// # Errors
///
/// A source cannot be read; what stood before it is there.
pub async fn run(store: &ImageStore, arguments: &LoadArguments) -> Result<u8> {
    for source in &arguments.sources {
        if !source.contains(':') {
            return Err(Error::new(format!(
                "{source}: expected docker-archive:{source}, oci-archive:{source} or oci:{source}"
            )));
        }
        for image in store
            .import(source)
            .await
            .context(format!("load {source}"))?
        {
            match image.references.as_slice() {
                [] => print_line(&image.id)?,
                names => names.iter().try_for_each(|name| print_line(name))?,
            }
        }
    }
    Ok(0)
}
