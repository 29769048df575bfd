//! What is typed: Ctrl-C, `exec -it`, `attach`.

use std::time::Duration;

use berth_tests::machine::{LIMIT, Machine};
use berth_tests::terminal::INTERRUPT;

#[test]
fn a_second_ctrl_c_kills_what_does_not_stop() {
    let machine = Machine::new().unwrap();
    let script = "trap '' TERM INT; echo begun; while :; do sleep 0.1; done";
    let mut terminal = machine
        .terminal(&[
            "run",
            "--stop-timeout",
            "600",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .unwrap();
    terminal.wait_for("begun", LIMIT).unwrap();
    terminal.type_keys(INTERRUPT).unwrap();
    terminal.wait_for("once more to kill", LIMIT).unwrap();
    terminal.type_keys(INTERRUPT).unwrap();
    terminal.wait_for("killing", LIMIT).unwrap();
    let status = terminal.wait(Duration::from_secs(20)).unwrap();
    assert_eq!(status.code(), Some(137));
    machine.assert_clean().unwrap();
}

#[test]
fn a_program_beside_the_first_has_a_terminal_of_its_own() {
    let machine = Machine::new().unwrap();
    machine
        .berth(&["run", "-d", "--name", "web", "nginx"])
        .unwrap();
    let mut terminal = machine.terminal(&["exec", "-it", "web", "sh"]).unwrap();
    terminal.wait_for("# ", LIMIT).unwrap();
    terminal.type_keys("stty size; tty\n").unwrap();
    terminal.wait_for("24 80", LIMIT).unwrap();
    terminal.wait_for("/dev/pts/", LIMIT).unwrap();
    terminal.resize(132, 43).unwrap();
    // The new size comes by a signal, some time after the call.
    std::thread::sleep(Duration::from_millis(500));
    terminal.type_keys("stty size\n").unwrap();
    terminal.wait_for("43 132", LIMIT).unwrap();
    terminal.type_keys("exit 5\n").unwrap();
    assert_eq!(terminal.wait(LIMIT).unwrap().code(), Some(5));
    machine.berth(&["rm", "-f", "web"]).unwrap();
    machine.assert_clean().unwrap();
}

#[test]
fn a_terminal_joins_a_shell_in_the_background_and_leaves_it() {
    let machine = Machine::new().unwrap();
    machine
        .berth(&["run", "-d", "-it", "--name", "web", "busybox", "sh"])
        .unwrap();
    let mut terminal = machine.terminal(&["attach", "web"]).unwrap();
    terminal.type_keys("\n").unwrap();
    terminal.wait_for("# ", LIMIT).unwrap();
    terminal.type_keys("echo $((40 + 2))\n").unwrap();
    terminal.wait_for("42", LIMIT).unwrap();
    terminal.type_keys("\x10\x11").unwrap();
    assert_eq!(terminal.wait(LIMIT).unwrap().code(), Some(0));
    assert!(terminal.text().contains("detached"), "{}", terminal.text());
    let table = machine.berth(&["ps", "-a"]).unwrap();
    assert!(table.contains("Running"), "{table}");
    let mut terminal = machine.terminal(&["attach", "web"]).unwrap();
    terminal.type_keys("exit 9\n").unwrap();
    assert_eq!(terminal.wait(LIMIT).unwrap().code(), Some(9));
    machine.berth(&["rm", "-f", "web"]).unwrap();
    machine.assert_clean().unwrap();
}
