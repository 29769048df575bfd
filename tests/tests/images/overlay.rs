//! What a container sees of several layers, and what happens to them after.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use berth_cri::images::Prune;
use berth_cri::images::error::ErrorKind;
use berth_tests::image::layer::Entry;

use crate::images::fixture::{Fixture, layered};
use crate::images::server::{Faults, Server};

#[test]
fn upper_layers_hide_replace_and_add() {
    let built = layered(vec![
        vec![
            Entry::directory("etc", 0o755),
            Entry::file("etc/gone", 0o644, "1"),
            Entry::file("etc/replaced", 0o644, "old"),
            Entry::directory("cache", 0o700),
            Entry::file("cache/old", 0o644, "1"),
            Entry::directory("tmp", 0o1777),
            Entry::file("program", 0o755, "shared"),
            Entry::directory("tree", 0o755),
            Entry::file("tree/below", 0o644, "1"),
        ],
        vec![
            Entry::whiteout("etc/gone"),
            Entry::file("etc/replaced", 0o644, "new"),
            Entry::file("cache/.wh..wh..opq", 0o644, ""),
            Entry::file("cache/new", 0o644, "2"),
            // No entry for `tmp`: the lower one's mode must shine through.
            Entry::file("tmp/file", 0o644, "2"),
            // The first name is in the layer below.
            Entry::hard_link("alias", "program"),
            Entry::whiteout("tree"),
            Entry::directory("tree", 0o755),
        ],
    ]);
    let server = Server::start(&built, Faults::default());
    let fixture = Fixture::new(&Server::mirrors(&[&server]));
    let pulled = fixture.pull("team/web:1").unwrap();
    fixture.with_root(&pulled, |root| {
        assert!(!root.join("etc/gone").exists());
        assert_eq!(
            fs::read_to_string(root.join("etc/replaced")).unwrap(),
            "new"
        );
        assert!(!root.join("cache/old").exists() && root.join("cache/new").exists());
        assert_eq!(
            fs::metadata(root.join("cache")).unwrap().mode() & 0o777,
            0o700
        );
        assert_eq!(
            fs::metadata(root.join("tmp")).unwrap().mode() & 0o7777,
            0o1777
        );
        assert_eq!(fs::read_to_string(root.join("alias")).unwrap(), "shared");
        assert_eq!(fs::read_dir(root.join("tree")).unwrap().count(), 0);
        assert!(!root.join("etc/.wh.gone").exists());
    });
    fixture.assert_tidy();
}

#[test]
fn an_image_of_many_layers_is_mounted_whole() {
    let layers = (0..100)
        .map(|at| vec![Entry::file(&format!("layer-{at}"), 0o644, "x")])
        .collect();
    let server = Server::start(&layered(layers), Faults::default());
    let fixture = Fixture::new(&Server::mirrors(&[&server]));
    let pulled = fixture.pull("team/web:1").unwrap();
    fixture.with_root(&pulled, |root| {
        assert_eq!(fs::read_dir(root).unwrap().count(), 100);
    });
}

#[test]
fn a_climbing_name_is_refused_and_nothing_is_kept() {
    let evil = berth_tests::image::build(&crate::images::fixture::plan(
        vec![vec![Entry::file("good", 0o644, "x")]],
        berth_tests::image::layer::Compression::None,
    ))
    .unwrap();
    // The archive's writer refuses such a name, so it is put in afterwards: two
    // names of equal length, and the header's sum made right again.
    let mut archive = evil.layers[0].bytes.clone();
    archive[..4].copy_from_slice(b"../x");
    archive[148..156].fill(b' ');
    let sum: u32 = archive[..512].iter().map(|&byte| u32::from(byte)).sum();
    archive[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let layer = berth_tests::image::Blob::new(evil.layers[0].media_type, archive);
    let built = crate::images::fixture::of_blob(layer);
    let server = Server::start(&built, Faults::default());
    let fixture = Fixture::new(&Server::mirrors(&[&server]));
    let error = fixture.pull("team/web:1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.chain().contains("../x"), "{}", error.chain());
    assert!(fixture.names("layers").is_empty());
    fixture.assert_tidy();
}

#[test]
fn a_mounted_image_keeps_its_layers_when_it_is_removed() {
    let built = layered(vec![vec![Entry::file("file", 0o644, "content")]]);
    let server = Server::start(&built, Faults::default());
    let fixture = Fixture::new(&Server::mirrors(&[&server]));
    let pulled = fixture.pull("team/web:1").unwrap();
    fixture.with_root(&pulled, |root| {
        let removed = fixture
            .store
            .prune(Prune::Unused, &BTreeSet::new())
            .unwrap();
        assert!(removed.images.is_empty(), "a container stands on it");
        let removed = fixture.store.remove("team/web:1").unwrap();
        assert_eq!((removed.images.len(), removed.layers), (1, 0));
        assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "content");
    });
    let error = fixture.store.remove("team/web:1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let removed = fixture
        .store
        .prune(Prune::Dangling, &BTreeSet::new())
        .unwrap();
    assert_eq!(removed.layers, 1);
    assert!(fixture.names("layers").is_empty());
    let target = fixture.path("root");
    let gone = fixture.store.mount_snapshot("late", &pulled, &target, None);
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!fixture.data_dir().join("snapshots/late").exists());
    fixture.store.unmount_snapshot("late", &target).unwrap();
}

#[test]
fn a_root_is_brought_to_no_disk_and_is_mounted_again_as_it_was() {
    let built = layered(vec![vec![Entry::file("file", 0o644, "content")]]);
    let server = Server::start(&built, Faults::default());
    let fixture = Fixture::new(&Server::mirrors(&[&server]));
    let pulled = fixture.pull("team/web:1").unwrap();
    fixture.with_root(&pulled, |root| {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let place = format!(" {} ", root.canonicalize().unwrap().display());
        let line = table.lines().find(|line| line.contains(&place)).unwrap();
        // `volatile` alone, or `fsync=volatile`: kernels write it in two ways.
        assert!(line.contains("volatile"), "{line}");
        fs::write(root.join("written"), "by the container").unwrap();
        let unmounted = Command::new("umount").arg(root).status().unwrap();
        assert!(unmounted.success() && !root.join("written").exists());
        fixture
            .store
            .mount_snapshot("look", &pulled, root, None)
            .unwrap();
        let again = fs::read_to_string(root.join("written")).unwrap();
        assert_eq!(again, "by the container");
    });
}

#[test]
fn pruning_spares_what_is_named_as_used() {
    let first = layered(vec![vec![Entry::file("first", 0o644, "1")]]);
    let second = layered(vec![vec![Entry::file("second", 0o644, "2")]]);
    let server = Server::start(&first, Faults::default());
    let newer = Server::start(&second, Faults::default());
    let fixture = Fixture::new(&Server::mirrors(&[&server]));
    let old = fixture.pull("team/web:1").unwrap();
    let moved = crate::images::fixture::open(&fixture.data_dir(), &Server::mirrors(&[&newer]));
    let new = crate::images::fixture::run(moved.pull("team/web:1", Default::default())).unwrap();
    let dangling = fixture.store.find(&old.id).unwrap().unwrap();
    assert!(dangling.references.is_empty());
    let in_use = BTreeSet::from([old.id.clone()]);
    let removed = fixture.store.prune(Prune::Dangling, &in_use).unwrap();
    assert!(removed.images.is_empty());
    let removed = fixture
        .store
        .prune(Prune::Dangling, &BTreeSet::new())
        .unwrap();
    assert_eq!(removed.images, [old.id]);
    let in_use = BTreeSet::from(["team/web:1".to_owned()]);
    assert!(
        fixture
            .store
            .prune(Prune::Unused, &in_use)
            .unwrap()
            .images
            .is_empty()
    );
    let removed = fixture
        .store
        .prune(Prune::Unused, &BTreeSet::new())
        .unwrap();
    assert_eq!(removed.images, [new.id]);
    assert_eq!(
        fixture.store.usage().unwrap().bytes / 4096,
        2,
        "two empty directories of blobs"
    );
}
