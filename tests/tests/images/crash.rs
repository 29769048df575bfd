//! A full disk, a killed process, a pull that is given up.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use berth_cri::images::PullRequest;
use berth_cri::images::error::ErrorKind;
use berth_tests::image;
use berth_tests::image::layer::Entry;

use crate::images::fixture::{Fixture, layered, open, run};
use crate::images::server::{Faults, Server};

fn two_layers() -> image::Image {
    layered(vec![
        vec![Entry::file("quick", 0o644, "quick")],
        vec![Entry::file("slow", 0o644, vec![7; 6 << 20])],
    ])
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing_half_made() {
    let server = Server::start(&two_layers(), Faults::default());
    let fixture = Fixture::new(&Server::mirrors(&[&server]));
    let small = fixture.path("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = SmallDisk::mount(&small);
    let store = open(&small, &Server::mirrors(&[&server]));
    let error = run(store.pull("team/web:1", PullRequest::default())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DiskFull, "{}", error.chain());
    assert!(store.list().unwrap().is_empty());
    let ingest = std::fs::read_dir(small.join("images/ingest")).unwrap();
    assert_eq!(ingest.count(), 0);
    drop(mounted);
}

/// A file system of four megabytes.
struct SmallDisk<'a>(&'a std::path::Path);

impl SmallDisk<'_> {
    fn mount(path: &std::path::Path) -> SmallDisk<'_> {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", path, "tmpfs", flags, Some(c"size=4m")).unwrap();
        SmallDisk(path)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

/// Set for the process that the test below kills.
const VICTIM: &str = "BERTH_TEST_VICTIM";

/// Not a test of its own: the body of the process that is killed.
#[test]
fn victim() {
    let Ok(orders) = std::env::var(VICTIM) else {
        return;
    };
    let (data_dir, config) = orders.split_once('\n').unwrap();
    let store = open(data_dir.as_ref(), config);
    let outcome = run(store.pull("team/web:1", PullRequest::default()));
    panic!("the pull ended before it was killed: {outcome:?}");
}

#[test]
fn after_a_kill_the_next_opening_cleans_up_and_the_pull_goes_on() {
    let built = two_layers();
    let cut = Faults {
        delay: Duration::from_secs(1),
        ..Faults::default()
    };
    let server = Server::start(&built, cut);
    let config = Server::mirrors(&[&server]);
    let fixture = Fixture::new(&config);
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "images::crash::victim"])
        .env(
            VICTIM,
            format!("{}\n{config}", fixture.data_dir().display()),
        )
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The configuration takes a second too, then the layers begin.
    let deadline = Instant::now() + Duration::from_secs(20);
    while fixture.names("ingest").len() < 4 {
        assert!(Instant::now() < deadline, "the layers never began");
        std::thread::sleep(Duration::from_millis(5));
    }
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(!fixture.names("ingest").is_empty() && !fixture.names("leases").is_empty());
    assert!(fixture.store.list().unwrap().is_empty());
    let again = open(&fixture.data_dir(), &config);
    fixture.assert_tidy();
    server.set_faults(Faults::default());
    let pulled = run(again.pull("team/web:1", PullRequest::default())).unwrap();
    assert_eq!(pulled.id, built.config.digest);
    fixture.assert_tidy();
}

#[test]
fn a_pull_that_is_given_up_leaves_nothing() {
    let cut = Faults {
        delay: Duration::from_millis(500),
        ..Faults::default()
    };
    let server = Server::start(&two_layers(), cut);
    let fixture = Fixture::new(&Server::mirrors(&[&server]));
    run(async {
        let pull = fixture.store.pull("team/web:1", PullRequest::default());
        let limit = Duration::from_millis(700);
        assert!(tokio::time::timeout(limit, pull).await.is_err());
    });
    // The runtime's end waited for the threads that unpack.
    fixture.assert_tidy();
    assert!(fixture.store.list().unwrap().is_empty());
}
