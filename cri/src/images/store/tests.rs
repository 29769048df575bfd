use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    (directory, store)
}

fn put_layer(store: &Store, content: &str) -> Digest {
    let chain = Digest::of(content.as_bytes());
    fs::create_dir_all(store.layer_diff(&chain)).unwrap();
    let record = LayerRecord {
        diff_id: chain.clone(),
        bytes: 7,
        inodes: 1,
        hides_all_below: false,
        describes_root: false,
    };
    let text = serde_json::to_vec(&record).unwrap();
    fs::write(store.layer(&chain).join("layer.json"), text).unwrap();
    chain
}

fn collect(store: &Store) -> Freed {
    store.collect(&store.lock_index().unwrap()).unwrap()
}

#[test]
fn what_a_lease_or_a_snapshot_names_is_not_collected() {
    let (_directory, store) = store();
    let leased = put_layer(&store, "leased");
    let mounted = put_layer(&store, "mounted");
    let idle = put_layer(&store, "idle");
    let lease = store.lease(std::slice::from_ref(&leased)).unwrap();
    let snapshot = store.snapshots().join("container");
    fs::create_dir(&snapshot).unwrap();
    let record = SnapshotRecord {
        image: Digest::of(b"image"),
        layers: vec![mounted.clone()],
    };
    let text = serde_json::to_vec(&record).unwrap();
    fs::write(snapshot.join("snapshot.json"), text).unwrap();
    let freed = collect(&store);
    assert_eq!((freed.layers, freed.bytes), (1, 7));
    freed.delete();
    assert!(store.has_layer(&leased) && store.has_layer(&mounted));
    assert!(!store.has_layer(&idle));
    drop(lease);
    store.remove_snapshot(&snapshot).unwrap();
    assert_eq!(collect(&store).layers, 2);
}

#[test]
fn an_opening_deletes_what_has_no_holder_and_leaves_the_rest() {
    let (directory, store) = store();
    let (dead, alive) = (Digest::of(b"dead"), Digest::of(b"alive"));
    for chain in [&dead, &alive] {
        fs::create_dir_all(store.ingest(chain).join("diff")).unwrap();
        fs::write(store.ingest_lock(chain), "").unwrap();
    }
    let held = disk::try_lock(&store.ingest_lock(&alive)).unwrap().unwrap();
    let lease = store.lease(&[]).unwrap();
    let dead_lease = directory.path().join("images/leases/1-1-1");
    fs::write(&dead_lease, "[]").unwrap();
    let unfinished = directory.path().join("images/index.json.unfinished");
    fs::write(&unfinished, "[").unwrap();
    fs::create_dir(store.snapshots().join(".removed-1")).unwrap();
    Store::open(directory.path()).unwrap();
    assert!(!store.ingest(&dead).exists() && !store.ingest_lock(&dead).exists());
    assert!(store.ingest(&alive).exists() && store.ingest_lock(&alive).exists());
    assert!(!dead_lease.exists() && lease.path.exists());
    assert!(!unfinished.exists());
    assert_eq!(fs::read_dir(store.snapshots()).unwrap().count(), 0);
    drop(held);
}

#[test]
fn after_a_boot_only_layers_with_a_use_are_trusted() {
    let (directory, store) = store();
    let boot = directory.path().join("images/boot");
    let idle = put_layer(&store, "idle");
    Store::open(directory.path()).unwrap();
    assert!(store.has_layer(&idle), "this boot's own");
    let named = put_layer(&store, "named");
    let mut locked = store.lock_index().unwrap();
    locked.index.put(Record {
        id: Digest::of(b"image"),
        references: Vec::new(),
        digests: Vec::new(),
        layers: vec![named.clone()],
        size_bytes: 0,
        stored_at: jiff::Timestamp::UNIX_EPOCH,
    });
    store.write_index(&locked).unwrap();
    drop(locked);
    // A lease without a holder was that boot's.
    let lease = directory.path().join("images/leases/1-1-1");
    fs::write(lease, serde_json::to_vec(&[&idle]).unwrap()).unwrap();
    let this_boot = fs::read(&boot).unwrap();
    fs::write(&boot, "another").unwrap();
    Store::open(directory.path()).unwrap();
    assert!(!store.layer(&idle).exists());
    assert!(store.has_layer(&named));
    assert_eq!(fs::read(&boot).unwrap(), this_boot);
}

#[test]
fn a_blob_that_changed_on_disk_is_not_read() {
    let (_directory, store) = store();
    let locked = store.lock_index().unwrap();
    let digest = store.write_blob(&locked, b"config").unwrap();
    assert_eq!(store.read_blob(&digest).unwrap(), b"config");
    fs::write(store.blob(&digest), b"cracked").unwrap();
    let error = store.read_blob(&digest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}
