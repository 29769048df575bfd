//! A disk that is full: what was acknowledged stays, and writes go on when there is room.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_scheduler::store::embedded::{EmbeddedConfig, EmbeddedStore};
use berth_scheduler::store::{Change, Expected, Found, ListRequest, Store, StoreError};
use berth_tests::patience::stretched;
use bytes::Bytes;
use futures::StreamExt;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Runs a test on a file system of so many MiB. A thread of its own sees it, and those that
/// it starts; it goes with them. Needs root.
fn on_a_disk_of(mebibytes: usize, test: impl AsyncFnOnce(PathBuf) + Send + 'static) {
    let work = move || {
        let directory = tempfile::tempdir().unwrap();
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace needs root");
        let none: Option<&str> = None;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).unwrap();
        let size = format!("size={mebibytes}m");
        let flags = MsFlags::empty();
        mount(
            Some("none"),
            directory.path(),
            Some("tmpfs"),
            flags,
            Some(&*size),
        )
        .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test(directory.path().to_owned()));
        drop(runtime);
        nix::mount::umount2(directory.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    };
    std::thread::spawn(work).join().unwrap();
}

/// Takes all the room that is left; the file that holds it.
fn fill(directory: &Path) -> PathBuf {
    let path = directory.join("filler");
    let mut file = std::fs::File::create(&path).unwrap();
    let block = vec![1; 64 << 10];
    while std::io::Write::write_all(&mut file, &block).is_ok() {}
    path
}

async fn put(store: &EmbeddedStore, number: usize) -> Result<u64, StoreError> {
    let value = Bytes::from(vec![b'v'; 20 << 10]);
    let key = format!("/r/{number}");
    let entry = store.put(&key, value, Expected::Absent).await?;
    Ok(entry.modified)
}

/// Writes until it is acknowledged.
async fn put_within(store: &EmbeddedStore, number: usize) -> u64 {
    let deadline = Instant::now() + stretched(Duration::from_secs(60));
    loop {
        match put(store, number).await {
            Ok(revision) => return revision,
            Err(StoreError::Conflict { current, .. }) => return current.unwrap().modified,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn assert_there(store: &EmbeddedStore, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let Found { entry, .. } = store.read(&format!("/r/{number}")).await.unwrap();
        assert!(entry.is_some(), "{number} is lost");
    }
}

#[test]
fn without_room_writes_are_refused_and_all_can_be_read() {
    on_a_disk_of(48, async |directory: PathBuf| {
        let config = EmbeddedConfig {
            spare_bytes: 16 << 20,
            ..EmbeddedConfig::new(directory.join("state.redb"))
        };
        let store = EmbeddedStore::open_with(&config).unwrap();
        for number in 0..20 {
            put(&store, number).await.unwrap();
        }
        let filler = fill(&directory);
        for _ in 0..3 {
            let error = put(&store, 20).await.unwrap_err();
            assert!(error.to_string().contains("the disk is full"), "{error}");
            assert_there(&store, 0..20).await;
        }
        // A server that starts now serves what is there.
        drop(store);
        let store = EmbeddedStore::open_with(&config).unwrap();
        assert_there(&store, 0..20).await;
        std::fs::remove_file(filler).unwrap();
        put(&store, 20).await.unwrap();
        assert_there(&store, 0..21).await;
    });
}

#[test]
fn a_write_that_failed_costs_nothing_that_was_acknowledged() {
    on_a_disk_of(24, async |directory: PathBuf| {
        let config = EmbeddedConfig {
            spare_bytes: 0,
            progress: Duration::from_millis(50),
            ..EmbeddedConfig::new(directory.join("state.redb"))
        };
        let store = EmbeddedStore::open_with(&config).unwrap();
        let mut watch = store.watch("/r/", 1).await.unwrap();
        let mut next = 0;
        for _ in 0..3 {
            for _ in 0..10 {
                put(&store, next).await.unwrap();
                next += 1;
            }
            let filler = fill(&directory);
            let failed = loop {
                match put(&store, next).await {
                    Ok(_) => next += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(failed, StoreError::Unavailable(_)), "{failed}");
            std::fs::remove_file(filler).unwrap();
            put_within(&store, next).await;
            next += 1;
            assert_there(&store, 0..next).await;
        }
        // Who watched all the while was told of each once, in order.
        let last = store.list(ListRequest::default()).await.unwrap().revision;
        let mut told = Vec::new();
        let reading = async {
            loop {
                match watch.next().await.unwrap().unwrap() {
                    Change::Progress { revision } if revision >= last => return,
                    Change::Progress { .. } => {}
                    change => told.push(change.key().unwrap().to_owned()),
                }
            }
        };
        let limit = stretched(Duration::from_secs(30));
        tokio::time::timeout(limit, reading).await.unwrap();
        let wanted: Vec<String> = (0..next).map(|number| format!("/r/{number}")).collect();
        assert_eq!(told, wanted);
    });
}
