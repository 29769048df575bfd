//! How long a connection has been silent.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

/// When something last went over a connection, in either direction.
#[derive(Debug)]
pub struct Idle {
    limit: Duration,
    last: Mutex<Instant>,
}

impl Idle {
    /// A connection that begins now.
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            last: Mutex::new(Instant::now()),
        }
    }

    /// Something went over it.
    pub fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Done once nothing has for the whole limit.
    pub async fn expired(&self) {
        loop {
            let end = *self.last.lock().unwrap_or_else(PoisonError::into_inner) + self.limit;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_touch_begins_the_time_anew() {
        let idle = Idle::new(Duration::from_millis(300));
        let begin = Instant::now();
        let touch = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            idle.touch();
        };
        // It asks them in this order: whatever holds the test up, the touch is in time.
        futures::join!(touch, idle.expired());
        assert!(begin.elapsed() >= Duration::from_millis(500));
    }
}
