//! The plugins of the CNI project, built from their Go module.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};

use crate::vm::workspace;

const MODULE: &str = "github.com/containernetworking/plugins/plugins";
const PLUGINS: [&str; 5] = [
    "ipam/host-local",
    "main/bridge",
    "main/loopback",
    "meta/bandwidth",
    "meta/portmap",
];

/// The folder that holds them. They are built once a run; Go keeps what it built before.
///
/// A guest of `./x vm-test` has no Go: it has the folder from the machine below.
///
/// # Errors
///
/// Go is missing and so are they, or they do not build.
pub fn build() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build_once().map_err(|error| format!("{error:#}")));
    built.clone().map_err(|error| anyhow!("{error}"))
}

fn build_once() -> Result<PathBuf> {
    let folder = workspace().join("target/tmp/cni");
    fs::create_dir_all(&folder)?;
    let mut command = Command::new("go");
    command
        .args(["build", "-mod=readonly", "-ldflags=-s -w", "-o"])
        .arg(&folder)
        .args(PLUGINS.map(|plugin| format!("{MODULE}/{plugin}")))
        .env("CGO_ENABLED", "0")
        .current_dir(workspace().join("tests/cni"));
    let output = match command.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let there = |plugin: &&str| plugin.rsplit('/').next().map(|name| folder.join(name));
            let mut places = PLUGINS.iter().filter_map(there);
            ensure!(
                places.all(|place| place.exists()),
                "go is missing: ./x setup"
            );
            return Ok(folder);
        }
        ran => ran.context("run go")?,
    };
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(folder)
}
