//! Keys that are due: each at most once, and later after each failure.
//!
//! ```text
//!           add                take              done
//!   (idle) ────▶ (waiting) ─────────▶ (working) ─────▶ (idle)
//!                    ▲                    │ add
//!                    │        done        ▼
//!                    └───────────── (working, again)
//! ```
//!
//! A key is never worked on by two workers at a time, so a controller needs no
//! locks of its own; and a thousand changes of one object while it waits are one
//! reconciliation.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    hash::Hash,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// How long a key that failed waits before it is due again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure; it doubles with each.
    pub first: Duration,
    /// At most.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff {
            first: Duration::from_millis(20),
            longest: Duration::from_secs(60),
        }
    }
}

impl Backoff {
    /// The wait after so many failures in a row; `jitter` in `0.0..1.0` adds up
    /// to half of it, so that keys that failed together do not return together.
    pub fn wait(self, failures: u32, jitter: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let wait = self.first.saturating_mul(1 << doublings).min(self.longest);
        wait + wait.mul_f64(jitter.clamp(0.0, 1.0) / 2.0)
    }
}

/// A queue of keys for several workers.
#[derive(Debug)]
pub struct WorkQueue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
    backoff: Backoff,
}

#[derive(Debug)]
struct State<K> {
    due: VecDeque<K>,
    /// What is in `due`, or will be when its worker is done.
    dirty: HashSet<K>,
    working: HashSet<K>,
    /// By time; the number tells apart what is due at one instant.
    later: BTreeMap<(Instant, u64), K>,
    /// Where a key is in `later`.
    places: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    serial: u64,
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    /// An empty queue.
    pub fn new(backoff: Backoff) -> WorkQueue<K> {
        WorkQueue {
            state: Mutex::new(State {
                due: VecDeque::new(),
                dirty: HashSet::new(),
                working: HashSet::new(),
                later: BTreeMap::new(),
                places: HashMap::new(),
                failures: HashMap::new(),
                serial: 0,
            }),
            changed: Notify::new(),
            backoff,
        }
    }

    /// Makes a key due now.
    pub fn add(&self, key: K) {
        self.lock().add(key);
        self.changed.notify_one();
    }

    /// Makes a key due after a wait, or earlier if it was to be.
    pub fn add_after(&self, key: K, wait: Duration) {
        if wait.is_zero() {
            return self.add(key);
        }
        self.lock().add_at(key, Instant::now() + wait);
        self.changed.notify_one();
    }

    /// Makes a key due later, after each failure in a row twice as late.
    pub fn add_failed(&self, key: K) {
        let mut state = self.lock();
        let failures = state.failures.entry(key.clone()).or_default();
        *failures = failures.saturating_add(1);
        let wait = self.backoff.wait(*failures, rand::random());
        state.add_at(key, Instant::now() + wait);
        drop(state);
        self.changed.notify_one();
    }

    /// Forgets a key's failures.
    pub fn forget(&self, key: &K) {
        self.lock().failures.remove(key);
    }

    /// How often a key failed in a row.
    pub fn failures(&self, key: &K) -> u32 {
        self.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// Waits for a key; it is the caller's until [`WorkQueue::done`].
    pub async fn take(&self) -> K {
        loop {
            // Made before the look, so that an addition between the look and
            // the wait still wakes us.
            let changed = self.changed.notified();
            let next = {
                let mut state = self.lock();
                state.ripen(Instant::now());
                if let Some(key) = state.due.pop_front() {
                    state.dirty.remove(&key);
                    state.working.insert(key.clone());
                    if !state.due.is_empty() {
                        // One wake-up may stand for several keys.
                        self.changed.notify_one();
                    }
                    return key;
                }
                state.later.first_key_value().map(|((at, _), _)| *at)
            };
            match next {
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => changed.await,
            }
        }
    }

    /// Gives a key back; it is due at once if it was added meanwhile.
    pub fn done(&self, key: &K) {
        let mut state = self.lock();
        state.working.remove(key);
        if state.dirty.contains(key) {
            state.due.push_back(key.clone());
            self.changed.notify_one();
        }
    }

    /// How many keys are due now and how many are worked on.
    pub fn lengths(&self) -> (usize, usize) {
        let state = self.lock();
        (state.due.len(), state.working.len())
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        // No code that can panic runs under the lock.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn add(&mut self, key: K) {
        if let Some(place) = self.places.remove(&key) {
            self.later.remove(&place);
        }
        if self.dirty.insert(key.clone()) && !self.working.contains(&key) {
            self.due.push_back(key);
        }
    }

    fn add_at(&mut self, key: K, at: Instant) {
        if self.dirty.contains(&key) {
            return;
        }
        if let Some(place) = self.places.get(&key).copied() {
            if place.0 <= at {
                return;
            }
            self.later.remove(&place);
        }
        self.serial += 1;
        self.places.insert(key.clone(), (at, self.serial));
        self.later.insert((at, self.serial), key);
    }

    /// Moves what has become due.
    fn ripen(&mut self, now: Instant) {
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now
        {
            let key = entry.remove();
            self.places.remove(&key);
            self.add(key);
        }
    }
}

#[cfg(test)]
mod tests;
