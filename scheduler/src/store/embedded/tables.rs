//! The file: its tables, its format's number, and every way it can be refused.
//!
//! ```text
//!  live    key -> revision of the last change          what exists now, in the order of keys
//!  values  revision -> (created, key, value)           each value once, under the put that wrote it
//!  log     revision -> (time, before, is put, key)     one record a change; `before` leads into values
//!  facts   "format", "compacted"
//! ```
//!
//! A value is written once and never moved: the newest ones lie together at the end of the tree,
//! so a commit touches few pages. The value that a change replaced stays until that change is
//! compacted out of the log, and so the past can be read as far as the log goes: undo, from
//! the newest to the wanted revision, what the log says. The store's revision is the log's last
//! key, or `compacted` where the log is empty; nothing else has to be kept in step with it.
//!
//! redb copies each page that it changes and switches roots at the end of a commit, so a reader
//! has a snapshot, a killed writer leaves the last commit, and there is no log to replay. See its
//! `docs/design.md`.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError,
    TableDefinition, TableError,
};

use crate::store::{Entry, StoreError};

/// Key to the revision of its last change.
pub const LIVE: TableDefinition<&str, u64> = TableDefinition::new("live");
/// Revision of a put to (created, key, value).
pub const VALUES: TableDefinition<u64, (u64, &str, &[u8])> = TableDefinition::new("values");
/// Revision to (milliseconds since 1970, revision of the value before or 0, is a put, key).
pub const LOG: TableDefinition<u64, LogRecord<'static>> = TableDefinition::new("log");
/// Numbers about the file itself.
pub const FACTS: TableDefinition<&str, u64> = TableDefinition::new("facts");

/// A row of [`LOG`].
pub type LogRecord<'a> = (u64, u64, bool, &'a str);

/// The number that this version of berth writes and reads.
pub const FORMAT: u64 = 1;

/// The first revision of an empty store, as in etcd: 0 is left to mean "none".
const FIRST_REVISION: u64 = 1;

/// The first bytes of every redb file.
const MAGIC: &[u8] = b"redb";

/// Opens the file, or makes it, and checks that it is whole and ours.
///
/// # Errors
///
/// [`StoreError::Unusable`] if another process has it open, if it is no store, of another
/// version, or damaged.
pub fn open(path: &Path, cache_bytes: usize) -> Result<Database, StoreError> {
    let refuse = |reason: String| StoreError::Unusable {
        path: path.display().to_string(),
        reason,
    };
    let file = open_file(path).map_err(|error| refuse(error.to_string()))?;
    check_magic(&file).map_err(refuse)?;
    let database = open_database(file, cache_bytes).map_err(refuse)?;
    prepare(&database).map_err(refuse)?;
    Ok(database)
}

/// Opens for reading and writing; the file holds secrets, so nobody else may read it.
fn open_file(path: &Path) -> std::io::Result<File> {
    let new = !path.exists();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    if new
        && let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
    {
        // A synced file in an unsynced directory can be gone after a power cut.
        File::open(parent)?.sync_all()?;
    }
    Ok(file)
}

/// Tells a file that is something else from a store that is damaged.
fn check_magic(file: &File) -> Result<(), String> {
    let mut head = Vec::new();
    let mut reader = file;
    reader
        .by_ref()
        .take(MAGIC.len() as u64)
        .read_to_end(&mut head)
        .map_err(|error| error.to_string())?;
    if head.is_empty() || head == MAGIC {
        Ok(())
    } else {
        Err("this is not a berth store; it was left as it is".to_owned())
    }
}

fn open_database(file: File, cache_bytes: usize) -> Result<Database, String> {
    let backend = FileBackend::new(file).map_err(describe)?;
    // A plain open trusts pages that were altered behind redb's back and may panic on
    // them later. The check reads the file once, at the start of a server that then runs for weeks.
    let open = || {
        Builder::new()
            .set_cache_size(cache_bytes)
            .set_check_integrity_on_open(true)
            .create_with_backend(backend)
    };
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(error)) => Err(describe(error)),
        Err(_) => Err(damaged("its pages do not add up")),
    }
}

fn describe(error: DatabaseError) -> String {
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            "another process has this store open; one server at a time may".to_owned()
        }
        DatabaseError::UpgradeRequired(version) => format!(
            "the file has version {version} of the database's format, which this berth does not read"
        ),
        DatabaseError::Storage(StorageError::Corrupted(reason)) => damaged(&reason),
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() == std::io::ErrorKind::InvalidData =>
        {
            damaged(&error.to_string())
        }
        other => other.to_string(),
    }
}

fn damaged(reason: &str) -> String {
    format!("the store is damaged ({reason}); restore it from a backup")
}

/// Makes the tables of a new file; checks the format of one that exists, without a write:
/// a disk that is full must not keep a server from being read.
fn prepare(database: &Database) -> Result<(), String> {
    match read_format(database).map_err(explain)? {
        Some(FORMAT) => Ok(()),
        Some(format) => Err(format!(
            "the store has format {format} and this berth reads format {FORMAT}; it was left as it is"
        )),
        None => make_tables(database).map_err(explain),
    }
}

fn read_format(database: &Database) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(FACTS) {
        Ok(facts) => Ok(facts.get("format")?.map(|found| found.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn make_tables(database: &Database) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut facts = write.open_table(FACTS)?;
        write.open_table(LIVE)?;
        write.open_table(VALUES)?;
        write.open_table(LOG)?;
        facts.insert("format", FORMAT)?;
        facts.insert("compacted", FIRST_REVISION)?;
    }
    write.commit()?;
    Ok(())
}

fn explain(error: redb::Error) -> String {
    match error {
        redb::Error::Io(error) => error.to_string(),
        error => damaged(&error.to_string()),
    }
}

/// The revision and the oldest one still readable, in one snapshot.
pub fn read_revisions(read: &redb::ReadTransaction) -> Result<(u64, u64), redb::Error> {
    let compacted = read
        .open_table(FACTS)?
        .get("compacted")?
        .map_or(0, |found| found.value());
    let last = read.open_table(LOG)?.last()?.map(|(key, _)| key.value());
    Ok((last.unwrap_or(compacted), compacted))
}

/// The same, of a store that nobody else uses yet.
pub fn read_position(database: &Database) -> Result<(u64, u64), StoreError> {
    let read = || -> Result<_, redb::Error> { read_revisions(&database.begin_read()?) };
    read().map_err(failed)
}

/// What was written at a revision.
pub fn read_value(
    values: &impl ReadableTable<u64, (u64, &'static str, &'static [u8])>,
    modified: u64,
) -> Result<Option<Entry>, redb::Error> {
    Ok(values.get(modified)?.map(|found| {
        let (created, key, value) = found.value();
        Entry {
            key: key.to_owned(),
            value: Bytes::copy_from_slice(value),
            created,
            modified,
        }
    }))
}

/// An error of the database in the middle of its work.
pub fn failed(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Unavailable(error.into().to_string())
}
