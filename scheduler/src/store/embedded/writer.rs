//! The writer: one thread that owns all changes, and commits those that wait in one go.
//!
//! Each commit costs a sync of the disk, a millisecond or two, however much is in it. While one
//! runs, further writes queue up; the next commit takes all of them. So a lone writer pays one
//! sync a write, and sixty-four writers at once share it. No timer delays anybody.
//!
//! ```text
//!  take all that wait -> check each expectation, in order -> commit (sync) -> tell watchers -> answer
//! ```
//!
//! A disk that is full or fails is the writer's business too ([`super::disk`]): writes are refused
//! with the reason until it works again.
//!
//! Answers come after the commit, refusals too: what a refusal saw may be a change of the same
//! group, which is not on disk before. Watchers are told before the writer is, so whoever wrote
//! and then asks a watcher's cache for progress finds that it has come.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use redb::{Database, ReadableTable, Table, WriteTransaction};
use tokio::sync::oneshot;

use super::disk::Disk;
use super::tables::{self, FACTS, LIVE, LOG, LogRecord, VALUES, failed, read_value};
use crate::store::hub::Hub;
use crate::store::watch::closed;
use crate::store::{Change, Entry, Expected, StoreError};

/// The most writes in one commit.
const GROUP_LIMIT: usize = 1024;
/// The most bytes in one commit.
const GROUP_LIMIT_BYTES: usize = 16 << 20;
/// The most records compacted in one commit: writers wait while it runs.
const COMPACT_LIMIT: usize = 4096;

/// After a failure, until the file is opened again; doubled with each that follows.
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// One write, and where its answer goes.
pub struct Request {
    /// The key.
    pub key: String,
    /// What must hold.
    pub expected: Expected,
    /// The new value; none to delete.
    pub value: Option<Bytes>,
    /// The answer.
    pub answer: oneshot::Sender<Result<Entry, StoreError>>,
}

/// How long history is kept.
#[derive(Debug, Clone, Copy)]
pub struct History {
    /// Changes older than this are compacted.
    pub age: Duration,
    /// And those beyond this number, whatever their age.
    pub changes: u64,
}

impl History {
    /// How often the writer looks for what is too old.
    fn period(&self) -> Duration {
        (self.age / 10).clamp(Duration::from_millis(50), Duration::from_secs(30))
    }

    /// How far beyond the number the log may grow before it is cut: so that the cut is worth a commit.
    fn slack(&self) -> u64 {
        (self.changes / 20).clamp(1, COMPACT_LIMIT as u64 / 2)
    }
}

/// What the writer owns.
pub struct Writer {
    /// The file.
    pub disk: Arc<Disk>,
    /// Whom to tell.
    pub hub: Arc<Hub>,
    /// What to keep.
    pub history: History,
    /// The last revision given.
    pub revision: u64,
    /// The oldest revision that can be read.
    pub compacted: u64,
    /// Why nothing is written at the moment.
    pub trouble: Option<Trouble>,
    /// Until the next attempt to open a file that failed.
    pub pause: Duration,
}

/// Why nothing is written.
pub enum Trouble {
    /// There is no room.
    Full,
    /// The file is closed, and will be opened again.
    Closed {
        /// When.
        again: Instant,
    },
}

impl Writer {
    /// Writes until every sender is gone, then ends every watch.
    pub fn run(mut self, requests: &Receiver<Request>) {
        let period = self.history.period();
        let mut look = Instant::now() + period;
        loop {
            let due = match &self.trouble {
                Some(Trouble::Closed { again }) => look.min(*again),
                _ => look,
            };
            match requests.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(first) => self.commit_group(take_group(first, requests)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.reopen_if_due();
            let long = self.revision - self.compacted > self.history.changes + self.history.slack();
            if long || Instant::now() >= look {
                look = Instant::now() + period;
                self.compact();
            }
        }
        self.hub.interrupt(closed());
    }

    fn commit_group(&mut self, group: Vec<Request>) {
        let database = match self.writable() {
            Ok(database) => database,
            Err(error) => return refuse(group, &error),
        };
        match self.apply(&database, &group) {
            Ok(applied) => {
                self.revision = applied.revision;
                self.pause = FIRST_PAUSE;
                self.hub.publish(applied.changes);
                for (request, answer) in group.into_iter().zip(applied.answers) {
                    // Whoever asked may have gone; the write stands all the same.
                    request.answer.send(answer).ok();
                }
            }
            Err(error) => {
                refuse(group, &error);
                self.close(error);
            }
        }
    }

    /// The file, if it is open and has room.
    fn writable(&mut self) -> Result<Arc<Database>, StoreError> {
        let database = self.disk.database()?;
        match (self.disk.expect_room(), &self.trouble) {
            (Err(error), None) => {
                tracing::error!("nothing is written to the store: {error}");
                self.trouble = Some(Trouble::Full);
                return Err(error);
            }
            (Err(error), Some(_)) => return Err(error),
            (Ok(()), Some(_)) => {
                tracing::info!("the store is written to again");
                self.trouble = None;
            }
            (Ok(()), None) => {}
        }
        Ok(database)
    }

    /// Closes the file: redb refuses every call after a write that failed.
    fn close(&mut self, error: StoreError) {
        tracing::error!("writing to the store failed, its file is opened again: {error}");
        self.wait_closed(error);
    }

    fn wait_closed(&mut self, error: StoreError) {
        self.disk.close(error);
        self.trouble = Some(Trouble::Closed {
            again: Instant::now() + self.pause,
        });
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    fn reopen_if_due(&mut self) {
        match self.trouble {
            Some(Trouble::Closed { again }) if Instant::now() >= again => {}
            _ => return,
        }
        let opened = self.disk.reopen();
        let position = opened.and_then(|database| tables::read_position(&database));
        match position {
            Ok((revision, compacted)) => {
                // What was on its way when the disk failed may have reached it after all:
                // nobody was told, so watchers have to look into the history.
                if revision != self.revision {
                    self.hub.skip_to(revision);
                }
                (self.revision, self.compacted) = (revision, compacted);
                self.trouble = None;
                tracing::info!("the store is open again, at revision {revision}");
            }
            Err(error) => self.wait_closed(error),
        }
    }

    fn apply(&self, database: &Database, group: &[Request]) -> Result<Applied, StoreError> {
        let mut applied = Applied {
            revision: self.revision,
            ..Applied::default()
        };
        let write = database.begin_write().map_err(failed)?;
        apply_all(&write, group, &mut applied).map_err(failed)?;
        if applied.changes.is_empty() {
            write.abort().map_err(failed)?;
        } else {
            write.commit().map_err(failed)?;
        }
        Ok(applied)
    }

    fn compact(&mut self) {
        let Some(last) = self.compactable() else {
            return;
        };
        let range = self.compacted + 1..=last;
        // The history is only longer than asked for, and the next look tries again.
        let Ok(database) = self.writable() else {
            return;
        };
        let cut = || -> Result<(), redb::Error> {
            let write = database.begin_write()?;
            remove_history(&write, range)?;
            write.commit()?;
            Ok(())
        };
        match cut() {
            Ok(()) => self.compacted = last,
            Err(error) => self.close(failed(error)),
        }
    }

    /// The last revision to compact now, if any.
    fn compactable(&self) -> Option<u64> {
        let database = self.disk.database().ok()?;
        let look = || -> Result<u64, redb::Error> {
            let log = redb::ReadableDatabase::begin_read(&*database)?.open_table(LOG)?;
            let horizon = milliseconds().saturating_sub(self.history.age.as_millis() as u64);
            let by_count = self.revision.saturating_sub(self.history.changes);
            let mut last = self.compacted;
            for record in log.range(self.compacted + 1..)?.take(COMPACT_LIMIT) {
                let (revision, record) = record?;
                if revision.value() > by_count && record.value().0 > horizon {
                    break;
                }
                last = revision.value();
            }
            Ok(last)
        };
        match look() {
            Ok(last) => (last > self.compacted).then_some(last),
            Err(error) => {
                tracing::warn!("reading the store's log failed: {error}");
                None
            }
        }
    }
}

fn refuse(group: Vec<Request>, error: &StoreError) {
    for request in group {
        request.answer.send(Err(error.clone())).ok();
    }
}

fn take_group(first: Request, requests: &Receiver<Request>) -> Vec<Request> {
    let mut bytes = first.value.as_ref().map_or(0, Bytes::len);
    let mut group = vec![first];
    while group.len() < GROUP_LIMIT && bytes < GROUP_LIMIT_BYTES {
        let Ok(next) = requests.try_recv() else { break };
        bytes += next.value.as_ref().map_or(0, Bytes::len);
        group.push(next);
    }
    group
}

/// What a group did, to be told once it is on disk.
#[derive(Default)]
struct Applied {
    revision: u64,
    changes: Vec<Change>,
    answers: Vec<Result<Entry, StoreError>>,
}

struct Tables<'a> {
    live: Table<'a, &'static str, u64>,
    values: Table<'a, u64, (u64, &'static str, &'static [u8])>,
    log: Table<'a, u64, LogRecord<'static>>,
    now: u64,
}

fn apply_all(
    write: &WriteTransaction,
    group: &[Request],
    applied: &mut Applied,
) -> Result<(), redb::Error> {
    let mut tables = Tables {
        live: write.open_table(LIVE)?,
        values: write.open_table(VALUES)?,
        log: write.open_table(LOG)?,
        now: milliseconds(),
    };
    for request in group {
        let before = read_live(&tables, &request.key)?;
        let answer = match refusal(request, before.as_ref()) {
            Some(error) => Err(error),
            None => {
                applied.revision += 1;
                let change = write_one(&mut tables, request, before, applied.revision)?;
                let answer = answer_of(&change);
                applied.changes.push(change);
                Ok(answer)
            }
        };
        applied.answers.push(answer);
    }
    Ok(())
}

fn read_live(tables: &Tables<'_>, key: &str) -> Result<Option<Entry>, redb::Error> {
    let Some(modified) = tables.live.get(key)?.map(|found| found.value()) else {
        return Ok(None);
    };
    read_value(&tables.values, modified)
}

fn refusal(request: &Request, current: Option<&Entry>) -> Option<StoreError> {
    let key = || request.key.clone();
    if request.value.is_none() && current.is_none() {
        return Some(StoreError::NotFound { key: key() });
    }
    if request.expected.holds(current) {
        return None;
    }
    Some(StoreError::Conflict {
        key: key(),
        current: current.cloned().map(Box::new),
    })
}

fn write_one(
    tables: &mut Tables<'_>,
    request: &Request,
    before: Option<Entry>,
    revision: u64,
) -> Result<Change, redb::Error> {
    let key = request.key.as_str();
    let before_revision = before.as_ref().map_or(0, |before| before.modified);
    let is_put = request.value.is_some();
    tables
        .log
        .insert(revision, (tables.now, before_revision, is_put, key))?;
    let Some(value) = &request.value else {
        tables.live.remove(key)?;
        let before = before.expect("a delete of nothing was refused");
        return Ok(Change::Deleted { before, revision });
    };
    let created = before.as_ref().map_or(revision, |before| before.created);
    tables
        .values
        .insert(revision, (created, key, value.as_ref()))?;
    tables.live.insert(key, revision)?;
    let entry = Entry {
        key: key.to_owned(),
        value: value.clone(),
        created,
        modified: revision,
    };
    Ok(Change::Put { entry, before })
}

fn answer_of(change: &Change) -> Entry {
    match change {
        Change::Put { entry, .. } => entry.clone(),
        Change::Deleted { before, revision } => Entry {
            modified: *revision,
            ..before.clone()
        },
        Change::Progress { .. } => unreachable!("a write is no progress change"),
    }
}

/// Forgets changes, and the values that they replaced: nobody can ask for those any more.
fn remove_history(write: &WriteTransaction, range: RangeInclusive<u64>) -> Result<(), redb::Error> {
    let mut log = write.open_table(LOG)?;
    let mut values = write.open_table(VALUES)?;
    let last = *range.end();
    for revision in range {
        let before = log.remove(revision)?.map_or(0, |record| record.value().1);
        if before != 0 {
            values.remove(before)?;
        }
    }
    write.open_table(FACTS)?.insert("compacted", last)?;
    Ok(())
}

fn milliseconds() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
