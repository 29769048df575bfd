//! What every store promises, each promise with a prefix of its own in one store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_scheduler::store::{Change, Changes, Entry, Expected, ListRequest, Store, StoreError};
use berth_tests::patience::stretched;
use bytes::Bytes;
use futures::StreamExt;

/// Checks all promises but the one on compaction.
pub async fn check(store: Arc<dyn Store>) {
    revisions(&*store, "/registry/a/").await;
    expectations(&*store, "/registry/b/").await;
    watch_from_every_revision(&*store, "/registry/c/").await;
    neighbours_of_a_prefix(&*store, "/registry/d/").await;
    pages_of_the_past(&*store, "/registry/e/").await;
    progress_reaches_a_listing(&*store, "/registry/f/").await;
    the_future_is_refused(&*store).await;
    large_values(&*store, "/registry/g/").await;
    many_at_once(Arc::clone(&store), "/registry/h/").await;
    random_walk(&*store, "/registry/i/", 300).await;
}

/// A write that must succeed.
pub async fn put(store: &dyn Store, key: &str, value: &str) -> Entry {
    store
        .put(key, Bytes::from(value.to_owned()), Expected::Anything)
        .await
        .unwrap()
}

async fn list(
    store: &dyn Store,
    prefix: &str,
    revision: Option<u64>,
) -> Result<Vec<Entry>, StoreError> {
    let request = ListRequest {
        prefix: prefix.to_owned(),
        revision,
        ..ListRequest::default()
    };
    store.list(request).await.map(|page| page.entries)
}

/// Reads changes until progress reaches a revision.
pub async fn changes_until(changes: &mut Changes, revision: u64) -> Vec<Change> {
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
    let limit = stretched(Duration::from_secs(30));
    tokio::time::timeout(limit, read)
        .await
        .expect("the watch does not come that far");
    seen
}

async fn revisions(store: &dyn Store, prefix: &str) {
    let key = format!("{prefix}one");
    let first = put(store, &key, "1").await;
    assert_eq!(
        (first.created, first.key.as_str()),
        (first.modified, key.as_str())
    );
    let other = put(store, &format!("{prefix}two"), "x").await;
    assert!(other.modified > first.modified);
    let second = put(store, &key, "2").await;
    assert!(second.modified > other.modified);
    assert_eq!(second.created, first.created);
    let found = store.read(&key).await.unwrap();
    assert!(found.revision >= second.modified);
    assert_eq!(found.entry, Some(second.clone()));
    let gone = store.delete(&key, Expected::Anything).await.unwrap();
    assert_eq!(
        (gone.value.as_ref(), gone.created),
        (&b"2"[..], first.created)
    );
    assert!(gone.modified > second.modified);
    assert_eq!(store.read(&key).await.unwrap().entry, None);
    let again = put(store, &key, "3").await;
    assert_eq!(again.created, again.modified);
    // And the past is still there.
    assert_eq!(
        list(store, prefix, Some(first.modified)).await.unwrap(),
        [first]
    );
    assert_eq!(
        list(store, prefix, Some(second.modified)).await.unwrap(),
        [second, other.clone()]
    );
    let then = list(store, prefix, Some(gone.modified)).await.unwrap();
    assert_eq!(then, std::slice::from_ref(&other));
    assert_eq!(list(store, prefix, None).await.unwrap(), [again, other]);
}

async fn expectations(store: &dyn Store, prefix: &str) {
    let key = format!("{prefix}key");
    let value = || Bytes::from_static(b"v");
    let conflict = |outcome: Result<Entry, StoreError>| match outcome {
        Err(StoreError::Conflict { current, .. }) => current.map(|current| *current),
        other => panic!("{other:?}"),
    };
    let missing = store.put(&key, value(), Expected::Revision(1)).await;
    assert_eq!(conflict(missing), None);
    let missing = store.delete(&key, Expected::Revision(1)).await;
    assert!(
        matches!(missing, Err(StoreError::NotFound { .. })),
        "{missing:?}"
    );
    let entry = store.put(&key, value(), Expected::Absent).await.unwrap();
    let there = Some(entry.clone());
    assert_eq!(
        conflict(store.put(&key, value(), Expected::Absent).await),
        there
    );
    let wrong = Expected::Revision(entry.modified + 1);
    assert_eq!(conflict(store.put(&key, value(), wrong).await), there);
    assert_eq!(conflict(store.delete(&key, wrong).await), there);
    let right = Expected::Revision(entry.modified);
    let changed = store
        .put(&key, Bytes::from_static(b"w"), right)
        .await
        .unwrap();
    assert_eq!(
        conflict(store.delete(&key, right).await),
        Some(changed.clone())
    );
    store
        .delete(&key, Expected::Revision(changed.modified))
        .await
        .unwrap();
    let missing = store.delete(&key, Expected::Anything).await;
    assert!(
        matches!(missing, Err(StoreError::NotFound { .. })),
        "{missing:?}"
    );
}

async fn watch_from_every_revision(store: &dyn Store, prefix: &str) {
    let start = store.read("/").await.unwrap().revision;
    let mut live = store.watch(prefix, start).await.unwrap();
    for number in 0..10 {
        let key = format!("{prefix}{}", number % 3);
        put(store, &key, &number.to_string()).await;
        put(store, "/registry/elsewhere", "").await;
        if number % 4 == 3 {
            store.delete(&key, Expected::Anything).await.unwrap();
        }
    }
    let end = store.read("/").await.unwrap().revision;
    let all = changes_until(&mut live, end).await;
    assert_eq!(all.len(), 12);
    assert!(
        all.windows(2)
            .all(|pair| pair[0].revision() < pair[1].revision())
    );
    check_befores(&all);
    for revision in start..=end {
        let mut resumed = store.watch(prefix, revision).await.unwrap();
        let wanted: Vec<Change> = all
            .iter()
            .filter(|change| change.revision() > revision)
            .cloned()
            .collect();
        assert_eq!(changes_until(&mut resumed, end).await, wanted);
    }
}

/// Each change names what the one before it left.
fn check_befores(changes: &[Change]) {
    let mut state: BTreeMap<&str, &Entry> = BTreeMap::new();
    for change in changes {
        match change {
            Change::Put { entry, before } => {
                assert_eq!(before.as_ref(), state.insert(&entry.key, entry));
            }
            Change::Deleted { before, .. } => {
                assert_eq!(Some(before), state.remove(before.key.as_str()));
            }
            Change::Progress { .. } => panic!("progress among changes"),
        }
    }
}

async fn neighbours_of_a_prefix(store: &dyn Store, prefix: &str) {
    let start = store.read("/").await.unwrap().revision;
    let mut web = store.watch(&format!("{prefix}web/"), start).await.unwrap();
    let mut partial = store.watch(&format!("{prefix}we"), start).await.unwrap();
    for name in ["wd/a", "web/a", "web0/a", "web", "we", "wf"] {
        put(store, &format!("{prefix}{name}"), "").await;
    }
    let end = store.read("/").await.unwrap().revision;
    let keys = |changes: Vec<Change>| -> Vec<String> {
        let name = |change: &Change| {
            change
                .key()
                .unwrap()
                .strip_prefix(prefix)
                .unwrap()
                .to_owned()
        };
        changes.iter().map(name).collect()
    };
    assert_eq!(keys(changes_until(&mut web, end).await), ["web/a"]);
    assert_eq!(
        keys(changes_until(&mut partial, end).await),
        ["web/a", "web0/a", "web", "we"]
    );
    let listed = list(store, &format!("{prefix}web/"), None).await.unwrap();
    assert_eq!(listed.len(), 1);
}

async fn pages_of_the_past(store: &dyn Store, prefix: &str) {
    for number in 0..25 {
        put(store, &format!("{prefix}{number:02}"), "old").await;
    }
    let mut request = ListRequest {
        prefix: prefix.to_owned(),
        limit: Some(10),
        ..ListRequest::default()
    };
    let mut names = Vec::new();
    for round in 0_u32.. {
        let page = store.list(request.clone()).await.unwrap();
        assert!(
            page.entries
                .iter()
                .all(|entry| entry.value.as_ref() == b"old")
        );
        assert_eq!(page.remaining, [15, 5, 0][round as usize]);
        assert_eq!(page.more, page.remaining > 0);
        names.extend(page.entries.iter().map(|entry| entry.key.clone()));
        // What happens between the pages does not show in them.
        put(store, &format!("{prefix}{:02}", 24 - round), "new").await;
        put(store, &format!("{prefix}1{round}a"), "new").await;
        store
            .delete(&format!("{prefix}2{round}"), Expected::Anything)
            .await
            .unwrap();
        request.revision = Some(page.revision);
        request.after = names.last().cloned();
        if !page.more {
            break;
        }
    }
    let wanted: Vec<String> = (0..25)
        .map(|number| format!("{prefix}{number:02}"))
        .collect();
    assert_eq!(names, wanted);
}

async fn progress_reaches_a_listing(store: &dyn Store, prefix: &str) {
    put(store, "/registry/elsewhere", "1").await;
    let request = ListRequest {
        prefix: prefix.to_owned(),
        ..ListRequest::default()
    };
    let page = store.list(request).await.unwrap();
    let mut changes = store.watch(prefix, page.revision).await.unwrap();
    put(store, "/registry/elsewhere", "2").await;
    let now = store.read("/").await.unwrap().revision;
    assert!(now > page.revision);
    assert_eq!(changes_until(&mut changes, now).await, []);
}

async fn the_future_is_refused(store: &dyn Store) {
    let ahead = store.read("/").await.unwrap().revision + 1000;
    let listed = list(store, "/", Some(ahead)).await;
    assert!(
        matches!(listed, Err(StoreError::Ahead { .. })),
        "{listed:?}"
    );
    let watched = store.watch("/", ahead).await.map(drop);
    assert!(
        matches!(watched, Err(StoreError::Ahead { .. })),
        "{watched:?}"
    );
}

async fn large_values(store: &dyn Store, prefix: &str) {
    let start = store.read("/").await.unwrap().revision;
    let mut changes = store.watch(prefix, start).await.unwrap();
    let key = format!("{prefix}large");
    let value = Bytes::from(vec![b'x'; 1_400_000]);
    for _ in 0..4 {
        store
            .put(&key, value.clone(), Expected::Anything)
            .await
            .unwrap();
    }
    let end = store.read("/").await.unwrap().revision;
    assert_eq!(changes_until(&mut changes, end).await.len(), 4);
    // And from the past, where they come in one go.
    let mut changes = store.watch(prefix, start).await.unwrap();
    assert_eq!(changes_until(&mut changes, end).await.len(), 4);
    let refused = store
        .put(&key, Bytes::from(vec![0; 2_000_000]), Expected::Anything)
        .await;
    assert!(
        matches!(refused, Err(StoreError::TooLarge { .. })),
        "{refused:?}"
    );
    store.delete(&key, Expected::Anything).await.unwrap();
}

/// Eight writers raise one counter by compare-and-swap; three watchers see every step.
async fn many_at_once(store: Arc<dyn Store>, prefix: &str) {
    let key = format!("{prefix}counter");
    let start = put(&*store, &key, "0").await.modified;
    let mut watchers = Vec::new();
    for _ in 0..3 {
        watchers.push(store.watch(prefix, start).await.unwrap());
    }
    let raise = |store: Arc<dyn Store>, key: String| async move {
        for _ in 0..10 {
            raise_once(&*store, &key).await;
        }
    };
    let writers: Vec<_> = (0..8)
        .map(|_| tokio::spawn(raise(Arc::clone(&store), key.clone())))
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let found = store.read(&key).await.unwrap();
    assert_eq!(found.entry.unwrap().value.as_ref(), b"80");
    for mut watcher in watchers {
        let seen = changes_until(&mut watcher, found.revision).await;
        let values: Vec<String> = seen.iter().map(value_of).collect();
        let wanted: Vec<String> = (1..=80).map(|number| number.to_string()).collect();
        assert_eq!(values, wanted);
    }
}

async fn raise_once(store: &dyn Store, key: &str) {
    let deadline = Instant::now() + stretched(Duration::from_secs(30));
    loop {
        let entry = store.read(key).await.unwrap().entry.unwrap();
        let number: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
        let value = Bytes::from((number + 1).to_string());
        match store
            .put(key, value, Expected::Revision(entry.modified))
            .await
        {
            Ok(_) => return,
            Err(StoreError::Conflict { .. }) => assert!(Instant::now() < deadline),
            Err(error) => panic!("{error}"),
        }
    }
}

fn value_of(change: &Change) -> String {
    match change {
        Change::Put { entry, .. } => String::from_utf8(entry.value.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Random writes beside a map; random looks into the past of both.
async fn random_walk(store: &dyn Store, prefix: &str, steps: usize) {
    let start = store.read("/").await.unwrap().revision;
    let mut states = vec![(start, BTreeMap::new())];
    let mut written = 0;
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for step in 0..steps {
        let key = format!("{prefix}{}", dice.below(12));
        let mut state: BTreeMap<String, Entry> = states.last().unwrap().1.clone();
        match dice.below(4) {
            0 if state.contains_key(&key) => {
                let gone = store.delete(&key, Expected::Anything).await.unwrap();
                state.remove(&key);
                states.push((gone.modified, state));
                written += 1;
            }
            1 => {
                let (revision, state) = &states[dice.below(states.len())];
                let listed = list(store, prefix, Some(*revision)).await.unwrap();
                assert!(listed.iter().eq(state.values()), "at {revision}");
            }
            _ => {
                let expected = state
                    .get(&key)
                    .map_or(Expected::Absent, |e| Expected::Revision(e.modified));
                let value = Bytes::from(step.to_string());
                let entry = store.put(&key, value, expected).await.unwrap();
                let revision = entry.modified;
                state.insert(key, entry);
                states.push((revision, state));
                written += 1;
            }
        }
    }
    let end = store.read("/").await.unwrap().revision;
    let mut changes = store.watch(prefix, start).await.unwrap();
    let seen = changes_until(&mut changes, end).await;
    assert_eq!(seen.len(), written);
    check_befores(&seen);
}

/// Numbers that look random and are the same in each run (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

/// A store that keeps history for a moment only: what is older is refused, what lives stays.
pub async fn check_compaction(store: &dyn Store) {
    let prefix = "/registry/z/";
    let old = put(store, &format!("{prefix}lives"), "1").await;
    put(store, &format!("{prefix}changes"), "1").await;
    for number in 0..20 {
        put(store, &format!("{prefix}changes"), &number.to_string()).await;
    }
    let deadline = Instant::now() + stretched(Duration::from_secs(20));
    loop {
        match list(store, prefix, Some(old.modified)).await {
            Err(StoreError::Compacted { .. }) => break,
            Ok(_) => assert!(Instant::now() < deadline, "nothing is compacted"),
            Err(error) => panic!("{error}"),
        }
        // Something must happen for etcd's history to have a later end.
        put(store, "/registry/elsewhere", "").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut refused = store.watch(prefix, old.modified).await;
    if let Ok(changes) = &mut refused {
        // A store may tell it in the stream.
        let first = changes.next().await.unwrap();
        assert!(
            matches!(first, Err(StoreError::Compacted { .. })),
            "{first:?}"
        );
    } else {
        assert!(matches!(refused, Err(StoreError::Compacted { .. })));
    }
    let page = store
        .list(ListRequest {
            prefix: prefix.to_owned(),
            ..ListRequest::default()
        })
        .await;
    let page = page.unwrap();
    assert_eq!(page.entries.len(), 2);
    assert!(page.entries.contains(&old));
    let mut changes = store.watch(prefix, page.revision).await.unwrap();
    let last = put(store, &format!("{prefix}changes"), "last").await;
    assert_eq!(changes_until(&mut changes, last.modified).await.len(), 1);
}
