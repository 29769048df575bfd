//! Whether a file is the one that was read before.
//!
//! Our files are only ever replaced by a rename, and carry the exact time at which they
//! were written ([`berth_runtime::whole_file`]): one that is the same has the same inode and
//! the same times (inode(7)). To ask the kernel for these takes a microsecond; to read and
//! decode the file takes many.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

/// What only the kernel has stamped may look the same after another change in this time:
/// its clock for files has steps, of 10 ms at the most.
pub(crate) const SETTLED: Duration = Duration::from_millis(20);

/// What no two files share, nor two contents of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    /// Of the file that was looked at.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether no other file of ours can have the same. A file system that keeps whole
    /// seconds has lost the exact time.
    pub(crate) fn is_exact(&self, now: SystemTime) -> bool {
        let (_, nanoseconds) = self.written;
        nanoseconds != 0 || self.is_settled(now)
    }

    /// Whether it is old enough that no other content can have the same.
    pub(crate) fn is_settled(&self, now: SystemTime) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let (Ok(seconds), Ok(nanoseconds)) = (u64::try_from(seconds), u32::try_from(nanoseconds))
        else {
            return false;
        };
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        now.duration_since(changed).is_ok_and(|age| age >= SETTLED)
    }
}

#[cfg(test)]
mod tests {
    use berth_runtime::whole_file;

    use super::*;

    #[test]
    fn no_two_files_that_are_written_one_after_the_other_have_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        let mut seen: Vec<Identity> = Vec::new();
        for _ in 0..100 {
            whole_file::replace(&path, b"same", 0o600).unwrap();
            let identity = Identity::of(&std::fs::metadata(&path).unwrap());
            assert!(identity.is_exact(SystemTime::UNIX_EPOCH));
            assert!(!seen.contains(&identity));
            seen.push(identity);
        }
    }

    #[test]
    fn what_the_kernel_stamped_is_not_trusted_while_it_is_young() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let whole_seconds = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        file.as_file().set_modified(whole_seconds).unwrap();
        let identity = Identity::of(&file.as_file().metadata().unwrap());
        let (seconds, nanoseconds) = identity.changed;
        let changed = SystemTime::UNIX_EPOCH
            + Duration::new(
                u64::try_from(seconds).unwrap(),
                u32::try_from(nanoseconds).unwrap(),
            );
        assert!(!identity.is_settled(changed));
        assert!(!identity.is_exact(changed));
        assert!(identity.is_exact(changed + SETTLED));
        assert!(!identity.is_settled(changed - Duration::from_secs(1)));
        assert!(identity.is_settled(changed + SETTLED));
    }
}
