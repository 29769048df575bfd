//! Archives, as our own builder, skopeo and `docker save` write them.

use std::process::Command;

use berth_cri::images::error::ErrorKind;
use berth_tests::image::layer::Entry;
use berth_tests::image::{layer, layout};

use crate::images::fixture::{Fixture, layered, run};

fn entries() -> Vec<Vec<Entry>> {
    vec![
        vec![Entry::file("one", 0o644, "1")],
        vec![Entry::file("two", 0o644, "2")],
    ]
}

#[test]
fn layouts_and_archives_hold_the_image_that_was_built() {
    let built = layered(entries());
    let fixture = Fixture::new("");
    let at = |name: &str| fixture.path(name);
    let name = "example.com/team/web:1";
    layout::write_layout(&built, &at("layout"), name).unwrap();
    layout::write_oci_archive(&built, &at("oci.tar"), name).unwrap();
    let plain: Vec<Vec<u8>> = entries()
        .iter()
        .map(|entries| layer::archive(entries).unwrap())
        .collect();
    layout::write_docker_archive(&built, &plain, &at("docker.tar"), name).unwrap();
    for (kind, file) in [
        ("oci", "layout"),
        ("oci-archive", "oci.tar"),
        ("docker-archive", "docker.tar"),
    ] {
        let source = format!("{kind}:{}", at(file).display());
        let imported = run(fixture.store.import(&source)).unwrap();
        assert_eq!(imported.len(), 1, "{source}");
        assert_eq!(imported[0].id, built.config.digest);
        assert_eq!(imported[0].references, [name]);
        fixture.with_root(&imported[0], |root| {
            assert!(root.join("one").exists() && root.join("two").exists());
        });
        fixture.store.remove(&imported[0].id).unwrap();
        assert!(fixture.names("layers").is_empty());
        fixture.assert_tidy();
    }
}

#[test]
fn archives_of_skopeo_are_read() {
    let built = layered(entries());
    let fixture = Fixture::new("");
    layout::write_layout(&built, &fixture.path("layout"), "1").unwrap();
    let source = format!("oci:{}:1", fixture.path("layout").display());
    for kind in ["docker-archive", "oci-archive"] {
        let file = fixture.path(&format!("{kind}.tar"));
        let target = format!("{kind}:{}:example.com/team/web:2", file.display());
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", &source, &target])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let imported = run(fixture.store.import(&format!("{kind}:{}", file.display()))).unwrap();
        assert_eq!(imported[0].references, ["example.com/team/web:2"]);
        fixture.with_root(&imported[0], |root| {
            assert_eq!(std::fs::read_to_string(root.join("two")).unwrap(), "2");
        });
        fixture.store.remove("example.com/team/web:2").unwrap();
    }
    let imported = run(fixture.store.import(&source)).unwrap();
    assert_eq!(imported[0].id, built.config.digest);
    assert!(imported[0].references.is_empty());
}

#[test]
fn damaged_sources_are_refused_with_the_reason() {
    let built = layered(entries());
    let fixture = Fixture::new("");
    let directory = fixture.path("layout");
    layout::write_layout(&built, &directory, "1").unwrap();
    let source = format!("oci:{}", directory.display());
    let error = run(fixture.store.import(&format!("{source}:2"))).unwrap_err();
    assert!(error.chain().contains("no tag \"2\""), "{}", error.chain());
    let hex = built.layers[1].digest.trim_start_matches("sha256:");
    let blob = directory.join("blobs/sha256").join(hex);
    std::fs::write(&blob, "something else").unwrap();
    let error = run(fixture.store.import(&source)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
    assert!(fixture.store.list().unwrap().is_empty());
    fixture.assert_tidy();
    for source in ["docker-archive:/no/such", "dir:/tmp", "oci:/tmp"] {
        assert!(run(fixture.store.import(source)).is_err(), "{source}");
    }
}
