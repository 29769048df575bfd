//! How often a stranger may try: a bucket of tokens for each address.
//!
//! A join token's secret has 82 bits, so nobody finds one by trying; what is bounded
//! is the work that strangers make for the server, and how fast they could try.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What an address may do.
#[derive(Debug, Clone)]
pub struct Allowed {
    /// How many attempts at once.
    pub burst: u32,
    /// How long until one more is allowed.
    pub every: Duration,
}

impl Default for Allowed {
    fn default() -> Allowed {
        Allowed {
            burst: 10,
            every: Duration::from_secs(3),
        }
    }
}

/// More addresses are not remembered one by one.
const MOST_ADDRESSES: usize = 4096;

/// What addresses have left.
#[derive(Debug)]
pub struct Attempts {
    allowed: Allowed,
    /// When each address will have all of its attempts again.
    full_at: Mutex<HashMap<IpAddr, Instant>>,
}

impl Attempts {
    /// Nobody has tried yet.
    pub fn new(allowed: Allowed) -> Attempts {
        Attempts {
            allowed,
            full_at: Mutex::default(),
        }
    }

    /// Counts an attempt.
    ///
    /// # Errors
    ///
    /// It was one too many; how long to wait for the next.
    pub fn count(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        if full_at.len() >= MOST_ADDRESSES {
            full_at.retain(|_, full| *full > now);
            // Whoever has that many addresses is not slowed down by memory of ours.
            if full_at.len() >= MOST_ADDRESSES {
                full_at.clear();
            }
        }
        let span = self.allowed.every * self.allowed.burst;
        let full = full_at.get(&address).map_or(now, |full| (*full).max(now));
        let after = full + self.allowed.every;
        if after > now + span {
            return Err(after - (now + span));
        }
        full_at.insert(address, after);
        Ok(())
    }

    /// An attempt that was right costs nothing.
    pub fn forgive(&self, address: IpAddr) {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(full) = full_at.get_mut(&address) {
            *full = full
                .checked_sub(self.allowed.every)
                .unwrap_or_else(Instant::now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn three() -> Attempts {
        Attempts::new(Allowed {
            burst: 3,
            every: Duration::from_secs(10),
        })
    }

    #[test]
    fn a_burst_is_allowed_and_then_one_at_a_time() {
        let (attempts, start) = (three(), Instant::now());
        for _ in 0..3 {
            assert_eq!(attempts.count(HERE, start), Ok(()));
        }
        let second = Duration::from_secs(1);
        assert_eq!(attempts.count(HERE, start), Err(10 * second));
        assert_eq!(attempts.count(HERE, start + 4 * second), Err(6 * second));
        assert_eq!(attempts.count(HERE, start + 10 * second), Ok(()));
        assert!(attempts.count(HERE, start + 10 * second).is_err());
        let other = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(attempts.count(other, start), Ok(()));
    }

    #[test]
    fn what_was_right_is_not_counted() {
        let (attempts, start) = (three(), Instant::now());
        for _ in 0..100 {
            assert_eq!(attempts.count(HERE, start), Ok(()));
            attempts.forgive(HERE);
        }
    }

    #[test]
    fn memory_is_bounded() {
        let (attempts, start) = (three(), Instant::now());
        for number in 0..20_000_u32 {
            let _ = attempts.count(IpAddr::from(number.to_be_bytes()), start);
        }
        assert!(attempts.full_at.lock().unwrap().len() <= MOST_ADDRESSES);
    }
}
