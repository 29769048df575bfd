//! The server's own numbers and traces.
//!
//! ```text
//! gRPC ─▶ calls (a layer around every call) ─▶ numbers ─▶ exposition ─▶ GET /metrics
//!                   └─▶ a span ─▶ traces ─▶ OTLP collector
//! ```
//!
//! What containers use is told by the CRI's own metrics calls (`metrics.rs`);
//! here is how the server does its work.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::numbers::{Durations, Outcomes};

/// A layer around every gRPC call.
pub(super) mod calls;
/// Where Prometheus asks.
pub(super) mod endpoint;
/// Numbers as Prometheus reads them.
mod exposition;
/// What is counted.
mod numbers;
/// This process, as the kernel sees it.
mod process;
/// Spans, sent to a collector.
pub mod traces;

/// Everything that is counted while the server runs.
#[derive(Debug, Default)]
pub struct Telemetry {
    calls: Outcomes,
    pulls: Pulls,
    sessions: Sessions,
}

/// Pulls of images.
#[derive(Debug, Default)]
struct Pulls {
    succeeded: AtomicU64,
    failed: AtomicU64,
    durations: Durations,
}

/// Streams of clients, by what they are for.
#[derive(Debug, Default)]
struct Sessions {
    exec: Session,
    attach: Session,
    forward: Session,
}

#[derive(Debug, Default)]
struct Session {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// One more program.
    Exec,
    /// The program that runs.
    Attach,
    /// Ports of a pod.
    Forward,
}

impl Telemetry {
    /// Counts a pull that has ended.
    pub(super) fn pulled(&self, took: Duration, succeeded: bool) {
        let counter = match succeeded {
            true => &self.pulls.succeeded,
            false => &self.pulls.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.pulls.durations.note("", took);
    }

    /// Counts a stream until the value is dropped.
    pub(super) fn stream(&self, purpose: Purpose) -> Streaming<'_> {
        let session = match purpose {
            Purpose::Exec => &self.sessions.exec,
            Purpose::Attach => &self.sessions.attach,
            Purpose::Forward => &self.sessions.forward,
        };
        session.begun.fetch_add(1, Ordering::Relaxed);
        Streaming { session }
    }
}

/// A stream that is open.
#[derive(Debug)]
pub(super) struct Streaming<'a> {
    session: &'a Session,
}

impl Drop for Streaming<'_> {
    fn drop(&mut self) {
        self.session.ended.fetch_add(1, Ordering::Relaxed);
    }
}

impl Session {
    fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    fn open(&self) -> u64 {
        // An end is counted after its beginning, and read before it here.
        let ended = self.ended.load(Ordering::Relaxed);
        self.begun().saturating_sub(ended)
    }
}
