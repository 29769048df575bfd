//! What others' mistakes teach: a case for each published flaw of a runtime.
//!
//! Every case plays the attacker, from the image, from a process inside or from
//! beside, and looks whether the host was reached. `docs/security.md` has the
//! table of flaws, what closes each, and the case's name; some stand in
//! `mounts.rs`, `exec.rs` and `process.rs`, where they belong to a feature.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::lab::{Lab, add};
use crate::outcome::{Outcome, finish};

/// Capabilities, groups, users.
#[path = "security/authority.rs"]
mod authority;
/// What is open in a program, and where it is.
#[path = "security/descriptors.rs"]
mod descriptors;
/// Links and strange files of an image.
#[path = "security/links.rs"]
mod links;
/// The runtime's own program.
#[path = "security/own_program.rs"]
mod own_program;
/// Processes that share a container's pid namespace.
#[path = "security/peers.rs"]
mod peers;
/// Writes to procfs.
#[path = "security/procfs.rs"]
mod procfs;
/// Files that change while they are looked at.
#[path = "security/races.rs"]
mod races;

/// Adds capabilities to those that the program has.
fn grant(config: &mut Value, names: &[&str]) {
    for set in ["bounding", "effective", "permitted"] {
        for name in names {
            add(&mut config["process"]["capabilities"][set], json!(name));
        }
    }
}

/// Takes away the mounts at and below a place, so that the image's own is used.
fn without_mounts_at(config: &mut Value, place: &str) {
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with(place));
}

/// A directory of the host's with a file in it that no container may change or see.
fn outside(lab: &Lab) -> Result<PathBuf> {
    let folder = lab.host.work_dir().join("outside");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("precious"), "of the host\n")?;
    Ok(folder)
}

/// Nothing was made in it, and what was in it is as it was.
fn assert_untouched(folder: &std::path::Path) -> Result<()> {
    let names: Vec<_> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    ensure!(names == ["precious"], "the host has {names:?}");
    let text = fs::read_to_string(folder.join("precious"))?;
    ensure!(text == "of the host\n", "the host's file has {text:?}");
    Ok(())
}

/// That a container's words do not hold what only the host's file has.
fn assert_secret(told: &Outcome) -> Result<()> {
    ensure!(!told.stdout.contains("of the host"), "{told:?}");
    Ok(())
}

/// Calls a copy of the runtime, which an attack may destroy.
fn call_copy(lab: &Lab, program: &std::path::Path, words: &[&str]) -> Result<Outcome> {
    let mut command = lab.host.command(program);
    command.arg("--root").arg(lab.root()).args(words);
    finish(&mut command)
}
