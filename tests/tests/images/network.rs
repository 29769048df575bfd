//! Registries that are gone, wrong, slow, cut off or wary.

use std::sync::Arc;
use std::time::Duration;

use berth_cri::images::error::ErrorKind;
use berth_cri::images::registries::Credentials;
use berth_cri::images::{LayerState, PullRequest};
use berth_tests::image::layer::Entry;
use berth_tests::image::{self, Blob, INDEX};
use berth_tests::registry::{Access, PASSWORD, Registry, USER};
use serde_json::json;

use crate::images::fixture::{Fixture, Record, layered, open, run, runtime};
use crate::images::server::{Faults, Server};

/// A layer that gzip cannot shrink, so that a cut falls into its middle.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(bytes)
    .collect()
}

fn noisy_image() -> image::Image {
    layered(vec![
        vec![Entry::file("one", 0o644, noise(900_000))],
        vec![Entry::file("two", 0o644, "small")],
    ])
}

#[test]
fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    for ignores_ranges in [false, true] {
        let faults = Faults {
            cut_after: Some(300_000),
            ignores_ranges,
            ..Faults::default()
        };
        let built = noisy_image();
        let server = Server::start(&built, faults);
        let fixture = Fixture::new(&Server::mirrors(&[&server]));
        let pulled = fixture.pull("team/web:1");
        if ignores_ranges {
            // The same beginning again and again is no progress: it gives up.
            // The mirror's failure is not hidden by that of the registry itself.
            let error = pulled.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unreachable, "{}", error.chain());
            assert!(fixture.store.list().unwrap().is_empty());
            fixture.assert_tidy();
            continue;
        }
        let pulled = pulled.unwrap();
        let layer = format!("blob {} bytes=", built.layers[0].digest);
        let resumed = server.asked(&layer);
        // Noise does not compress: 900 kB and a little take four answers.
        assert_eq!(resumed.len(), 3, "{resumed:?}");
        let whole = format!("blob {} whole", built.layers[0].digest);
        assert_eq!(server.asked(&whole).len(), 1);
        fixture.with_root(&pulled, |root| {
            assert_eq!(std::fs::read(root.join("one")).unwrap(), noise(900_000));
        });
    }
}

#[test]
fn wrong_and_short_layers_are_not_kept() {
    for faults in [
        Faults {
            changes_blobs: true,
            ..Faults::default()
        },
        Faults {
            truncates_blobs: true,
            ..Faults::default()
        },
    ] {
        let server = Server::start(&noisy_image(), faults.clone());
        let good = Server::start(&noisy_image(), Faults::default());
        let fixture = Fixture::new(&format!(
            "[registry.\"{}\"]\ninsecure = true\n",
            server.address
        ));
        let name = format!("{}/team/web:1", server.address);
        let error = fixture.pull(&name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
        assert!(fixture.store.find(&name).unwrap().is_none());
        assert!(fixture.names("blobs/sha256").is_empty());
        fixture.assert_tidy();
        // A mirror that lies is passed over for one that does not.
        let mirrored = Fixture::new(&Server::mirrors(&[&server, &good]));
        mirrored.pull("team/web:1").unwrap();
        assert!(!good.asked("blob").is_empty());
        // The same store takes the image once the registry is well.
        server.set_faults(Faults::default());
        fixture.pull(&name).unwrap();
        fixture.assert_tidy();
    }
}

#[test]
fn mirrors_are_asked_in_order_until_one_has_the_image() {
    let built = noisy_image();
    let other = Server::start(&built, Faults::default());
    let gone = Server::start(&built, Faults::default());
    let gone_address = gone.address;
    drop(gone);
    let registry = Registry::start(Access::Open).unwrap();
    registry.push(&built, "team/web", "only-here").unwrap();
    let fixture = Fixture::new(&format!(
        "[registry.\"docker.io\"]\n\
         mirrors = [\"http://{gone_address}\", \"http://{}\", \"http://{}\"]\n",
        other.address,
        registry.address()
    ));
    fixture.pull("team/web:only-here").unwrap();
    assert_eq!(other.asked("manifest"), ["manifest only-here"]);
    // The one that had the manifest is asked for the layers.
    assert!(other.asked("blob").is_empty());
}

#[test]
fn a_busy_registry_is_asked_again() {
    let faults = Faults {
        busy: 3,
        ..Faults::default()
    };
    let server = Server::start(&noisy_image(), faults);
    let fixture = Fixture::new(&Server::mirrors(&[&server]));
    fixture.pull("team/web:1").unwrap();
    assert_eq!(server.asked("manifest").len(), 4);
}

#[test]
fn plain_http_needs_the_word_insecure() {
    let server = Server::start(&noisy_image(), Faults::default());
    let fixture = Fixture::new("");
    let name = format!("{}/team/web:1", server.address);
    let error = fixture.pull(&name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(
        error.chain().contains("insecure = true"),
        "{}",
        error.chain()
    );
    assert!(server.asked("").is_empty());
}

#[test]
fn basic_access_takes_the_right_password_only() {
    let registry = Registry::start(Access::Basic).unwrap();
    registry.push(&noisy_image(), "private/web", "1").unwrap();
    let name = registry.reference("private/web", "1");
    let insecure = format!("[registry.\"{}\"]\ninsecure = true\n", registry.address());
    let fixture = Fixture::new(&insecure);
    let error = fixture.pull(&name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{}", error.chain());
    let with = |password: &str| PullRequest {
        credentials: Some(Credentials::Password {
            username: USER.to_owned(),
            password: password.to_owned(),
        }),
        ..PullRequest::default()
    };
    let error = run(fixture.store.pull(&name, with("guess"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(!error.chain().contains("guess"));
    run(fixture.store.pull(&name, with(PASSWORD))).unwrap();
    let configured = Fixture::new(&registry.mirror_configuration());
    configured.pull("private/web:1").unwrap();
}

#[test]
fn a_token_is_fetched_once_for_the_whole_pull() {
    let faults = Faults {
        wants_token: true,
        ..Faults::default()
    };
    let server = Server::start(&noisy_image(), faults);
    let config = |password: &str| {
        format!(
            "[registry.\"{}\"]\ninsecure = true\nusername = \"me\"\npassword = \"{password}\"\n",
            server.address
        )
    };
    let name = format!("{}/team/web:1", server.address);
    let error = Fixture::new(&config("wrong")).pull(&name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    let before = server.asked("token").len();
    Fixture::new(&config("secret")).pull(&name).unwrap();
    let tokens = server.asked("token");
    assert_eq!(tokens.len() - before, 1);
    assert!(tokens[before].starts_with("token repository:team/web:pull"));
}

#[test]
fn an_index_leads_to_the_image_of_the_platform() {
    let ours = noisy_image();
    let server = Server::start(&ours, Faults::default());
    let mut here = ours.manifest.descriptor();
    here["platform"] = json!({"os": "linux", "architecture": image::architecture()});
    let elsewhere = json!({
        "mediaType": image::MANIFEST, "size": 3, "digest": image::digest(b"s390x"),
        "platform": {"os": "linux", "architecture": "s390x"},
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [elsewhere, here]});
    let index = Blob::new(INDEX, serde_json::to_vec(&index).unwrap());
    server.put_manifest("all", index.clone());
    let fixture = Fixture::new(&Server::mirrors(&[&server]));
    let pulled = fixture.pull("team/web:all").unwrap();
    assert_eq!(pulled.id, ours.config.digest);
    // Both digests name it: the index's is the one that people copy.
    for digest in [&index.digest, &ours.manifest.digest] {
        let name = format!("docker.io/team/web@{digest}");
        assert!(pulled.digests.contains(&name));
        assert_eq!(fixture.pull(&name).unwrap().id, pulled.id);
    }
    let wanted = PullRequest {
        platform: Some("linux/riscv64".parse().unwrap()),
        ..PullRequest::default()
    };
    let error = run(fixture.store.pull("team/web:all", wanted)).unwrap_err();
    assert!(error.chain().contains("linux/s390x"), "{}", error.chain());
}

#[test]
fn pulls_share_a_connection_until_it_breaks() {
    let built = noisy_image();
    let server = Server::start(&built, Faults::default());
    let fixture = Fixture::new(&Server::mirrors(&[&server]));
    let runtime = runtime();
    let pull = || {
        let pulled = fixture.store.pull("team/web:1", PullRequest::default());
        runtime.block_on(pulled).unwrap()
    };
    pull();
    let made = server.connections();
    pull();
    assert_eq!(server.asked("manifest").len(), 2);
    assert_eq!(server.connections(), made);
    let server = server.start_again(&built);
    pull();
    assert_eq!(server.asked("manifest").len(), 1);
    assert_eq!(server.connections(), 1);
}

#[test]
fn two_pulls_at_once_fetch_each_layer_once() {
    let faults = Faults {
        delay: Duration::from_millis(300),
        ..Faults::default()
    };
    let built = noisy_image();
    let server = Server::start(&built, faults);
    let config = Server::mirrors(&[&server]);
    let fixture = Fixture::new(&config);
    // A second opening stands for a second process: locks are per open file.
    let second = open(&fixture.data_dir(), &config);
    let records = [Arc::new(Record::default()), Arc::new(Record::default())];
    let (one, two) = run(async {
        tokio::join!(
            fixture.store.pull("team/web:1", records[0].request()),
            second.pull("team/web:1", records[1].request()),
        )
    });
    assert_eq!(one.unwrap().id, two.unwrap().id);
    for layer in &built.layers {
        let asked = server.asked(&format!("blob {}", layer.digest));
        assert_eq!(asked.len(), 1, "{asked:?}");
    }
    let count = |state| {
        records
            .iter()
            .map(|record| record.count(state))
            .sum::<usize>()
    };
    assert_eq!((count(LayerState::Done), count(LayerState::Exists)), (2, 2));
    fixture.assert_tidy();
}
