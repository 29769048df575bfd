//! How a pod ends: grace, hooks, order.

use std::time::{Duration, Instant};

use super::world::{World, assert_order};

#[test]
fn a_program_that_ignores_the_signal_is_killed_when_the_grace_is_over() {
    let world = World::new();
    world.detach(
        r"
apiVersion: v1
kind: Pod
metadata: {name: deaf}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - {name: deaf, image: busybox, command: [sh, -c, 'trap `` TERM; while :; do sleep 0.1; done']}
  - {name: polite, image: busybox, command: [sh, -c, 'trap `exit 0` TERM; while :; do sleep 0.1; done']}
"
        .replace('`', "\"")
        .as_str(),
    );
    let begin = Instant::now();
    world.stop("deaf");
    let took = begin.elapsed();
    assert!(
        took > Duration::from_secs(2) && took < Duration::from_secs(8),
        "{took:?}"
    );
    world.end();
}

#[test]
fn the_grace_of_the_command_wins_and_a_kill_waits_for_nothing() {
    let world = World::new();
    let pod = r"
apiVersion: v1
kind: Pod
metadata: {name: deaf}
spec:
  terminationGracePeriodSeconds: 600
  containers:
  - name: deaf
    image: busybox
    command: [sh, -c, 'trap `` TERM; while :; do sleep 0.1; done']
    lifecycle: {preStop: {sleep: {seconds: 500}}}
"
    .replace('`', "\"");
    world.detach(&pod);
    let begin = Instant::now();
    world.machine.berth(&["stop", "-t", "1s", "deaf"]).unwrap();
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
    world
        .machine
        .berth(&["wait", "--for", "removed", "deaf"])
        .unwrap();
    world.detach(&pod);
    let begin = Instant::now();
    world.machine.berth(&["rm", "-f", "deaf"]).unwrap();
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
    world.end();
}

#[test]
fn the_stop_signal_is_the_lifecycle_s() {
    let world = World::new();
    let mut running = world.start(
        r"
apiVersion: v1
kind: Pod
metadata: {name: signal}
spec:
  os: {name: linux}
  terminationGracePeriodSeconds: 5
  containers:
  - name: main
    image: busybox
    lifecycle: {stopSignal: SIGUSR1}
    command: [sh, -c, 'trap `echo heard USR1; exit 0` USR1; echo listening; while :; do sleep 0.1; done']
"
        .replace('`', "\"")
        .as_str(),
    );
    running
        .wait_for("listening", berth_tests::machine::LIMIT)
        .unwrap();
    running.signal(nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(running.wait(berth_tests::machine::LIMIT).unwrap(), 130);
    assert_order(&running.text(), &["listening", "heard USR1"]);
    world.end();
}
