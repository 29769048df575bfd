//! Whether a file is the one that was read before.
//!
//! Our files are only ever replaced by a rename, so one that is the same has the same
//! inode and the same time of change (inode(7)). To ask the kernel for these takes a
//! microsecond; to read and decode the file takes many.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

/// A younger file may be replaced by one with the same inode and the same time:
/// the kernel's clock for files has steps, of 10 ms at the most.
pub(crate) const SETTLED: Duration = Duration::from_millis(20);

/// What no two files share, nor two contents of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Identity {
    /// Of the file that was looked at.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the file is old enough that no other content can have the same.
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
    use super::*;

    #[test]
    fn a_file_that_is_still_young_is_not_trusted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let identity = Identity::of(&file.as_file().metadata().unwrap());
        let (seconds, nanoseconds) = identity.changed;
        let changed = SystemTime::UNIX_EPOCH
            + Duration::new(
                u64::try_from(seconds).unwrap(),
                u32::try_from(nanoseconds).unwrap(),
            );
        assert!(!identity.is_settled(changed));
        assert!(!identity.is_settled(changed - Duration::from_secs(1)));
        assert!(identity.is_settled(changed + SETTLED));
    }
}
