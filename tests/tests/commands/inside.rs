//! What flags of `berth run` mean within the container.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use berth_tests::host::in_network_of;
use berth_tests::machine::Machine;
use serde_json::Value;

#[test]
fn flags_are_what_the_container_sees() {
    let machine = Machine::new().unwrap();
    let shared = machine.host().directory().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "here").unwrap();
    let volume = format!("{}:/shared", shared.display());
    let read_only = format!("{}:/fixed:ro", shared.display());
    let words = [
        "run",
        "-q",
        "--rm",
        "--name",
        "box",
        "-v",
        &volume,
        "-v",
        &read_only,
        "-e",
        "A=b c",
        "-w",
        "/shared",
        "-u",
        "1000:1001",
        "--hostname",
        "ship",
        "--tmpfs",
        "/fast:size=1m",
        "--entrypoint",
        "/bin/sh",
        "busybox",
        "-c",
        "cat file; echo; echo $A; pwd; id -u; id -g; hostname; touch /fixed/x 2>/dev/null || echo fixed; df /fast | tail -1",
    ];
    let said = machine.berth(&words).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines[..7],
        ["here", "b c", "/shared", "1000", "1001", "ship", "fixed"],
        "{said}"
    );
    assert!(lines[7].contains("1024"), "the tmpfs has no limit: {said}");
    machine.assert_clean().unwrap();
}

#[test]
fn limits_reach_the_kernel() {
    let machine = Machine::new().unwrap();
    machine
        .berth(&[
            "run", "-d", "--name", "web", "-m", "64m", "--cpus", "0.5", "nginx",
        ])
        .unwrap();
    let shown = machine
        .berth(&["stats", "--no-stream", "-o", "json", "web"])
        .unwrap();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown[0]["memoryLimitBytes"], 64 << 20, "{shown}");
    let quotas = berth_tests::sweep::cgroups(machine.host().name());
    let found = quotas.iter().any(|group| {
        let v1 = std::fs::read_to_string(group.join("cpu.cfs_quota_us")).unwrap_or_default();
        let v2 = std::fs::read_to_string(group.join("cpu.max")).unwrap_or_default();
        v1.trim() == "50000" || v2.starts_with("50000 100000")
    });
    assert!(found, "no group has half a processor: {quotas:?}");
    machine.berth(&["rm", "-f", "web"]).unwrap();
    machine.assert_clean().unwrap();
}

/// Debian's perl, from the machine: busybox has no server for UDP.
const ECHO: &str = "use IO::Socket::INET;
$socket = IO::Socket::INET->new(LocalPort => 9000, Proto => 'udp') or die $!;
print STDERR \"listens\\n\";
while ($socket->recv($text, 100)) { $socket->send(\"got $text\"); }";

#[test]
fn ports_lead_inside_by_protocol_and_address() {
    let machine = Machine::new().unwrap();
    let pid = machine.host().pid();
    let second = "127.0.0.2";
    machine
        .berth(&[
            "run",
            "-d",
            "--name",
            "web",
            "-p",
            "127.0.0.2:8080:80",
            "nginx",
        ])
        .unwrap();
    let page = machine
        .host()
        // The pod is ready when nginx runs, which is a moment before it listens.
        .get_within(
            Duration::from_secs(10),
            format!("{second}:8080").parse().unwrap(),
            "/",
        )
        .unwrap();
    assert_eq!(page.status, 200);
    let other: SocketAddr = "127.0.0.1:8080".parse().unwrap();
    assert!(
        machine.host().get(other, "/").is_err(),
        "all addresses answer"
    );
    let table = machine.berth(&["ps"]).unwrap();
    assert!(table.contains("127.0.0.2:8080->80/tcp"), "{table}");
    machine
        .berth(&[
            "run",
            "-d",
            "--name",
            "echo",
            "-p",
            "9001:9000/udp",
            "-v",
            "/usr:/usr:ro",
            "-v",
            "/usr/lib:/lib:ro",
            "-v",
            "/usr/lib64:/lib64:ro",
            "busybox",
            "/usr/bin/perl",
            "-e",
            ECHO,
        ])
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let answer = loop {
        let answer = in_network_of(pid, || {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
            socket.send_to(b"a", (Ipv4Addr::LOCALHOST, 9001))?;
            let mut buffer = [0; 100];
            let length = socket.recv(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
        });
        if answer.is_ok() || Instant::now() > deadline {
            break answer;
        }
    };
    assert_eq!(answer.unwrap(), "got a");
    machine.berth(&["rm", "-f", "--all"]).unwrap();
    machine.assert_clean().unwrap();
}
