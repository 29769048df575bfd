//! Forgetting history: etcd keeps every revision until somebody compacts.
//!
//! Each server compacts by its own samples of time and revision. Several doing so harm nobody:
//! compacting what is compacted is refused, and a server that has just started, and has no
//! samples of the past, compacts nothing until it has.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::EtcdConfig;
use super::calls::Calls;

/// Compacts until `shutdown`.
pub async fn run(calls: Calls, config: EtcdConfig, shutdown: CancellationToken) {
    tokio::select! {
        () = keep_short(&calls, &config) => {}
        () = shutdown.cancelled() => {}
    }
}

async fn keep_short(calls: &Calls, config: &EtcdConfig) {
    let period = (config.history / 10).clamp(Duration::from_millis(50), Duration::from_secs(30));
    let mut samples = VecDeque::new();
    let mut compacted = 0;
    loop {
        if let Ok(revision) = calls.revision().await {
            samples.push_back((Instant::now(), revision));
            let by_age = plan_by_age(&mut samples, config.history);
            let target = by_age.max(revision.saturating_sub(config.history_changes));
            if target > compacted && compact(calls, target).await {
                compacted = target;
            }
        }
        sleep(period).await;
    }
}

/// The revision of the newest sample that is old enough, 0 if none is; forgets older ones.
fn plan_by_age(samples: &mut VecDeque<(Instant, u64)>, age: Duration) -> u64 {
    while samples
        .get(1)
        .is_some_and(|(taken, _)| taken.elapsed() >= age)
    {
        samples.pop_front();
    }
    match samples.front() {
        Some((taken, revision)) if taken.elapsed() >= age => *revision,
        _ => 0,
    }
}

async fn compact(calls: &Calls, revision: u64) -> bool {
    let mut client = calls.client();
    let revision = i64::try_from(revision).unwrap_or(i64::MAX);
    match timeout(calls.attempt(), client.compact(revision, None)).await {
        Ok(Ok(_)) => true,
        // Another server was first, or the next round tries again.
        Ok(Err(error)) => {
            tracing::debug!("compacting etcd at {revision}: {error}");
            true
        }
        Err(_) => false,
    }
}
