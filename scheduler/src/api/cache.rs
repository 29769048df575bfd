//! What all readers share: every object as of now, and the last changes of each kind.
//!
//! One task follows the store's changes over all kinds, decodes each once, and puts it into a
//! picture of the present and a ring of events. Watchers hold no queue: each has a place in the
//! ring and reads on from there, so a thousand watchers cost a thousand places, and one that does
//! not read falls off the ring's end and is told that its history expired.
//!
//! ```text
//!   store --changes--> feed --+--> objects   (lists)
//!                             +--> ring  [r17 r21 r22 r30]   <-- watchers' places
//!                             +--> revision  "told up to here"  (bookmarks, lists at least as new as)
//! ```
//!
//! The revision is raised after the ring, so whoever reads the revision first and the ring after
//! it has seen every event up to that revision.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures::StreamExt;
use tokio::{sync::watch, time::Instant};

use crate::{
    api::{
        error::ApiError,
        kind::{KINDS, Kind},
        object::{self, Object},
    },
    store::{Change, ListRequest, SharedStore, StoreError},
};

/// One change of an object.
#[derive(Debug, Clone)]
pub struct Event {
    /// The store's revision of the change.
    pub revision: u64,
    /// The object before, if there was one.
    pub before: Option<Arc<Object>>,
    /// The object after; for a deletion the last state, with the revision of the deletion.
    pub object: Arc<Object>,
    /// Whether the object is gone.
    pub deleted: bool,
}

/// Why events cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// The ring begins after the place that was asked for.
    Expired {
        /// The oldest revision from which events can be told.
        oldest: u64,
    },
}

/// How much is taken from a ring at once. A watcher that does not read holds it for as long.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// Events.
    pub events: usize,
    /// Bytes of objects, beyond which only the last one may reach.
    pub bytes: usize,
}

/// How much of the past is kept for watchers that come back.
#[derive(Debug, Clone, Copy)]
pub struct RingLimits {
    /// Events a kind.
    pub events: usize,
    /// Bytes of objects a kind.
    pub bytes: usize,
}

impl Default for RingLimits {
    fn default() -> Self {
        Self {
            events: 8192,
            bytes: 8 << 20,
        }
    }
}

/// The shared picture. One for each group of keys, so that both groups of events share theirs.
#[derive(Debug)]
pub struct Cache {
    shelves: HashMap<String, Shelf>,
    revision: watch::Sender<u64>,
    limits: RingLimits,
}

/// What is known of one kind.
#[derive(Debug)]
struct Shelf {
    kind: &'static Kind,
    content: RwLock<Content>,
    /// Raised to the newest event's revision after it is in the ring.
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Content {
    /// By `NAMESPACE/NAME` or `NAME`: the key without its prefix, so in the store's order.
    objects: BTreeMap<String, Arc<Object>>,
    ring: VecDeque<Arc<Event>>,
    ring_bytes: usize,
    /// Every event with a greater revision is in the ring.
    since: u64,
    newest: u64,
}

/// All objects of a kind at one revision.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// In the order of their keys.
    pub objects: Vec<Arc<Object>>,
    /// The revision that they show.
    pub revision: u64,
}

impl Cache {
    /// Reads everything there is. [`Cache::follow`] keeps it current.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn load(store: &SharedStore, limits: RingLimits) -> Result<Self, ApiError> {
        let mut shelves = HashMap::new();
        for kind in KINDS {
            // The first of two kinds with the same keys is the one whose shape is stored.
            shelves.entry(kind.prefix()).or_insert_with(|| Shelf {
                kind,
                content: RwLock::default(),
                news: watch::Sender::new(0),
            });
        }
        let cache = Self {
            shelves,
            revision: watch::Sender::new(0),
            limits,
        };
        cache.reload(store).await?;
        Ok(cache)
    }

    /// Follows the store until the task is dropped; after a loss of the store it goes on from
    /// where it was, or from a new picture if the store's history has moved on.
    pub async fn follow(self: Arc<Self>, store: SharedStore, pause: Duration) {
        let mut told = None;
        loop {
            let after = *self.revision.borrow();
            // All keys, also those that hold no objects (of elections, say): they raise the store's
            // revision too, and a list that wants the newest state waits for it to be told.
            let outcome = match store.watch("/", after).await {
                Ok(changes) => self.take_in(changes).await,
                Err(error) => Err(error),
            };
            if *self.revision.borrow() > after {
                told = None;
            }
            match outcome {
                Err(StoreError::Compacted { .. } | StoreError::Ahead { .. }) => {
                    if let Err(error) = self.reload(&store).await
                        && is_news(&mut told)
                    {
                        tracing::warn!(%error, "the store cannot be listed; trying again");
                    }
                }
                Err(error) if is_news(&mut told) => {
                    tracing::warn!(%error, "the store's changes ended; following on from revision {after}");
                }
                _ => {}
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn take_in(&self, mut changes: crate::store::Changes) -> Result<(), StoreError> {
        while let Some(change) = changes.next().await {
            self.apply(change?);
        }
        Ok(())
    }

    /// A new picture. Watchers that stood in the old ring are told that it expired.
    async fn reload(&self, store: &SharedStore) -> Result<(), ApiError> {
        let mut pictures: HashMap<&str, BTreeMap<String, Arc<Object>>> = HashMap::new();
        let mut request = ListRequest {
            prefix: "/registry/".into(),
            limit: Some(500),
            ..ListRequest::default()
        };
        let revision = loop {
            let page = store.list(request.clone()).await.map_err(store_error)?;
            for entry in &page.entries {
                let Some((prefix, rest, shelf)) = self.shelf_of(&entry.key) else {
                    continue;
                };
                match Object::from_entry(shelf.kind, entry) {
                    Ok(object) => {
                        pictures
                            .entry(prefix)
                            .or_default()
                            .insert(rest.to_owned(), object);
                    }
                    Err(error) => {
                        tracing::error!(%error, "an entry of the store cannot be read and is not served")
                    }
                }
            }
            request.revision = Some(page.revision);
            request.after = page.entries.last().map(|entry| entry.key.clone());
            if !page.more {
                break page.revision;
            }
        };
        for (prefix, shelf) in &self.shelves {
            let mut content = shelf
                .content
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            *content = Content {
                objects: pictures.remove(prefix.as_str()).unwrap_or_default(),
                since: revision,
                newest: revision,
                ..Content::default()
            };
            drop(content);
            shelf.news.send_replace(revision);
        }
        self.revision.send_replace(revision);
        Ok(())
    }

    fn apply(&self, change: Change) {
        let revision = change.revision();
        if let Some((_, rest, shelf)) = change.key().and_then(|key| self.shelf_of(key)) {
            let made = match &change {
                Change::Put { entry, .. } => {
                    Object::from_entry(shelf.kind, entry).map(|object| (object, false))
                }
                Change::Deleted { before, revision } => {
                    let mut last = before.clone();
                    last.modified = *revision;
                    Object::from_entry(shelf.kind, &last).map(|object| (object, true))
                }
                Change::Progress { .. } => return,
            };
            match made {
                Ok((object, deleted)) => shelf.push(rest, revision, object, deleted, self.limits),
                Err(error) => {
                    tracing::error!(%error, "a change of the store cannot be read and is not told")
                }
            }
        }
        self.revision.send_if_modified(|told| {
            let newer = revision > *told;
            *told = revision.max(*told);
            newer
        });
    }

    fn shelf_of<'a, 'k>(&'a self, key: &'k str) -> Option<(&'a str, &'k str, &'a Shelf)> {
        // "/registry/", the group, the plural, and what is left.
        let mut slashes = key.match_indices('/').map(|(at, _)| at).skip(3);
        let (prefix, rest) = key.split_at(slashes.next()? + 1);
        let (prefix, shelf) = self.shelves.get_key_value(prefix)?;
        Some((prefix.as_str(), rest, shelf))
    }

    fn shelf(&self, kind: &Kind) -> Result<&Shelf, ApiError> {
        self.shelves
            .get(&kind.prefix())
            .ok_or_else(|| ApiError::internal(format!("{} is not kept", kind.plural)))
    }

    /// Every change up to this revision is known here.
    #[must_use]
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Waits until every change up to a revision is known here; false if that took too long.
    pub async fn reaches(&self, revision: u64, patience: Duration) -> bool {
        let mut told = self.revision.subscribe();
        tokio::time::timeout(patience, told.wait_for(|told| *told >= revision))
            .await
            .is_ok_and(|told| told.is_ok())
    }

    /// One object, by its key without the prefix.
    ///
    /// # Errors
    ///
    /// None for a kind of the table.
    pub fn object(&self, kind: &Kind, rest: &str) -> Result<Option<Arc<Object>>, ApiError> {
        Ok(self.shelf(kind)?.read().objects.get(rest).cloned())
    }

    /// All objects of a kind, or of one namespace, at one revision.
    ///
    /// # Errors
    ///
    /// None for a kind of the table.
    pub fn snapshot(&self, kind: &Kind, namespace: Option<&str>) -> Result<Snapshot, ApiError> {
        let content = self.shelf(kind)?.read();
        let objects = match namespace {
            Some(namespace) if kind.namespaced() => {
                let prefix = format!("{namespace}/");
                let from = content.objects.range(prefix.clone()..);
                from.take_while(|(key, _)| key.starts_with(&prefix))
                    .map(|(_, object)| object.clone())
                    .collect()
            }
            _ => content.objects.values().cloned().collect(),
        };
        // While the content is locked no event of this kind can be told, so the told revision
        // is one that this picture shows.
        Ok(Snapshot {
            objects,
            revision: self.revision().max(content.newest),
        })
    }

    /// The events of a kind after a revision, at most `most`, oldest first.
    ///
    /// # Errors
    ///
    /// [`Gap::Expired`] where the ring begins later.
    pub fn events(&self, kind: &Kind, after: u64, most: Batch) -> Result<Vec<Arc<Event>>, Gap> {
        let Some(shelf) = self.shelves.get(&kind.prefix()) else {
            return Ok(Vec::new());
        };
        let content = shelf.read();
        if after < content.since {
            return Err(Gap::Expired {
                oldest: content.since,
            });
        }
        let from = content
            .ring
            .partition_point(|event| event.revision <= after);
        let mut left = most.bytes;
        let fits = |event: &&Arc<Event>| {
            let fits = left > 0;
            left = left.saturating_sub(event.object.bytes.len());
            fits
        };
        let next = content.ring.range(from..).take(most.events);
        Ok(next.take_while(fits).cloned().collect())
    }

    /// A receiver that wakes at each event of a kind.
    ///
    /// # Errors
    ///
    /// None for a kind of the table.
    pub fn news(&self, kind: &Kind) -> Result<watch::Receiver<u64>, ApiError> {
        Ok(self.shelf(kind)?.news.subscribe())
    }

    /// How many objects each kind has, for the metrics.
    #[must_use]
    pub fn counts(&self) -> Vec<(String, usize)> {
        let count = |shelf: &Shelf| (shelf.kind.qualified_plural(), shelf.read().objects.len());
        let mut counts: Vec<_> = self.shelves.values().map(count).collect();
        counts.sort();
        counts
    }
}

impl Shelf {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Content> {
        // A panic while the lock was held cannot leave half a change: each is one push.
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(
        &self,
        rest: &str,
        revision: u64,
        object: Arc<Object>,
        deleted: bool,
        limits: RingLimits,
    ) {
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        let before = if deleted {
            content.objects.remove(rest)
        } else {
            content.objects.insert(rest.to_owned(), object.clone())
        };
        content.ring_bytes += object.bytes.len();
        content.ring.push_back(Arc::new(Event {
            revision,
            before,
            object,
            deleted,
        }));
        content.newest = revision;
        while content.ring.len() > limits.events || content.ring_bytes > limits.bytes {
            let Some(oldest) = content.ring.pop_front() else {
                break;
            };
            content.ring_bytes -= oldest.object.bytes.len();
            content.since = oldest.revision;
        }
        drop(content);
        self.news.send_replace(revision);
    }
}

/// Whether a trouble that lasts is said again: once a minute, for ten times a second helps nobody.
fn is_news(told: &mut Option<Instant>) -> bool {
    let is_news = told.is_none_or(|at| at.elapsed() > Duration::from_secs(60));
    if is_news {
        *told = Some(Instant::now());
    }
    is_news
}

/// The store's failures as the API tells them, where no object is concerned.
#[must_use]
pub fn store_error(error: StoreError) -> ApiError {
    match error {
        StoreError::Compacted { asked, oldest } => {
            ApiError::expired(format!("too old resource version: {asked} ({oldest})"))
        }
        StoreError::Ahead { asked, current } => too_large_version(asked, current),
        StoreError::TooLarge { .. } => ApiError::too_large(error.to_string()),
        StoreError::Unavailable(_) => ApiError::unavailable(error.to_string()),
        _ => ApiError::internal(error),
    }
}

/// The client has seen a newer revision than this server: it waits and tries again.
#[must_use]
pub fn too_large_version(asked: u64, current: u64) -> ApiError {
    let message = format!("Too large resource version: {asked}, current: {current}");
    let cause = crate::api::error::Cause {
        reason: "ResourceVersionTooLarge".into(),
        message: "Too large resource version".into(),
        field: String::new(),
    };
    let details = crate::api::error::Details {
        causes: vec![cause],
        retry_after_seconds: 1,
        ..crate::api::error::Details::default()
    };
    ApiError {
        details: Some(Box::new(details)),
        ..ApiError::timeout(message)
    }
}

/// The part of an object's key behind its kind's prefix.
#[must_use]
pub fn rest_of_key(kind: &Kind, namespace: &str, name: &str) -> String {
    if kind.namespaced() {
        format!("{namespace}/{name}")
    } else {
        name.to_owned()
    }
}

/// The key of a decoded object without its kind's prefix.
#[must_use]
pub fn rest_of(kind: &Kind, value: &serde_json::Value) -> String {
    rest_of_key(kind, object::namespace(value), object::name(value))
}
