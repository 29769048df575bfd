//! The harness itself: what the other suites lean on must hold first.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use berth_tests::fabric::Fabric;
use berth_tests::host::{Host, in_network_of};
use berth_tests::http::{self, Request};
use berth_tests::image::layer::{Compression, Content};
use berth_tests::image::{self, busybox, nginx};
use berth_tests::registry::{Access, Registry};
use berth_tests::sweep::Sweep;
use berth_tests::terminal::{INTERRUPT, Terminal};

#[test]
fn images_are_pushed_to_a_registry_and_keep_their_digest() {
    let registry = Registry::start(Access::Open).unwrap();
    let mut plan = busybox::plan().unwrap();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        plan.layers[0].compression = compression;
        let built = image::build(&plan).unwrap();
        registry.push(&built, "library/busybox", "latest").unwrap();
        let request = Request {
            method: "GET",
            target: "/v2/library/busybox/manifests/latest",
            headers: vec![("Accept", image::MANIFEST.to_owned())],
            body: &[],
        };
        let answer = http::exchange(registry.connect().unwrap(), &request).unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(image::digest(&answer.body), built.manifest.digest);
        assert_eq!(
            answer.header("docker-content-digest"),
            Some(&*built.manifest.digest)
        );
    }
}

#[test]
fn a_registry_with_basic_access_refuses_strangers() {
    let registry = Registry::start(Access::Basic).unwrap();
    let request = Request {
        method: "GET",
        target: "/v2/",
        ..Request::default()
    };
    let answer = http::exchange(registry.connect().unwrap(), &request).unwrap();
    assert_eq!(answer.status, 401);
    let built = image::build(&busybox::plan().unwrap()).unwrap();
    registry.push(&built, "private/busybox", "1").unwrap();
}

#[test]
fn nginx_carries_its_libraries_and_shares_the_layer_of_busybox() {
    let plan = nginx::plan().unwrap();
    let server = &plan.layers[1];
    let is_file = |path: &str| {
        let entry = server
            .entries
            .iter()
            .find(|entry| entry.path.ends_with(path));
        entry.is_some_and(
            |entry| matches!(&entry.content, Content::File(bytes) if !bytes.is_empty()),
        )
    };
    assert!(is_file("usr/sbin/nginx") && is_file("/libc.so.6") && is_file("/libz.so.1"));
    let built = image::build(&plan).unwrap();
    let shell = image::build(&busybox::plan().unwrap()).unwrap();
    assert_eq!(built.layers[0].digest, shell.layers[0].digest);
}

#[test]
fn a_host_has_its_own_loopback_and_a_registry_in_it_is_reached() {
    let host = Host::new().unwrap();
    let registry = Registry::start_in(&host, Access::Open).unwrap();
    let answer = host.get(registry.address(), "/v2/").unwrap();
    assert_eq!(answer.status, 200);
    let outside = std::net::TcpStream::connect(registry.address());
    assert!(
        outside.is_err(),
        "the host's loopback must not be the machine's"
    );
    let built = image::build(&busybox::plan().unwrap()).unwrap();
    registry.push(&built, "library/busybox", "latest").unwrap();
}

#[test]
fn the_sweep_names_what_is_left_behind() {
    let host = Host::new().unwrap();
    let before = Sweep::before(&host).unwrap();
    before.assert_clean(&host).unwrap();
    let run = |words: &[&str]| {
        let status = host.command(words[0]).args(&words[1..]).status().unwrap();
        assert!(status.success(), "{words:?}");
    };
    run(&["ip", "link", "add", "left0", "type", "bridge"]);
    run(&["nft", "add", "table", "inet", "left"]);
    run(&[
        "mount",
        "-t",
        "tmpfs",
        "left",
        host.work_dir().to_str().unwrap(),
    ]);
    std::fs::write(host.run_dir().join("left.json"), "{}").unwrap();
    let mut sleeper = host.command("sleep").arg("60").spawn().unwrap();
    let tree = std::path::Path::new("/sys/fs/cgroup");
    let v1 = tree.join("pids");
    let group = if v1.exists() { v1.as_path() } else { tree }.join(host.name());
    std::fs::create_dir(&group).unwrap();
    let message = before.assert_clean(&host).unwrap_err().to_string();
    std::fs::remove_dir(&group).unwrap();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    for word in [
        "link left0",
        "nft table inet left",
        "mount /",
        "left.json",
        "sleep 60",
        "cgroup /",
    ] {
        assert!(message.contains(word), "{word} is not named:\n{message}");
    }
}

#[test]
fn a_host_that_goes_ends_what_a_test_left() {
    let host = Host::new().unwrap();
    let mut left = host.command("sleep").arg("60").spawn().unwrap();
    drop(host);
    assert_eq!(left.wait().unwrap().signal(), Some(9));
}

#[test]
fn a_terminal_takes_keys_and_signals() {
    let host = Host::new().unwrap();
    let words = host.command_line("sh");
    let mut terminal = Terminal::run(&words, &host.command("sh")).unwrap();
    let limit = Duration::from_secs(10);
    terminal.type_keys("tty && echo $((40 + 2))\n").unwrap();
    terminal.wait_for("/dev/pts/", limit).unwrap();
    terminal.wait_for("\n42\n", limit).unwrap();
    terminal.resize(100, 30).unwrap();
    terminal.type_keys("stty size\n").unwrap();
    terminal.wait_for("30 100", limit).unwrap();
    terminal.type_keys("sleep 60; echo status $?\n").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    terminal.type_keys(INTERRUPT).unwrap();
    terminal.type_keys("exit 7\n").unwrap();
    assert_eq!(terminal.wait(limit).unwrap().code(), Some(7));
}

#[test]
fn hosts_of_a_fabric_reach_each_other_unless_the_cable_is_pulled() {
    let fabric = Fabric::new(2).unwrap();
    let reaches = |address: IpAddr| {
        let to = SocketAddr::new(address, 9);
        let asked = in_network_of(fabric.host(0).pid(), move || {
            // Nobody listens there, so a refusal is the host's own word.
            let answer = TcpStream::connect_timeout(&to, Duration::from_secs(2));
            Ok(answer.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused))
        });
        asked.unwrap()
    };
    let (v4, v6) = (fabric.address(1).into(), fabric.address_v6(1).into());
    assert!(reaches(v4));
    assert!(reaches(v6));
    fabric.cut_off(1).unwrap();
    assert!(!reaches(v4));
    fabric.restore(1).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !reaches(v4) {
        assert!(
            Instant::now() < deadline,
            "the cable is back, the host is not"
        );
    }
}
