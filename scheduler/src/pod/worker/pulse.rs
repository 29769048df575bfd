//! Waiting for the next look at the node.

use std::time::Duration;

use tokio::sync::watch;

/// Says when to look again: when a change is announced, and now and then anyway.
#[derive(Debug, Clone)]
pub struct Pulse {
    period: Duration,
    changes: Option<watch::Receiver<u64>>,
}

impl Pulse {
    /// A pulse that beats at least this often.
    pub fn new(period: Duration, changes: Option<watch::Receiver<u64>>) -> Pulse {
        Pulse { period, changes }
    }

    /// Waits for the next beat.
    ///
    /// A change that was announced since the last beat is not waited for: the
    /// receiver remembers what it has seen, so nothing slips in between a look
    /// and the wait after it.
    pub async fn beat(&mut self) {
        let Some(changes) = &mut self.changes else {
            return tokio::time::sleep(self.period).await;
        };
        if let Ok(Err(_)) = tokio::time::timeout(self.period, changes.changed()).await {
            // Nobody announces changes any more.
            self.changes = None;
            tokio::time::sleep(self.period).await;
        }
    }
}
