//! An empty directory, on disk or in memory.
//!
//! A tmpfs lives in the page cache: it vanishes with its mount, its pages count
//! against the memory limit of the container that wrote them, and `size=` bounds
//! it. A directory on disk has no bound of its own, so the worker watches it.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, mount};

use super::{StepFailure, ensure_directory, ownership, step};
use crate::pod::plan::{ConfigError, config_error};

/// An empty directory to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmptyDirPlan {
    /// What it is on.
    pub medium: Medium,
    /// How much it may hold.
    pub limit_bytes: Option<u64>,
    /// Its permissions.
    pub mode: u32,
}

/// What an empty directory is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Medium {
    /// The node's disk.
    Disk,
    /// A tmpfs.
    Memory,
    /// Huge pages of a size such as `2M`, or of the default size.
    HugePages(Option<String>),
}

/// Reads the name of a medium.
pub fn read_medium(name: Option<&str>) -> Result<Medium, ConfigError> {
    match name {
        None | Some("") => Ok(Medium::Disk),
        Some("Memory") => Ok(Medium::Memory),
        Some("HugePages") => Ok(Medium::HugePages(None)),
        Some(other) => match other.strip_prefix("HugePages-") {
            // The kernel writes 2M for what Kubernetes writes 2Mi.
            Some(size) => Ok(Medium::HugePages(Some(
                size.trim_end_matches('i').to_owned(),
            ))),
            None => Err(config_error(format!(
                "emptyDir.medium: {other:?}: expected Memory, HugePages, HugePages-SIZE or nothing"
            ))),
        },
    }
}

/// Makes the directory, or leaves it with all that it holds.
pub(super) fn ensure_empty_dir(
    plan: &EmptyDirPlan,
    path: &Path,
    fs_group: Option<u32>,
) -> Result<(), StepFailure> {
    match &plan.medium {
        Medium::Disk => ensure_directory(path, plan.mode),
        Medium::Memory => ensure_tmpfs(path, plan.limit_bytes, plan.mode),
        Medium::HugePages(size) => ensure_hugetlbfs(path, size.as_deref(), plan.mode),
    }
    .map_err(step(format!("{} was not made", path.display())))?;
    match fs_group {
        None => Ok(()),
        Some(group) => ownership::give_to_group(path, group).map_err(step(format!(
            "group {group} does not own {}",
            path.display()
        ))),
    }
}

/// A tmpfs at `path`, unless one is there.
pub(super) fn ensure_tmpfs(path: &Path, limit_bytes: Option<u64>, mode: u32) -> io::Result<()> {
    let size = limit_bytes.map_or(String::new(), |bytes| format!(",size={bytes}"));
    ensure_mount(path, "tmpfs", &format!("mode={mode:o}{size}"), mode)
}

fn ensure_hugetlbfs(path: &Path, page_size: Option<&str>, mode: u32) -> io::Result<()> {
    let size = page_size.map_or(String::new(), |size| format!(",pagesize={size}"));
    ensure_mount(path, "hugetlbfs", &format!("mode={mode:o}{size}"), mode)
}

fn ensure_mount(path: &Path, kind: &str, data: &str, mode: u32) -> io::Result<()> {
    ensure_directory(path, mode)?;
    if is_mount_point(path)? {
        return Ok(());
    }
    let data = std::ffi::CString::new(data).map_err(io::Error::other)?;
    // No device file in a volume is ever meant as one.
    mount(kind, path, kind, MountFlags::NODEV, data.as_c_str())?;
    Ok(())
}

/// A mount's root is on another device than the directory above it.
fn is_mount_point(path: &Path) -> io::Result<bool> {
    let own = path.symlink_metadata()?.dev();
    let above = path.parent().unwrap_or(Path::new("/")).metadata()?.dev();
    Ok(own != above)
}

/// The space that a directory takes, links not followed, other mounts left out.
///
/// What vanishes while it is counted counts as nothing.
pub fn observe_usage_bytes(directory: &Path) -> io::Result<u64> {
    /// st_blocks counts these, whatever the file system's own (stat(2)).
    const BLOCK_BYTES: u64 = 512;
    let device = directory.symlink_metadata()?.dev();
    let mut bytes = 0;
    let mut waiting: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.path().symlink_metadata() else {
                continue;
            };
            if metadata.dev() != device {
                continue;
            }
            bytes += metadata.blocks() * BLOCK_BYTES;
            if metadata.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

/// The same beside the tasks of a runtime; none where it cannot be measured.
pub async fn measure(directory: &Path) -> u64 {
    let directory = directory.to_owned();
    let measured = tokio::task::spawn_blocking(move || observe_usage_bytes(&directory)).await;
    measured.ok().and_then(Result::ok).unwrap_or(0)
}
