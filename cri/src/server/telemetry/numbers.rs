//! What is counted: how often, and how long it took.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The upper bounds of a histogram's buckets, in seconds: a call of this server
/// takes from half a millisecond (a status) to minutes (a pull).
pub(super) const BOUNDS: [f64; 16] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

/// How long something took, each time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Histogram {
    /// How many fell into each bucket alone; the last has no bound.
    pub(super) buckets: [u64; BOUNDS.len() + 1],
    /// All of them together, in seconds.
    pub(super) sum: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: [0; BOUNDS.len() + 1],
            sum: 0.0,
        }
    }
}

impl Histogram {
    fn note(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let place = BOUNDS.iter().position(|bound| seconds <= *bound);
        self.buckets[place.unwrap_or(BOUNDS.len())] += 1;
        self.sum += seconds;
    }
}

/// Histograms by a label.
#[derive(Debug, Default)]
pub(super) struct Durations {
    series: Mutex<BTreeMap<String, Histogram>>,
}

impl Durations {
    pub(super) fn note(&self, label: &str, took: Duration) {
        let mut series = held(&self.series);
        match series.get_mut(label) {
            Some(histogram) => histogram.note(took),
            None => series.entry(label.to_owned()).or_default().note(took),
        }
    }

    pub(super) fn read(&self) -> BTreeMap<String, Histogram> {
        held(&self.series).clone()
    }
}

/// Calls by method and by how they ended.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    ended: Mutex<BTreeMap<(String, &'static str), u64>>,
    durations: Durations,
    begun: AtomicU64,
    done: AtomicU64,
}

impl Outcomes {
    pub(super) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// `took` is absent for calls that last as long as their caller.
    pub(super) fn end(&self, method: &str, code: &'static str, took: Option<Duration>) {
        self.done.fetch_add(1, Ordering::Relaxed);
        *held(&self.ended)
            .entry((method.to_owned(), code))
            .or_default() += 1;
        if let Some(took) = took {
            self.durations.note(method, took);
        }
    }

    pub(super) fn read(&self) -> BTreeMap<(String, &'static str), u64> {
        held(&self.ended).clone()
    }

    pub(super) fn durations(&self) -> BTreeMap<String, Histogram> {
        self.durations.read()
    }

    pub(super) fn in_flight(&self) -> u64 {
        let done = self.done.load(Ordering::Relaxed);
        self.begun.load(Ordering::Relaxed).saturating_sub(done)
    }
}

/// Whoever panicked has left whole numbers behind.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::default();
        for milliseconds in [1, 7, 3_600_000] {
            histogram.note(Duration::from_millis(milliseconds));
        }
        assert_eq!(
            histogram.buckets[1], 1,
            "one millisecond is the bound itself"
        );
        assert_eq!(histogram.buckets[4], 1);
        assert_eq!(histogram.buckets[BOUNDS.len()], 1);
        assert!((histogram.sum - 3600.008).abs() < 1e-9);
    }

    #[test]
    fn calls_are_told_apart() {
        let calls = Outcomes::default();
        calls.begin();
        calls.begin();
        calls.end("Version", "Ok", Some(Duration::from_millis(1)));
        assert_eq!(calls.in_flight(), 1);
        calls.end("GetContainerEvents", "Cancelled", None);
        assert_eq!(calls.read().len(), 2);
        assert_eq!(calls.durations().len(), 1);
        assert_eq!(calls.in_flight(), 0);
    }
}
