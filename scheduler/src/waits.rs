//! Waits between attempts: longer with each failure, never the same on two nodes.
//!
//! A client's library gives a watch that broke up to half a minute before it is begun
//! again, and forgets failures only after two minutes without one. A node that was
//! cut off would be ready seconds after its cable is back, get pods, and not hear of
//! them for that half minute. So watches here wait by [`WatchWaits`].

use std::time::Duration;

use kube::runtime::utils::Backoff;
use rand::RngExt;
use tokio::time::Instant;

/// Waits that grow.
#[derive(Debug, Clone)]
pub struct Waits {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Waits {
    /// Begins with the first, ends with the longest.
    pub fn new((first, longest): (Duration, Duration)) -> Waits {
        Waits {
            first,
            longest,
            next: first,
        }
    }

    /// The next wait: a random half of it is taken off, so that a thousand agents
    /// whose server came back do not all ask in the same moment.
    pub fn draw(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Waits.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.draw()).await;
    }

    /// Begins again, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A watch that does not fail for so long is sound.
const SOUND: Duration = Duration::from_secs(5);

/// Between a watch's end and its next beginning: two seconds at most.
#[derive(Debug, Clone)]
pub struct WatchWaits {
    waits: Waits,
    failed: Option<Instant>,
}

impl Default for WatchWaits {
    fn default() -> WatchWaits {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(2));
        WatchWaits {
            waits: Waits::new((first, longest)),
            failed: None,
        }
    }
}

impl Iterator for WatchWaits {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.failed = Some(Instant::now());
        Some(self.waits.draw())
    }
}

impl Backoff for WatchWaits {
    // The library counts the intention to list as a success too.
    fn reset(&mut self) {
        if self.failed.is_some_and(|failed| failed.elapsed() > SOUND) {
            self.waits.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Instant, Waits, WatchWaits};
    use kube::runtime::utils::Backoff;
    use std::time::Duration;

    #[test]
    fn waits_grow_to_the_longest_and_begin_again() {
        let second = Duration::from_secs(1);
        let mut waits = Waits::new((second, second * 3));
        for whole in [1, 2, 3, 3] {
            let wait = waits.draw();
            assert!(
                wait >= second * whole / 2 && wait <= second * whole,
                "{wait:?}"
            );
        }
        waits.reset();
        assert!(waits.draw() <= second);
    }

    #[test]
    fn a_watch_waits_two_seconds_at_most_and_little_once_it_was_sound() {
        let mut waits = WatchWaits::default();
        for _ in 0..20 {
            let wait = waits.next().unwrap();
            assert!(wait <= Duration::from_secs(2), "{wait:?}");
            waits.reset();
        }
        assert!(waits.next().unwrap() >= Duration::from_secs(1));
        waits.failed = Instant::now().checked_sub(Duration::from_secs(6));
        waits.reset();
        assert!(waits.next().unwrap() <= Duration::from_millis(100));
    }
}
