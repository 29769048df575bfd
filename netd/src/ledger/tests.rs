use std::fs;
use std::time::Duration;

use crate::error::ErrorKind;
use crate::ledger::{
    BridgeOrigin, LockedLedger, Maker, NetworkRecord, PodRecord, PodState,
    remove_ledgers_of_other_boots,
};

const SOON: Duration = Duration::from_secs(10);

fn pod() -> PodRecord {
    PodRecord {
        state: PodState::Attached,
        maker: Maker::this_process().unwrap(),
        netns: "/run/pods/a/ns/net".into(),
        interface: "eth0".to_owned(),
        host_interface: "bv0".to_owned(),
        addresses: vec!["10.0.0.2".parse().unwrap()],
        host_ports: Vec::new(),
    }
}

fn network() -> NetworkRecord {
    NetworkRecord {
        bridge: "b0".to_owned(),
        bridge_origin: BridgeOrigin::Ours,
        subnets: vec!["10.0.0.0/24".parse().unwrap()],
        last_given: vec!["10.0.0.2".parse().unwrap()],
    }
}

async fn add_pod(ledger: &mut LockedLedger, id: &str) {
    ledger
        .update(|ledger| {
            ledger.networks.insert("n".to_owned(), network());
            let pods = ledger.pods.entry("n".to_owned()).or_default();
            pods.insert(id.to_owned(), pod());
        })
        .unwrap();
}

fn files(directory: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_was_written_is_read_and_an_empty_ledger_has_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = LockedLedger::open(directory.path(), SOON).await.unwrap();
    add_pod(&mut ledger, "a").await;
    drop(ledger);
    let mut ledger = LockedLedger::open(directory.path(), SOON).await.unwrap();
    assert_eq!(ledger.ledger().pod("n", "a"), Some(&pod()));
    assert_eq!(ledger.ledger().all_pods().count(), 1);
    let holders = ledger.ledger().holders("n");
    assert_eq!(holders.values().collect::<Vec<_>>(), ["a"]);
    ledger
        .update(|ledger| {
            ledger.pods.clear();
            ledger.networks.clear();
        })
        .unwrap();
    assert_eq!(files(directory.path()), ["ledger.lock"]);
}

#[tokio::test]
async fn a_half_written_ledger_is_swept_and_the_whole_one_counts() {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = LockedLedger::open(directory.path(), SOON).await.unwrap();
    add_pod(&mut ledger, "a").await;
    let unfinished = ledger.path.with_extension("new");
    drop(ledger);
    fs::write(&unfinished, "{\"networks\":{\"n\":").unwrap();
    let ledger = LockedLedger::open(directory.path(), SOON).await.unwrap();
    assert!(ledger.ledger().pod("n", "a").is_some());
    assert!(!unfinished.exists());
}

#[tokio::test]
async fn a_damaged_ledger_is_named_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = LockedLedger::open(directory.path(), SOON)
        .await
        .unwrap()
        .path
        .clone();
    for damaged in ["", "{", "{\"networks\":{},\"pods\":{},\"later\":1}"] {
        fs::write(&path, damaged).unwrap();
        let error = LockedLedger::open(directory.path(), SOON)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(error.to_string().contains("nothing was changed"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
    }
}

#[tokio::test]
async fn the_lock_is_waited_for_and_patience_ends() {
    let directory = tempfile::tempdir().unwrap();
    let held = LockedLedger::open(directory.path(), SOON).await.unwrap();
    let error = LockedLedger::open(directory.path(), Duration::from_millis(50))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("ledger.lock"), "{error}");
    let waiting = LockedLedger::open(directory.path(), SOON);
    let release = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(held);
    };
    // The one that lost patience lets go as soon as it gets the lock.
    let (taken, ()) = tokio::join!(waiting, release);
    taken.unwrap();
}

#[test]
fn ledgers_of_other_boots_go() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["ledger-0000.json", "ledger.lock", "notes.txt"] {
        fs::write(directory.path().join(name), "{}").unwrap();
    }
    remove_ledgers_of_other_boots(directory.path()).unwrap();
    assert_eq!(files(directory.path()), ["ledger.lock", "notes.txt"]);
}

#[test]
fn a_process_is_told_from_a_later_one_of_its_pid() {
    let this = Maker::this_process().unwrap();
    assert!(this.is_alive());
    let earlier = Maker {
        start_ticks: this.start_ticks - 1,
        ..this
    };
    assert!(!earlier.is_alive());
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let pid = child.id();
    child.wait().unwrap();
    let ended = Maker {
        pid,
        start_ticks: this.start_ticks,
    };
    assert!(!ended.is_alive());
}
