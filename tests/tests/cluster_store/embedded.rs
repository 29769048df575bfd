//! The file: conformance, and `kill -9` in the middle of writing.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use berth_scheduler::store::embedded::{EmbeddedConfig, EmbeddedStore};
use berth_scheduler::store::hub::RingLimits;
use berth_scheduler::store::{ListRequest, Store};

use super::conformance;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_every_promise() {
    let directory = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig {
        progress: Duration::from_millis(100),
        ..EmbeddedConfig::new(directory.path().join("state.redb"))
    };
    conformance::check(Arc::new(EmbeddedStore::open_with(&config).unwrap())).await;
}

/// The same with a ring so small that every resumed watch reads the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_every_promise_without_memory() {
    let directory = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig {
        progress: Duration::from_millis(100),
        ring: RingLimits {
            changes: 1,
            bytes: 1 << 20,
        },
        ..EmbeddedConfig::new(directory.path().join("state.redb"))
    };
    conformance::check(Arc::new(EmbeddedStore::open_with(&config).unwrap())).await;
}

#[tokio::test]
async fn forgets_what_is_old() {
    let directory = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig {
        progress: Duration::from_millis(100),
        history: Duration::from_millis(500),
        ..EmbeddedConfig::new(directory.path().join("state.redb"))
    };
    let store = EmbeddedStore::open_with(&config).unwrap();
    conformance::check_compaction(&store).await;
}

/// Kills a writing process ten times, each time a little later, on one file.
#[tokio::test]
async fn every_acknowledged_write_survives_kill() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.redb");
    let mut revision = 0;
    let mut total = 0;
    for round in 0..10 {
        let acknowledged = write_and_kill(&file, Duration::from_millis(150 + 37 * round));
        assert!(!acknowledged.is_empty());
        total += acknowledged.len();
        let store = EmbeddedStore::open(&file).unwrap();
        let page = store.list(ListRequest::default()).await.unwrap();
        let found: HashMap<String, u64> = page
            .entries
            .iter()
            .map(|entry| {
                (
                    entry.key.clone(),
                    number(std::str::from_utf8(&entry.value).unwrap()),
                )
            })
            .collect();
        for (key, wanted) in &acknowledged {
            // A later write of the same key may be on disk whose acknowledgement was not printed.
            assert!(
                found[key] >= *wanted,
                "{key}: {wanted} was acknowledged, {} is there",
                found[key]
            );
        }
        assert!(page.revision > revision, "the revision never goes back");
        revision = page.revision;
    }
    assert!(
        total > 100,
        "{total} keys were written: too few to prove anything"
    );
}

/// What was acknowledged last, by key, in the time until `kill -9`.
fn write_and_kill(file: &std::path::Path, after: Duration) -> HashMap<String, u64> {
    let mut process = Command::new(env!("CARGO_BIN_EXE_berth-store"))
        .arg(file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(process.stdout.take().unwrap());
    let mut lines = output.lines();
    let first = lines.next().unwrap().unwrap();
    let reader = std::thread::spawn(move || {
        let mut acknowledged = HashMap::new();
        for line in std::iter::once(first).chain(lines.map_while(Result::ok)) {
            let (key, value) = line.split_once(' ').unwrap();
            acknowledged.insert(key.to_owned(), number(value));
        }
        acknowledged
    });
    std::thread::sleep(after);
    process.kill().unwrap();
    process.wait().unwrap();
    reader.join().unwrap()
}

fn number(text: &str) -> u64 {
    text.parse().unwrap()
}
