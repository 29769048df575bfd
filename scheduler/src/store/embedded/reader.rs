//! Reading: one key, a page of a listing now or in the past, a stretch of the log.
//!
//! Each function works in one read transaction, so what it returns is the store at one revision.

use std::collections::BTreeMap;
use std::ops::Bound;

use redb::{ReadTransaction, ReadableDatabase};

use super::tables::{LIVE, LOG, VALUES, failed, read_revisions, read_value};
use crate::store::watch::Stretch;
use crate::store::{Change, Found, ListRequest, Page, StoreError};

/// One key.
pub fn read_key(database: &redb::Database, key: &str) -> Result<Found, StoreError> {
    let find = || -> Result<Found, redb::Error> {
        let read = database.begin_read()?;
        let (revision, _) = read_revisions(&read)?;
        let modified = read.open_table(LIVE)?.get(key)?.map(|found| found.value());
        let entry = match modified {
            Some(modified) => read_value(&read.open_table(VALUES)?, modified)?,
            None => None,
        };
        Ok(Found { entry, revision })
    };
    find().map_err(failed)
}

/// One page.
pub fn list(database: &redb::Database, request: &ListRequest) -> Result<Page, StoreError> {
    let read = database.begin_read().map_err(failed)?;
    let (current, oldest) = read_revisions(&read).map_err(failed)?;
    let revision = request.revision.unwrap_or(current);
    check_reach(revision, oldest, current)?;
    let past = past_of(&read, &request.prefix, revision).map_err(failed)?;
    page(&read, request, revision, &past).map_err(failed)
}

/// Refuses revisions outside of the history.
pub fn check_reach(asked: u64, oldest: u64, current: u64) -> Result<(), StoreError> {
    if asked > current {
        return Err(StoreError::Ahead { asked, current });
    }
    if asked < oldest {
        return Err(StoreError::Compacted { asked, oldest });
    }
    Ok(())
}

/// For each key that changed since a revision: the revision of its value then, 0 for none.
fn past_of(
    read: &ReadTransaction,
    prefix: &str,
    revision: u64,
) -> Result<BTreeMap<String, u64>, redb::Error> {
    let mut past = BTreeMap::new();
    for record in read.open_table(LOG)?.range(revision + 1..)? {
        let (_, record) = record?;
        let (_, before, _, key) = record.value();
        // The first change after the revision names what was there at it.
        if key.starts_with(prefix) && !past.contains_key(key) {
            past.insert(key.to_owned(), before);
        }
    }
    Ok(past)
}

fn page(
    read: &ReadTransaction,
    request: &ListRequest,
    revision: u64,
    past: &BTreeMap<String, u64>,
) -> Result<Page, redb::Error> {
    let start = start_of(request);
    let live = read.open_table(LIVE)?;
    let values = read.open_table(VALUES)?;
    let limit = request.limit.unwrap_or(usize::MAX);
    let mut page = Page {
        entries: Vec::new(),
        revision,
        remaining: 0,
        more: false,
    };
    let mut take = |modified: u64| -> Result<(), redb::Error> {
        if page.entries.len() < limit {
            page.entries.extend(read_value(&values, modified)?);
        } else {
            page.remaining += 1;
        }
        Ok(())
    };
    // Two sorted streams become one: keys that changed since (as they were then), and the others.
    let mut then = past.range::<str, _>((start, Bound::Unbounded)).peekable();
    for row in live.range::<&str>((start, Bound::Unbounded))? {
        let (key, modified) = row?;
        let key = key.value();
        if !key.starts_with(&request.prefix) {
            break;
        }
        while let Some((_, before)) = then.next_if(|(earlier, _)| earlier.as_str() < key) {
            if *before != 0 {
                take(*before)?;
            }
        }
        match then.next_if(|(same, _)| same.as_str() == key) {
            Some((_, 0)) => {}
            Some((_, before)) => take(*before)?,
            None => take(modified.value())?,
        }
    }
    for (_, before) in then {
        if *before != 0 {
            take(*before)?;
        }
    }
    page.more = page.remaining > 0;
    Ok(page)
}

fn start_of(request: &ListRequest) -> Bound<&str> {
    match request.after.as_deref() {
        Some(after) if after >= request.prefix.as_str() => Bound::Excluded(after),
        _ => Bound::Included(&request.prefix),
    }
}

/// The most records and bytes that are read for a watcher at a time.
const STRETCH_RECORDS: usize = 2000;
const STRETCH_BYTES: usize = 4 << 20;

/// Reads the changes below a prefix in (`after`, `until`], a stretch at a time.
pub fn read_log(
    database: &redb::Database,
    prefix: &str,
    after: u64,
    until: u64,
) -> Result<Stretch, StoreError> {
    let read = database.begin_read().map_err(failed)?;
    let (current, oldest) = read_revisions(&read).map_err(failed)?;
    check_reach(after, oldest, current)?;
    stretch(&read, prefix, after, until).map_err(failed)
}

fn stretch(
    read: &ReadTransaction,
    prefix: &str,
    after: u64,
    until: u64,
) -> Result<Stretch, redb::Error> {
    let values = read.open_table(VALUES)?;
    let mut stretch = Stretch {
        changes: Vec::new(),
        reached: until,
    };
    let mut bytes = 0;
    for (count, row) in read.open_table(LOG)?.range(after + 1..=until)?.enumerate() {
        let (revision, record) = row?;
        let (revision, (_, before, is_put, key)) = (revision.value(), record.value());
        if count == STRETCH_RECORDS || bytes > STRETCH_BYTES {
            stretch.reached = revision - 1;
            break;
        }
        if !key.starts_with(prefix) {
            continue;
        }
        let before = read_value(&values, before)?;
        let change = if is_put {
            read_value(&values, revision)?.map(|entry| Change::Put { entry, before })
        } else {
            before.map(|before| Change::Deleted { before, revision })
        };
        bytes += change.as_ref().map_or(0, size_of_change);
        stretch.changes.extend(change);
    }
    Ok(stretch)
}

fn size_of_change(change: &Change) -> usize {
    match change {
        Change::Put { entry, before } => {
            entry.value.len() + before.as_ref().map_or(0, |before| before.value.len())
        }
        Change::Deleted { before, .. } => before.value.len(),
        Change::Progress { .. } => 0,
    }
}
