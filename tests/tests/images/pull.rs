//! What a pull brings, and what it refuses.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::Arc;

use berth_cri::images::LayerState;
use berth_tests::image::layer::{Compression, Content, Entry};
use berth_tests::image::{self, busybox};
use berth_tests::registry::{Access, Registry};

use crate::images::fixture::{Fixture, Record, layered, plan, run};

#[test]
fn a_short_name_is_pulled_from_the_mirror_and_its_tree_is_whole() {
    let registry = Registry::start(Access::Open).unwrap();
    let built = image::build(&busybox::plan().unwrap()).unwrap();
    registry.push(&built, "library/busybox", "latest").unwrap();
    let fixture = Fixture::new(&registry.mirror_configuration());
    let pulled = fixture.pull("busybox").unwrap();
    assert_eq!(pulled.id, built.config.digest);
    assert_eq!(pulled.references, ["docker.io/library/busybox:latest"]);
    let by_digest = format!("docker.io/library/busybox@{}", built.manifest.digest);
    assert_eq!(pulled.digests, std::slice::from_ref(&by_digest));
    assert_eq!(fixture.store.find("busybox").unwrap().unwrap(), pulled);
    assert_eq!(fixture.store.find(&by_digest).unwrap().unwrap(), pulled);
    assert_eq!(fixture.store.list().unwrap(), std::slice::from_ref(&pulled));
    let command = pulled.config.config().as_ref().unwrap().cmd().clone();
    assert_eq!(command.unwrap(), ["sh"]);
    fixture.with_root(&pulled, |root| {
        let program = fs::metadata(root.join("bin/busybox")).unwrap();
        let link = fs::metadata(root.join("bin/sh")).unwrap();
        assert_eq!(program.ino(), link.ino());
        assert_eq!(
            fs::metadata(root.join("tmp")).unwrap().mode() & 0o7777,
            0o1777
        );
        fs::write(root.join("etc/written"), "by the container").unwrap();
        let usage = fixture.store.snapshot_usage("look").unwrap();
        assert!(usage.bytes > 0 && usage.inodes >= 3, "{usage:?}");
    });
    assert!(fixture.store.snapshot_usage("look").is_err());
    fixture.assert_tidy();
}

#[test]
fn layers_that_are_there_are_not_fetched_again() {
    let registry = Registry::start(Access::Open).unwrap();
    let base = vec![Entry::file("base", 0o644, "base")];
    let first = layered(vec![base.clone(), vec![Entry::file("one", 0o644, "1")]]);
    let second = layered(vec![base, vec![Entry::file("two", 0o644, "2")]]);
    registry.push(&first, "team/first", "1").unwrap();
    registry.push(&second, "team/second", "1").unwrap();
    let fixture = Fixture::new(&registry.mirror_configuration());
    fixture.pull("team/first:1").unwrap();
    let record = Arc::new(Record::default());
    let pulled = run(fixture.store.pull("team/second:1", record.request())).unwrap();
    assert_eq!(record.count(LayerState::Exists), 1);
    assert_eq!(record.count(LayerState::Done), 1);
    assert_eq!(fixture.names("layers").len(), 3);
    fixture.with_root(&pulled, |root| {
        assert!(root.join("base").exists() && root.join("two").exists());
        assert!(!root.join("one").exists());
    });
    // The shared layer stays for the image that is left.
    let removed = fixture.store.remove("team/first:1").unwrap();
    assert_eq!((removed.layers, removed.images.len()), (1, 1));
    fixture.with_root(&pulled, |root| assert!(root.join("base").exists()));
}

#[test]
fn every_kind_of_file_arrives_with_its_owner_mode_and_time() {
    let registry = Registry::start(Access::Open).unwrap();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let fifo = Entry {
        content: Content::Fifo,
        ..Entry::file("fifo", 0o600, "")
    };
    let device = Entry {
        content: Content::Device { major: 1, minor: 3 },
        ..Entry::file("null", 0o666, "")
    };
    let entries = vec![
        Entry::directory("sbin", 0o2755).owned_by(0, 50),
        Entry::file("sbin/su", 0o4755, "program"),
        Entry::hard_link("sbin/sg", "sbin/su"),
        Entry::symlink("sbin/absolute", "/etc/passwd").owned_by(7, 8),
        Entry::file("home", 0o640, "x").owned_by(1000, 100_000),
        Entry::file(&long, 0o644, "long"),
        fifo,
        device,
    ];
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let built = image::build(&plan(vec![entries.clone()], compression)).unwrap();
        registry.push(&built, "kinds", "1").unwrap();
        let fixture = Fixture::new(&format!(
            "[registry.\"{}\"]\ninsecure = true\n",
            registry.address()
        ));
        let pulled = fixture.pull(&registry.reference("kinds", "1")).unwrap();
        fixture.with_root(&pulled, |root| {
            let look = |path: &str| fs::symlink_metadata(root.join(path)).unwrap();
            assert_eq!(look("sbin").mode() & 0o7777, 0o2755);
            assert_eq!(look("sbin").gid(), 50);
            assert_eq!(look("sbin/su").mode() & 0o7777, 0o4755);
            assert_eq!(look("sbin/su").ino(), look("sbin/sg").ino());
            assert_eq!(look("sbin/su").mtime(), 0);
            assert_eq!(look("sbin").mtime(), 0);
            assert_eq!(
                (look("sbin/absolute").uid(), look("sbin/absolute").gid()),
                (7, 8)
            );
            assert_eq!((look("home").uid(), look("home").gid()), (1000, 100_000));
            assert_eq!(fs::read_to_string(root.join(&long)).unwrap(), "long");
            assert!(look("fifo").file_type().is_fifo());
            assert!(look("null").file_type().is_char_device());
            assert_eq!(look("null").rdev(), rustix::fs::makedev(1, 3));
            assert_eq!(look("null").mode() & 0o7777, 0o666);
        });
    }
}
