//! The cluster's memory: keys with values, one revision counter over all of them, and watches.
//!
//! Everything that the API serves is an [`Entry`] below `/registry/`. The shape is etcd's: each
//! write raises *one* counter for the whole store, an entry knows the revision that made it
//! ([`Entry::created`]) and the one that changed it last ([`Entry::modified`], the
//! `resourceVersion` of the API), and whoever has seen revision *r* can ask for everything after
//! *r*. List then watch from the list's revision, and nothing is lost in between: on that one
//! promise all controllers, agents and kubectl's `get -w` stand.
//!
//! ```text
//!            put / delete with an expectation                 list at r, watch after r
//!   writer ------------------------------------> [ store ] ------------------------------> reader
//!            Conflict: read again, try again                  Compacted: list again
//! ```
//!
//! What each store promises, and `tests/tests/cluster_store` checks on both:
//!
//! - A write that was acknowledged is on disk (of a majority, with etcd) and survives `kill -9`.
//! - A write happens only if its [`Expected`] holds at that moment.
//! - A watch tells the changes of its prefix in the order of their revisions, none lost, none
//!   twice; and when nothing happens, how far it has come ([`Change::Progress`]).
//! - History is finite: a list or watch from before it is refused with [`StoreError::Compacted`].
//!
//! Read more: "etcd API guarantees" in etcd's documentation; "Efficient detection of changes" in
//! the Kubernetes API concepts.

/// Who leads among several servers.
pub mod election;
/// One server: a file of redb.
pub mod embedded;
/// Several servers: etcd.
pub mod etcd;
/// The last changes in memory, and whom to wake.
pub mod hub;
/// Which servers there are.
pub mod presence;
/// A watcher's way through the past.
pub mod watch;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

/// A key with its value and the revisions that made and last changed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `/registry/GROUP-or-core/PLURAL/NAMESPACE/NAME`; cluster-wide kinds have no namespace.
    pub key: String,
    /// JSON of the object, without its `resourceVersion`.
    pub value: Bytes,
    /// The revision at which the key came into being (again, if it was deleted before).
    pub created: u64,
    /// The revision of the last change.
    pub modified: u64,
}

/// What a read found, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The entry, if the key exists.
    pub entry: Option<Entry>,
    /// The store's revision at the time of the read.
    pub revision: u64,
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Entries in the order of their keys.
    pub entries: Vec<Entry>,
    /// The revision that the page shows; ask for the next page, or watch, at this one.
    pub revision: u64,
    /// How many entries follow after this page.
    pub remaining: u64,
    /// Whether any entries follow.
    pub more: bool,
}

/// Which entries to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListRequest {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Only keys behind this one: the last of the page before.
    pub after: Option<String>,
    /// At most so many.
    pub limit: Option<usize>,
    /// As the store was at this revision; now, if absent.
    pub revision: Option<u64>,
}

/// What must hold of the key for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The key does not exist.
    Absent,
    /// The key exists and was last modified at this revision.
    Revision(u64),
    /// Whatever is there.
    Anything,
}

impl Expected {
    /// Whether the expectation holds of what is there.
    pub fn holds(self, current: Option<&Entry>) -> bool {
        match self {
            Self::Absent => current.is_none(),
            Self::Revision(revision) => current.is_some_and(|entry| entry.modified == revision),
            Self::Anything => true,
        }
    }
}

/// One step of the store's history, as a watch tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A key was created (`before` is absent) or changed.
    Put {
        /// What is there now.
        entry: Entry,
        /// What was there before.
        before: Option<Entry>,
    },
    /// A key was deleted.
    Deleted {
        /// What was there before.
        before: Entry,
        /// The revision of the deletion.
        revision: u64,
    },
    /// Every change up to this revision was told.
    Progress {
        /// How far the watch has come.
        revision: u64,
    },
}

impl Change {
    /// The revision of this change.
    pub fn revision(&self) -> u64 {
        match self {
            Self::Put { entry, .. } => entry.modified,
            Self::Deleted { revision, .. } | Self::Progress { revision } => *revision,
        }
    }

    /// The key that changed; none for progress.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Put { entry, .. } => Some(&entry.key),
            Self::Deleted { before, .. } => Some(&before.key),
            Self::Progress { .. } => None,
        }
    }
}

/// Changes in the order of their revisions. After an error the stream is over.
pub type Changes = BoxStream<'static, Result<Change, StoreError>>;

/// Keys, values, revisions and watches. See the module for what each of these promises.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads one key, and the store's revision: no write acknowledged before is missed.
    async fn read(&self, key: &str) -> Result<Found, StoreError>;

    /// Lists entries by prefix, in pages if a limit is given.
    ///
    /// # Errors
    ///
    /// [`StoreError::Compacted`] and [`StoreError::Ahead`] for a revision that is gone or yet to come.
    async fn list(&self, request: ListRequest) -> Result<Page, StoreError>;

    /// Writes one key if the expectation holds, and returns the new entry once it is durable.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] with what is there instead.
    async fn put(&self, key: &str, value: Bytes, expected: Expected) -> Result<Entry, StoreError>;

    /// Deletes one key if the expectation holds, and returns what was there, with `modified` set
    /// to the revision of the deletion.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] if there is no such key, [`StoreError::Conflict`] if it is another.
    async fn delete(&self, key: &str, expected: Expected) -> Result<Entry, StoreError>;

    /// Tells every change below the prefix with a revision greater than `after_revision`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Compacted`] and [`StoreError::Ahead`], at once or later in the stream.
    async fn watch(&self, prefix: &str, after_revision: u64) -> Result<Changes, StoreError>;
}

/// A store as its users hold it.
pub type SharedStore = Arc<dyn Store>;

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The key is not as expected; nothing was written.
    #[error("{key} is not as expected: {}", describe(.current.as_deref()))]
    Conflict {
        /// The key.
        key: String,
        /// What is there; absent if nothing is.
        current: Option<Box<Entry>>,
    },
    /// There is no such key; nothing was deleted.
    #[error("{key} does not exist")]
    NotFound {
        /// The key.
        key: String,
    },
    /// The history that was asked for is gone: list again, then watch from that list's revision.
    #[error("revision {asked} is compacted: history begins at {oldest} or later")]
    Compacted {
        /// The revision that was asked for.
        asked: u64,
        /// No list or watch can begin before this revision.
        oldest: u64,
    },
    /// The revision is yet to come. A client that saw it saw another store, or one that was
    /// restored from a backup since.
    #[error("revision {asked} is ahead of the store, which is at {current}")]
    Ahead {
        /// The revision that was asked for.
        asked: u64,
        /// The store's revision.
        current: u64,
    },
    /// The value is larger than the store takes.
    #[error("the value of {key} has {bytes} bytes and the limit is {limit}; nothing was written")]
    TooLarge {
        /// The key.
        key: String,
        /// The value's size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The store cannot be reached or has failed. Whether a write happened is not known: read
    /// before it is tried again.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The file is there but berth cannot use it.
    #[error("{path}: {reason}")]
    Unusable {
        /// The file.
        path: String,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// An address, file or option that was given is wrong.
    #[error("{0}")]
    Invalid(String),
}

/// The largest value, as etcd's default limit for a request has it.
pub const VALUE_LIMIT_BYTES: usize = 1_500_000;

fn describe(current: Option<&Entry>) -> String {
    match current {
        Some(entry) => format!("it was last modified at revision {}", entry.modified),
        None => "it does not exist".to_owned(),
    }
}
