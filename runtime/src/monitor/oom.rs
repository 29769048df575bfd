//! Noticing that the kernel killed a container's process for want of memory.
//!
//! The exit status does not tell: SIGKILL is SIGKILL. The memory controller
//! counts its kills, and can wake a reader:
//!
//! - v1: an `eventfd(2)` registered in `cgroup.event_control` for
//!   `memory.oom_control`; the count is that file's line `oom_kill`
//!   (Documentation/admin-guide/cgroup-v1/memory.rst, section 10).
//! - v2: `memory.events` itself reports POLLPRI when it changes; the count is
//!   its line `oom_kill` (cgroup-v2.rst).
//!
//! v1 wakes *before* it kills, so a reader looks again a moment later.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{EventfdFlags, PollFlags, eventfd};

use crate::mountinfo::{self, unescape};

/// How often to look for the kill after v1 announced it.
const LOOKS: u8 = 20;

/// A watch on the memory group of one container.
#[derive(Debug)]
pub struct OomWatch {
    /// `memory.oom_control` or `memory.events`.
    counts: File,
    /// v1 wakes here, v2 at `counts`.
    wake: Option<OwnedFd>,
    seen: u64,
    looks_left: u8,
    gone: bool,
}

impl OomWatch {
    /// Watches the memory group that process `pid` is in; `None` when it is in
    /// none, or in the root, which has no counts.
    ///
    /// # Errors
    ///
    /// Which file could not be read or written.
    pub fn of_process(pid: i32) -> io::Result<Option<OomWatch>> {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        match memory_group(&groups, &mounts) {
            Some(MemoryGroup::V1(folder)) => watch_v1(&folder).map(Some),
            Some(MemoryGroup::V2(folder)) => watch_v2(&folder),
            None => Ok(None),
        }
    }

    /// What to wait for; `None` once the group is gone.
    pub fn wake_source(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        if self.gone {
            return None;
        }
        Some(match &self.wake {
            Some(wake) => (wake.as_fd(), PollFlags::IN),
            None => (self.counts.as_fd(), PollFlags::PRI),
        })
    }

    /// Takes note that the source woke.
    pub fn take_wake(&mut self) {
        if let Some(wake) = &self.wake {
            // Only resets the counter; that it was reset already is fine.
            let _ = rustix::io::read(wake, &mut [0; 8]);
        }
        self.looks_left = LOOKS;
    }

    /// Whether [`OomWatch::look`] should be called again soon.
    pub fn looks_again(&self) -> bool {
        self.looks_left > 0
    }

    /// Reads the count; true when it grew since the last look.
    pub fn look(&mut self) -> bool {
        self.looks_left = self.looks_left.saturating_sub(1);
        match self.read_count() {
            Ok(count) => {
                let grew = count > self.seen;
                self.seen = count;
                if grew {
                    self.looks_left = 0;
                }
                grew
            }
            Err(_) => {
                // ENODEV: the group was removed, which wakes as well, for ever.
                self.gone = true;
                self.looks_left = 0;
                false
            }
        }
    }

    /// Whether any process was killed so far, as of the last look.
    pub fn has_killed(&self) -> bool {
        self.seen > 0
    }

    fn read_count(&mut self) -> io::Result<u64> {
        let mut text = [0; 512];
        self.counts.seek(SeekFrom::Start(0))?;
        let length = self.counts.read(&mut text)?;
        let text = String::from_utf8_lossy(&text[..length]);
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "))
            .and_then(|count| count.trim().parse().ok());
        // Before 4.13 v1 has no such line: then nothing is ever reported.
        Ok(count.unwrap_or(0))
    }
}

fn watch_v1(folder: &Path) -> io::Result<OomWatch> {
    let counts = File::open(folder.join("memory.oom_control"))?;
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let registration = format!("{} {}", wake.as_raw_fd(), counts.as_raw_fd());
    std::fs::write(folder.join("cgroup.event_control"), registration)?;
    Ok(OomWatch {
        counts,
        wake: Some(wake),
        seen: 0,
        looks_left: 0,
        gone: false,
    })
}

fn watch_v2(folder: &Path) -> io::Result<Option<OomWatch>> {
    let counts = match File::open(folder.join("memory.events")) {
        Ok(counts) => counts,
        // The controller is not enabled for this group.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut watch = OomWatch {
        counts,
        wake: None,
        seen: 0,
        looks_left: 0,
        gone: false,
    };
    // POLLPRI is raised for changes since the last read.
    watch.look();
    Ok(Some(watch))
}

#[derive(Debug, PartialEq, Eq)]
enum MemoryGroup {
    V1(PathBuf),
    V2(PathBuf),
}

/// The folder of the memory group, from `/proc/PID/cgroup` and
/// `/proc/self/mountinfo`. Pure.
fn memory_group(groups: &str, mounts: &str) -> Option<MemoryGroup> {
    let mut unified = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if controllers.split(',').any(|name| name == "memory") {
            return folder_of(path, mounts, Hierarchy::V1).map(MemoryGroup::V1);
        }
        if controllers.is_empty() {
            unified = Some(path);
        }
    }
    unified
        .filter(|path| *path != "/")
        .and_then(|path| folder_of(path, mounts, Hierarchy::V2))
        .map(MemoryGroup::V2)
}

#[derive(Clone, Copy)]
enum Hierarchy {
    V1,
    V2,
}

/// Where a group of a hierarchy is found, if that part of it is mounted.
fn folder_of(path: &str, mounts: &str, hierarchy: Hierarchy) -> Option<PathBuf> {
    mountinfo::parse(mounts.as_bytes()).find_map(|mount| {
        let mut options = mount.super_options.split(|byte| *byte == b',');
        let fits = match hierarchy {
            Hierarchy::V1 => mount.filesystem == b"cgroup" && options.any(|name| name == b"memory"),
            Hierarchy::V2 => mount.filesystem == b"cgroup2",
        };
        if !fits {
            return None;
        }
        // A mount may show a part of the hierarchy, as inside a container.
        let below = Path::new(path).strip_prefix(unescape(mount.root)).ok()?;
        Some(unescape(mount.mount_point).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 25 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 /outer /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
";

    #[test]
    fn the_first_version_comes_first_and_a_part_may_be_mounted() {
        let groups = "5:memory:/outer/berth/a\n3:cpu,cpuacct:/x\n0::/y\n";
        let folder = PathBuf::from("/sys/fs/cgroup/memory/berth/a");
        assert_eq!(memory_group(groups, MOUNTS), Some(MemoryGroup::V1(folder)));
        let elsewhere = "5:memory:/other\n0::/y\n";
        assert_eq!(memory_group(elsewhere, MOUNTS), None);
    }

    #[test]
    fn the_unified_hierarchy_serves_when_no_other_has_memory() {
        let folder = PathBuf::from("/sys/fs/cgroup/unified/berth/a");
        assert_eq!(
            memory_group("0::/berth/a\n", MOUNTS),
            Some(MemoryGroup::V2(folder))
        );
        assert_eq!(memory_group("0::/\n", MOUNTS), None);
    }
}
