//! What placement did, as numbers for a `/metrics` page.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
};

/// What placement did since it started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Decisions that found a node.
    pub placed: Counter,
    /// Decisions that found none.
    pub unschedulable: Counter,
    /// Bindings that the API made.
    pub bound: Counter,
    /// Bindings that failed, so that the pod was queued again.
    pub failed_bindings: Counter,
    /// Pods that were deleted to make room.
    pub victims: Counter,
    /// Events that were not sent, because too many waited.
    pub dropped_events: Counter,
    /// Microseconds spent on decisions.
    pub decision_micros: Counter,
    /// Pods that are ready to be tried.
    pub ready: Counter,
    /// Pods that wait for a delay to pass.
    pub delayed: Counter,
    /// Pods that no node fits.
    pub refused: Counter,
}

/// A number that many may change.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Reads it.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    /// The page's lines, in the text format of Prometheus.
    pub fn page(&self) -> String {
        let rows = [
            ("placed_total", "counter", &self.placed),
            ("unschedulable_total", "counter", &self.unschedulable),
            ("bound_total", "counter", &self.bound),
            ("failed_bindings_total", "counter", &self.failed_bindings),
            ("preemption_victims_total", "counter", &self.victims),
            ("dropped_events_total", "counter", &self.dropped_events),
            (
                "decision_microseconds_total",
                "counter",
                &self.decision_micros,
            ),
            ("ready_pods", "gauge", &self.ready),
            ("delayed_pods", "gauge", &self.delayed),
            ("refused_pods", "gauge", &self.refused),
        ];
        let mut page = String::new();
        for (name, kind, counter) in rows {
            // Writing to a string cannot fail.
            let _ = write!(
                page,
                "# TYPE berth_placement_{name} {kind}\nberth_placement_{name} {}\n",
                counter.read()
            );
        }
        page
    }
}
