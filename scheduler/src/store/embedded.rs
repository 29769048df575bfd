//! The store of a cluster with one server: a file of redb, with etcd's manners.
//!
//! Nothing to install and nothing to tend: `state.redb` holds all. One thread writes and commits
//! in groups ([`writer`]); readers take snapshots and never wait for it ([`reader`]); watchers are
//! woken by the hub and only for what is theirs.
//!
//! What was rejected. *SQLite with a log table* (as kine does) commits as fast and needs a C
//! library. *An LSM tree* (fjall) commits faster, and brings threads, many files and a compaction
//! that is not ours to time. *All objects in memory with a log on disk* reads faster, and the
//! memory of an idle server then grows with its past.

/// The open file, and what becomes of it when its disk fails.
pub mod disk;
/// Snapshots: keys, pages, the past.
pub mod reader;
/// The file and its format.
pub mod tables;
/// The thread that owns all changes.
pub mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redb::ReadableDatabase;
use tokio::sync::oneshot;

use crate::store::hub::{Hub, RingLimits};
use crate::store::watch::{self, Past, Stretch, Wanted};
use crate::store::{
    Changes, Entry, Expected, Found, ListRequest, Page, Store, StoreError, VALUE_LIMIT_BYTES,
};
use disk::Disk;
use writer::{History, Request, Writer};

/// Where the file is and what to keep.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// The file; it is made if it is absent, its directory is not.
    pub path: PathBuf,
    /// How long history is kept for watches to resume from.
    pub history: Duration,
    /// And how many changes at most.
    pub history_changes: u64,
    /// How long nothing happens on a watch until progress is told.
    pub progress: Duration,
    /// How much of the file redb may hold in memory.
    pub cache_bytes: usize,
    /// How many changes stay in memory for watches that resume.
    pub ring: RingLimits,
    /// With less room than this on the file system, writes are refused.
    pub spare_bytes: u64,
}

impl EmbeddedConfig {
    /// The defaults for a file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            history: Duration::from_secs(600),
            history_changes: 100_000,
            progress: Duration::from_secs(5),
            cache_bytes: 32 << 20,
            ring: RingLimits::default(),
            // The largest commit, and what redb adds to it.
            spare_bytes: 64 << 20,
        }
    }
}

/// The file, as watchers see it.
struct Log(Arc<Disk>);

/// See the module.
pub struct EmbeddedStore {
    past: Arc<Log>,
    hub: Arc<Hub>,
    progress: Duration,
    /// Absent only while the store is dropped.
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens a file with the defaults.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unusable`] as [`tables::open`] says.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(&EmbeddedConfig::new(path))
    }

    /// Opens a file.
    ///
    /// # Errors
    ///
    /// As [`EmbeddedStore::open`].
    pub fn open_with(config: &EmbeddedConfig) -> Result<Self, StoreError> {
        let path = config.path.clone();
        let disk = Arc::new(Disk::open(path, config.cache_bytes, config.spare_bytes)?);
        let (revision, compacted) = tables::read_position(&*disk.database()?)?;
        let hub = Arc::new(Hub::new(config.ring, revision));
        let (requests, receiver) = mpsc::channel();
        let writer = Writer {
            disk: Arc::clone(&disk),
            hub: Arc::clone(&hub),
            history: History {
                age: config.history,
                changes: config.history_changes,
            },
            revision,
            compacted,
            trouble: None,
            pause: writer::FIRST_PAUSE,
        };
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let progress = config.progress;
        Ok(Self {
            past: Arc::new(Log(disk)),
            hub,
            progress,
            requests: Some(requests),
            writer: Some(writer),
        })
    }

    async fn write(
        &self,
        key: &str,
        value: Option<Bytes>,
        expected: Expected,
    ) -> Result<Entry, StoreError> {
        let (answer, answered) = oneshot::channel();
        let request = Request {
            key: key.to_owned(),
            expected,
            value,
            answer,
        };
        let requests = self.requests.as_ref().ok_or_else(watch::closed)?;
        requests.send(request).map_err(|_| watch::closed())?;
        answered.await.map_err(|_| watch::closed())?
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        // The writer ends when nobody can send any more. Waiting for it means that the file
        // is closed, and its lock free, when this returns.
        drop(self.requests.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}

#[async_trait]
impl Past for Log {
    async fn read(&self, prefix: &str, after: u64, until: u64) -> Result<Stretch, StoreError> {
        let (database, prefix) = (self.0.database()?, prefix.to_owned());
        let read = move || reader::read_log(&database, &prefix, after, until);
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|_| watch::closed())?
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn read(&self, key: &str) -> Result<Found, StoreError> {
        reader::read_key(&*self.past.0.database()?, key)
    }

    async fn list(&self, request: ListRequest) -> Result<Page, StoreError> {
        let database = self.past.0.database()?;
        // A long listing would hold up every other task of this thread.
        tokio::task::spawn_blocking(move || reader::list(&database, &request))
            .await
            .map_err(|error| StoreError::Unavailable(error.to_string()))?
    }

    async fn put(&self, key: &str, value: Bytes, expected: Expected) -> Result<Entry, StoreError> {
        if value.len() > VALUE_LIMIT_BYTES {
            let (key, bytes) = (key.to_owned(), value.len());
            return Err(StoreError::TooLarge {
                key,
                bytes,
                limit: VALUE_LIMIT_BYTES,
            });
        }
        self.write(key, Some(value), expected).await
    }

    async fn delete(&self, key: &str, expected: Expected) -> Result<Entry, StoreError> {
        self.write(key, None, expected).await
    }

    async fn watch(&self, prefix: &str, after_revision: u64) -> Result<Changes, StoreError> {
        let database = self.past.0.database()?;
        let read = database.begin_read().map_err(tables::failed)?;
        let (current, oldest) = tables::read_revisions(&read).map_err(tables::failed)?;
        reader::check_reach(after_revision, oldest, current)?;
        let wanted = Wanted {
            prefix: prefix.to_owned(),
            after: after_revision,
            progress: self.progress,
        };
        let past: Arc<dyn Past> = self.past.clone();
        watch::watch(Arc::clone(&self.hub), Arc::downgrade(&past), wanted)
    }
}

#[cfg(test)]
mod tests;
