//! The open file, and what becomes of it when its disk is full or fails.
//!
//! redb takes no more calls after one write that failed, for it cannot know what
//! reached the disk. Two things keep a server alive through that:
//!
//! 1. **Room is asked for before each commit.** While the file system has less than
//!    [`Disk::spare_bytes`], writes are refused with that reason and the file is not touched:
//!    all can be read, and writes go on as soon as there is room.
//! 2. **A file that failed all the same is closed and opened again**, at growing intervals,
//!    until the disk works. It then has the last commit that reached it, whole.
//!
//! Ending the process would do as well where a supervisor starts it anew; not every machine
//! has one.
//!
//! Try it: `fallocate -l 10G /var/lib/berth/server/filler`, then `kubectl create configmap a`.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use redb::Database;

use super::tables;
use crate::store::StoreError;

/// The file, while it is open.
pub struct Disk {
    path: PathBuf,
    cache_bytes: usize,
    spare_bytes: u64,
    database: RwLock<Result<Arc<Database>, StoreError>>,
}

impl Disk {
    /// Opens the file.
    ///
    /// # Errors
    ///
    /// As [`tables::open`].
    pub fn open(path: PathBuf, cache_bytes: usize, spare_bytes: u64) -> Result<Self, StoreError> {
        let database = Arc::new(tables::open(&path, cache_bytes)?);
        Ok(Self {
            path,
            cache_bytes,
            spare_bytes,
            database: RwLock::new(Ok(database)),
        })
    }

    /// The file; whoever holds it keeps it open.
    ///
    /// # Errors
    ///
    /// Why it is closed.
    pub fn database(&self) -> Result<Arc<Database>, StoreError> {
        // Nothing panics while the lock is held.
        let database = self.database.read();
        database.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks whether a commit will find room.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`], and nothing was written, where it may not. A file system
    /// that does not tell is taken for one with room.
    pub fn expect_room(&self) -> Result<(), StoreError> {
        let directory = self.path.parent().unwrap_or(&self.path);
        let Ok(facts) = rustix::fs::statvfs(directory) else {
            return Ok(());
        };
        // Root may use what is kept back from others.
        let blocks = match rustix::process::geteuid().is_root() {
            true => facts.f_bfree,
            false => facts.f_bavail,
        };
        let free = blocks.saturating_mul(facts.f_frsize);
        if free >= self.spare_bytes {
            return Ok(());
        }
        Err(StoreError::Unavailable(format!(
            "the disk is full: {} has {} MiB free and a write needs {}; nothing was written, \
             and writes go on when there is room",
            directory.display(),
            free >> 20,
            self.spare_bytes >> 20
        )))
    }

    /// Closes the file for all who ask from now on. It is closed indeed once those who read
    /// at the moment have ended.
    pub fn close(&self, reason: StoreError) {
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *database = Err(reason);
    }

    /// Opens the file again.
    ///
    /// # Errors
    ///
    /// As [`tables::open`]; also while somebody still reads what was closed.
    pub fn reopen(&self) -> Result<Arc<Database>, StoreError> {
        let opened = Arc::new(tables::open(&self.path, self.cache_bytes)?);
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *database = Ok(Arc::clone(&opened));
        Ok(opened)
    }
}
