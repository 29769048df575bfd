//! The embedded store beside a model that remembers everything, and its file in bad hands.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestRunner};

use super::{EmbeddedConfig, EmbeddedStore};
use crate::store::hub::RingLimits;
use crate::store::{Change, Changes, Entry, Expected, ListRequest, Store, StoreError};

/// What a store should hold: the state at every revision, and every change.
#[derive(Default)]
struct Model {
    states: BTreeMap<u64, BTreeMap<String, Entry>>,
    changes: Vec<Change>,
    revision: u64,
}

impl Model {
    fn new() -> Self {
        let states = BTreeMap::from([(1, BTreeMap::new())]);
        Self {
            states,
            changes: Vec::new(),
            revision: 1,
        }
    }

    fn now(&self) -> &BTreeMap<String, Entry> {
        &self.states[&self.revision]
    }

    fn advance(&mut self, change: Change) {
        let mut state = self.now().clone();
        self.revision += 1;
        match &change {
            Change::Put { entry, .. } => state.insert(entry.key.clone(), entry.clone()),
            Change::Deleted { before, .. } => state.remove(&before.key),
            Change::Progress { .. } => None,
        };
        self.states.insert(self.revision, state);
        self.changes.push(change);
    }

    fn put(&mut self, key: &str, value: &Bytes, expected: Expected) -> Option<Entry> {
        let before = self.now().get(key).cloned();
        if !expected.holds(before.as_ref()) {
            return None;
        }
        let modified = self.revision + 1;
        let created = before.as_ref().map_or(modified, |before| before.created);
        let entry = Entry {
            key: key.to_owned(),
            value: value.clone(),
            created,
            modified,
        };
        self.advance(Change::Put {
            entry: entry.clone(),
            before,
        });
        Some(entry)
    }

    fn delete(&mut self, key: &str, expected: Expected) -> Option<Entry> {
        let before = self.now().get(key).cloned()?;
        if !expected.holds(Some(&before)) {
            return None;
        }
        let revision = self.revision + 1;
        let answer = Entry {
            modified: revision,
            ..before.clone()
        };
        self.advance(Change::Deleted { before, revision });
        Some(answer)
    }

    fn list(&self, prefix: &str, revision: u64) -> Vec<Entry> {
        let state = &self.states[&revision];
        state
            .values()
            .filter(|entry| entry.key.starts_with(prefix))
            .cloned()
            .collect()
    }

    fn after(&self, prefix: &str, revision: u64) -> Vec<Change> {
        let wanted = |change: &&Change| {
            change.revision() > revision && change.key().is_some_and(|key| key.starts_with(prefix))
        };
        self.changes.iter().filter(wanted).cloned().collect()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put {
        key: usize,
        size: usize,
        expected: usize,
    },
    Delete {
        key: usize,
        expected: usize,
    },
    List {
        prefix: usize,
        back: u64,
        limit: usize,
    },
    Watch {
        prefix: usize,
        back: u64,
    },
    Reopen,
}

const KEYS: [&str; 6] = [
    "/r/a/x/1", "/r/a/x/2", "/r/a/y/1", "/r/b/1", "/r/b/12", "/s",
];
const PREFIXES: [&str; 7] = ["", "/", "/r/", "/r/a/", "/r/a/x/", "/r/b/1", "/none/"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..KEYS.len(), 0..40_usize, 0..4_usize)
            .prop_map(|(key, size, expected)| Step::Put { key, size, expected }),
        3 => (0..KEYS.len(), 0..4_usize).prop_map(|(key, expected)| Step::Delete { key, expected }),
        3 => (0..PREFIXES.len(), any::<u64>(), 1..4_usize)
            .prop_map(|(prefix, back, limit)| Step::List { prefix, back, limit }),
        2 => (0..PREFIXES.len(), any::<u64>()).prop_map(|(prefix, back)| Step::Watch { prefix, back }),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..50)
}

/// No expectation, absence, the right revision, or a wrong one.
fn expectation(choice: usize, current: Option<&Entry>) -> Expected {
    let modified = current.map_or(0, |entry| entry.modified);
    [
        Expected::Anything,
        Expected::Absent,
        Expected::Revision(modified),
        Expected::Revision(modified + 1),
    ][choice]
}

fn config(path: &Path) -> EmbeddedConfig {
    EmbeddedConfig {
        // Small, so that watches resume from the log, the ring and the topic alike.
        ring: RingLimits {
            changes: 5,
            ..RingLimits::default()
        },
        progress: Duration::from_millis(20),
        ..EmbeddedConfig::new(path)
    }
}

/// Reads until progress reaches a revision.
async fn changes_until(mut changes: Changes, revision: u64) -> Vec<Change> {
    let mut seen = Vec::new();
    let read = async {
        loop {
            match changes.next().await.unwrap().unwrap() {
                Change::Progress { revision: reached } if reached >= revision => return,
                Change::Progress { .. } => {}
                change => seen.push(change),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .expect("no progress");
    seen
}

async fn pages(store: &EmbeddedStore, prefix: &str, revision: u64, limit: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut after = None;
    loop {
        let request = ListRequest {
            prefix: prefix.to_owned(),
            after: after.clone(),
            limit: Some(limit),
            revision: Some(revision),
        };
        let page = store.list(request).await.unwrap();
        assert_eq!(page.revision, revision);
        assert_eq!(page.more, page.remaining > 0);
        after = page.entries.last().map(|entry| entry.key.clone());
        let more = page.more;
        entries.extend(page.entries);
        if !more {
            return entries;
        }
    }
}

async fn play(path: &Path, steps: Vec<Step>) {
    let mut store = EmbeddedStore::open_with(&config(path)).unwrap();
    let mut model = Model::new();
    let always = store.watch("/", 1).await.unwrap();
    let mut reopened = false;
    for step in steps {
        match step {
            Step::Put {
                key,
                size,
                expected,
            } => {
                let value = Bytes::from(vec![b'v'; size]);
                let expected = expectation(expected, model.now().get(KEYS[key]));
                let current = model.now().get(KEYS[key]).cloned();
                match (
                    store.put(KEYS[key], value.clone(), expected).await,
                    model.put(KEYS[key], &value, expected),
                ) {
                    (Ok(entry), Some(wanted)) => assert_eq!(entry, wanted),
                    (Err(StoreError::Conflict { current: found, .. }), None) => {
                        assert_eq!(found.map(|found| *found), current);
                    }
                    other => panic!("store and model differ: {other:?}"),
                }
            }
            Step::Delete { key, expected } => {
                let current = model.now().get(KEYS[key]).cloned();
                let expected = expectation(expected, current.as_ref());
                match (
                    store.delete(KEYS[key], expected).await,
                    model.delete(KEYS[key], expected),
                ) {
                    (Ok(entry), Some(wanted)) => assert_eq!(entry, wanted),
                    (Err(StoreError::NotFound { .. }), None) => assert_eq!(current, None),
                    (Err(StoreError::Conflict { current: found, .. }), None) => {
                        assert_eq!(found.map(|found| *found), current);
                    }
                    other => panic!("store and model differ: {other:?}"),
                }
            }
            Step::List {
                prefix,
                back,
                limit,
            } => {
                let revision = 1 + back % model.revision;
                let found = pages(&store, PREFIXES[prefix], revision, limit).await;
                assert_eq!(found, model.list(PREFIXES[prefix], revision));
            }
            Step::Watch { prefix, back } => {
                let revision = 1 + back % model.revision;
                let changes = store.watch(PREFIXES[prefix], revision).await.unwrap();
                let seen = changes_until(changes, model.revision).await;
                assert_eq!(seen, model.after(PREFIXES[prefix], revision));
            }
            Step::Reopen => {
                drop(store);
                reopened = true;
                store = EmbeddedStore::open_with(&config(path)).unwrap();
            }
        }
        let found = store.read(KEYS[0]).await.unwrap();
        assert_eq!(found.revision, model.revision);
        assert_eq!(found.entry.as_ref(), model.now().get(KEYS[0]));
    }
    if !reopened {
        assert_eq!(changes_until(always, model.revision).await, model.changes);
    }
}

#[test]
fn behaves_as_a_model_that_forgets_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(Config {
        cases: 40,
        ..Config::default()
    });
    let outcome = runner.run(&steps(), |steps| {
        let directory = tempfile::tempdir().unwrap();
        runtime.block_on(play(&directory.path().join("state.redb"), steps));
        Ok(())
    });
    outcome.unwrap();
}

async fn fill(store: &EmbeddedStore, count: usize) {
    for number in 0..count {
        let key = format!("/r/{}", number % 3);
        store
            .put(&key, Bytes::from(number.to_string()), Expected::Anything)
            .await
            .unwrap();
    }
}

async fn wait_for_compaction(store: &EmbeddedStore, asked: u64) -> u64 {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let request = ListRequest {
            revision: Some(asked),
            ..ListRequest::default()
        };
        match store.list(request).await {
            Err(StoreError::Compacted { oldest, .. }) => return oldest,
            Ok(_) => assert!(
                std::time::Instant::now() < deadline,
                "nothing was compacted"
            ),
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn history_is_cut_by_number_and_what_lives_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let config = EmbeddedConfig {
        history_changes: 20,
        ring: RingLimits {
            changes: 3,
            ..RingLimits::default()
        },
        ..config(&path)
    };
    let store = EmbeddedStore::open_with(&config).unwrap();
    fill(&store, 60).await;
    // The writer cuts behind its answers, so it may have some way to go yet; here it ends.
    let cut = wait_for_compaction(&store, 39).await;
    assert!((40..=41).contains(&cut), "{cut}");
    let oldest = 41;
    let now = store.list(ListRequest::default()).await.unwrap();
    assert_eq!(now.entries.len(), 3);
    assert_eq!(now.revision, 61);
    // The oldest revision can be read in full and watched from.
    let then = ListRequest {
        revision: Some(oldest),
        ..ListRequest::default()
    };
    assert_eq!(store.list(then).await.unwrap().entries.len(), 3);
    let seen = changes_until(store.watch("/", oldest).await.unwrap(), 61).await;
    assert_eq!(seen.len() as u64, 61 - oldest);
    assert!(matches!(
        store.watch("/", 39).await,
        Err(StoreError::Compacted { .. })
    ));
    assert!(matches!(
        store.watch("/", 62).await,
        Err(StoreError::Ahead {
            asked: 62,
            current: 61
        })
    ));
}

#[tokio::test]
async fn history_is_cut_by_age_while_nothing_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let config = EmbeddedConfig {
        history: Duration::from_millis(300),
        ..config(&path)
    };
    let store = EmbeddedStore::open_with(&config).unwrap();
    fill(&store, 10).await;
    store.delete("/r/0", Expected::Anything).await.unwrap();
    assert_eq!(wait_for_compaction(&store, 11).await, 12);
    drop(store);
    // The revision goes on from where it was, though no record of it is left.
    let store = EmbeddedStore::open_with(&config).unwrap();
    let entry = store
        .put("/r/9", Bytes::new(), Expected::Absent)
        .await
        .unwrap();
    assert_eq!(entry.modified, 13);
}

#[tokio::test]
async fn a_watcher_that_sleeps_through_compaction_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let config = EmbeddedConfig {
        history_changes: 20,
        ring: RingLimits {
            changes: 3,
            ..RingLimits::default()
        },
        ..config(&path)
    };
    let store = EmbeddedStore::open_with(&config).unwrap();
    let mut changes = store.watch("/r/", 1).await.unwrap();
    // More than a topic holds, so that its place there is lost.
    fill(&store, 300).await;
    wait_for_compaction(&store, 200).await;
    let last = loop {
        match changes.next().await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(last, StoreError::Compacted { .. }), "{last}");
    assert!(changes.next().await.is_none(), "an error ends the stream");
}

#[tokio::test]
async fn a_slow_watcher_misses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open_with(&config(&directory.path().join("state.redb"))).unwrap();
    let changes = store.watch("/r/", 1).await.unwrap();
    fill(&store, 400).await;
    let seen = changes_until(changes, 401).await;
    let revisions: Vec<u64> = seen.iter().map(Change::revision).collect();
    assert_eq!(revisions, (2..=401).collect::<Vec<_>>());
}

#[tokio::test]
async fn of_many_who_create_the_same_key_one_succeeds() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&directory.path().join("state.redb")).unwrap();
    let writes =
        (0..50).map(|number| store.put("/r/one", Bytes::from(vec![number]), Expected::Absent));
    let outcomes = futures::future::join_all(writes).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert_eq!(store.read("/r/one").await.unwrap().revision, 2);
}

#[tokio::test]
async fn a_value_beyond_the_limit_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&directory.path().join("state.redb")).unwrap();
    let refused = store
        .put("/r/a", Bytes::from(vec![0; 1_500_001]), Expected::Anything)
        .await;
    assert!(matches!(
        refused,
        Err(StoreError::TooLarge {
            bytes: 1_500_001,
            ..
        })
    ));
    assert_eq!(store.read("/r/a").await.unwrap().entry, None);
}

fn refusal(path: &Path) -> String {
    match EmbeddedStore::open(path) {
        Err(error @ StoreError::Unusable { .. }) => error.to_string(),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("{} was opened", path.display()),
    }
}

#[tokio::test]
async fn a_second_process_is_refused_while_the_first_runs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let first = EmbeddedStore::open(&path).unwrap();
    assert!(refusal(&path).contains("another process has this store open"));
    // A client that still watches does not keep the file.
    let mut watch = first.watch("/", 1).await.unwrap();
    drop(first);
    EmbeddedStore::open(&path).unwrap();
    let last = watch.next().await.unwrap().unwrap_err();
    assert!(last.to_string().contains("closed"), "{last}");
}

#[tokio::test]
async fn what_is_no_store_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    std::fs::write(&path, "kind: Pod\n").unwrap();
    assert!(refusal(&path).contains("not a berth store"));
    assert_eq!(std::fs::read(&path).unwrap(), b"kind: Pod\n");
    assert!(refusal(&directory.path().join("none/state.redb")).contains("No such file"));
}

#[tokio::test]
async fn another_format_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    drop(EmbeddedStore::open(&path).unwrap());
    let database = redb::Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    write
        .open_table(super::tables::FACTS)
        .unwrap()
        .insert("format", 9)
        .unwrap();
    write.commit().unwrap();
    drop(database);
    assert!(refusal(&path).contains("format 9 and this berth reads format 1"));
}

#[tokio::test]
async fn damage_anywhere_in_the_file_is_told_or_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let store = EmbeddedStore::open(&path).unwrap();
    fill(&store, 50).await;
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let mut told = 0;
    for place in (0..whole.len()).step_by(whole.len() / 60) {
        let mut damaged = whole.clone();
        for byte in damaged.iter_mut().skip(place).take(64) {
            *byte ^= 0x5a;
        }
        std::fs::write(&path, &damaged).unwrap();
        match EmbeddedStore::open(&path) {
            Err(error) => {
                assert!(matches!(error, StoreError::Unusable { .. }), "{error:?}");
                told += 1;
            }
            // The damage hit a page that is free: then nothing may be missing.
            Ok(store) => {
                let page = store.list(ListRequest::default()).await.unwrap();
                assert_eq!(
                    (page.revision, page.entries.len()),
                    (51, 3),
                    "damage at {place}"
                );
            }
        }
    }
    assert!(told > 0);
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    refusal(&path);
}
