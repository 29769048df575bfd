//! Who was heard last, and when, on this process's clock.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// The last renewal of each node.
#[derive(Default)]
pub struct Pulses(Mutex<HashMap<String, Pulse>>);

struct Pulse {
    /// What the lease says; only compared, never counted with.
    renewed: Option<Timestamp>,
    seen: Instant,
}

impl Pulses {
    /// Notes a lease. Returns whether the node was silent or unknown before, and is heard again.
    pub fn hear(
        &self,
        node: &str,
        renewed: Option<Timestamp>,
        silence: Duration,
        now: Instant,
    ) -> bool {
        let mut all = self.lock();
        match all.get_mut(node) {
            // The same lease again, as after a list: no sign of life.
            Some(pulse) if pulse.renewed == renewed => false,
            Some(pulse) => {
                let was_silent = now.duration_since(pulse.seen) >= silence;
                *pulse = Pulse { renewed, seen: now };
                was_silent
            }
            None => {
                all.insert(node.to_owned(), Pulse { renewed, seen: now });
                true
            }
        }
    }

    /// In how long the node will have been silent for too long; none if it has. A node that was
    /// never heard counts as heard when it is asked for first.
    pub fn silent_in(&self, node: &str, silence: Duration, now: Instant) -> Option<Duration> {
        let mut all = self.lock();
        let unheard = Pulse {
            renewed: None,
            seen: now,
        };
        let pulse = all.entry(node.to_owned()).or_insert(unheard);
        let left = silence.checked_sub(now.duration_since(pulse.seen));
        left.filter(|left| !left.is_zero())
    }

    /// Whether a node was heard within a time.
    pub fn heard_within(&self, node: &str, time: Duration, now: Instant) -> bool {
        let all = self.lock();
        all.get(node)
            .is_some_and(|pulse| now.duration_since(pulse.seen) < time)
    }

    /// Whether any node at all was heard within a time.
    pub fn anybody_within(&self, time: Duration, now: Instant) -> bool {
        let all = self.lock();
        all.values()
            .any(|pulse| now.duration_since(pulse.seen) < time)
    }

    /// Forgets a node that does not exist.
    pub fn forget(&self, node: &str) {
        self.lock().remove(node);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Pulse>> {
        // A map of plain values is whole after every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use tokio::time::Instant;

    use super::Pulses;

    #[test]
    fn a_node_is_silent_once_its_lease_has_not_changed_for_long_enough() {
        let (pulses, start) = (Pulses::default(), Instant::now());
        let silence = Duration::from_secs(8);
        let at = |seconds| start + Duration::from_secs(seconds);
        let lease = |second| Timestamp::from_second(second).ok();
        assert!(pulses.hear("a", lease(1), silence, start));
        assert_eq!(
            pulses.silent_in("a", silence, at(3)),
            Some(Duration::from_secs(5))
        );
        // A node whose clock is wrong lives as long as it renews.
        assert!(!pulses.hear("a", lease(-900), silence, at(4)));
        assert_eq!(
            pulses.silent_in("a", silence, at(11)),
            Some(Duration::from_secs(1))
        );
        // The same lease told again is no renewal.
        assert!(!pulses.hear("a", lease(-900), silence, at(11)));
        assert_eq!(pulses.silent_in("a", silence, at(12)), None);
        assert!(pulses.hear("a", lease(5), silence, at(13)));
        assert_eq!(pulses.silent_in("a", silence, at(13)), Some(silence));
        assert!(pulses.heard_within("a", Duration::from_secs(4), at(16)));
        assert!(!pulses.heard_within("a", Duration::from_secs(4), at(17)));
        // One without any lease has its time too, from the first look.
        assert_eq!(pulses.silent_in("b", silence, at(0)), Some(silence));
        assert_eq!(pulses.silent_in("b", silence, at(8)), None);
        assert!(pulses.anybody_within(Duration::from_secs(4), at(16)));
        assert!(!pulses.anybody_within(Duration::from_secs(4), at(17)));
        pulses.forget("b");
        assert_eq!(pulses.silent_in("b", silence, at(9)), Some(silence));
    }
}
