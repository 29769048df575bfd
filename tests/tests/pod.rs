//! Pods by `berth run`: real images from a real registry, a real nginx, real terminals.

use std::time::Duration;

use berth_tests::machine::{LIMIT, Machine};
use berth_tests::terminal::INTERRUPT;
use nix::sys::signal::Signal;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/web.yaml");

#[test]
fn the_example_serves_its_page_until_ctrl_c_and_leaves_nothing() {
    let machine = Machine::new().unwrap();
    let mut terminal = machine.terminal(&["run", EXAMPLE]).unwrap();
    terminal.wait_for("pod web is ready", LIMIT).unwrap();
    terminal
        .wait_for("127.0.0.1:8080 -> nginx:80", LIMIT)
        .unwrap();
    let address = "127.0.0.1:8080".parse().unwrap();
    let page = machine.host().get(address, "/").unwrap();
    assert_eq!(page.status, 200);
    assert!(page.text().contains("<h1>berth</h1>"));
    terminal.wait_for("nginx      | ", LIMIT).unwrap();
    terminal.type_keys(INTERRUPT).unwrap();
    assert_eq!(terminal.wait(LIMIT).unwrap().code(), Some(130));
    machine.assert_clean().unwrap();
}

#[test]
fn a_shell_on_a_terminal_has_its_size_and_its_exit_code() {
    let machine = Machine::new().unwrap();
    let mut terminal = machine.terminal(&["run", "-it", "busybox", "sh"]).unwrap();
    terminal.wait_for("# ", LIMIT).unwrap();
    terminal.type_keys("stty size; echo $((40 + 2))\n").unwrap();
    terminal.wait_for("24 80", LIMIT).unwrap();
    terminal.wait_for("\n42\n", LIMIT).unwrap();
    terminal.resize(100, 30).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    terminal.type_keys("stty size\n").unwrap();
    terminal.wait_for("30 100", LIMIT).unwrap();
    terminal.type_keys("exit 7\n").unwrap();
    assert_eq!(terminal.wait(LIMIT).unwrap().code(), Some(7));
    machine.assert_clean().unwrap();
}

#[test]
fn exit_codes_are_docker_s_and_a_failed_start_leaves_nothing() {
    let machine = Machine::new().unwrap();
    assert_eq!(
        machine
            .berth(&["run", "-q", "busybox", "echo", "hello"])
            .unwrap(),
        "hello\n"
    );
    machine
        .berth_fails(7, &["run", "busybox", "sh", "-c", "exit 7"])
        .unwrap();
    machine
        .berth_fails(127, &["run", "busybox", "nosuchprogram"])
        .unwrap();
    machine
        .berth_fails(126, &["run", "busybox", "/etc"])
        .unwrap();
    let message = machine.berth_fails(125, &["run", "nosuchimage"]).unwrap();
    assert!(message.contains("nosuchimage"), "{message}");
    machine
        .berth_fails(125, &["run", "-d", "nosuchimage"])
        .unwrap();
    machine.assert_clean().unwrap();
}

#[test]
fn a_pod_in_the_background_is_listed_entered_stopped_and_removed() {
    let machine = Machine::new().unwrap();
    let name = machine
        .berth(&["run", "-d", "--name", "front", "-p", "8081:80", "nginx"])
        .unwrap();
    assert_eq!(name, "front\n");
    let page = machine
        .host()
        .get_within(LIMIT, "127.0.0.1:8081".parse().unwrap(), "/")
        .unwrap();
    assert_eq!(page.status, 200);
    let table = machine.berth(&["ps"]).unwrap();
    assert!(
        table.contains("Running") && table.contains("8081->80/tcp"),
        "{table}"
    );
    let inside = machine
        .berth(&["exec", "-e", "A=b", "front", "sh", "-c", "echo $A"])
        .unwrap();
    assert_eq!(inside, "b\n");
    machine
        .berth_fails(3, &["exec", "front", "sh", "-c", "exit 3"])
        .unwrap();
    let mut following = machine.start(&["logs", "-f", "front"]).unwrap();
    following.wait_for("GET / HTTP/1.1", LIMIT).unwrap();
    let message = machine.berth_fails(1, &["rm", "front"]).unwrap();
    assert!(message.contains("berth stop front"), "{message}");
    machine.berth(&["stop", "front"]).unwrap();
    assert_eq!(following.wait(LIMIT).unwrap(), 0);
    assert!(machine.berth(&["ps", "-a"]).unwrap().contains("Exited (0)"));
    machine.berth(&["rm", "front"]).unwrap();
    machine.assert_clean().unwrap();
}

#[test]
fn a_pod_whose_berth_was_killed_is_told_and_removed_wholly() {
    let machine = Machine::new().unwrap();
    let mut running = machine.start(&["run", EXAMPLE]).unwrap();
    running.wait_for("pod web is ready", LIMIT).unwrap();
    running.signal(Signal::SIGKILL).unwrap();
    assert_eq!(running.wait(LIMIT).unwrap(), 137);
    let table = machine.berth(&["ps"]).unwrap();
    assert!(table.contains("Running (unattended)"), "{table}");
    machine.berth(&["rm", "-f", "web"]).unwrap();
    machine.assert_clean().unwrap();
}
