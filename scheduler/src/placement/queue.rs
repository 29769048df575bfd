//! Pods that wait for a node: who is next, and who need not be tried yet.
//!
//! ```text
//!            put                       next
//!  new pod ------> ready ----------------------------> being placed
//!                    ^ ^                                 |       |
//!       time is up   | |  something happened that        | error | no node fits
//!                    | |  may help, long enough ago      v       v
//!                 delayed <--------------------------- delayed  refused
//!                          something happened that may help, too soon
//! ```
//!
//! The most important pod is first, then the oldest. A pod that failed waits one
//! second, then two, at most ten, however often something happens that may help.
//! A pod that no node fits is not tried again before something happened that the
//! filters that refused it care about; as filters may be wrong about that, it is
//! tried after five minutes anyway.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::placement::facts::{PodFacts, PodName};

/// How long pods wait.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// After the first failure; doubled for each further one.
    pub first: Duration,
    /// At most.
    pub longest: Duration,
    /// After this a pod that no node fitted is tried though nothing happened.
    pub forgotten: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(10),
            forgotten: Duration::from_secs(300),
        }
    }
}

/// Filters by their places in the table, as bits.
pub type FilterSet = u32;

/// Pods that have no node.
#[derive(Debug)]
pub struct Queue {
    patience: Patience,
    entries: HashMap<PodName, Entry>,
    ready: BTreeSet<Rank>,
    delayed: BTreeSet<(Instant, PodName)>,
    refused: BTreeSet<(Instant, PodName)>,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodFacts>,
    failures: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A gate holds it back.
    Gated,
    Ready,
    Delayed {
        until: Instant,
    },
    Refused {
        since: Instant,
        by: FilterSet,
    },
    /// It was handed out by `next`.
    Tried,
}

/// More important first, then older, then by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    unimportance: i64,
    created: i64,
    name: PodName,
}

impl Rank {
    fn of(pod: &PodFacts) -> Rank {
        Rank {
            unimportance: -i64::from(pod.priority),
            created: pod.created,
            name: pod.name.clone(),
        }
    }
}

impl Queue {
    /// An empty queue.
    pub fn new(patience: Patience) -> Queue {
        Queue {
            patience,
            entries: HashMap::new(),
            ready: BTreeSet::new(),
            delayed: BTreeSet::new(),
            refused: BTreeSet::new(),
        }
    }

    /// Takes a pod in, or what changed of it.
    ///
    /// A refused pod is tried again if it wants something else now. What others
    /// wrote into its status gives it no new chance.
    pub fn put(&mut self, pod: Arc<PodFacts>, now: Instant) {
        let (failures, before) = match self.entries.get(&pod.name) {
            Some(entry) if entry.pod.uid == pod.uid => {
                let same = entry.pod.wants_same(&pod);
                (entry.failures, Some((entry.state, same)))
            }
            _ => (0, None),
        };
        let state = match before {
            _ if !pod.wishes.gates.is_empty() => State::Gated,
            Some((State::Gated, _)) | None => State::Ready,
            Some((State::Refused { since, .. }, false)) => self.after_failure(since, failures, now),
            Some((state, _)) => state,
        };
        self.remove(&pod.name);
        let name = pod.name.clone();
        let entry = Entry {
            pod,
            failures,
            state,
        };
        self.entries.insert(name.clone(), entry);
        self.enter(&name, state);
    }

    /// The pod has a node, or is gone.
    pub fn remove(&mut self, name: &PodName) {
        self.leave(name);
        self.entries.remove(name);
    }

    /// The pod that is to be tried now.
    pub fn next(&mut self, now: Instant) -> Option<Arc<PodFacts>> {
        self.wake(now);
        let rank = self.ready.pop_first()?;
        let entry = self.entries.get_mut(&rank.name)?;
        entry.state = State::Tried;
        Some(entry.pod.clone())
    }

    /// No node fits the pod, by these filters.
    pub fn refuse(&mut self, name: &PodName, by: FilterSet, now: Instant) {
        self.fail(name, |_| State::Refused { since: now, by });
    }

    /// The pod could not be tried to the end; it is tried again after a delay.
    pub fn delay(&mut self, name: &PodName, now: Instant) {
        let patience = self.patience;
        self.fail(name, |failures| State::Delayed {
            until: now + patience.after(failures),
        });
    }

    /// Something happened: `helps` says whether a pod with such refusals may gain by it.
    pub fn reconsider(&mut self, now: Instant, helps: impl Fn(&PodFacts, FilterSet) -> bool) {
        let gaining: Vec<(PodName, State)> = self
            .refused
            .iter()
            .filter_map(|(_, name)| {
                let entry = self.entries.get(name)?;
                let State::Refused { since, by } = entry.state else {
                    return None;
                };
                let state = self.after_failure(since, entry.failures, now);
                helps(&entry.pod, by).then(|| (name.clone(), state))
            })
            .collect();
        for (name, state) in gaining {
            self.turn(&name, state);
        }
    }

    /// When `next` may give a pod that it does not give now.
    pub fn next_wake(&self) -> Option<Instant> {
        let delayed = self.delayed.first().map(|(until, _)| *until);
        let refused = self
            .refused
            .first()
            .map(|(since, _)| *since + self.patience.forgotten);
        delayed.into_iter().chain(refused).min()
    }

    /// A pod that waits.
    pub fn pod(&self, name: &PodName) -> Option<&Arc<PodFacts>> {
        self.entries.get(name).map(|entry| &entry.pod)
    }

    /// Names of all pods that wait.
    pub fn names(&self) -> impl Iterator<Item = &PodName> {
        self.entries.keys()
    }

    /// Pods that are ready, delayed, and refused.
    pub fn lengths(&self) -> [usize; 3] {
        [self.ready.len(), self.delayed.len(), self.refused.len()]
    }

    /// Whether no pod waits, in whatever state.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn wake(&mut self, now: Instant) {
        while let Some((until, name)) = self.delayed.first().cloned() {
            if until > now {
                break;
            }
            self.turn(&name, State::Ready);
        }
        while let Some((since, name)) = self.refused.first().cloned() {
            if since + self.patience.forgotten > now {
                break;
            }
            self.turn(&name, State::Ready);
        }
    }

    fn fail(&mut self, name: &PodName, state: impl Fn(u32) -> State) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        entry.failures = entry.failures.saturating_add(1);
        let state = state(entry.failures);
        self.turn(name, state);
    }

    fn after_failure(&self, since: Instant, failures: u32, now: Instant) -> State {
        let until = since + self.patience.after(failures);
        if until <= now {
            State::Ready
        } else {
            State::Delayed { until }
        }
    }

    fn turn(&mut self, name: &PodName, state: State) {
        self.leave(name);
        if let Some(entry) = self.entries.get_mut(name) {
            entry.state = state;
            self.enter(name, state);
        }
    }

    fn enter(&mut self, name: &PodName, state: State) {
        let Some(entry) = self.entries.get(name) else {
            return;
        };
        match state {
            State::Ready => self.ready.insert(Rank::of(&entry.pod)),
            State::Delayed { until } => self.delayed.insert((until, name.clone())),
            State::Refused { since, .. } => self.refused.insert((since, name.clone())),
            State::Gated | State::Tried => false,
        };
    }

    fn leave(&mut self, name: &PodName) {
        let Some(entry) = self.entries.get(name) else {
            return;
        };
        match entry.state {
            State::Ready => self.ready.remove(&Rank::of(&entry.pod)),
            State::Delayed { until } => self.delayed.remove(&(until, name.clone())),
            State::Refused { since, .. } => self.refused.remove(&(since, name.clone())),
            State::Gated | State::Tried => false,
        };
    }
}

impl Patience {
    /// How long to wait after so many failures.
    pub fn after(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        (self.first * (1 << doublings)).min(self.longest)
    }
}

#[cfg(test)]
mod tests;
