//! Who leads: one at a time, the next one soon, and no write of a leader of the past.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use berth_scheduler::api::{Api, ApiConfig, Identity, local};
use berth_scheduler::controllers::ControllersConfig;
use berth_scheduler::placement::PlacementConfig;
use berth_scheduler::server::leading::{self, Office};
use berth_scheduler::server::roster::Roll;
use berth_scheduler::store::election::{Election, EtcdElection, Reign};
use berth_scheduler::store::etcd::{EtcdConfig, EtcdStore};
use berth_scheduler::store::presence::Present;
use berth_scheduler::store::{Expected, Store, StoreError};
use berth_scheduler::trust::register::Register;
use berth_tests::etcd::Etcd;
use berth_tests::patience::stretched;
use bytes::Bytes;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use tokio_util::sync::CancellationToken;

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

/// Elected, and deaf to the end of it: as a server that was frozen, in the moment it wakes up.
struct Deaf {
    election: Arc<EtcdElection>,
    is_elected: AtomicBool,
}

#[async_trait]
impl Election for Deaf {
    async fn campaign(&self) -> Result<Reign, StoreError> {
        if self.is_elected.swap(true, Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let real = self.election.campaign().await?;
        let deaf = Reign::new(real.term, real.store.clone());
        // Its lease is renewed for as long as this process lives.
        std::mem::forget(real);
        Ok(deaf)
    }

    async fn leader(&self) -> Result<Option<String>, StoreError> {
        self.election.leader().await
    }
}

/// A server's API, and its leader's work whenever it is elected.
async fn serve(
    store: EtcdStore,
    election: Arc<dyn Election>,
    shutdown: &CancellationToken,
) -> (kube::Client, tokio::task::JoinHandle<()>) {
    let api = Api::open(Arc::new(store), ApiConfig::default()).await;
    let api = api.unwrap();
    let address = SocketAddr::from(([10, 0, 0, 1], 6443));
    let office = Office {
        api: api.clone(),
        register: Register::new(),
        roll: Roll::Sole(Present {
            address,
            node: None,
        }),
        address,
        controllers: ControllersConfig::default(),
        placement: PlacementConfig::default(),
    };
    let leading = tokio::spawn(leading::run(office, election, shutdown.clone()));
    (local::client(api, Identity::master("test")), leading)
}

async fn want_two(client: &kube::Client, name: &str) {
    let wanted = serde_json::json!({
        "metadata": { "name": name },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "main", "image": "busybox" }] },
            },
        },
    });
    let sets: kube::Api<ReplicaSet> = kube::Api::default_namespaced(client.clone());
    let wanted = serde_json::from_value(wanted).unwrap();
    sets.create(&PostParams::default(), &wanted).await.unwrap();
}

async fn count(client: &kube::Client, name: &str) -> usize {
    let pods: kube::Api<Pod> = kube::Api::default_namespaced(client.clone());
    let there = ListParams::default().labels(&format!("app={name}"));
    pods.list(&there).await.unwrap().items.len()
}

async fn until_two(client: &kube::Client, name: &str) {
    let waiting = async {
        while count(client, name).await != 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("no two pods", Duration::from_secs(60), waiting).await;
}

/// Controllers write behind the fence: those of a leader of the past make nothing, though
/// nobody told them, and its server goes on serving clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_does_not_know_its_end_makes_nothing() {
    let etcd = Etcd::start(1).unwrap();
    let (shutdown, deaf) = (CancellationToken::new(), CancellationToken::new());
    let (store, election) = candidate(&etcd, "first").await;
    let election = Arc::new(Deaf {
        election,
        is_elected: AtomicBool::new(false),
    });
    let (client, first) = serve(store, election, &deaf).await;
    want_two(&client, "early").await;
    until_two(&client, "early").await;

    etcd.etcdctl(0, &["del", "/berth/election/leader"]).unwrap();
    want_two(&client, "late").await;
    let deadline = Instant::now() + Duration::from_secs(4);
    while Instant::now() < deadline {
        assert_eq!(count(&client, "late").await, 0, "it wrote");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!first.is_finished(), "it knows");

    let (store, election) = candidate(&etcd, "second").await;
    let (_, second) = serve(store, election, &shutdown).await;
    until_two(&client, "late").await;
    // Both at work, and one of them for nothing.
    want_two(&client, "last").await;
    until_two(&client, "last").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(count(&client, "last").await, 2);
    deaf.cancel();
    shutdown.cancel();
    for leading in [first, second] {
        soon("it does not end", Duration::from_secs(60), leading)
            .await
            .unwrap();
    }
}
