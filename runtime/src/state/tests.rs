use std::collections::HashMap;

use super::{InitRecord, Record, StateError, StateStore, Status};
use crate::ids::ContainerId;
use crate::sys::process::HostPid;

pub fn record(id: &ContainerId, init: Option<InitRecord>) -> Record {
    Record {
        id: id.clone(),
        oci_version: "1.2.0".to_owned(),
        init,
        bundle: "/bundle".into(),
        rootfs: "/bundle/rootfs".into(),
        created: "2026-11-21T07:06:50Z".to_owned(),
        owner: "root".to_owned(),
        cgroup: None,
        cache_group: None,
        no_new_keyring: false,
        shares_pids: false,
        annotations: HashMap::new(),
    }
}

#[test]
fn an_id_is_taken_once_and_given_back() {
    let top = tempfile::tempdir().expect("a directory");
    let store = StateStore::new(top.path().join("deep/root"));
    let id = ContainerId::parse("one").expect("an id");
    assert!(matches!(
        store.open_folder(&id),
        Err(StateError::Missing(_))
    ));
    let folder = store.create_folder(&id).expect("it is free");
    assert!(matches!(
        store.create_folder(&id),
        Err(StateError::Exists(_))
    ));
    assert_eq!(store.list().expect("it lists").len(), 1);
    folder.remove().expect("it goes");
    folder.remove().expect("twice is fine");
    assert!(store.list().expect("it lists").is_empty());
}

#[test]
fn status_is_found_out() {
    let top = tempfile::tempdir().expect("a directory");
    let store = StateStore::new(top.path());
    let id = ContainerId::parse("one").expect("an id");
    let folder = store.create_folder(&id).expect("it is free");
    let making = record(&id, None);
    let seen = store.open_folder(&id).expect("it is there");
    assert_eq!(seen.observe_status(&making), Status::Creating);
    drop(folder);
    assert_eq!(
        seen.observe_status(&making),
        Status::Stopped,
        "its maker is gone"
    );
    let me = InitRecord::observe(HostPid(std::process::id() as i32)).expect("we live");
    assert_eq!(seen.observe_status(&record(&id, Some(me))), Status::Running);
    let before = InitRecord {
        start_ticks: me.start_ticks + 1,
        ..me
    };
    assert_eq!(
        seen.observe_status(&record(&id, Some(before))),
        Status::Stopped,
        "another process of the same number is not init"
    );
}

#[test]
fn a_damaged_file_is_named() {
    let top = tempfile::tempdir().expect("a directory");
    let store = StateStore::new(top.path());
    let id = ContainerId::parse("one").expect("an id");
    let folder = store.create_folder(&id).expect("it is free");
    folder.write_record(&record(&id, None)).expect("it writes");
    assert_eq!(folder.read_record().expect("it reads").id, id);
    std::fs::write(folder.path().join("state.json"), "{").expect("it writes");
    let error = folder.read_record().expect_err("half a file");
    assert!(error.to_string().contains("state.json"), "{error}");
}
