//! Who leads: one at a time, the next one soon, and no write of a leader of the past.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_scheduler::store::election::{Election, EtcdElection, Reign};
use berth_scheduler::store::etcd::{EtcdConfig, EtcdStore};
use berth_scheduler::store::{Expected, Store};
use berth_tests::etcd::Etcd;
use berth_tests::patience::stretched;
use bytes::Bytes;

const LEASE: Duration = Duration::from_secs(3);

async fn candidate(etcd: &Etcd, name: &str) -> (EtcdStore, Arc<EtcdElection>) {
    let config = EtcdConfig {
        progress: Duration::from_secs(1),
        patience: stretched(Duration::from_secs(20)),
        ..EtcdConfig::new(etcd.endpoints())
    };
    let store = EtcdStore::open(config).await.unwrap();
    let election = EtcdElection::new(store.clone(), name, LEASE);
    (store, Arc::new(election))
}

async fn soon<T>(what: &str, limit: Duration, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(stretched(limit), wait)
        .await
        .unwrap_or_else(|_| panic!("{what}"))
}

async fn campaign(election: &EtcdElection) -> Reign {
    soon(
        "nobody is elected",
        Duration::from_secs(20),
        election.campaign(),
    )
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_leads_and_the_next_follows_who_resigns() {
    let etcd = Etcd::start(1).unwrap();
    let (_, first) = candidate(&etcd, "first").await;
    let (_, second) = candidate(&etcd, "second").await;
    let reign = campaign(&first).await;
    assert_eq!(second.leader().await.unwrap().as_deref(), Some("first"));
    let waiting = tokio::spawn(async move { second.campaign().await });
    // For longer than the lease: it is renewed.
    tokio::time::sleep(LEASE + Duration::from_secs(2)).await;
    assert!(!waiting.is_finished() && !reign.lost.is_cancelled());
    let term = reign.term;
    let resigned = Instant::now();
    reign.resign().await;
    let next = soon("nobody follows", Duration::from_secs(5), waiting)
        .await
        .unwrap()
        .unwrap();
    assert!(
        resigned.elapsed() < stretched(LEASE),
        "it waited for the lease"
    );
    assert!(next.term > term);
    assert_eq!(first.leader().await.unwrap().as_deref(), Some("second"));
}

/// A leader that etcd does not hear any more knows it before anybody else leads; what it
/// writes afterwards is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_is_told_and_fenced() {
    let mut etcd = Etcd::start(3).unwrap();
    let (store, first) = candidate(&etcd, "first").await;
    let reign = campaign(&first).await;
    let fenced = store.fenced(reign.fence.clone().unwrap());
    let entry = fenced
        .put("/registry/a", Bytes::new(), Expected::Absent)
        .await
        .unwrap();
    etcd.kill(0).unwrap();
    etcd.kill(1).unwrap();
    let cut = Instant::now();
    soon("it does not notice", LEASE * 2, reign.lost.cancelled()).await;
    // A member that led goes on renewing leases until it notices that it is alone, an election's
    // time later (and who leads next gives each lease its whole time anew).
    let election = Duration::from_secs(2);
    let limit = stretched(LEASE + election);
    assert!(cut.elapsed() <= limit, "{:?}", cut.elapsed());
    etcd.restart(0).unwrap();
    etcd.restart(1).unwrap();
    let (_, second) = candidate(&etcd, "second").await;
    let next = campaign(&second).await;
    assert!(next.term > reign.term);
    // The first one comes back with a write under way.
    for expected in [Expected::Anything, Expected::Revision(entry.modified)] {
        let late = fenced
            .put("/registry/a", Bytes::from_static(b"late"), expected)
            .await;
        assert!(late.unwrap_err().to_string().contains("leads no longer"));
    }
    let late = fenced.delete("/registry/a", Expected::Anything).await;
    assert!(late.unwrap_err().to_string().contains("leads no longer"));
    assert_eq!(store.read("/registry/a").await.unwrap().entry, Some(entry));
}

/// One member lost is no reason to lead no longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_outlives_a_member() {
    let mut etcd = Etcd::start(3).unwrap();
    let (_, first) = candidate(&etcd, "first").await;
    let reign = campaign(&first).await;
    let follower = (etcd.leader().unwrap() + 1) % 3;
    etcd.kill(follower).unwrap();
    let lost = tokio::time::timeout(LEASE * 3, reign.lost.cancelled()).await;
    assert!(lost.is_err(), "the reign ended with a member");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_key_an_operator_deletes_is_told() {
    let etcd = Etcd::start(1).unwrap();
    let (_, first) = candidate(&etcd, "first").await;
    let reign = campaign(&first).await;
    etcd.etcdctl(0, &["del", "/berth/election/leader"]).unwrap();
    soon(
        "it is not told",
        Duration::from_secs(2),
        reign.lost.cancelled(),
    )
    .await;
}
