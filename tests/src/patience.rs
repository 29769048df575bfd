//! How long to wait, on a machine that may be slow.
//!
//! Limits in the suites are for a real machine. Under emulation everything takes
//! ten times as long, and a limit there says nothing about what is tested: the
//! variable `BERTH_TEST_SLOWNESS` stretches them all. What a test asserts about
//! how long something *may* take is stretched too, never dropped.

use std::sync::OnceLock;
use std::time::Duration;

/// A limit for this machine, from one for a real machine.
pub fn stretched(limit: Duration) -> Duration {
    static SLOWNESS: OnceLock<u32> = OnceLock::new();
    limit
        * *SLOWNESS.get_or_init(|| {
            let asked = std::env::var("BERTH_TEST_SLOWNESS").ok();
            asked.and_then(|text| text.parse().ok()).unwrap_or(1)
        })
}
