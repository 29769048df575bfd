use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use super::{Backoff, WorkQueue};

const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(100),
    longest: Duration::from_secs(1),
};

/// Longer than any wait here that is to end.
const NEVER: Duration = Duration::from_millis(150);

async fn nothing_within(queue: &WorkQueue<&str>, wait: Duration) {
    assert!(timeout(wait, queue.take()).await.is_err());
}

#[test]
fn waits_double_up_to_the_longest_and_jitter_adds_at_most_half() {
    let waits: Vec<u128> = (1..7).map(|n| BACKOFF.wait(n, 0.0).as_millis()).collect();
    assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
    assert_eq!(BACKOFF.wait(1, 1.0).as_millis(), 150);
    assert_eq!(BACKOFF.wait(u32::MAX, 0.0).as_millis(), 1000);
}

#[tokio::test]
async fn a_key_added_often_is_taken_once() {
    let queue = WorkQueue::new(BACKOFF);
    queue.add("a");
    queue.add("b");
    queue.add("a");
    assert_eq!(queue.take().await, "a");
    assert_eq!(queue.take().await, "b");
    queue.done(&"a");
    queue.done(&"b");
    nothing_within(&queue, NEVER).await;
}

#[tokio::test]
async fn a_key_added_while_it_is_worked_on_comes_again_after() {
    let queue = WorkQueue::new(BACKOFF);
    queue.add("a");
    assert_eq!(queue.take().await, "a");
    queue.add("a");
    queue.add("a");
    nothing_within(&queue, NEVER).await;
    queue.done(&"a");
    assert_eq!(queue.take().await, "a");
    queue.done(&"a");
    nothing_within(&queue, NEVER).await;
}

#[tokio::test]
async fn the_earliest_of_several_waits_counts() {
    let queue = WorkQueue::new(BACKOFF);
    let start = Instant::now();
    queue.add_after("a", Duration::from_secs(100));
    queue.add_after("a", Duration::from_millis(60));
    queue.add_after("a", Duration::from_secs(50));
    assert_eq!(queue.take().await, "a");
    let waited = start.elapsed().as_millis();
    assert!((60..10_000).contains(&waited), "{waited}");
    queue.done(&"a");
    nothing_within(&queue, NEVER).await;
}

#[tokio::test]
async fn what_is_due_now_is_not_due_later_as_well() {
    let queue = WorkQueue::new(BACKOFF);
    queue.add_after("a", Duration::from_millis(60));
    queue.add("a");
    assert_eq!(queue.take().await, "a");
    queue.done(&"a");
    nothing_within(&queue, NEVER).await;
}

#[tokio::test]
async fn failures_make_a_key_wait_and_are_forgotten() {
    let queue = WorkQueue::new(BACKOFF);
    // Only the least is promised: how late a busy machine is, is not the queue's.
    for (failures, least) in [(1, 100), (2, 200), (3, 400)] {
        let start = Instant::now();
        queue.add_failed("a");
        assert_eq!(queue.failures(&"a"), failures);
        queue.take().await;
        queue.done(&"a");
        let waited = start.elapsed().as_millis();
        assert!(waited >= least, "{waited}");
    }
    queue.forget(&"a");
    assert_eq!(queue.failures(&"a"), 0);
}

#[tokio::test]
async fn no_two_workers_have_one_key_and_none_is_lost() {
    let queue = Arc::new(WorkQueue::new(BACKOFF));
    let working = Arc::new(std::sync::Mutex::new(std::collections::HashSet::new()));
    let seen = Arc::new(std::sync::Mutex::new(std::collections::HashSet::new()));
    for _ in 0..4 {
        let (queue, working, seen) = (queue.clone(), working.clone(), seen.clone());
        tokio::spawn(async move {
            loop {
                let key: u32 = queue.take().await;
                assert!(working.lock().unwrap().insert(key));
                tokio::time::sleep(Duration::from_millis(u64::from(key % 7))).await;
                working.lock().unwrap().remove(&key);
                seen.lock().unwrap().insert(key);
                queue.done(&key);
            }
        });
    }
    for round in 0..300_u32 {
        queue.add(round % 50);
        queue.add_after(1000 + round, Duration::from_millis(u64::from(round % 13)));
        if round % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while seen.lock().unwrap().len() < 350 {
        assert!(Instant::now() < deadline, "{:?}", queue.lengths());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
