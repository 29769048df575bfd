//! etcd: conformance on three members, and members that die, freeze and come back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_scheduler::store::etcd::{EtcdConfig, EtcdStore};
use berth_scheduler::store::hub::RingLimits;
use berth_scheduler::store::{Expected, Store, StoreError};
use berth_tests::etcd::Etcd;
use berth_tests::patience::stretched;
use bytes::Bytes;
use futures::StreamExt;

use super::conformance;

fn config(etcd: &Etcd) -> EtcdConfig {
    EtcdConfig {
        progress: Duration::from_millis(300),
        attempt: Duration::from_secs(2),
        patience: stretched(Duration::from_secs(20)),
        ..EtcdConfig::new(etcd.endpoints())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_keep_every_promise() {
    let etcd = Etcd::start(3).unwrap();
    let store = EtcdStore::open(config(&etcd)).await.unwrap();
    conformance::check(Arc::new(store)).await;
    // The same with a ring so small that every resumed watch asks etcd.
    let forgetful = EtcdConfig {
        prefix: "/other".to_owned(),
        ring: RingLimits {
            changes: 1,
            bytes: 1 << 20,
        },
        ..config(&etcd)
    };
    let store = EtcdStore::open(forgetful).await.unwrap();
    conformance::check(Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_forgotten() {
    let etcd = Etcd::start(1).unwrap();
    let config = EtcdConfig {
        history: Duration::from_millis(500),
        // What the ring still has is served, whatever etcd has forgotten.
        ring: RingLimits {
            changes: 1,
            bytes: 1 << 20,
        },
        ..config(&etcd)
    };
    let store = EtcdStore::open(config).await.unwrap();
    conformance::check_compaction(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_see_each_others_writes_in_one_order() {
    let etcd = Etcd::start(1).unwrap();
    let one = EtcdStore::open(config(&etcd)).await.unwrap();
    let two = EtcdStore::open(config(&etcd)).await.unwrap();
    let start = one.read("/").await.unwrap().revision;
    let mut watches = Vec::new();
    for store in [&one, &two] {
        watches.push(store.watch("/registry/", start).await.unwrap());
    }
    for number in 0..20 {
        let store: &dyn Store = if number % 2 == 0 { &one } else { &two };
        conformance::put(store, &format!("/registry/{}", number % 3), "").await;
    }
    let end = two.read("/").await.unwrap().revision;
    let first = conformance::changes_until(&mut watches[0], end).await;
    assert_eq!(first.len(), 20);
    assert_eq!(
        first,
        conformance::changes_until(&mut watches[1], end).await
    );
}

/// What somebody deletes with `etcdctl` in one transaction has one revision for all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_share_a_revision_are_all_told() {
    let etcd = Etcd::start(1).unwrap();
    let store = EtcdStore::open(config(&etcd)).await.unwrap();
    for number in 0..10 {
        conformance::put(&store, &format!("/registry/{number}"), "").await;
    }
    let start = store.read("/").await.unwrap().revision;
    let mut changes = store.watch("/registry/", start).await.unwrap();
    etcd.etcdctl(0, &["del", "--prefix", "/berth/registry/"])
        .unwrap();
    let end = store.read("/").await.unwrap().revision;
    assert_eq!(
        conformance::changes_until(&mut changes, end).await.len(),
        10
    );
    // A write that is not ours does not hold up progress.
    etcd.etcdctl(0, &["put", "/foreign", "x"]).unwrap();
    let end = store.read("/").await.unwrap().revision;
    assert_eq!(conformance::changes_until(&mut changes, end).await, []);
}

/// Kills one member after the other, the leader first, while a writer and a watcher go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_member_is_noticed_by_nobody() {
    let mut etcd = Etcd::start(3).unwrap();
    let store = Arc::new(EtcdStore::open(config(&etcd)).await.unwrap());
    let start = store.read("/").await.unwrap().revision;
    let mut changes = store.watch("/registry/", start).await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            let mut written = 0_u64;
            while !*stopped.borrow() {
                let value = Bytes::from(written.to_string());
                // Each key is created once, so that a lost write or a second one shows.
                let key = format!("/registry/{written:06}");
                store.put(&key, value, Expected::Absent).await.unwrap();
                written += 1;
            }
            written
        }
    });
    let pause = || tokio::time::sleep(stretched(Duration::from_millis(1500)));
    pause().await;
    for _ in 0..2 {
        let leader = etcd.leader().unwrap();
        etcd.kill(leader).unwrap();
        pause().await;
        etcd.restart(leader).unwrap();
    }
    let frozen = (etcd.leader().unwrap() + 1) % 3;
    etcd.freeze(frozen).unwrap();
    pause().await;
    pause().await;
    etcd.thaw(frozen).unwrap();
    stop.send(true).unwrap();
    let limit = stretched(Duration::from_secs(30));
    let written = tokio::time::timeout(limit, writer).await.unwrap().unwrap();
    assert!(written > 50, "{written} writes");
    let end = store.read("/").await.unwrap().revision;
    let seen = conformance::changes_until(&mut changes, end).await;
    let keys: Vec<&str> = seen.iter().map(|change| change.key().unwrap()).collect();
    let wanted: Vec<String> = (0..written)
        .map(|number| format!("/registry/{number:06}"))
        .collect();
    assert_eq!(keys, wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_calls_and_watches_fail_within_their_patience() {
    let mut etcd = Etcd::start(3).unwrap();
    let patience = stretched(Duration::from_secs(3));
    let config = EtcdConfig {
        patience,
        ..config(&etcd)
    };
    let store = EtcdStore::open(config).await.unwrap();
    let start = store.read("/").await.unwrap().revision;
    let mut changes = store.watch("/registry/", start).await.unwrap();
    etcd.kill(0).unwrap();
    etcd.kill(1).unwrap();
    let began = Instant::now();
    let refused = store
        .put("/registry/a", Bytes::new(), Expected::Anything)
        .await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    assert!(began.elapsed() < patience + stretched(Duration::from_secs(4)));
    let limit = stretched(Duration::from_secs(20));
    let ended = async {
        while !matches!(
            changes.next().await,
            Some(Err(StoreError::Unavailable(_))) | None
        ) {}
    };
    tokio::time::timeout(limit, ended)
        .await
        .expect("the watch goes on without a majority");
    etcd.restart(0).unwrap();
    let deadline = Instant::now() + stretched(Duration::from_secs(20));
    while store
        .put("/registry/b", Bytes::new(), Expected::Anything)
        .await
        .is_err()
    {
        assert!(
            Instant::now() < deadline,
            "no write though a majority is there"
        );
    }
    while store.watch("/registry/", start).await.is_err() {
        assert!(
            Instant::now() < deadline,
            "no watch though a majority is there"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
