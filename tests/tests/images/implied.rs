//! Layers that name a file and leave it to the layers below what its directory
//! is, as bazel, ko and kaniko write them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use berth_cri::images::error::ErrorKind;
use berth_cri::images::{Image, PullRequest};
use berth_tests::image::layer::{Entry, archive};
use berth_tests::image::layout;
use berth_tests::registry::{Access, Registry};

use crate::images::fixture::{Fixture, layered, open, run};

/// Debian's merged `/usr`: what was in `/lib` and `/bin` is behind links.
fn merged_usr() -> Vec<Entry> {
    vec![
        Entry::directory("usr", 0o755),
        Entry::directory("usr/lib", 0o751).owned_by(3, 4),
        Entry::directory("usr/bin", 0o755),
        Entry::file("usr/lib/libc.so", 0o644, "libc"),
        Entry::file("usr/lib/old.so", 0o644, "old"),
        Entry::directory("usr/lib/modules", 0o700),
        Entry::file("usr/lib/modules/one", 0o644, "module"),
        Entry::file("usr/bin/sh", 0o755, "shell"),
        Entry::symlink("lib", "usr/lib"),
        Entry::symlink("bin", "/usr/bin"),
        Entry::directory("tmp", 0o1777),
        Entry::directory("var", 0o755),
        Entry::symlink("var/tmp", "../../../../tmp"),
    ]
}

/// Pulls an image of these layers through a real registry.
fn pulled(layers: Vec<Vec<Entry>>) -> (Fixture, Image) {
    let registry = Registry::start(Access::Open).unwrap();
    registry.push(&layered(layers), "team/web", "1").unwrap();
    let fixture = Fixture::new(&format!(
        "[registry.\"{}\"]\ninsecure = true\n",
        registry.address()
    ));
    let image = fixture.pull(&registry.reference("team/web", "1")).unwrap();
    fixture.assert_tidy();
    for layer in fixture.names("layers") {
        let layer = fixture.data_dir().join("images/layers").join(layer);
        let mut names: Vec<_> = fs::read_dir(layer)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["diff", "layer.json"]);
    }
    (fixture, image)
}

fn read(root: &Path, path: &str) -> String {
    // A path inside the image: its own absolute links are not this machine's.
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn mode(root: &Path, path: &str) -> u32 {
    fs::symlink_metadata(root.join(path)).unwrap().mode() & 0o7777
}

fn is_link(root: &Path, path: &str) -> bool {
    root.join(path).is_symlink()
}

#[test]
fn files_named_through_a_lower_layers_link_land_behind_it() {
    let (fixture, image) = pulled(vec![
        merged_usr(),
        vec![
            Entry::file("lib/new.so", 0o644, "new"),
            Entry::file("lib/modules/two", 0o644, "second"),
            Entry::file("bin/tool", 0o755, "tool"),
            Entry::directory("lib/own", 0o711),
            Entry::file("lib/own/file", 0o600, "own"),
        ],
        vec![Entry::file("lib/own/later", 0o644, "third layer")],
    ]);
    fixture.with_root(&image, |root| {
        assert!(is_link(root, "lib") && is_link(root, "bin"));
        for (path, content) in [
            ("usr/lib/libc.so", "libc"),
            ("usr/lib/new.so", "new"),
            ("lib/new.so", "new"),
            ("usr/lib/modules/one", "module"),
            ("usr/lib/modules/two", "second"),
            ("usr/bin/sh", "shell"),
            ("usr/bin/tool", "tool"),
            ("usr/lib/own/file", "own"),
            ("usr/lib/own/later", "third layer"),
        ] {
            assert_eq!(read(root, path), content, "{path}");
        }
        assert_eq!(mode(root, "usr/lib"), 0o751);
        assert_eq!(mode(root, "usr/lib/modules"), 0o700);
        assert_eq!(mode(root, "usr/lib/own"), 0o711);
        let lib = fs::metadata(root.join("usr/lib")).unwrap();
        assert_eq!((lib.uid(), lib.gid(), lib.mtime()), (3, 4, 0));
    });
}

#[test]
fn an_implied_directory_is_as_the_lower_layer_has_it() {
    let (fixture, image) = pulled(vec![
        merged_usr(),
        vec![
            Entry::file("tmp/cache/file", 0o644, "x"),
            Entry::file("var/tmp/through-a-link", 0o644, "y"),
        ],
    ]);
    fixture.with_root(&image, |root| {
        assert_eq!(mode(root, "tmp"), 0o1777);
        assert_eq!(mode(root, "tmp/cache"), 0o755);
        assert_eq!(mode(root, "var"), 0o755);
        assert!(is_link(root, "var/tmp"));
        // As many `..` as there are: the link ends at the image's root.
        assert_eq!(read(root, "tmp/through-a-link"), "y");
    });
}

#[test]
fn whiteouts_reach_through_links() {
    let (fixture, image) = pulled(vec![
        merged_usr(),
        vec![
            Entry::whiteout("lib/old.so"),
            Entry::file("lib/modules/.wh..wh..opq", 0o644, ""),
            Entry::file("lib/modules/only", 0o644, "only"),
        ],
        // Gone and new in one layer, without an entry for the new directory:
        // the link below does not count any more.
        vec![
            Entry::whiteout("bin"),
            Entry::file("bin/mine", 0o755, "mine"),
        ],
    ]);
    fixture.with_root(&image, |root| {
        assert!(is_link(root, "lib"));
        assert!(!root.join("usr/lib/old.so").exists());
        assert_eq!(read(root, "usr/lib/libc.so"), "libc");
        assert!(!root.join("usr/lib/modules/one").exists());
        assert_eq!(read(root, "usr/lib/modules/only"), "only");
        assert!(!is_link(root, "bin"));
        assert_eq!(read(root, "bin/mine"), "mine");
        assert_eq!(fs::read_dir(root.join("bin")).unwrap().count(), 1);
        assert!(!root.join("usr/bin/mine").exists());
    });
}

#[test]
fn hard_links_find_their_file_through_links_of_other_layers() {
    let (fixture, image) = pulled(vec![
        merged_usr(),
        vec![
            Entry::file("usr/lib/real.so", 0o644, "real"),
            Entry::hard_link("bin/libc-alias", "lib/libc.so"),
            Entry::hard_link("lib/real-alias.so", "lib/real.so"),
        ],
    ]);
    fixture.with_root(&image, |root| {
        assert!(is_link(root, "lib") && is_link(root, "bin"));
        assert_eq!(read(root, "usr/bin/libc-alias"), "libc");
        let inode = |path: &str| fs::metadata(root.join(path)).unwrap().ino();
        assert_eq!(inode("usr/lib/real.so"), inode("usr/lib/real-alias.so"));
    });
}

#[test]
fn of_two_names_for_one_place_the_later_stays() {
    let (fixture, image) = pulled(vec![
        merged_usr(),
        vec![
            Entry::file("lib/a", 0o644, "through the link, first"),
            Entry::file("usr/lib/a", 0o644, "straight, last"),
            Entry::file("usr/lib/b", 0o644, "straight, first"),
            Entry::file("lib/b", 0o644, "through the link, last"),
            Entry::whiteout("usr/lib/old.so"),
            Entry::file("lib/old.so", 0o644, "new"),
            Entry::directory("lib/both", 0o700),
            Entry::file("lib/both/one", 0o644, "1"),
            Entry::directory("usr/lib/both", 0o711),
            Entry::file("usr/lib/both/two", 0o644, "2"),
        ],
    ]);
    fixture.with_root(&image, |root| {
        assert_eq!(read(root, "usr/lib/a"), "straight, last");
        assert_eq!(read(root, "usr/lib/b"), "through the link, last");
        assert_eq!(read(root, "usr/lib/old.so"), "new");
        assert_eq!(read(root, "usr/lib/both/one"), "1");
        assert_eq!(read(root, "usr/lib/both/two"), "2");
        assert_eq!(mode(root, "usr/lib/both"), 0o711);
        assert_eq!(fs::metadata(root.join("usr/lib")).unwrap().uid(), 3);
    });
}

#[test]
fn links_of_links_are_followed_and_none_leads_out() {
    let fixture_outside = tempfile::tempdir().unwrap();
    let outside = fixture_outside.path().to_str().unwrap().to_owned();
    let climbing = format!("../../../../../../../..{outside}");
    let (fixture, image) = pulled(vec![
        vec![
            Entry::symlink("one", "two"),
            Entry::symlink("two", "/deep/three"),
            Entry::directory("deep", 0o755),
            Entry::symlink("deep/three", "../end"),
            Entry::directory("end", 0o750),
            Entry::symlink("absolute", &outside),
            Entry::symlink("climbing", &climbing),
            Entry::symlink("dangling", "not/there/yet"),
        ],
        vec![
            Entry::file("one/file", 0o644, "at the end"),
            Entry::file("absolute/file", 0o644, "inside"),
            Entry::file("climbing/other", 0o644, "inside too"),
            Entry::file("dangling/file", 0o644, "there now"),
        ],
    ]);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    fixture.with_root(&image, |root| {
        assert!(is_link(root, "one") && is_link(root, "deep/three"));
        assert_eq!(read(root, "end/file"), "at the end");
        assert_eq!(mode(root, "end"), 0o750);
        let inside = outside.trim_start_matches('/');
        assert_eq!(read(root, &format!("{inside}/file")), "inside");
        assert_eq!(read(root, &format!("{inside}/other")), "inside too");
        assert_eq!(read(root, "not/there/yet/file"), "there now");
    });
}

#[test]
fn a_path_through_a_file_or_in_a_circle_is_refused() {
    let registry = Registry::start(Access::Open).unwrap();
    let lower = vec![
        Entry::file("file", 0o644, "x"),
        Entry::symlink("to-file", "file"),
        Entry::symlink("left", "right"),
        Entry::symlink("right", "left"),
    ];
    for name in ["to-file", "left"] {
        let upper = vec![Entry::file(&format!("{name}/x"), 0o644, "x")];
        let built = layered(vec![lower.clone(), upper]);
        registry.push(&built, "team/wrong", "1").unwrap();
        let fixture = Fixture::new(&format!(
            "[registry.\"{}\"]\ninsecure = true\n",
            registry.address()
        ));
        let error = fixture
            .pull(&registry.reference("team/wrong", "1"))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
        assert!(error.chain().contains(name), "{}", error.chain());
        assert!(fixture.store.list().unwrap().is_empty());
        assert_eq!(fixture.names("layers").len(), 1);
        fixture.assert_tidy();
    }
}

#[test]
fn an_import_settles_layers_too() {
    let entries = vec![
        merged_usr(),
        vec![
            Entry::file("lib/new.so", 0o644, "new"),
            Entry::whiteout("lib/old.so"),
        ],
    ];
    let built = layered(entries.clone());
    let fixture = Fixture::new("");
    let plain: Vec<Vec<u8>> = entries
        .iter()
        .map(|entries| archive(entries).unwrap())
        .collect();
    let file = fixture.path("docker.tar");
    layout::write_docker_archive(&built, &plain, &file, "example.com/team/web:1").unwrap();
    let source = format!("docker-archive:{}", file.display());
    let imported = run(fixture.store.import(&source)).unwrap();
    fixture.with_root(&imported[0], |root| {
        assert!(is_link(root, "lib"));
        assert_eq!(read(root, "usr/lib/new.so"), "new");
        assert!(!root.join("usr/lib/old.so").exists());
    });
    // In the layer itself: the whiteout is where the link leads.
    let layer = imported[0].layers[1].trim_start_matches("sha256:");
    let diff = fixture
        .data_dir()
        .join("images/layers")
        .join(layer)
        .join("diff");
    assert!(fs::symlink_metadata(diff.join("lib")).is_err());
    let hidden = fs::symlink_metadata(diff.join("usr/lib/old.so")).unwrap();
    assert!(hidden.file_type().is_char_device());
    fixture.assert_tidy();
}

#[test]
fn two_stores_that_pull_layers_which_lean_on_each_other_both_end() {
    let mut layers = vec![merged_usr()];
    layers.extend((0..6).map(|at| vec![Entry::file(&format!("lib/{at}"), 0o644, "x")]));
    let registry = Registry::start(Access::Open).unwrap();
    registry.push(&layered(layers), "team/web", "1").unwrap();
    let config = format!("[registry.\"{}\"]\ninsecure = true\n", registry.address());
    let reference = registry.reference("team/web", "1");
    for _ in 0..5 {
        let fixture = Fixture::new(&config);
        let start = Arc::new(Barrier::new(3));
        let pulls: Vec<_> = (0..3)
            .map(|_| {
                let store = open(&fixture.data_dir(), &config);
                let (start, reference) = (Arc::clone(&start), reference.clone());
                std::thread::spawn(move || {
                    start.wait();
                    let limit = Duration::from_secs(30);
                    run(async {
                        let pull = store.pull(&reference, PullRequest::default());
                        tokio::time::timeout(limit, pull).await
                    })
                })
            })
            .collect();
        for pull in pulls {
            pull.join()
                .unwrap()
                .expect("the pulls wait for each other")
                .unwrap();
        }
        let image = fixture.store.find(&reference).unwrap().unwrap();
        fixture.with_root(&image, |root| {
            assert!(is_link(root, "lib"));
            assert!((0..6).all(|at| root.join(format!("usr/lib/{at}")).exists()));
        });
        fixture.assert_tidy();
    }
}
