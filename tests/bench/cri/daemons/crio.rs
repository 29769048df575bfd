//! CRI-O with conmon of Debian's.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use berth_tests::host::Host;
use berth_tests::peers::{Folder, crio};
use berth_tests::registry::Registry;

use super::built;

/// Prepares a host: the command that serves on a socket.
///
/// # Errors
///
/// CRI-O is not here.
pub fn command(host: &Host, registry: &Registry, socket: &Path, runtime: &Path) -> Result<Command> {
    let (program, pinns) = (built("crio"), built("pinns"));
    for needed in [&program, &pinns, Path::new("/usr/bin/conmon")] {
        ensure!(
            needed.exists(),
            "{} is missing: ./x bench cri builds or installs it",
            needed.display()
        );
    }
    let folder = socket.parent().context("a socket is in a folder")?;
    let folder = Folder::new(folder, &built(""));
    let runtime = folder.with_our_score(runtime)?;
    let (arguments, registries) = crio::write(&folder, registry, &runtime, &pinns)?;
    // The mount is the host's own.
    let bound = host
        .command("mount")
        .arg("--bind")
        .arg(registries)
        .arg(crio::REGISTRIES)
        .output()?;
    ensure!(
        bound.status.success(),
        "{}",
        String::from_utf8_lossy(&bound.stderr)
    );
    let mut command = host.command(program);
    command.args(arguments);
    Ok(command)
}
