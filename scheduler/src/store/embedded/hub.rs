//! The hub: the last changes in memory, and whom to wake for a change.
//!
//! A watcher that sleeps costs nothing when something changes elsewhere. Watchers are held by
//! *topic*: their prefix cut behind its last `/`. A change of `/registry/core/pods/shop/web` wakes
//! the topics `/`, `/registry/`, `/registry/core/`, `/registry/core/pods/` and
//! `/registry/core/pods/shop/`, found by five lookups however many thousand others sleep.
//!
//! A topic is a bounded broadcast. A reader that falls behind it loses its place there and goes on
//! from the ring, and behind the ring from the file's log; so a slow reader costs no memory and
//! still misses nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use crate::store::{Change, Entry};

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

/// See the module.
pub struct Hub {
    limits: RingLimits,
    state: Mutex<State>,
}

struct State {
    /// Every change in (`published` - length, `published`], without a gap.
    ring: VecDeque<Arc<Change>>,
    ring_bytes: usize,
    published: u64,
    topics: HashMap<Box<str>, broadcast::Sender<Arc<Change>>>,
    /// Topics are swept of those without readers when there are more than this.
    sweep_above: usize,
}

/// A place in the stream of changes.
pub struct Subscription {
    /// What comes after `at`.
    pub receiver: broadcast::Receiver<Arc<Change>>,
    /// The revision up to which the subscriber must look elsewhere.
    pub at: u64,
    /// The changes up to `at` if the ring still has them all; otherwise the log has.
    pub backlog: Option<VecDeque<Arc<Change>>>,
}

impl Hub {
    /// A hub that has told everything up to a revision.
    pub fn new(limits: RingLimits, published: u64) -> Self {
        let state = State {
            ring: VecDeque::new(),
            ring_bytes: 0,
            published,
            topics: HashMap::new(),
            sweep_above: 64,
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

    /// Joins the topic of a prefix, and takes what the ring has after a revision.
    pub fn subscribe(&self, prefix: &str, after: u64) -> Subscription {
        let mut state = self.lock();
        state.sweep();
        let sender = state
            .topics
            .entry(topic_of(prefix).into())
            .or_insert_with(|| broadcast::channel(TOPIC_CAPACITY).0);
        let receiver = sender.subscribe();
        let oldest = state.published - state.ring.len() as u64;
        let backlog = after.checked_sub(oldest).map(|skip| {
            let skip = usize::try_from(skip).unwrap_or(usize::MAX);
            state
                .ring
                .iter()
                .skip(skip)
                .filter(|change| concerns(change, prefix))
                .cloned()
                .collect()
        });
        Subscription {
            receiver,
            at: state.published,
            backlog,
        }
    }

    /// Tells the changes of one commit, which follow each other without a gap.
    pub fn publish(&self, changes: Vec<Change>) {
        let mut state = self.lock();
        for change in changes {
            debug_assert_eq!(
                change.revision(),
                state.published + 1,
                "a gap in the revisions"
            );
            let change = Arc::new(change);
            state.wake(&change);
            state.published = change.revision();
            state.ring_bytes += weight(&change);
            state.ring.push_back(change);
        }
        while state.ring.len() > self.limits.changes || state.ring_bytes > self.limits.bytes {
            let Some(oldest) = state.ring.pop_front() else {
                break;
            };
            state.ring_bytes -= weight(&oldest);
        }
    }

    /// Ends every watch.
    pub fn close(&self) {
        self.lock().topics.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics half-way through a change of the state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake(&mut self, change: &Arc<Change>) {
        let Some(key) = change.key() else { return };
        for (slash, _) in key.match_indices('/') {
            let topic = &key[..=slash];
            if let Some(sender) = self.topics.get(topic)
                && sender.send(Arc::clone(change)).is_err()
            {
                self.topics.remove(topic);
            }
        }
        // A prefix without any slash has the empty topic.
        if let Some(sender) = self.topics.get("") {
            sender.send(Arc::clone(change)).ok();
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
