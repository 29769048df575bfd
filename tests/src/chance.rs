//! Numbers that look random and can be had again: splitmix64 (Steele, Lea and
//! Flood, "Fast splittable pseudorandom number generators", 2014).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A source of numbers.
#[derive(Debug)]
pub struct Chance {
    state: u64,
}

impl Chance {
    /// The same numbers from the same seed.
    pub fn new(seed: u64) -> Chance {
        Chance { state: seed }
    }

    /// A number that is less than `limit`.
    ///
    /// # Panics
    ///
    /// The limit is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    /// A time between two numbers of milliseconds.
    pub fn pause(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// Another one each time.
pub fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(1, |now| u64::from(now.subsec_nanos()))
}

/// The seed that `BERTH_STORM_SEED` asks for, or any; printed, to be asked for later.
pub fn told_seed() -> u64 {
    let asked = std::env::var("BERTH_STORM_SEED").ok();
    let seed = asked.and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(any_seed);
    println!("BERTH_STORM_SEED={seed}");
    seed
}
