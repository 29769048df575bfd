//! Watches: what changes from a revision on, one client's view of it.
//!
//! A watcher reads on from its place in the shared ring (see [`crate::api::cache`]); a place that
//! is older than the ring is served from the store's own history. A selector makes a view of its
//! own: an object that comes to match was `ADDED` for this client, one that stops matching was
//! `DELETED`, whatever happened to it.
//!
//! ```text
//!   matched before | matches now | told as
//!   ---------------+-------------+---------
//!        no        |     yes     | ADDED
//!        yes       |     yes     | MODIFIED
//!        yes       |     no      | DELETED
//! ```
//!
//! `BOOKMARK` tells only a revision, so that a client whose objects never change does not come
//! back with a place that nobody remembers. With `sendInitialEvents` a watch begins with all
//! objects and a bookmark that marks the end of them: a list without a list.
//!
//! Read more: <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;

use crate::{
    api::{
        Api,
        cache::{Batch, Event, Gap, store_error, too_large_version},
        error::ApiError,
        kind::Kind,
        list::{Selection, Version},
        object::{self, Object},
    },
    store::{Change, Changes},
};

/// How much is taken from the ring at once.
const BATCH: Batch = Batch {
    events: 64,
    bytes: 256 << 10,
};
/// How long a watch waits for a revision that this server does not know yet.
const PATIENCE: Duration = Duration::from_secs(3);

/// A question for a watch.
#[derive(Debug, Clone)]
pub struct WatchQuery {
    /// Of what.
    pub kind: &'static Kind,
    /// In one namespace, or in all.
    pub namespace: Option<String>,
    /// Which of them.
    pub selection: Selection,
    /// From where.
    pub start: Start,
    /// Whether the client wants to be told how far it is.
    pub bookmarks: Bookmarks,
    /// How long.
    pub timeout: Duration,
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With everything there is, as additions, at such a moment.
    Everything(Version),
    /// With what changes after a revision.
    After(u64),
    /// With what changes from now on.
    Now,
}

/// Whether the client wants to be told how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bookmarks {
    /// No.
    None,
    /// From time to time.
    Sometimes,
    /// From time to time, and where the initial objects end.
    AfterInitial,
}

/// What a client is told.
#[derive(Debug, Clone)]
pub enum Signal {
    /// An object is there now.
    Added(Arc<Object>),
    /// An object changed.
    Modified(Arc<Object>),
    /// An object is not there any more; its last state.
    Deleted(Arc<Object>),
    /// Everything up to this revision was told.
    Bookmark {
        /// The revision.
        revision: u64,
        /// Whether the initial objects end here.
        ends_initial: bool,
    },
    /// The watch is over.
    Error(ApiError),
}

/// One client's view.
struct Watcher {
    api: Arc<Api>,
    query: WatchQuery,
    source: Source,
    pending: VecDeque<Signal>,
    /// Everything up to this revision was told.
    position: u64,
    until: Instant,
    next_bookmark: Instant,
    over: bool,
}

enum Source {
    Ring(watch::Receiver<u64>),
    History(Changes),
}

impl Api {
    /// Begins a watch.
    ///
    /// # Errors
    ///
    /// 410 for a revision that nobody remembers, 504 for one that has not come.
    pub async fn watch(
        self: &Arc<Self>,
        query: WatchQuery,
    ) -> Result<impl Stream<Item = Signal> + Send + use<>, ApiError> {
        let mut pending = VecDeque::new();
        // Before the snapshot, so that no news falls between the two.
        let news = self.cache.news(query.kind)?;
        let position = match query.start {
            Start::Everything(version) => {
                let snapshot = self
                    .snapshot(query.kind, query.namespace.as_deref(), version)
                    .await?;
                let wanted = snapshot
                    .objects
                    .into_iter()
                    .filter(|object| query.selection.matches(object));
                pending.extend(wanted.map(Signal::Added));
                if query.bookmarks == Bookmarks::AfterInitial {
                    pending.push_back(Signal::Bookmark {
                        revision: snapshot.revision,
                        ends_initial: true,
                    });
                }
                snapshot.revision
            }
            Start::After(revision) => revision,
            Start::Now => self.cache.revision(),
        };
        let source = self.source(query.kind, position, news).await?;
        let now = Instant::now();
        let (until, next_bookmark) = (now + query.timeout, now + self.config.bookmark_period);
        let watcher = Watcher {
            api: self.clone(),
            query,
            source,
            pending,
            position,
            until,
            next_bookmark,
            over: false,
        };
        Ok(stream::unfold(watcher, |mut watcher| async move {
            Some((watcher.next().await?, watcher))
        }))
    }

    async fn source(
        &self,
        kind: &'static Kind,
        position: u64,
        news: watch::Receiver<u64>,
    ) -> Result<Source, ApiError> {
        if !self.cache.reaches(position, PATIENCE).await {
            return Err(too_large_version(position, self.cache.revision()));
        }
        // Only whether the ring still remembers the place is asked.
        let nothing = Batch { events: 0, ..BATCH };
        if self.cache.events(kind, position, nothing).is_ok() {
            return Ok(Source::Ring(news));
        }
        Ok(Source::History(
            self.store
                .watch(&kind.prefix(), position)
                .await
                .map_err(store_error)?,
        ))
    }
}

impl Watcher {
    async fn next(&mut self) -> Option<Signal> {
        loop {
            if let Some(signal) = self.pending.pop_front() {
                return Some(signal);
            }
            if self.over {
                return None;
            }
            self.read_on().await;
        }
    }

    /// Fills `pending`, or waits for something to tell.
    async fn read_on(&mut self) {
        let wake = self.until.min(self.next_bookmark);
        let news = match &mut self.source {
            Source::Ring(news) => {
                news.mark_unchanged();
                // Read before the ring: every event up to here is in the ring already.
                let told = self.api.cache.revision();
                match self.api.cache.events(self.query.kind, self.position, BATCH) {
                    Err(Gap::Expired { oldest }) => {
                        let why = format!("too old resource version: {} ({oldest})", self.position);
                        return self.end(ApiError::expired(why));
                    }
                    Ok(events) if !events.is_empty() => {
                        for event in events {
                            self.position = event.revision;
                            self.tell(&event);
                        }
                        None
                    }
                    Ok(_) => {
                        self.position = self.position.max(told);
                        Some(
                            tokio::time::timeout_at(wake.into(), news.changed())
                                .await
                                .map(|_| None),
                        )
                    }
                }
            }
            Source::History(changes) => Some(
                tokio::time::timeout_at(wake.into(), changes.next())
                    .await
                    .map(Some),
            ),
        };
        match news {
            None | Some(Ok(None)) => {}
            Some(Ok(Some(change))) => self.take_change(change),
            Some(Err(_)) => self.tick(),
        }
    }

    fn take_change(&mut self, change: Option<Result<Change, crate::store::StoreError>>) {
        let kind = self.query.kind;
        let event = match change {
            None => return self.end(ApiError::expired("the store's history ended")),
            Some(Err(error)) => return self.end(store_error(error)),
            Some(Ok(change)) => {
                self.position = self.position.max(change.revision());
                event_of(kind, &change)
            }
        };
        match event {
            Ok(Some(event)) => self.tell(&event),
            Ok(None) => {}
            Err(error) => self.end(error),
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let is_last = now >= self.until;
        if self.query.bookmarks != Bookmarks::None && (is_last || now >= self.next_bookmark) {
            self.pending.push_back(Signal::Bookmark {
                revision: self.position,
                ends_initial: false,
            });
        }
        self.next_bookmark = now + self.api.config.bookmark_period;
        self.over = is_last;
    }

    fn end(&mut self, error: ApiError) {
        self.pending.push_back(Signal::Error(error));
        self.over = true;
    }

    fn tell(&mut self, event: &Event) {
        let elsewhere = self
            .query
            .namespace
            .as_ref()
            .is_some_and(|namespace| *namespace != event.object.namespace);
        if elsewhere {
            return;
        }
        match view(&self.query.selection, event) {
            Ok(signal) => self.pending.extend(signal),
            Err(error) => self.end(error),
        }
    }
}

/// What an event is for a client that sees only a selection.
fn view(selection: &Selection, event: &Event) -> Result<Option<Signal>, ApiError> {
    let before = event
        .before
        .as_ref()
        .filter(|before| selection.matches(before));
    let now = Some(&event.object).filter(|object| !event.deleted && selection.matches(object));
    Ok(match (before, now) {
        (None, Some(object)) => Some(Signal::Added(object.clone())),
        (Some(_), Some(object)) => Some(Signal::Modified(object.clone())),
        (Some(_), None) if event.deleted => Some(Signal::Deleted(event.object.clone())),
        (Some(before), None) => {
            // The client knows the object as it was; only the revision is of now.
            let mut value = before.value()?;
            object::set_resource_version(&mut value, event.revision);
            Some(Signal::Deleted(Arc::new(Object {
                namespace: before.namespace.clone(),
                name: before.name.clone(),
                modified: event.revision,
                bytes: bytes::Bytes::from(value.to_string()),
                selectable: before.selectable.clone(),
            })))
        }
        (None, None) => None,
    })
}

/// A change of the store's history as an event of the ring.
fn event_of(kind: &'static Kind, change: &Change) -> Result<Option<Event>, ApiError> {
    Ok(match change {
        Change::Progress { .. } => None,
        Change::Put { entry, before } => Some(Event {
            revision: entry.modified,
            before: before
                .as_ref()
                .map(|before| Object::from_entry(kind, before))
                .transpose()?,
            object: Object::from_entry(kind, entry)?,
            deleted: false,
        }),
        Change::Deleted { before, revision } => {
            let mut last = before.clone();
            last.modified = *revision;
            Some(Event {
                revision: *revision,
                before: Some(Object::from_entry(kind, before)?),
                object: Object::from_entry(kind, &last)?,
                deleted: true,
            })
        }
    })
}
