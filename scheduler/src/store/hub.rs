//! The hub: the last changes in memory, and whom to wake for a change.
//!
//! A watcher that sleeps costs nothing when something changes elsewhere. Watchers are held by
//! *topic*: their prefix cut behind its last `/`. A change of `/registry/core/pods/shop/web` wakes
//! the topics `/`, `/registry/`, `/registry/core/`, `/registry/core/pods/` and
//! `/registry/core/pods/shop/`, found by five lookups however many thousand others sleep.
//!
//! A topic is a bounded broadcast. A reader that falls behind it loses its place there and goes on
//! from the ring, and behind the ring from the store's own history; so a slow reader costs no
//! memory and still misses nothing.
//!
//! The embedded store's writer publishes here what it committed. With etcd, one watch over
//! everything feeds the hub, so that thousands of watchers are one to etcd.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use crate::store::{Change, Entry, StoreError};

/// How many changes of one topic wait for a slow reader before it is sent to the ring.
const TOPIC_CAPACITY: usize = 128;

/// How much the ring holds.
#[derive(Debug, Clone, Copy)]
pub struct RingLimits {
    /// At most so many changes.
    pub changes: usize,
    /// At most so many bytes of keys and values.
    pub bytes: usize,
}

impl Default for RingLimits {
    fn default() -> Self {
        Self {
            changes: 10_000,
            bytes: 8 << 20,
        }
    }
}

/// See the module.
pub struct Hub {
    limits: RingLimits,
    state: Mutex<State>,
}

struct State {
    /// Every change with a revision in (`floor`, `published`].
    ring: VecDeque<Told>,
    ring_bytes: usize,
    floor: u64,
    published: u64,
    /// The number of the last change in the order of telling.
    number: u64,
    topics: HashMap<Box<str>, broadcast::Sender<Told>>,
    /// Topics are swept of those without readers when there are more than this.
    sweep_above: usize,
    /// Why nothing can be watched at the moment.
    broken: Option<StoreError>,
}

/// A change and its number: two changes of one transaction of etcd have one revision.
#[derive(Clone)]
pub struct Told {
    /// Rises by one with each change.
    pub number: u64,
    /// The change.
    pub change: Arc<Change>,
}

/// From where a subscriber wants to go on.
#[derive(Debug, Clone, Copy)]
pub enum From {
    /// Behind a revision.
    Revision(u64),
    /// Behind a change that was told, by its number and revision.
    Told {
        /// Its number.
        number: u64,
        /// Its revision, should the ring not have it any more.
        revision: u64,
    },
}

/// A place in the stream of changes.
pub struct Subscription {
    /// What comes after `at`.
    pub receiver: broadcast::Receiver<Told>,
    /// The revision up to which the subscriber must look elsewhere.
    pub at: u64,
    /// The changes up to `at` if the ring still has them all; otherwise the store's history has.
    pub backlog: Option<VecDeque<Told>>,
}

impl Hub {
    /// A hub that has told everything up to a revision.
    pub fn new(limits: RingLimits, published: u64) -> Self {
        let state = State {
            ring: VecDeque::new(),
            ring_bytes: 0,
            floor: published,
            published,
            number: 0,
            topics: HashMap::new(),
            sweep_above: 64,
            broken: None,
        };
        Self {
            limits,
            state: Mutex::new(state),
        }
    }

    /// The last revision that was told. Whoever subscribed before has it in his receiver.
    pub fn published(&self) -> u64 {
        self.lock().published
    }

    /// Whether a watch behind a revision can be served without the past.
    pub fn remembers(&self, revision: u64) -> bool {
        let state = self.lock();
        state.broken.is_none() && revision >= state.floor
    }

    /// Joins the topic of a prefix, and takes what the ring has from there on.
    ///
    /// # Errors
    ///
    /// Why the hub is closed or cut off.
    pub fn subscribe(&self, prefix: &str, from: From) -> Result<Subscription, StoreError> {
        let mut state = self.lock();
        if let Some(error) = &state.broken {
            return Err(error.clone());
        }
        state.sweep();
        let sender = state
            .topics
            .entry(topic_of(prefix).into())
            .or_insert_with(|| broadcast::channel(TOPIC_CAPACITY).0);
        let receiver = sender.subscribe();
        Ok(Subscription {
            receiver,
            at: state.published,
            backlog: state.backlog(prefix, from),
        })
    }

    /// Tells changes, whole transactions at a time.
    pub fn publish(&self, changes: Vec<Change>) {
        let mut state = self.lock();
        for change in changes {
            debug_assert!(change.revision() >= state.published, "history runs forward");
            state.number += 1;
            let told = Told {
                number: state.number,
                change: Arc::new(change),
            };
            state.wake(&told);
            state.published = told.change.revision();
            state.ring_bytes += weight(&told.change);
            state.ring.push_back(told);
        }
        while state.ring.len() > self.limits.changes || state.ring_bytes > self.limits.bytes {
            let Some(oldest) = state.ring.pop_front() else {
                break;
            };
            state.ring_bytes -= weight(&oldest.change);
            state.floor = oldest.change.revision();
        }
    }

    /// Ends every watch, and refuses new ones until [`Hub::restore`].
    pub fn interrupt(&self, error: StoreError) {
        let mut state = self.lock();
        state.broken = Some(error);
        state.topics.clear();
    }

    /// Takes watches again.
    pub fn restore(&self) {
        self.lock().broken = None;
    }

    /// Goes on from a later revision: what lies between was not told here. Watchers that are
    /// behind it look into the store's history.
    pub fn skip_to(&self, revision: u64) {
        let mut state = self.lock();
        state.ring.clear();
        state.ring_bytes = 0;
        state.floor = revision;
        state.published = revision;
        state.topics.clear();
    }

    /// Why watches have ended, if they have.
    pub fn broken(&self) -> Option<StoreError> {
        self.lock().broken.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics half-way through a change of the state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn backlog(&self, prefix: &str, from: From) -> Option<VecDeque<Told>> {
        let skip = match from {
            From::Told { number, .. }
                if self.ring.front().is_some_and(|t| t.number <= number + 1) =>
            {
                self.ring.partition_point(|told| told.number <= number)
            }
            From::Revision(revision) | From::Told { revision, .. } if revision >= self.floor => {
                self.ring
                    .partition_point(|told| told.change.revision() <= revision)
            }
            _ => return None,
        };
        let wanted = |told: &&Told| concerns(&told.change, prefix);
        Some(
            self.ring
                .iter()
                .skip(skip)
                .filter(wanted)
                .cloned()
                .collect(),
        )
    }

    fn wake(&mut self, told: &Told) {
        let Some(key) = told.change.key() else { return };
        for (slash, _) in key.match_indices('/') {
            let topic = &key[..=slash];
            if let Some(sender) = self.topics.get(topic)
                && sender.send(told.clone()).is_err()
            {
                self.topics.remove(topic);
            }
        }
        // A prefix without any slash has the empty topic.
        if let Some(sender) = self.topics.get("") {
            sender.send(told.clone()).ok();
        }
    }

    fn sweep(&mut self) {
        if self.topics.len() > self.sweep_above {
            self.topics.retain(|_, sender| sender.receiver_count() > 0);
            self.sweep_above = 64 + 2 * self.topics.len();
        }
    }
}

/// Whether a change is below a prefix.
pub fn concerns(change: &Change, prefix: &str) -> bool {
    change.key().is_some_and(|key| key.starts_with(prefix))
}

fn topic_of(prefix: &str) -> &str {
    prefix.rfind('/').map_or("", |slash| &prefix[..=slash])
}

/// What a change holds in memory. The value before is the value of an earlier change, but that
/// may have left the ring, so it is counted.
fn weight(change: &Change) -> usize {
    let of = |entry: &Entry| entry.key.len() + entry.value.len();
    match change {
        Change::Put { entry, before } => of(entry) + before.as_ref().map_or(0, of),
        Change::Deleted { before, .. } => of(before),
        Change::Progress { .. } => 0,
    }
}
