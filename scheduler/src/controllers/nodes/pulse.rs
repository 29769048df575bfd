//! Who was heard last, and when, on this process's clock.
//!
//! How long a node may be silent is what its lease says that it holds: berth's agent says 8 s
//! and renews every 2, a kubelet says 40 and renews every 10.

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
    /// How long the node may be silent.
    silence: Duration,
    seen: Instant,
}

impl Pulse {
    fn silent_for(&self, now: Instant) -> Duration {
        now.duration_since(self.seen)
    }

    /// Heard in the last half of the time that it may be silent: a node that lives renews
    /// twice in it.
    fn is_lively(&self, now: Instant) -> bool {
        self.silent_for(now) < self.silence / 2
    }
}

impl Pulses {
    /// Notes a lease, which holds for `silence`. Returns whether the node was silent or unknown
    /// before, and is heard again.
    pub fn hear(
        &self,
        node: &str,
        renewed: Option<Timestamp>,
        silence: Duration,
        now: Instant,
    ) -> bool {
        let mut all = self.lock();
        let heard = Pulse {
            renewed,
            silence,
            seen: now,
        };
        match all.get_mut(node) {
            // The same lease again, as after a list: no sign of life.
            Some(pulse) if pulse.renewed == renewed => false,
            Some(pulse) => {
                let was_silent = pulse.silent_for(now) >= pulse.silence;
                *pulse = heard;
                was_silent
            }
            None => {
                all.insert(node.to_owned(), heard);
                true
            }
        }
    }

    /// How long a node may be silent; one that was never heard, `unheard`.
    pub fn silence_of(&self, node: &str, unheard: Duration) -> Duration {
        self.lock().get(node).map_or(unheard, |pulse| pulse.silence)
    }

    /// In how long the node will have been silent for too long; none if it has. A node that was
    /// never heard counts as heard when it is asked for first.
    pub fn silent_in(&self, node: &str, silence: Duration, now: Instant) -> Option<Duration> {
        let mut all = self.lock();
        let unheard = Pulse {
            renewed: None,
            silence,
            seen: now,
        };
        let pulse = all.entry(node.to_owned()).or_insert(unheard);
        let left = pulse.silence.checked_sub(pulse.silent_for(now));
        left.filter(|left| !left.is_zero())
    }

    /// Whether a node was heard only just.
    pub fn is_lively(&self, node: &str, now: Instant) -> bool {
        let all = self.lock();
        all.get(node).is_some_and(|pulse| pulse.is_lively(now))
    }

    /// Whether any node at all was heard only just.
    pub fn anybody_is_lively(&self, now: Instant) -> bool {
        self.lock().values().any(|pulse| pulse.is_lively(now))
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
        assert!(pulses.is_lively("a", at(16)));
        assert!(!pulses.is_lively("a", at(17)));
        // One without any lease has its time too, from the first look.
        assert_eq!(pulses.silent_in("b", silence, at(0)), Some(silence));
        assert_eq!(pulses.silent_in("b", silence, at(8)), None);
        assert!(pulses.anybody_is_lively(at(16)));
        assert!(!pulses.anybody_is_lively(at(17)));
        pulses.forget("b");
        assert_eq!(pulses.silent_in("b", silence, at(9)), Some(silence));
    }

    /// A kubelet renews every 10 s a lease that holds for 40.
    #[test]
    fn a_node_may_be_silent_for_as_long_as_its_lease_holds() {
        let (pulses, start) = (Pulses::default(), Instant::now());
        let (usual, long) = (Duration::from_secs(8), Duration::from_secs(40));
        let at = |seconds| start + Duration::from_secs(seconds);
        let lease = |second| Timestamp::from_second(second).ok();
        assert_eq!(pulses.silence_of("k", usual), usual);
        assert!(pulses.hear("k", lease(1), long, start));
        assert_eq!(pulses.silence_of("k", usual), long);
        assert_eq!(
            pulses.silent_in("k", usual, at(10)),
            Some(Duration::from_secs(30))
        );
        assert!(pulses.is_lively("k", at(10)));
        assert!(!pulses.hear("k", lease(2), long, at(10)));
        assert_eq!(pulses.silent_in("k", usual, at(50)), None);
        assert!(pulses.hear("k", lease(3), usual, at(51)));
        assert_eq!(pulses.silent_in("k", usual, at(51)), Some(usual));
    }
}
