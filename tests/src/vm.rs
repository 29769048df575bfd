//! A virtual machine with cgroup version 2 only and a real systemd, for suites to run in.
//!
//! How a container's groups are made differs more between machines than anything
//! else a runtime does. The machine at hand has one set of hierarchies; this one
//! has the other, and a systemd that owns the tree. It is assembled from packages
//! of the distribution that is running, so what was compiled here finds the same C
//! library there.
//!
//! ```text
//! packages ─▶ system::prepare ─▶ target/vm/KEY/{vmlinuz,initramfs,system.ext4}   kept
//! cargo test --no-run ─▶ payload::pack ─▶ target/vm/run/payload.ext4             a call's
//! both ─▶ guest::run_one ─▶ QEMU ─▶ berth-vm.service ─▶ the suite
//!                             ├─ port 1: what the suite writes, by a file to our standard output
//!                             ├─ port 2: "started", then "exit CODE"
//!                             └─ serial: the console, to target/vm/run/console.log
//! ```
//!
//! The suite of a cluster runs in two guests that a wire joins (`guest::run_two`); all
//! of a guest's files are in a folder of its name then.
//!
//! The system's disk is opened with `snapshot=on`: writes go to a file without a
//! name that ends with QEMU, so every run begins with the same system. QEMU is
//! started by `setpriv --pdeathsig`, so it ends with us, however we end.

/// QEMU: its command line, its limits, and what it told.
pub mod guest;
/// The archive that the kernel unpacks first: BusyBox and the drivers of the disk.
pub mod initramfs;
/// The kernel's package, and in which order its modules load.
pub mod kernel;
/// The suite's programs, as a second disk.
pub mod payload;
/// The distribution's packages, as the first disk.
pub mod system;
/// The wire between two guests.
pub mod wire;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Where everything of the virtual machine lies.
///
/// # Panics
///
/// The crate does not lie in a workspace; it does.
pub fn folder() -> PathBuf {
    workspace().join("target/vm")
}

/// The workspace.
///
/// # Panics
///
/// The crate does not lie in a workspace; it does.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace")
}

/// Runs a program, which must succeed, and gives what it wrote to standard output.
///
/// # Errors
///
/// It is not installed, or fails; the message holds its complaint.
fn output_of(command: &mut Command) -> Result<String> {
    let words = format!("{command:?}");
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => bail!("{words}: {error}; `./x vm-test` installs what is needed"),
    };
    ensure!(
        output.status.success(),
        "{words}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).with_context(|| format!("{words}: not text"))
}

/// Makes an image of the filesystem ext4 from a folder. The file is sparse.
///
/// # Errors
///
/// The disk is full, or `mke2fs` is not installed.
fn pack_ext4(folder: &Path, image: &Path, size_mib: u64) -> Result<()> {
    let mut mke2fs = Command::new("mke2fs");
    mke2fs
        // It lies in a folder that only the administrator's PATH has.
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        // A disk that is thrown away after each run needs no journal.
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-O",
            "^has_journal",
            "-m",
            "0",
            "-d",
        ])
        .args([folder, image])
        .arg(format!("{size_mib}M"));
    output_of(&mut mke2fs).map(drop)
}
