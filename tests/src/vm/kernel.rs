//! The kernel's package, and in which order its modules load.
//!
//! A kernel of a distribution has the drivers even of its disk as modules. What a
//! module needs first is in `modules.dep`, which `depmod(8)` writes:
//!
//! ```text
//! kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/fs/mbcache.ko …
//! ```
//!
//! Each line lists all that its module needs, near needs first and far ones last.
//! See modules.dep(5).

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use super::output_of;

/// Unpacks the newest kernel that a package stands for into a folder; its version.
/// Nothing is installed: `dpkg -x` takes the files and runs no script.
///
/// # Errors
///
/// The package is not in the machine's sources, or cannot be fetched.
pub fn unpack(package: &str, into: &Path) -> Result<String> {
    let downloads = tempfile::tempdir()?;
    let depends = ["depends", "--recurse", "--important", package];
    let listed = output_of(Command::new("apt-cache").args(depends))?;
    let names = real_packages(&listed);
    // The folder belongs to root, and apt would fetch as somebody else.
    output_of(
        Command::new("apt-get")
            .args(["-q", "-o", "APT::Sandbox::User=root", "download"])
            .args(&names)
            .current_dir(downloads.path()),
    )?;
    for entry in fs::read_dir(downloads.path())? {
        output_of(Command::new("dpkg").arg("-x").arg(entry?.path()).arg(into))?;
    }
    let mut versions = fs::read_dir(into.join("lib/modules"))?;
    let version = versions
        .next()
        .ok_or_else(|| anyhow!("{package}: no modules in {names:?}"))??;
    Ok(version.file_name().to_string_lossy().into_owned())
}

/// The files of modules, below the folder of the kernel's version, in an order in
/// which they can be loaded. One that the list does not have is part of the kernel.
pub fn load_order(modules_dep: &str, wanted: &[&str]) -> Vec<PathBuf> {
    let needs: HashMap<String, (&str, Vec<&str>)> = modules_dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| {
            (
                module_name(file),
                (file, needs.split_whitespace().collect()),
            )
        })
        .collect();
    let mut order: Vec<PathBuf> = Vec::new();
    for (file, needs) in wanted.iter().filter_map(|name| needs.get(*name)) {
        for file in needs.iter().rev().chain([file]) {
            let file = PathBuf::from(file);
            if !order.contains(&file) {
                order.push(file);
            }
        }
    }
    order
}

/// Reads a module's file as the kernel wants it.
///
/// # Errors
///
/// It cannot be read.
pub fn read_module(file: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(file).with_context(|| file.display().to_string())?;
    match file.extension().and_then(|ending| ending.to_str()) {
        Some("zst") => zstd::decode_all(bytes.as_slice()).context("a module in zstd"),
        Some("xz") => Ok(Command::new("xz").arg("-dc").arg(file).output()?.stdout),
        _ => Ok(bytes),
    }
}

/// `kernel/crypto/crc32c-generic.ko.zst` is `crc32c_generic`.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

/// The packages with files among those that `apt-cache depends` lists.
fn real_packages(listed: &str) -> Vec<&str> {
    let with_files = |name: &&str| {
        ["linux-image-", "linux-modules-"]
            .iter()
            .filter_map(|prefix| name.strip_prefix(prefix))
            .any(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    };
    listed
        .lines()
        // What is depended on is indented.
        .filter(|line| !line.starts_with(' '))
        .filter(with_files)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{load_order, module_name, real_packages};
    use std::path::Path;

    const DEPENDS: &str = "\
kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/mbcache.ko kernel/fs/jbd2/jbd2.ko
kernel/lib/crc16.ko:
kernel/fs/jbd2/jbd2.ko:
kernel/drivers/block/virtio_blk.ko.zst: kernel/drivers/virtio/virtio.ko.zst kernel/lib/crc16.ko
";

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let order = load_order(DEPENDS, &["ext4", "built_in", "virtio_blk"]);
        let names: Vec<_> = order
            .iter()
            .map(|file| module_name(file.to_str().expect("text")))
            .collect();
        let wanted = ["jbd2", "mbcache", "crc16", "ext4", "virtio", "virtio_blk"];
        assert_eq!(names, wanted);
        assert_eq!(order[3], Path::new("kernel/fs/ext4/ext4.ko"));
    }

    #[test]
    fn a_package_that_only_points_has_no_files() {
        let listed = "linux-image-virtual\n  Depends: linux-image-6.8.0-31-generic\n\
            linux-image-6.8.0-31-generic\nlinux-modules-6.8.0-31-generic\nkmod\n";
        let wanted = [
            "linux-image-6.8.0-31-generic",
            "linux-modules-6.8.0-31-generic",
        ];
        assert_eq!(real_packages(listed), wanted);
    }
}
