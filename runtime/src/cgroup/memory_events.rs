//! Being told when the kernel kills for lack of memory.
//!
//! Version 1 rings an eventfd that was registered with the group; version 2
//! changes the file `memory.events`, which inotify(7) reports as modified. Both
//! only say "look": the number of kills is in a file, see
//! `CgroupPlan::oom_kills`.
//!
//! See the kernel's `admin-guide/cgroup-v1/memory.rst`, section 10.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::error::CgroupError;
use super::files;
use super::plan::CgroupPlan;
use super::tree::CgroupVersion;
use crate::sys::call::finish;

/// What to wait on for an out-of-memory event.
#[derive(Debug)]
pub enum MemoryEventSource {
    /// Version 1: readable (eight bytes, the number of events) after each one,
    /// and once more when the group is removed. Non-blocking.
    EventFd(OwnedFd),
    /// Version 2: a file to watch with inotify for `IN_MODIFY`.
    EventsFile(PathBuf),
}

impl CgroupPlan {
    /// The source of out-of-memory events; none without a memory controller.
    ///
    /// # Errors
    ///
    /// `ENOENT`: the group is gone.
    pub fn memory_event_source(&self) -> Result<Option<MemoryEventSource>, CgroupError> {
        let Some(home) = self.home("memory", "memory") else {
            return Ok(None);
        };
        let directory = home.directory();
        if home.version == CgroupVersion::V2 {
            return Ok(Some(MemoryEventSource::EventsFile(
                directory.join("memory.events"),
            )));
        }
        let control = directory.join("memory.oom_control");
        let opened = finish(File::open(&control), || {
            format!("open({control:?}, O_RDONLY)")
        })?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = finish(EventFd::from_value_and_flags(0, flags), || {
            "eventfd2(0, EFD_CLOEXEC | EFD_NONBLOCK)".to_owned()
        })?;
        // The kernel keeps its own reference to both, so `opened` may close.
        let registration = format!("{} {}", event.as_raw_fd(), opened.as_raw_fd());
        files::write(&directory.join("cgroup.event_control"), &registration)?;
        Ok(Some(MemoryEventSource::EventFd(event.into())))
    }

    /// How many processes the kernel killed in this group for lack of memory.
    /// Zero when the group is gone or nobody counts.
    ///
    /// # Errors
    ///
    /// A file that cannot be read.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        let Some(home) = self.home("memory", "memory") else {
            return Ok(0);
        };
        let file = match home.version {
            CgroupVersion::V1 => "memory.oom_control",
            CgroupVersion::V2 => "memory.events",
        };
        let text = files::read_text_if_there(&home.directory().join(file))?;
        let count = text
            .iter()
            .flat_map(|text| text.lines())
            .find_map(|line| line.strip_prefix("oom_kill "))
            .and_then(|count| count.trim().parse().ok());
        Ok(count.unwrap_or(0))
    }
}
