//! The runtimes that are compared: ours, Debian's, and youki from crates.io.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::bundle::Bundle;
use crate::report::first_line;

/// An OCI runtime by name and path.
pub struct Runtime {
    /// As a table's row names it.
    pub name: String,
    /// Its program.
    pub program: PathBuf,
}

/// All that are here and can run a container, and why the others are not measured.
///
/// # Errors
///
/// Ours cannot.
pub fn able(bench: &Bundle) -> Result<(Vec<Runtime>, Vec<String>)> {
    let ours = in_target("berth/berth-oci");
    let mut runtimes = vec![Runtime {
        name: "berth-oci".to_owned(),
        program: std::env::var_os("BERTH_OCI").map_or(ours, PathBuf::from),
    }];
    let mut absent = Vec::new();
    for (name, program) in [
        ("crun", PathBuf::from("crun")),
        ("runc", PathBuf::from("runc")),
        ("youki", youki()),
    ] {
        let runtime = Runtime {
            name: name.to_owned(),
            program,
        };
        match try_out(bench, &runtime) {
            Ok(()) => runtimes.push(runtime),
            Err(error) => {
                eprintln!("oci: {name} is not measured: {error:#}");
                absent.push(format!("{name} is not measured: {error:#}."));
            }
        }
    }
    Ok((runtimes, absent))
}

/// `./x bench` builds it there; one that is installed is as good.
fn youki() -> PathBuf {
    let built = in_target("bench/youki/bin/youki");
    if built.exists() {
        built
    } else {
        "youki".into()
    }
}

fn in_target(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target")
        .join(path)
}

fn try_out(bench: &Bundle, runtime: &Runtime) -> Result<()> {
    ensure!(
        !version(runtime).is_empty(),
        "it is not installed, or did not build in this environment"
    );
    let tried = bench.run(runtime, "bench-try");
    if tried.is_err() {
        // What a broken run leaves would be in the way of nobody else.
        let _ = bench.delete(runtime, "bench-try");
    }
    tried.context("it could not run `true` here")
}

fn version(runtime: &Runtime) -> String {
    first_line(&runtime.program.to_string_lossy(), &["--version"])
}

/// The versions, in a sentence.
pub fn versions(runtimes: &[Runtime]) -> String {
    let lines: Vec<String> = runtimes.iter().map(version).collect();
    format!("Versions: {}.", lines.join("; "))
}

/// Runs a program that must succeed. Its streams are `/dev/null`: a created
/// container keeps them, and a pipe would be waited for.
///
/// # Errors
///
/// It did not.
pub fn quietly(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .with_context(|| format!("starting {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
